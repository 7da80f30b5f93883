"""Regularisers of masks (..., t, h, w) in 0..1; every loss is an unweighted mean, (...).

Source: Li et al. (2021), section III; the area also Fong et al. (2019), section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, expect_floating, expect_int

Ties = Literal["share", "first"]
Shape = Literal["ellipsoid", "cylinder"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
_ELLIPSOID = 0.5236  # pi / 6, the share of an ellipsoid in its box


def area_loss(
    masks: ArrayLike, area: ArrayLike, *, per_frame: bool = False, ties: Ties = "share"
) -> Array:
    """Distance of masks from a binary mask of the given area.

    The mean of (sorted mask - reference)^2, where the reference has int(n (1 - area)) zeros and
    then ones.

    Args:
      masks: (..., t, h, w). area: share of the volume, (...) or one number.
      per_frame: every frame has the area, rather than the whole volume.
      ties: references of equal numbers at the boundary between zeros and ones: "share" gives each
        the mean of them, independent of order and rounding; "first" gives the first ones zeros.
    Cost: 32 passes over the masks instead of a sort.
    """
    masks = _checked(masks)
    t, h, w = masks.shape[-3:]
    flat = masks.reshape(*masks.shape[:-3], *((t, h * w) if per_frame else (1, t * h * w)))
    n = flat.shape[-1]
    zeros = jnp.floor(n * (1 - jnp.asarray(area, jnp.float32)) + 1e-4).astype(jnp.int32)
    reference = upper_share(flat, jnp.expand_dims(zeros, -1) if jnp.ndim(zeros) else zeros, ties)
    # The mean of (value - r)^2 over r in {0, 1} with the probability `reference` of 1.
    return ((flat - reference) ** 2 + reference * (1 - reference)).mean((-2, -1))


def _checked(masks: ArrayLike) -> Array:
    masks = expect_floating("masks", masks)
    fits = masks.ndim >= 3 and masks.size > 0
    expect(fits, "masks", "shape (..., t, h, w)", masks.shape)
    return masks


def difference_loss(masks: ArrayLike) -> Array:
    """Mean square of the first, second and third differences of masks over time.

    Masks of fewer than four frames have fewer orders of differences.
    """
    masks = _checked(masks)
    orders = range(1, min(3, masks.shape[-3] - 1) + 1)
    squares = [(jnp.diff(masks, order, axis=-3) ** 2).mean((-3, -2, -1)) for order in orders]
    return jnp.stack(squares or [jnp.zeros(masks.shape[:-3], masks.dtype)]).mean(0)


@dataclass(frozen=True)
class Core:
    """Shape of the regions that the core loss favours.

    Attributes:
      shape: "ellipsoid", or "cylinder" along time.
      frames: length in frames.
      size: height and width in pixels, also the stride of its positions; default a tenth of a
        frame's shorter side, which is the published 11 for 112 pixels.
    """

    shape: Shape = "ellipsoid"
    frames: int = 5
    size: int | None = None

    def __post_init__(self) -> None:
        """Check shape and sizes."""
        expect_choice("shape", self.shape, SHAPES)
        expect_int("frames", self.frames, 1)
        if self.size is not None:
            expect_int("size", self.size, 1)

    def for_frames(self, shape: tuple[int, int]) -> Core:
        """The core with its default size for frames (h, w) if it has none."""
        return self if self.size else replace(self, size=max(1, round(min(shape) / 10)))

    @property
    def side(self) -> int:
        """Its size; see `for_frames` for a core without."""
        expect(self.size is not None, "core", "a size", "None", "Give one, or use for_frames.")
        return int(self.size or 0)

    @property
    def kernel(self) -> np.ndarray:
        """Its voxels, (frames, size, size) bool."""
        return core_kernel(self.shape, (self.frames, self.side, self.side))

    @property
    def nominal(self) -> int:
        """Published number of voxels, also for a cylinder: int(0.5236 frames size^2)."""
        return int(_ELLIPSOID * self.frames * self.side**2)

    def expect_fits(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for masks (..., t, h, w) smaller than the kernel."""
        fits = shape[-3] >= self.frames and min(shape[-2:]) >= self.side
        expected = f"at least {self.frames} frames of {self.side} pixels, the core's"
        expect(fits, "clip", expected, shape[-3:], "Take a smaller core, or none.")


def core_kernel(shape: Shape, dims: tuple[int, int, int]) -> np.ndarray:
    """The voxels of a box (frames, height, width) in an ellipsoid or a cylinder along time, bool.

    Coordinates run from -1 to 1 along each axis; an axis of length 1 is at 0.
    """
    expect_choice("shape", shape, SHAPES)
    squares = [np.linspace(-1, 1, n) ** 2 if n > 1 else np.zeros(1) for n in dims]
    t, y, x = np.meshgrid(*squares, indexing="ij")
    far = y + x if shape == "cylinder" else t + y + x
    return far <= 1 + 1e-9  # rounding, e.g. of 0.6^2 + 0.8^2


