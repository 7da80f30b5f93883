"""Number of elements that support a class, and their share of the values."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, expect_array, expect_finite, expect_floating, is_concrete


class SupportStatistics(NamedTuple):
    """Statistics per sequence (and class), arrays of one shape.

    Attributes:
      supporting: share of its elements whose value is positive.
      distracting: share whose value is zero or negative; 1 - supporting.
      support: sum of the positive values, >= 0.
      distraction: sum of the others, <= 0. Of ESVs, both add up to the evidential score.
    """

    supporting: Array
    distracting: Array
    support: Array
    distraction: Array


def support_statistics(values: Any, lengths: Any = None) -> SupportStatistics:
    """Shares and sums of supporting (> 0) and distracting (<= 0) elements of each sequence.

    Source: Price & Damen (2020), for the two words.

    Args:
      values: (..., N), one class's values per row, padded at the ends.
      lengths: (...) int, elements in each row, 1..N; default N. Padding counts as nothing.
    Returns:
      `SupportStatistics` of (...). May be called under `jit`.
    Raises:
      ValueError: no elements, values that are not finite, lengths of another shape or out of range.
      TypeError: not floating point.
    """
    values = expect_floating("values", values)
    present = present_elements(values.shape, lengths)
    expect_finite("values", jnp.where(present, values, 0))
    n = present.sum(-1).astype(values.dtype)
    positive = (values > 0) & present
    share = positive.sum(-1).astype(values.dtype) / n
    support = jnp.where(positive, values, 0).sum(-1)
    distraction = jnp.where(present & ~positive, values, 0).sum(-1)
    return SupportStatistics(share, 1 - share, support, distraction)


def present_elements(shape: tuple[int, ...], lengths: Any) -> Array:
    """Which of (..., N) elements are there, bool, given lengths (...) or None for all."""
    expect(len(shape) >= 1 and shape[-1] >= 1, "values", "shape (..., N), N >= 1", shape)
    if lengths is None:
        return jnp.ones(shape, bool)
    lengths = jnp.asarray(expect_array("lengths", lengths))
    expect(
        bool(jnp.issubdtype(lengths.dtype, jnp.integer)),
        "lengths",
        "integers",
        f"dtype {lengths.dtype}",
        kind=TypeError,
    )
    expect(lengths.shape == shape[:-1], "lengths", f"shape {shape[:-1]}", lengths.shape)
    if is_concrete(lengths):
        fits = bool(((lengths >= 1) & (lengths <= shape[-1])).all())
        expect(fits, "lengths", f"1..{shape[-1]} elements", lengths)
    i = jnp.arange(shape[-1]).reshape((1,) * (len(shape) - 1) + (-1,))
    return i < lengths[..., None]
