"""Clips with ever less in them: pyramids of blurred or faded clips, and what masks pick from them.

Level L - 1 is the clip itself, level 0 the most perturbed. Source: Fong et al. (2019), section 3;
Li et al. (2021), section III.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

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


def pyramid(
    clip: Any,
    perturbation: Perturbation = "blur",
    levels: int = 8,
    max_blur: float = 20.0,
    edge: Edge = EDGE,
) -> Array:
    """The levels of a clip.

    Args:
      clip: (..., t, h, w, c), floating point.
      perturbation: "blur": level l of L is blurred by a Gaussian of (1 - l / (L - 1)) max_blur
        pixels; "fade": it is l / (L - 1) times the clip.
      levels: L, at least 2.
      max_blur: standard deviation of level 0 in pixels.
      edge: beyond the border, see `gaussian_blur`. The defaults are those of `Masking`, which
        `step` uses.
    Returns:
      (L, ..., t, h, w, c).
    Raises:
      TypeError: not floating point. ValueError: fewer than 4 axes, an unknown perturbation or edge,
        fewer than 2 levels, a negative blur.
    Cost: of a blur, h + w multiply-adds per number and level.
    """
    clip = expect_floating("clip", clip)
    expect(clip.ndim >= 4, "clip", "shape (..., t, h, w, c)", clip.shape)
    expect_choice("perturbation", perturbation, PERTURBATIONS)
    levels = expect_int("levels", levels, 2)
    share = np.linspace(0, 1, levels)
    if perturbation == "blur":
        return blur_levels(clip, tuple((1 - share) * max_blur), edge)
    shares = jnp.asarray(share, clip.dtype).reshape(-1, *(1,) * clip.ndim)
    return shares * clip[None]


def perturb(levels: Any, mask: Any) -> Array:
    """Apply a mask to a clip: linear between the levels, 1 keeps the clip and 0 removes it.

    Args:
      levels: (L, ..., t, h, w, c), as `pyramid` gives them.
      mask: (..., t, h, w) in 0..1.
    Returns:
      (..., t, h, w, c). At a level's own value the slope is that to the next one, at 1 that before.
    Raises:
      TypeError: not floating point. ValueError: a mask of another shape, or outside 0..1 (checked
        where it is concrete).
    Cost: L multiply-adds per number; a gradient by the mask as much.
    """
    levels, mask = expect_floating("levels", levels), expect_floating("mask", mask)
    fits = levels.ndim >= 5 and levels.shape[0] >= 2
    expect(fits, "levels", "shape (L, ..., t, h, w, c), L >= 2", levels.shape)
    expect_shape("mask", mask, levels.shape[1:-1], f"(..., t, h, w) = {levels.shape[1:-1]}")
    if is_concrete(mask):
        values = np.asarray(mask)
        inside = bool(((values >= 0) & (values <= 1)).all())
        expect(inside, "mask", "values in 0..1", f"{values.min()} to {values.max()}")
    return _perturbed(levels, mask)


@jax.custom_vjp
def _perturbed(levels: Array, mask: Array) -> Array:
    """`perturb` without checks."""
    total = jnp.zeros_like(levels[0])
    for level, share in zip(levels, _shares(levels, mask), strict=True):  # reading two is slower
        total = total + share[..., None] * level
    return total


def _between(levels: Array, mask: Array) -> tuple[Array, Array]:
    """The number of the level below a mask's value, and how far above it the value is, in 0..1."""
    n = levels.shape[0]
    at = mask * (n - 1)
    below = jnp.clip(jnp.floor(at), 0, n - 2)
    return below, at - below


def _shares(levels: Array, mask: Array) -> list[Array]:
    """The part of each level, (..., t, h, w) each, of sum 1."""
    below, above = _between(levels, mask)
    zero = jnp.zeros_like(above)
    return [
        jnp.where(below == i, 1 - above, jnp.where(below == i - 1, above, zero))
        for i in range(levels.shape[0])
    ]


def _perturb_forward(levels: Array, mask: Array) -> tuple[Array, tuple[Array, Array]]:
    return _perturbed(levels, mask), (levels, mask)


def _perturb_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    levels, mask = kept
    below, _ = _between(levels, mask)
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
