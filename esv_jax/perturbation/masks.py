"""Perturbation of clips by smooth masks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from esv_jax.blur import EDGE, Edge, blur_levels
from esv_jax.checks import (
    expect,
    expect_choice,
    expect_floating,
    expect_int,
    expect_shape,
    is_concrete,
)

Perturbation = Literal["blur", "fade"]
PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)
_INVERSE_TEMPERATURE = 20.0


@dataclass(frozen=True)
class MaskGenerator:
    """Smooth masks (h, w) in 0..1 from small masks, one number per cell of `step` x `step` pixels.

    The value of a pixel is the smooth maximum sum_k v_k softmax(20 v)_k over the cells k around
    it, v_k = kernel_k * cell_k, with the kernel exp(-2 max(z - 1/2, 0)^2) of the distance
    z = |pixel - cell| / sigma. A padded mask includes a margin of `sigma` pixels around the frame.
    Source: Fong et al. (2019), Extremal Perturbations, section 3.2; Li et al. (2021), section III.

    Attributes:
      shape: (h, w) of a frame in pixels.
      step: pixels between cells.
      sigma: scale of the kernel in pixels.
    """

    shape: tuple[int, int]
    step: int = 7
    sigma: int = 11

    def __post_init__(self) -> None:
        """Check that the frames have at least one cell."""
        expect_int("step", self.step, 1)
        expect_int("sigma", self.sigma, 1)
        side = min(self.shape)
        expected = f"frames of {self.step} pixels, the mask step, or more"
        way_out = f"Take a mask step of at most {side}, or larger frames."
        expect(side >= self.step, "clip", expected, self.shape, way_out)

    @property
    def small_shape(self) -> tuple[int, int]:
        """Height and width in cells."""
        h, w = self.shape
        return -(-h // self.step), -(-w // self.step)

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Height and width of a padded mask."""
        margin = 2 * (self._padding - self._radius)
        h, w = (self.step * (n + margin - 1) + 1 for n in self.small_shape)
        return h, w

    def __call__(self, small: ArrayLike) -> Array:
        """Masks (..., h, w) of small masks (..., *small_shape) with values in 0..1.

        Cost: (2 radius + 1)^2 exponentials per pixel, radius = 1 + ceil(sigma / step).
        """
        return self._generate(small, self.sigma, self.shape)

    def padded(self, small: ArrayLike) -> Array:
        """Padded masks (..., *padded_shape)."""
        return self._generate(small, 0, self.padded_shape)

    def crop(self, padded: Array) -> Array:
        """Masks (..., h, w) out of padded ones."""
        (h, w), edge = self.shape, self.sigma
        return padded[..., edge : edge + h, edge : edge + w]

    def gradient_scale(self, dtype: DTypeLike = jnp.float32) -> Array:
        """Factors (small_shape) that give all cells the same gradient of the sum of a mask.

        They are 1 inside and larger at the border, where the frame shows only a part of the
        kernel, down to a quarter in the corners.
        """
        return jnp.asarray(_gradient_scale(self), dtype)

    @property
    def _padding(self) -> int:
        return 1 + math.ceil(2 * self.sigma / self.step)

    @property
    def _radius(self) -> int:
        return 1 + math.ceil(self.sigma / self.step)

    def _kernel(self) -> np.ndarray:
        """Weights of the k x k cells around a pixel, k = 2 radius + 1, (k, k, step, step) float64.

        The last axes are the position of the pixel within its cell.
        """
        cell = np.arange(2 * self._radius + 1)[:, None] - self._padding
        away = np.arange(self.step) - self.sigma - self.step * cell  # (k, step)
        z = np.hypot(away[:, None, :, None], away[None, :, None, :]) / self.sigma
        return np.exp(-2 * np.maximum(z - 0.5, 0) ** 2)

    def _generate(self, small: ArrayLike, start: int, shape: tuple[int, int]) -> Array:
        """The part of `shape` of the padded masks that begins at row and column `start`."""
        small = expect_floating("small", small)
        h, w = self.small_shape
        fits = small.ndim >= 2 and small.shape[-2:] == (h, w)
        expect(fits, "small", f"shape (..., {h}, {w})", small.shape)
        cells = jnp.pad(small.reshape(-1, h, w), ((0, 0), *((self._padding, self._padding),) * 2))
        skip, step = start // self.step, self.step
        rows, columns = (-(-(start + n) // step) - skip for n in shape)  # of blocks
        kernel = self._kernel()
        k = kernel.shape[0]
        # The k x k cells around every block of step x step pixels: (k * k, masks * blocks).
        bands = jnp.stack([cells[:, y : y + rows] for y in range(skip, skip + k)])
        around = jnp.stack([bands[..., x : x + columns] for x in range(skip, skip + k)], axis=1)
        weights = jnp.asarray(kernel.reshape(k * k, -1), cells.dtype)
        pooled = _smooth_max(weights, around.reshape(k * k, -1))  # (step * step, masks * blocks)
        tiles = pooled.reshape(step, step, len(cells), rows, columns)
        whole = tiles.transpose(2, 3, 0, 4, 1).reshape(len(cells), step * rows, step * columns)
        at = start - step * skip
        inside = whole[:, at : at + shape[0], at : at + shape[1]]
        return jnp.clip(inside, 0, 1).reshape(*small.shape[:-2], *shape)


_Residuals: TypeAlias = tuple[Array, Array, Array, Array]


@jax.custom_vjp
def _smooth_max(weights: Array, around: Array) -> Array:
    """sum_k v_k softmax(20 v)_k with v = weights[k, p] * around[k, i], (p, i).

    Loops over k, and over p in the backward pass, avoid arrays of size k * p * i.
    """
    return _smooth_max_forward(weights, around)[0]


def _smooth_max_forward(weights: Array, around: Array) -> tuple[Array, _Residuals]:
    def add(
        sums: tuple[Array, Array], row: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        above, below = sums
        v = row[0][:, None] * row[1][None]
        e = jnp.exp(_INVERSE_TEMPERATURE * v)
        return (above + v * e, below + e), None

    zero = jnp.zeros((weights.shape[1], around.shape[1]), around.dtype)
    (above, below), _ = lax.scan(add, (zero, zero), (weights, around), unroll=_unroll(weights, 0))
    out = above / below
    return out, (weights, around, out, below)


def _smooth_max_backward(residuals: _Residuals, gradient: Array) -> tuple[Array, Array]:
    weights, around, out, below = residuals

    def add(total: Array, row: tuple[Array, ...]) -> tuple[Array, None]:
        weight, pooled, scaled = row
        v = weight[:, None] * around
        slope = jnp.exp(_INVERSE_TEMPERATURE * v) * (1 + _INVERSE_TEMPERATURE * (v - pooled[None]))
        return total + slope * (scaled[None] * weight[:, None]), None

    rows = (weights.T, out, gradient / below)
    back, _ = lax.scan(add, jnp.zeros_like(around), rows, unroll=_unroll(weights, 1))
    return jnp.zeros_like(weights), back


_smooth_max.defvjp(_smooth_max_forward, _smooth_max_backward)


def _unroll(weights: Array, axis: int) -> int:
    """Loop unrolling: all on accelerators, none on CPUs, where one step stays in the cache."""
    return 1 if jax.default_backend() == "cpu" else weights.shape[axis]


@functools.lru_cache(maxsize=64)
def _gradient_scale(generator: MaskGenerator) -> np.ndarray:
    """`MaskGenerator.gradient_scale`, computed once, also while tracing."""
    with jax.ensure_compile_time_eval():
        total = jax.jit(lambda cells: jax.grad(lambda c: generator(c).sum())(cells))
        gradient = np.asarray(total(jnp.ones(generator.small_shape)))
    return gradient.max() / np.maximum(gradient, 1e-3 * gradient.max())


@dataclass(frozen=True)
class Masking:
    """Construction of masks and the content that replaces masked regions.

    Attributes:
      perturbation: "blur" or "fade", see `pyramid`.
      levels, max_blur, edge: of the pyramid.
      step: pixels between the cells of a mask; default a sixteenth of a frame's shorter side,
        which is the published 7 for 112 pixels.
      sigma: scale of their kernel in pixels; default 11 / 7 of the step.
    """

    perturbation: Perturbation = "blur"
    levels: int = 8
    max_blur: float = 20.0
    edge: Edge = EDGE
    step: int | None = None
    sigma: int | None = None

    def generator(self, shape: tuple[int, int]) -> MaskGenerator:
        """Return the generator of masks of frames (h, w)."""
        step = max(1, round(min(shape) / 16)) if self.step is None else self.step
        sigma = max(1, round(step * 11 / 7)) if self.sigma is None else self.sigma
        return MaskGenerator(shape, step, sigma)


def pyramid(
    clip: ArrayLike,
    perturbation: Perturbation = "blur",
    levels: int = 8,
    max_blur: float = 20.0,
    edge: Edge = EDGE,
) -> Array:
    """Pyramid of increasingly perturbed clips; the last level is the clip itself.

    Source: Fong et al. (2019), section 3; Li et al. (2021), section III.

    Args:
      clip: (..., t, h, w, c), floating point.
      perturbation: "blur": level l of L is blurred by a Gaussian of (1 - l / (L - 1)) max_blur
        pixels; "fade": it is l / (L - 1) times the clip.
      levels: L, at least 2.
      max_blur: standard deviation of level 0 in pixels.
      edge: padding, see `gaussian_blur`. The defaults are those of `Masking`.
    Returns:
      (L, ..., t, h, w, c).
    Raises:
      TypeError: not floating point. ValueError: fewer than 4 axes, an unknown perturbation or edge,
      fewer than 2 levels, a negative blur.
    Cost: for a blur, h + w multiply-adds per number and level.
    """
    clip = expect_floating("clip", clip)
    expect(clip.ndim >= 4, "clip", "shape (..., t, h, w, c)", clip.shape)
    expect_choice("perturbation", perturbation, PERTURBATIONS)
    share = np.linspace(0, 1, expect_int("levels", levels, 2))
    if perturbation == "blur":
        return blur_levels(clip, tuple((1 - share) * max_blur), edge)
    return jnp.asarray(share, clip.dtype).reshape(-1, *(1,) * clip.ndim) * clip[None]


def perturb(levels: ArrayLike, mask: ArrayLike) -> Array:
    """Apply a mask to a clip: linear between the levels, 1 keeps the clip and 0 removes it.

    Args:
      levels: (L, ..., t, h, w, c), from `pyramid`.
      mask: (..., t, h, w) in 0..1.
    Returns:
      (..., t, h, w, c). At the value of a level the slope is that towards the next one, at 1 that
      from the previous one.
    Raises:
      TypeError: not floating point. ValueError: a mask of another shape, or outside 0..1 (checked
      where it is concrete).
    Cost: L multiply-adds per number; the gradient by the mask as much.
    """
    levels, mask = expect_floating("levels", levels), expect_floating("mask", mask)
    fits = levels.ndim >= 5 and levels.shape[0] >= 2
    expect(fits, "levels", "shape (L, ..., t, h, w, c), L >= 2", levels.shape)
    expect_shape("mask", mask, levels.shape[1:-1], f"(..., t, h, w) = {levels.shape[1:-1]}")
    if is_concrete(mask):
        low, high = mask.min(), mask.max()
        expect(bool(low >= 0) and bool(high <= 1), "mask", "values in 0..1", f"{low} to {high}")
    return _perturbed(levels, mask)


@jax.custom_vjp
def _perturbed(levels: Array, mask: Array) -> Array:
    """`perturb` without checks."""
    total = jnp.zeros_like(levels[0])
    for level, share in zip(levels, _shares(levels, mask), strict=True):  # reading two is slower
        total = total + share[..., None] * level
    return total


def _position(levels: Array, mask: Array) -> tuple[Array, Array]:
    """Index of the level below each value of a mask, and the value's distance above it in 0..1."""
    n = levels.shape[0]
    at = mask * (n - 1)
    below = jnp.clip(jnp.floor(at), 0, n - 2)
    return below, at - below


def _shares(levels: Array, mask: Array) -> list[Array]:
    """Weight of each level, (..., t, h, w) each, of sum 1."""
    below, above = _position(levels, mask)
    zero = jnp.zeros_like(above)
    return [
        jnp.where(below == i, 1 - above, jnp.where(below == i - 1, above, zero))
        for i in range(levels.shape[0])
    ]


def _perturb_forward(levels: Array, mask: Array) -> tuple[Array, tuple[Array, Array]]:
    return _perturbed(levels, mask), (levels, mask)


def _perturb_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    levels, mask = residuals
    below, _ = _position(levels, mask)
    total = jnp.zeros_like(mask)
    for c in range(levels.shape[-1]):  # a sum over so few channels is slow in XLA on CPUs
        slope = jnp.zeros_like(mask)
        for i in range(levels.shape[0] - 1):
            rise = levels[i + 1, ..., c] - levels[i, ..., c]
            slope = slope + jnp.where(below == i, rise, jnp.zeros_like(rise))
        total = total + slope * gradient[..., c]
    shares = jnp.stack(_shares(levels, mask))
    return shares[..., None] * gradient[None], (levels.shape[0] - 1) * total


_perturbed.defvjp(_perturb_forward, _perturb_backward)
