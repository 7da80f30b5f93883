"""Agreement of approximate Element Shapley Values with exact ones."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, expect_finite, expect_floating, wider


def relative_error(approx: Any, exact: Any) -> Array:
    """Mean absolute error relative to the mean magnitude: mean |approx - exact| / mean |exact|.

    Source: Price & Damen (2020), section 3.2, averaged over the elements of each sequence.

    Args:
      approx, exact: (..., n), one class's ESVs per row.
    Returns:
      (...), >= 0; 0.03 is 3 %. Infinite where exact is all zero and approx is not.
    Raises:
      ValueError: shapes that differ, no elements, values that are not finite. TypeError: not
      floating point.
    """
    approx, exact = _pair(approx, exact)
    return jnp.abs(approx - exact).mean(-1) / jnp.abs(exact).mean(-1)


def pearson(approx: Any, exact: Any) -> Array:
    """Pearson correlation over elements, (...), in -1..1; NaN where either is constant.

    Args:
      approx, exact: (..., n).
    Raises:
      ValueError: shapes that differ, no elements, values that are not finite. TypeError: not
      floating point.
    """
    approx, exact = _pair(approx, exact)
    a = approx - approx.mean(-1, keepdims=True)
    b = exact - exact.mean(-1, keepdims=True)
    return (a * b).sum(-1) / jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def lad_slope(approx: Any, exact: Any) -> Array:
    """Slope of the line through the origin, approx = slope * exact, of least absolute deviations.

    The minimum of sum |approx_i - slope * exact_i| is a median of the ratios approx_i / exact_i
    weighted with |exact_i|; where an interval of slopes attains it, its lower end is returned.

    Args:
      approx, exact: (..., n).
    Returns:
      (...); 1 where the approximation is unbiased in scale, NaN where exact is all zero.
    Raises:
      ValueError: shapes that differ, no elements, values that are not finite. TypeError: not
      floating point.
    Cost: one sort of n ratios per row.
    """
    approx, exact = _pair(approx, exact)
    weight = jnp.abs(exact)
    ratio = jnp.where(weight > 0, approx / jnp.where(weight > 0, exact, 1), jnp.inf)
    order = jnp.argsort(ratio, axis=-1)
    sorted_weight = jnp.take_along_axis(weight, order, axis=-1)
    reached = jnp.cumsum(sorted_weight, axis=-1) >= 0.5 * weight.sum(-1, keepdims=True)
    median = jnp.take_along_axis(ratio, order, axis=-1)
    at = jnp.argmax(reached, axis=-1, keepdims=True)
    slope = jnp.take_along_axis(median, at, axis=-1)[..., 0]
    return jnp.where(weight.sum(-1) > 0, slope, jnp.nan)


def _pair(approx: Any, exact: Any) -> tuple[Array, Array]:
    approx, exact = expect_floating("approx", approx), expect_floating("exact", exact)
    expect(
        approx.shape == exact.shape, "approx", f"the shape of exact, {exact.shape}", approx.shape
    )
    expect(approx.ndim >= 1 and approx.shape[-1] >= 1, "approx", "shape (..., n)", approx.shape)
    expect_finite("approx", approx)
    expect_finite("exact", exact)
    dtype = wider(approx.dtype, exact.dtype)
    return approx.astype(dtype), exact.astype(dtype)
