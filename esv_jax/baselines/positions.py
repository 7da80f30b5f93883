"""Scores of elements that look at neither the model nor the sequence; higher = more important."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect_int, expect_key


def centre_out(n: int) -> Array:
    """Scores (n,), highest at the centre and falling linearly to both ends.

    1 - |2 i - (n - 1)| / n, in 1/n..1. Elements equally far from the centre tie.

    Args:
      n: elements, >= 1.
    Raises:
      ValueError: n < 1. TypeError: n that is no integer.
    """
    n = expect_int("n", n, 1)
    return jnp.asarray((n - _distance(n)) / n, jnp.float32)


def edges_in(n: int) -> Array:
    """Scores (n,), highest at both ends and falling linearly to the centre.

    (|2 i - (n - 1)| + 1) / n, in 1/n..1: the order of `centre_out` turned round.

    Args:
      n: elements, >= 1.
    Raises:
      ValueError: n < 1. TypeError: n that is no integer.
    """
    n = expect_int("n", n, 1)
    return jnp.asarray((_distance(n) + 1) / n, jnp.float32)


def uniform(n: int) -> Array:
    """Scores (n,) of 1/n each: no element above another.

    Where elements are put in order by it, all tie, and they come in the order of time.

    Args:
      n: elements, >= 1.
    Raises:
      ValueError: n < 1. TypeError: n that is no integer.
    """
    n = expect_int("n", n, 1)
    return jnp.full(n, 1 / n, jnp.float32)


def random(key: Array, n: int) -> Array:
    """Scores (n,) drawn independently and uniformly from [0, 1).

    Args:
      key: `jax.random.key(seed)`; consumed.
      n: elements, >= 1.
    Raises:
      ValueError: n < 1, no key. TypeError: n that is no integer, a key of the old style.
    """
    return jax.random.uniform(expect_key("key", key), (expect_int("n", n, 1),), jnp.float32)


def _distance(n: int) -> np.ndarray:
    """Twice the distance of each element from the centre, (n,), 0..n - 1."""
    return np.abs(2 * np.arange(n) - (n - 1))
