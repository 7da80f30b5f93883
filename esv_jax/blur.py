"""Gaussian blur of frames.

The blur along an axis is a product with a matrix whose rows hold the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, expect_floating

Edge = Literal["zero", "replicate"]
EDGES: tuple[Edge, ...] = get_args(Edge)
EDGE: Edge = "replicate"
"""The default of all functions that blur."""


def gaussian_blur(frames: ArrayLike, sigma: float, edge: Edge = EDGE) -> Array:
    """Gaussian blur of frames over rows and columns.

    Args:
      frames: (..., h, w, c), floating point.
      sigma: standard deviation in pixels, >= 0; 0 is the identity.
      edge: padding: "replicate" repeats the last row or column; "zero", as in published
        perturbations, darkens the border.
    Returns:
      Like frames.
    Raises:
      TypeError: not floating point. ValueError: fewer than 3 axes, another edge, sigma < 0.
    Cost: h + w multiply-adds per number.
    """
    return blur_levels(frames, (sigma,), edge)[0]


def blur_levels(frames: ArrayLike, sigmas: Sequence[float], edge: Edge = EDGE) -> Array:
    """`gaussian_blur` by each of L sigmas, (L, ..., h, w, c)."""
    frames = expect_floating("frames", frames)
    expect(frames.ndim >= 3, "frames", "shape (..., h, w, c)", frames.shape)
    h, w = frames.shape[-3:-1]
    rows = jnp.asarray(blur_matrices(h, sigmas, edge), frames.dtype)
    columns = jnp.asarray(blur_matrices(w, sigmas, edge), frames.dtype)
    blurred = jnp.einsum("lxw,...hwc->l...hxc", columns, frames, precision="highest")
    return jnp.einsum("lyh,l...hxc->l...yxc", rows, blurred, precision="highest")


def blur_matrices(
    size: int, sigmas: Sequence[float], edge: Edge = EDGE, truncate: float = 4.0
) -> np.ndarray:
    """Matrices of the blur along an axis, (L, size, size) float64.

    The weights exp(-i^2 / (2 sigma^2)) for |i| <= ceil(truncate * sigma) are normalised to sum 1.
    """
    expect_choice("edge", edge, EDGES)
    matrices = np.zeros((len(sigmas), size, size))
    for matrix, sigma in zip(matrices, sigmas, strict=True):
        expect(bool(np.isfinite(sigma)) and sigma >= 0, "sigma", "pixels >= 0", sigma)
        reach = int(np.ceil(truncate * sigma))
        away = np.arange(-reach, reach + 1)
        weights = np.exp(-0.5 * (away / max(sigma, 1e-12)) ** 2)
        weights /= weights.sum()
        target = np.arange(size)[:, None]
        source = target + away
        inside = (source >= 0) & (source < size) if edge == "zero" else np.ones(source.shape, bool)
        np.add.at(
            matrix,
            (np.broadcast_to(target, source.shape), source.clip(0, size - 1)),
            np.where(inside, weights, 0.0),
        )
    return matrices
