"""Known evidence in a clip: masks or boxes, with a margin around them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from esv_jax.checks import expect, expect_array, expect_finite, expect_floating, expect_int, wider


def maps_and_masks(maps: Any, masks: Any) -> tuple[Array, Array]:
    """Maps (..., t, h, w), float32 at least, and their evidence, bool alike.

    Args:
      masks: bool like maps, or boxes (..., t, 4) as in `masks_of_boxes`.
    """
    maps = expect_floating("maps", maps)
    expect(maps.ndim >= 3 and maps.size > 0, "maps", "shape (..., t, h, w)", maps.shape)
    expect_finite("maps", maps)
    masks = jnp.asarray(expect_array("masks", masks))
    of_boxes = (*maps.shape[:-2], 4)
    expect(
        masks.shape in (maps.shape, of_boxes),
        "masks",
        f"shape {maps.shape} like maps, or boxes {of_boxes}",
        masks.shape,
    )
    if masks.shape == of_boxes:
        masks = masks_of_boxes(masks, maps.shape[-2:])
    is_bool = masks.dtype == jnp.bool_
    expect(is_bool, "masks", "bool", f"dtype {masks.dtype}", "Compare it.", kind=TypeError)
    return maps.astype(wider(maps.dtype)), masks


@functools.partial(jax.jit, static_argnums=1)
def masks_of_boxes(boxes: Array, size: tuple[int, ...]) -> Array:
    """Pixels in boxes (..., 4) of (x0, y0, x1, y1), borders included, (..., h, w) bool.

    A box with a NaN holds nothing. x counts columns, y rows.
    """
    x0, y0, x1, y1 = (boxes[..., i, None] for i in range(4))
    dtype = boxes.dtype
    y = jnp.arange(size[0]).astype(dtype).reshape((1,) * (boxes.ndim - 1) + (-1,))
    x = jnp.arange(size[1]).astype(dtype).reshape((1,) * (boxes.ndim - 1) + (-1,))
    rows, columns = (y0 <= y) & (y <= y1), (x0 <= x) & (x <= x1)
    return rows[..., :, None] & columns[..., None, :]


def grown(masks: Array, tolerance: int, frame_tolerance: int) -> Array:
    """Masks (..., t, h, w) with all voxels at most so many rows, columns and frames away."""
    tolerance = expect_int("tolerance", tolerance, 0)
    return _grown(masks, tolerance, expect_int("frame_tolerance", frame_tolerance, 0))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _grown(masks: Array, tolerance: int, frame_tolerance: int) -> Array:
    for axis, reach in ((-3, frame_tolerance), (-2, tolerance), (-1, tolerance)):
        if reach:
            window = [1] * masks.ndim
            window[axis] = 2 * reach + 1
            strides = (1,) * masks.ndim
            masks = lax.reduce_window(masks, False, lax.bitwise_or, window, strides, "SAME")
    return masks
