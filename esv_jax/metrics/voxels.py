"""Attributions of a clip, of whatever resolution, as one value per voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_finite, expect_floating, expect_int, wider


def per_voxel(attribution: Any, shape: Sequence[int]) -> Array:
    """One value per voxel of a clip from whatever a method gives, (t, h, w).

    Args:
      attribution: floating point, one of
        (t, h, w), returned as it is;
        (t, h, w, c) like the clip, summed over channels;
        (t', h', w') with fewer frames, rows or columns, e.g. of Grad-CAM at a layer: interpolated
        linearly between the middles of its cells, level beyond the outermost;
        (t,), a value per frame, e.g. Element Shapley Values: given to all of its voxels.
      shape: of the clip, (t, h, w, c) or (t, h, w).
    Returns:
      (t, h, w), float32 at least.
    Raises:
      ValueError: another shape, NaN or infinity. TypeError: not floating point.
    """
    attribution = expect_floating("attribution", attribution)
    expect_finite("attribution", attribution)
    size = tuple(expect_int("shape", length, 1) for length in shape)
    expect(len(size) in (3, 4), "shape", "(t, h, w) or (t, h, w, c)", size)
    return voxel_map("attribution", attribution, size[:3], size[3] if len(size) == 4 else None)


def voxel_map(name: str, value: Array, size: tuple[int, ...], channels: int | None) -> Array:
    """`per_voxel` for callers who have asked about values; `name` is for errors."""
    value = value.astype(wider(value.dtype))
    if value.shape == size[:1]:
        return jnp.broadcast_to(value[:, None, None], size)
    if value.ndim == 4 and value.shape == (*size, channels):
        return value.sum(-1)
    coarser = value.ndim == 3 and all(1 <= a <= b for a, b in zip(value.shape, size, strict=True))
    expect(
        coarser,
        name,
        f"shape (t, h, w) = {size} or coarser, (t, h, w, c) like the clip, or (t,)",
        value.shape,
    )
    return value if value.shape == size else jax.image.resize(value, size, "linear")


def smoothed(maps: Array, reach: int) -> Array:
    """Maps (..., h, w) under `smoothing_weights` over rows and columns, zero beyond the border."""
    weights = smoothing_weights(reach)

    def band(size: int) -> Array:
        away = np.arange(size) - np.arange(size)[:, None]
        inside = np.abs(away) <= reach
        return jnp.asarray(
            np.where(inside, weights[away.clip(-reach, reach) + reach], 0), maps.dtype
        )

    rows, columns = (band(size) for size in maps.shape[-2:])
    maps = jnp.einsum("xw,...hw->...hx", columns, maps, precision="highest")
    return jnp.einsum("yh,...hx->...yx", rows, maps, precision="highest")


def smoothing_weights(reach: int) -> np.ndarray:
    """A Gaussian of sigma `reach` wrapped around 2 reach + 1 pixels, (2 reach + 1,), of sum 1.

    So it is published: weights up to 4 sigma away, those outside of the window folded into it.
    """
    size = 2 * reach + 1
    away = np.arange(-4 * reach, 4 * reach + 1)
    weights = np.exp(-0.5 * (away / reach) ** 2)
    return np.bincount((away + reach) % size, weights / math.fsum(weights), minlength=size)
