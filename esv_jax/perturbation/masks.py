"""Smooth masks of frames from few numbers: one per cell of a grid, spread by a smooth maximum.

Every pixel takes sum_k v_k softmax(20 v)_k over the cells k around it, v_k = kernel_k * cell_k,
with the kernel exp(-2 max(z - 1/2, 0)^2) of the distance z between pixel and cell by sigma.
Source: Fong et al. (2019), Extremal Perturbations, section 3.2; Li et al. (2021), section III.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import expect, expect_choice, expect_floating, expect_int

Pooling = Literal["softmax", "sum", "sigmoid"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
_COLDNESS = 20.0


@dataclass(frozen=True)
class MaskGenerator:
    """Masks (h, w) in 0..1 of small masks, one number for `step` x `step` pixels.

    Beyond the frame there is a margin of `sigma` pixels, whose cells can be on as well: a padded
    mask has it, too.

    Attributes:
      shape: (h, w) of a frame in pixels.
      step: pixels between cells.
      sigma: reach of a cell in pixels.
      pooling: how a pixel takes the cells around it: "softmax", a smooth maximum, or, without a
        source of their own in the papers, "sum" and "sigmoid" of that sum.
    """

    shape: tuple[int, int]
    step: int = 7
    sigma: int = 11
    pooling: Pooling = "softmax"

    def __post_init__(self) -> None:
        """Refuse frames smaller than the step, and sizes below 1."""
        expect_int("step", self.step, 1)
        expect_int("sigma", self.sigma, 1)
        expect_choice("pooling", self.pooling, POOLINGS)
        way_out = f"Take a mask step of at most {min(self.shape)}, or larger frames."
        fits = min(self.shape) >= self.step
        expect(fits, "clip", f"frames of {self.step} pixels, the mask step, or more", self.shape,
               way_out)  # fmt: skip

    @property
    def small_shape(self) -> tuple[int, int]:
        """Cells in height and width."""
        h, w = self.shape
        return -(-h // self.step), -(-w // self.step)

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Height and width of a padded mask."""
        h, w = (self.step * (n - 1) + 1 for n in self._middle)
        return h, w

    def __call__(self, small: Any) -> Array:
        """Masks (..., h, w) of small masks (..., *small_shape) with values in 0..1.

        Raises:
          TypeError: not floating point. ValueError: another shape.
        Cost: (2 radius + 1)^2 exponentials per pixel, radius = 1 + ceil(sigma / step).
        """
        starts = (self.sigma, self.sigma)
        return self._generate(small, starts, self.shape)

    def padded(self, small: Any) -> Array:
        """Padded masks (..., *padded_shape), the margin around the frame included."""
        return self._generate(small, (0, 0), self.padded_shape)

    def crop(self, padded: Array) -> Array:
        """Masks (..., h, w) out of padded ones."""
        (h, w), edge = self.shape, self.sigma
        return padded[..., edge : edge + h, edge : edge + w]

    def evened(self, dtype: Any = jnp.float32) -> Array:
        """Factors for gradients by cells, small_shape: 1 inside, larger at the border.

        There the frame shows only a part of what a cell does, down to a quarter in the corners.
        With these factors all cells answer alike to a push that is the same everywhere.
        """
        return jnp.asarray(_evened(self), dtype)

    @property
    def _padding(self) -> int:
        return 1 + math.ceil(2 * self.sigma / self.step)

    @property
    def _radius(self) -> int:
        return 1 + math.ceil(self.sigma / self.step)

    @property
    def _middle(self) -> tuple[int, int]:
        h, w = (n + 2 * (self._padding - self._radius) for n in self.small_shape)
        return h, w

    def kernel(self) -> np.ndarray:
        """Weights of the cells around a pixel, (k, k, step, step) float64.

        By the cell's place among k = 2 radius + 1 in rows and columns, and the place of the pixel
        among the `step` x `step` of a cell.
        """
        cell = np.arange(2 * self._radius + 1)[:, None] - self._padding
        away = np.arange(self.step) - self.sigma - self.step * cell  # (k, step)
        rows, columns = away[:, None, :, None], away[None, :, None, :]
        z = np.hypot(rows, columns) / self.sigma
        return np.exp(-2 * np.maximum(z - 0.5, 0) ** 2)

    def _generate(self, small: Any, starts: tuple[int, int], shape: tuple[int, int]) -> Array:
        """The pixels from `starts` on of the padded masks."""
        small = expect_floating("small", small)
        fits = small.ndim >= 2 and small.shape[-2:] == self.small_shape
        h, w = self.small_shape
        expect(fits, "small", f"shape (..., {h}, {w})", small.shape)
        flat = small.reshape(-1, h, w)
        first = [at // self.step for at in starts]
        blocks = [
            -(-(at + n) // self.step) - skip
            for at, n, skip in zip(starts, shape, first, strict=True)
        ]
        pad = self._padding
        cells = jnp.pad(flat, ((0, 0), (pad, pad), (pad, pad)))
        kernel = self.kernel()
        k = kernel.shape[0]
        # Around every block of step x step pixels, its k x k cells: (k * k, masks * blocks).
        bands = jnp.stack([cells[:, y : y + blocks[0]] for y in range(first[0], first[0] + k)])
        around = jnp.stack(
            [bands[..., x : x + blocks[1]] for x in range(first[1], first[1] + k)], axis=1
        ).reshape(k * k, -1)
        weights = jnp.asarray(kernel.reshape(k * k, -1), flat.dtype)
        pooled = _POOLED[self.pooling](weights, around)  # (step * step, masks * blocks)
        tiles = pooled.reshape(self.step, self.step, len(flat), *blocks)
        whole = tiles.transpose(2, 3, 0, 4, 1).reshape(len(flat), *(self.step * n for n in blocks))
        y, x = (at - self.step * skip for at, skip in zip(starts, first, strict=True))
        inside = whole[:, y : y + shape[0], x : x + shape[1]]
        return jnp.clip(inside, 0, 1).reshape(*small.shape[:-2], *shape)


@jax.custom_vjp
def _smooth_max(weights: Array, around: Array) -> Array:
    """sum_k v_k softmax(20 v)_k with v = weights[k, p] * around[k, i], (p, i).

    In loops over k, and back over p: nothing of size k * p * i is ever held.
    """
    return _smooth_max_forward(weights, around)[0]


def _smooth_max_forward(weights: Array, around: Array) -> tuple[Array, Any]:
    def add(sums: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[Any, None]:
        above, below = sums
        v = row[0][:, None] * row[1][None]
        e = jnp.exp(_COLDNESS * v)
        return (above + v * e, below + e), None

    zero = jnp.zeros((weights.shape[1], around.shape[1]), around.dtype)
    (above, below), _ = lax.scan(add, (zero, zero), (weights, around), unroll=_unroll(weights, 0))
    out = above / below
    return out, (weights, around, out, below)


def _smooth_max_backward(kept: Any, gradient: Array) -> tuple[Array, Array]:
    weights, around, out, below = kept

    def add(total: Array, row: tuple[Array, ...]) -> tuple[Array, None]:
        weight, pooled, scaled = row
        v = weight[:, None] * around
        slope = jnp.exp(_COLDNESS * v) * (1 + _COLDNESS * (v - pooled[None]))
        return total + slope * (scaled[None] * weight[:, None]), None

    rows = (weights.T, out, gradient / below)
    back, _ = lax.scan(add, jnp.zeros_like(around), rows, unroll=_unroll(weights, 1))
    return jnp.zeros_like(weights), back


_smooth_max.defvjp(_smooth_max_forward, _smooth_max_backward)


def _unroll(weights: Array, axis: int) -> int:
    """Accelerators have one program for the whole loop; a CPU keeps a step's numbers at hand."""
    return 1 if jax.default_backend() == "cpu" else weights.shape[axis]


def _sum(weights: Array, around: Array) -> Array:
    return jnp.matmul(weights.T, around, precision="highest")


_POOLED: dict[Pooling, Callable[[Array, Array], Array]] = {
    "softmax": _smooth_max,
    "sum": _sum,
    "sigmoid": lambda weights, around: jax.nn.sigmoid(_COLDNESS * _sum(weights, around) - 3),
}


@functools.lru_cache(maxsize=64)
def _evened(generator: MaskGenerator) -> np.ndarray:
    """See `MaskGenerator.evened`; computed once, also where a program is being traced."""
    with jax.ensure_compile_time_eval():
        ones = jnp.ones(generator.small_shape)
        felt = np.asarray(
            jax.jit(lambda cells: jax.grad(lambda c: generator(c).sum())(cells))(ones)
        )
    return felt.max() / np.maximum(felt, 1e-3 * felt.max())
