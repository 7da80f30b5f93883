"""Agreement of attribution values with exact ones and with those of other methods."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_finite, expect_floating, wider


def relative_error(approx: ArrayLike, exact: ArrayLike) -> Array:
    """Mean absolute error relative to the mean magnitude: mean |approx - exact| / mean |exact|.

    Source: Price & Damen (2020), section 3.2, averaged over the elements of each sequence.

    Args:
      approx, exact: (..., n), ESVs of one class per row.
    Returns:
      (...), >= 0; 0.03 is 3 %. Infinite where exact is all zero and approx is not.
    Raises:
      ValueError: different shapes, no elements, non-finite values. TypeError: not floating point.
    """
    approx, exact = _pair("approx", approx, "exact", exact)
    return jnp.abs(approx - exact).mean(-1) / jnp.abs(exact).mean(-1)


def pearson(approx: ArrayLike, exact: ArrayLike) -> Array:
    """Pearson correlation over elements, (...), in -1..1; NaN where either is constant.

    Args and raises: see `relative_error`.
    """
    return _correlation(*_pair("approx", approx, "exact", exact))


def lad_slope(approx: ArrayLike, exact: ArrayLike) -> Array:
    """Slope of the line through the origin, approx = slope * exact, of least absolute deviations.

    The minimum of sum |approx_i - slope * exact_i| is the median of the ratios
    approx_i / exact_i, weighted by |exact_i|; the lower median where there are two.

    Args and raises: see `relative_error`.
    Returns:
      (...); 1 where the approximation is unbiased in scale, NaN where exact is all zero.
    Cost: one sort of n ratios per row.
    """
    approx, exact = _pair("approx", approx, "exact", exact)
    weight = jnp.abs(exact)
    ratio = jnp.where(weight > 0, approx / jnp.where(weight > 0, exact, 1), jnp.inf)
    order = jnp.argsort(ratio, axis=-1)
    cumulative = jnp.cumsum(jnp.take_along_axis(weight, order, axis=-1), axis=-1)
    half = jnp.argmax(cumulative >= 0.5 * weight.sum(-1, keepdims=True), axis=-1, keepdims=True)
    ascending = jnp.take_along_axis(ratio, order, axis=-1)
    slope = jnp.take_along_axis(ascending, half, axis=-1)[..., 0]
    return jnp.where(weight.sum(-1) > 0, slope, jnp.nan)


class Smoothness(NamedTuple):
    """Similarity of the values before and after a temporal jitter, (...) each.

    Attributes:
      pearson: correlation over elements, in -1..1; NaN where either is constant.
      change: sum |jittered - original| / sum |original|, >= 0. Infinite or NaN where the
        original is all zero.
    """

    pearson: Array
    change: Array


def smoothness(values_original: ArrayLike, values_jittered: ArrayLike) -> Smoothness:
    """Temporal smoothness: similarity of values when every frame is replaced by a neighbour.

    Explain a video from frames at some indices, then from frames at these indices shifted by
    one; `values_jittered[i]` belongs to the frame that replaces frame i. Neighbouring frames
    are nearly equal, so the values of a smooth method are too.

    Args:
      values_original, values_jittered: (..., n), values of one class per row.
    Raises: as `relative_error`.
    """
    names = ("values_original", "values_jittered")
    original, jittered = _pair(names[0], values_original, names[1], values_jittered)
    change = jnp.abs(jittered - original).sum(-1) / jnp.abs(original).sum(-1)
    return Smoothness(_correlation(original, jittered), change)


def _pair(name: str, a: ArrayLike, other: str, b: ArrayLike) -> tuple[Array, Array]:
    """Two finite arrays (..., n) of one shape, in their common dtype."""
    a, b = expect_floating(name, a), expect_floating(other, b)
    expect(a.shape == b.shape, name, f"the shape of {other}, {b.shape}", a.shape)
    expect(a.shape[-1:] > (0,), name, "shape (..., n), n >= 1", a.shape)
    expect_finite(name, a)
    expect_finite(other, b)
    dtype = wider(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _correlation(a: Array, b: Array) -> Array:
    """Correlation over the last axis; NaN where either is constant."""
    a, b = _standardised(a), _standardised(b)
    return (a * b).sum(-1) / jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def _standardised(a: Array) -> Array:
    """(a - mean) / range, as squares of tiny values underflow; NaN where all are equal."""
    span = a.max(-1, keepdims=True) - a.min(-1, keepdims=True)
    away = (a - a.mean(-1, keepdims=True)) / jnp.where(span > 0, span, 1)
    return jnp.where(span > 0, away, jnp.nan)
