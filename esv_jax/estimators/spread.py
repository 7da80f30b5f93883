"""Standard errors from independent repetitions of an estimate, few as they may be."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, is_concrete

_POOLED = 4.0  # repetitions that the mean over elements counts as
_LEAST_SHARE = 0.3  # of that mean, however many there are


def spread_error(each: Array, length: Array | int | None = None) -> Array:
    """Standard error (n, C) of the mean of k independent estimates (k, n, C) of the same values.

    The variance over so few repetitions is a poor estimate by itself: it is shrunk towards its
    class's mean over elements, with weight 4 / (k + 3), and raised by 1 / (2 k), which makes normal
    intervals as wide as the remaining uncertainty of the variance requires. The weight is 0.3 at
    least: where estimates have heavy tails, a value too small comes with a variance too small.

    Args:
      each: k >= 2 estimates.
      length: elements that are there; the others are left out of the mean and get 0.
    """
    k, n = each.shape[:2]
    dtype = each.dtype
    present = (jnp.arange(n) < (n if length is None else length)).astype(dtype)[:, None]
    own = each.var(0, ddof=1) * present
    pooled = own.sum(0, keepdims=True) / present.sum()
    share = max(_POOLED / (k + _POOLED - 1), _LEAST_SHARE)
    variance = (1 - share) * own + share * pooled * present
    return jnp.sqrt(variance * ((1 + 1 / (2 * k)) / k))


def only_whole(values: Array, n: int, length: Array | int | None) -> Array:
    """`values` of a sequence without padding; NaN where a traced `length` is not n.

    Raises:
      ValueError: a concrete `length` other than n.
    """
    if length is None:
        return values
    if is_concrete(length):
        got = int(np.asarray(length))
        expect(got == n, "length", f"{n}, all elements of x", got, "Cut the padding off first.")
    return jnp.where(jnp.asarray(length) == n, values, jnp.nan)
