"""Regularisers of masks: area, change over time, and the core of a region.

Masks are (..., t, h, w) in 0..1; every loss is a mean, not yet weighted, of shape (...).
Source: Li et al. (2021), section III; the area also Fong et al. (2019), section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import expect, expect_choice, expect_floating, expect_int

Ties = Literal["share", "first"]
Shape = Literal["ellipsoid", "cylinder"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
_FULL = 0.5236  # pi / 6, the share of an ellipsoid in its box


def area_loss(
    masks: Array, area: Array | float, *, per_frame: bool = False, ties: Ties = "share"
) -> Array:
    """Distance of masks from a binary mask of the given area.

    The mean of (sorted mask - reference)^2, where the reference has int(n (1 - area)) zeros and
    then ones.

    Args:
      masks: (..., t, h, w).
      area: share of all places, (...) or one number.
      per_frame: whether every frame has the area, rather than the whole volume.
      ties: equal numbers that meet zeros and ones both: "share" gives each the same part of them,
        so that neither order nor rounding decides; "first" gives the zeros to the first.
    Cost: 32 passes over the masks, in the place of a sort.
    """
    masks = _checked(masks)
    t, h, w = masks.shape[-3:]
    flat = masks.reshape(*masks.shape[:-3], *((t, h * w) if per_frame else (1, t * h * w)))
    n = flat.shape[-1]
    zeros = zeros_of(n, area)
    reference = upper_share(flat, jnp.expand_dims(zeros, -1) if jnp.ndim(zeros) else zeros, ties)
    return _expected_square(flat, reference).mean((-2, -1))


def _checked(masks: Any) -> Array:
    """Masks as a floating-point array (..., t, h, w)."""
    masks = expect_floating("masks", masks)
    fits = masks.ndim >= 3 and masks.size > 0
    expect(fits, "masks", "shape (..., t, h, w)", masks.shape)
    return masks


def zeros_of(n: int, area: Array | float) -> Array:
    """Places of n that an area leaves out, int32."""
    return jnp.floor(n * (1 - jnp.asarray(area, jnp.float32)) + 1e-4).astype(jnp.int32)


def difference_loss(masks: Array) -> Array:
    """Change of masks over time: the mean square of their first, second and third differences.

    Of fewer than four frames, those differences that there are.
    """
    masks = _checked(masks)
    orders = range(1, min(3, masks.shape[-3] - 1) + 1)
    squares = [(jnp.diff(masks, order, axis=-3) ** 2).mean((-3, -2, -1)) for order in orders]
    if not squares:
        return jnp.zeros(masks.shape[:-3], masks.dtype)
    return jnp.stack(squares).mean(0)


@dataclass(frozen=True)
class Core:
    """The shape of the regions that a mask is to be made of, over key frames and pixels.

    Attributes:
      shape: "ellipsoid" or "cylinder", whose frames are all alike.
      frames: key frames that it lasts.
      size: its height and width in pixels, also the distance of the places where it is looked for;
        default a tenth of a frame's shorter side, as published for 112 pixels: 11.
    """

    shape: Shape = "ellipsoid"
    frames: int = 5
    size: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown shapes and sizes below 1."""
        expect_choice("shape", self.shape, SHAPES)
        expect_int("frames", self.frames, 1)
        if self.size is not None:
            expect_int("size", self.size, 1)

    def of_frames(self, shape: tuple[int, int]) -> Core:
        """The same core, its size chosen for frames (h, w) where it is not given."""
        if self.size is not None:
            return self
        return replace(self, size=max(1, round(min(shape) / 10)))

    @property
    def side(self) -> int:
        """Its size; where none is given, frames have to be known: see `of_frames`."""
        expect(self.size is not None, "core", "a size", "None", "Give one, or use of_frames.")
        return int(self.size or 0)

    @property
    def kernel(self) -> np.ndarray:
        """Which voxels belong to it, (frames, size, size) bool."""
        return core_kernel(self.shape, (self.frames, self.side, self.side))

    @property
    def nominal(self) -> int:
        """The voxels of an ellipsoid, by its volume, whatever the shape: int(0.5236 k s^2)."""
        return int(_FULL * self.frames * self.side**2)

    def expect_fits(self, shape: tuple[int, ...]) -> None:
        """Refuse masks (..., t, h, w) smaller than the kernel."""
        fits = shape[-3] >= self.frames and min(shape[-2:]) >= self.side
        expected = f"at least {self.frames} frames of {self.side} pixels, the core's"
        expect(fits, "clip", expected, shape[-3:], "Take a smaller core, or none.")