def core_filled(masks: ArrayLike, core: Core) -> Array:
    """Mean of a mask over the core at each position, in 0..1: (..., t', h', w').

    Positions are one frame and `size` pixels apart, within the mask.
    """
    masks = _checked(masks)
    core.expect_fits(masks.shape)
    t, h, w = masks.shape[-3:]
    size = core.side
    rows, columns = h // size, w // size
    cut = masks[..., : rows * size, : columns * size]
    boxes = cut.reshape(*masks.shape[:-3], t, rows, size, columns, size)
    kernel = jnp.asarray(core.kernel, masks.dtype)
    by_frame = jnp.einsum("...tyaxb,kab->...ktyx", boxes, kernel, precision="highest")
    last = t - core.frames + 1
    total = sum(by_frame[..., k, k : k + last, :, :] for k in range(core.frames))
    return jnp.asarray(total) / kernel.sum()


def core_loss(
    masks: ArrayLike, area: ArrayLike, core: Core, *, nominal: bool = False, ties: Ties = "share"
) -> Array:
    """Distance of masks from unions of K cores, K being the number of cores in the area.

    The mean of (v - 1)^2 over the K highest values v of `core_filled`, plus the mean of v^2 over
    the others.

    Args:
      masks: (..., t, h, w), no smaller than the core. area: share of the volume, (...) or a number.
      nominal: counts the voxels of the core by `Core.nominal`, as published.
      ties: as for `area_loss`.
    """
    filled = core_filled(masks, core)
    flat = filled.reshape(*filled.shape[:-3], -1)
    n = flat.shape[-1]
    voxels = math.prod(np.shape(masks)[-3:]) * jnp.asarray(area, jnp.float32)
    ones = core.nominal if nominal else int(core.kernel.sum())
    k = jnp.clip(jnp.ceil(voxels / ones - 1e-4).astype(jnp.int32), 1, n)
    top = upper_share(flat, n - k, "last" if ties == "first" else ties)
    n_top, n_rest = (jnp.expand_dims(m, -1).astype(flat.dtype) for m in (k, jnp.maximum(n - k, 1)))
    square = top * (flat - 1) ** 2 / n_top
    rest = (1 - top) * flat**2 / n_rest
    return (square + rest).sum(-1)


def upper_share(flat: Array, below: Array | int, ties: Literal["share", "first", "last"]) -> Array:
    """Indicator of the n - below highest of n numbers.

    Args:
      flat: (..., n), each >= 0. below: (...), 0..n.
      ties: equal numbers at the boundary: "share" gives each an equal share, "first" sets the
        first to 0, "last" the last.
    Returns:
      (..., n) in 0..1, of sum n - below; constant for gradients.
    """
    flat = lax.stop_gradient(flat)
    n = flat.shape[-1]
    below = jnp.broadcast_to(jnp.asarray(below, jnp.int32), flat.shape[:-1])
    edge = _order_statistic(flat, jnp.minimum(below, n - 1))[..., None]
    more, same = flat > edge, flat == edge
    n_same, n_more = same.sum(-1, dtype=jnp.int32), more.sum(-1, dtype=jnp.int32)
    stay = n - below - n_more  # of the equal numbers
    if ties == "share":
        part = jnp.where(same, (stay / n_same).astype(flat.dtype)[..., None], 0)
    else:
        rank = jnp.cumsum(same, -1, dtype=jnp.int32)
        kept = rank > (n_same - stay)[..., None] if ties == "first" else rank <= stay[..., None]
        part = (same & kept).astype(flat.dtype)
    return jnp.where(more, jnp.ones((), flat.dtype), part)


def _order_statistic(flat: Array, k: Array) -> Array:
    """The (k + 1)-th lowest of each row of (..., n) numbers >= 0, (...).

    The bits of floating-point numbers >= 0 have the order of the numbers, so counting passes find
    it bit by bit, in a fraction of the time of a sort.
    """
    kind = jnp.uint32 if flat.dtype.itemsize == 4 else jnp.uint64
    bits = lax.bitcast_convert_type(jnp.abs(flat), kind)
    n_bits = 8 * flat.dtype.itemsize - 1  # without the sign

    def decide(i: Array, found: Array) -> Array:
        tried = found | (jnp.ones((), kind) << (n_bits - 1 - i).astype(kind))
        lower = (bits < tried[..., None]).sum(-1, dtype=jnp.int32)
        return jnp.where(lower <= k, tried, found)

    found = lax.fori_loop(0, n_bits, decide, jnp.zeros(k.shape, kind))
    return lax.bitcast_convert_type(found, flat.dtype)