def core_kernel(shape: Shape, dims: tuple[int, int, int]) -> np.ndarray:
    """The voxels of a box (frames, height, width) in an ellipsoid or a cylinder along time, bool.

    Coordinates run from -1 to 1 along each axis; an axis of length 1 is at 0.
    """
    expect_choice("shape", shape, SHAPES)
    squares = [_squares(n) for n in dims]
    t, y, x = np.meshgrid(*squares, indexing="ij")
    far = y + x if shape == "cylinder" else t + y + x
    return far <= 1 + 1e-9  # of 0.6 and 0.8, too, whose squares are not exact


def _squares(n: int) -> np.ndarray:
    """Squares of n coordinates from -1 to 1; of one, 0."""
    return np.linspace(-1, 1, n) ** 2 if n > 1 else np.zeros(1)


def core_filled(masks: Array, core: Core) -> Array:
    """Return the share of the core that is filled at each position, in 0..1: (..., t', h', w').

    Places are one frame and `size` pixels apart; none reaches beyond the mask.
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
    masks: Array, area: Array | float, core: Core, *, nominal: bool = False, ties: Ties = "share"
) -> Array:
    """Distance of masks from filling the core wholly at a few positions and nowhere else.

    Of what `core_filled` finds, the K fullest places should be 1 and the others 0, K the number
    of cores in the area: the mean of (v - 1)^2 over the former and the mean of v^2 over the others.

    Args:
      masks: (..., t, h, w). area: share of all places, (...) or one number.
      core: the shape.
      nominal: whether to count voxels of the core by `Core.nominal`, as published, rather than
        those that it has.
      ties: as for `area_loss`.
    Raises:
      ValueError: masks smaller than the core.
    """
    filled = core_filled(masks, core)
    flat = filled.reshape(*filled.shape[:-3], -1)
    n = flat.shape[-1]
    voxels = math.prod(masks.shape[-3:]) * jnp.asarray(area, jnp.float32)
    ones = core.nominal if nominal else int(core.kernel.sum())
    k = jnp.ceil(voxels / ones - 1e-4).astype(jnp.int32)
    k = jnp.clip(k, 1, n)
    last = "last" if ties == "first" else ties
    top = upper_share(flat, n - k, last)
    n_top, n_rest = (jnp.expand_dims(m, -1).astype(flat.dtype) for m in (k, jnp.maximum(n - k, 1)))
    square = top * (flat - 1) ** 2 / n_top
    rest = (1 - top) * flat**2 / n_rest
    return (square + rest).sum(-1)


def upper_share(flat: Array, below: Array | int, ties: Literal["share", "first", "last"]) -> Array:
    """Which of n numbers stay when the lowest are left out: 1, or 0, or a share among equals.

    Args:
      flat: (..., n), each >= 0. below: (...) how many are left out, 0..n.
      ties: of equal numbers, some of which are left out: "share" gives each the share that stays;
        "first" leaves out the first, "last" the last.
    Returns:
      (..., n), of sum n - below; constant for gradients.
    """
    flat = lax.stop_gradient(flat)
    n = flat.shape[-1]
    below = jnp.broadcast_to(jnp.asarray(below, jnp.int32), flat.shape[:-1])
    edge = _order_statistic(flat, jnp.minimum(below, n - 1))[..., None]
    more, same = flat > edge, flat == edge
    n_same, n_more = same.sum(-1, dtype=jnp.int32), more.sum(-1, dtype=jnp.int32)
    stay = n - below - n_more  # of those that are equal
    if ties == "share":
        part = jnp.where(same, (stay / n_same).astype(flat.dtype)[..., None], 0)
    else:
        place = jnp.cumsum(same, -1, dtype=jnp.int32)
        kept = place > (n_same - stay)[..., None] if ties == "first" else place <= stay[..., None]
        part = (same & kept).astype(flat.dtype)
    return jnp.where(more, jnp.ones((), flat.dtype), part)


def _order_statistic(flat: Array, k: Array) -> Array:
    """The (k + 1)-th lowest of each row of (..., n) numbers >= 0, (...).

    Bits of floating-point numbers >= 0 are in the order of the numbers, so it is found bit by
    bit, in passes that count: a fraction of the time of a sort on CPU and accelerators.
    """
    kind = jnp.uint32 if flat.dtype.itemsize == 4 else jnp.uint64
    bits = lax.bitcast_convert_type(jnp.abs(flat), kind)
    n_bits = 8 * flat.dtype.itemsize - 1  # without that of the sign

    def decide(i: Array, found: Array) -> Array:
        tried = found | (jnp.ones((), kind) << (n_bits - 1 - i).astype(kind))
        lower = (bits < tried[..., None]).sum(-1, dtype=jnp.int32)
        return jnp.where(lower <= k, tried, found)

    found = lax.fori_loop(0, n_bits, decide, jnp.zeros(k.shape, kind))
    return lax.bitcast_convert_type(found, flat.dtype)


def _expected_square(values: Array, reference: Array) -> Array:
    """(value - r)^2, where r is 1 with the probability `reference` and 0 otherwise."""
    return (values - reference) ** 2 + reference * (1 - reference)
