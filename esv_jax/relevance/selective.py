"""Selective relevance: the part of a relevance volume that changes over time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from esv_jax.blur import Edge
from esv_jax.checks import expect, expect_choice, expect_finite, expect_floating, is_concrete

_MODES = {"replicate": "edge", "zero": "constant"}


class Selected(NamedTuple):
    """Motion part of a relevance volume.

    Attributes:
      relevance: the volume where the mask holds, zero elsewhere; signs and sizes are kept.
      mask: (t, h, w) bool, where relevance changes over time by more than the threshold.
      derivative: (t, h, w) >= 0, how much it changes, of one scale with the volume.
      threshold: () sigma standard deviations of the derivative.
      motion_share: () share of the volume's absolute relevance that is kept, 0..1; 0 of none.
    """

    relevance: Array
    mask: Array
    derivative: Array
    threshold: Array
    motion_share: Array


def selective(relevance: Any, sigma: float = 2.0, edge: Edge = "replicate") -> Array:
    """The relevance that is motion: where its temporal derivative exceeds sigma deviations.

    Any base map goes in: of LRP, Integrated Gradients, Grad-CAM made a volume, or ESVs times a
    spatial map. Source: Hiley et al. (2020), Explaining Motion Relevance, section 3.

    Args:
      relevance: (t, h, w), or (t, h, w, c), whose channels are summed for the derivative and share
        the mask.
      sigma: threshold in standard deviations of the derivative over the volume, >= 0.
      edge: what lies beyond the volume: "replicate" its edge, so that a map that never changes
        keeps nothing; or "zero", with which the first and last frame and the border count as
        changes, as in the public code.
    Returns:
      Like `relevance`, zero where the mask does not hold. `select` returns the rest as well.
    Raises:
      ValueError: another rank, fewer than two values, numbers that are not finite, sigma < 0,
      another edge. TypeError: not floating point.
    Cost: a few passes over the volume.
    """
    return select(relevance, sigma, edge).relevance


def select(relevance: Any, sigma: float = 2.0, edge: Edge = "replicate") -> Selected:
    """As `selective`, with mask, derivative, threshold and the share of relevance kept."""
    relevance = _expect_volume(relevance)
    if is_concrete(sigma):
        expect(sigma >= 0, "sigma", "a number >= 0", sigma)
    derivative = temporal_derivative(relevance, edge)
    threshold = sigma * derivative.std(ddof=1)
    mask = derivative > threshold
    shared = mask if relevance.ndim == 3 else mask[..., None]
    kept = jnp.where(shared, relevance, 0)
    total = jnp.abs(relevance).sum()
    share = jnp.where(total > 0, jnp.abs(kept).sum() / jnp.where(total > 0, total, 1), 0)
    return Selected(kept, mask, derivative, threshold, share)


def temporal_derivative(relevance: Any, edge: Edge = "replicate") -> Array:
    """|Sobel derivative over time| of a relevance volume, its channels summed first; (t, h, w).

    in(t - 1) - in(t + 1), smoothed over the nine pixels around with weights [1, 2, 1] x [1, 2, 1];
    no normalisation: a step of 1 everywhere gives 16. Arguments as of `selective`.
    """
    relevance = _expect_volume(relevance)
    expect_choice("edge", edge, _MODES)
    volume = relevance if relevance.ndim == 3 else relevance.sum(-1)
    padded = jnp.pad(volume, 1, mode=_MODES[edge])
    change = padded[:-2] - padded[2:]  # first, so that what does not change is zero to the bit
    change = change[:, :-2] + 2 * change[:, 1:-1] + change[:, 2:]
    return jnp.abs(change[:, :, :-2] + 2 * change[:, :, 1:-1] + change[:, :, 2:])


def motion_share(relevance: Any, sigmas: Any, edge: Edge = "replicate") -> Array:
    """Share of the absolute relevance that is motion, by threshold: (S,) for S sigmas, 0..1.

    The rest is what a model has from appearance alone: its spatial bias. Arguments as of
    `selective`.
    """
    sigmas = expect_floating("sigmas", sigmas)
    expect(sigmas.ndim == 1 and sigmas.size > 0, "sigmas", "shape (S,)", sigmas.shape)
    relevance = _expect_volume(relevance)
    if is_concrete(sigmas):
        expect(bool((sigmas >= 0).all()), "sigmas", "numbers >= 0", sigmas)
    derivative = temporal_derivative(relevance, edge)
    size = jnp.abs(relevance)
    size = size if size.ndim == 3 else size.sum(-1)
    total, deviation = size.sum(), derivative.std(ddof=1)
    kept = jnp.stack([jnp.where(derivative > s * deviation, size, 0).sum() for s in sigmas])
    return jnp.where(total > 0, kept / jnp.where(total > 0, total, 1), 0)


def _expect_volume(relevance: Any) -> Array:
    relevance = expect_floating("relevance", relevance)
    fits = relevance.ndim in (3, 4)
    expect(fits, "relevance", "shape (t, h, w) or (t, h, w, c)", relevance.shape)
    many = math.prod(relevance.shape[:3]) > 1 and relevance.size > 0
    expect(many, "relevance", "at least two places", relevance.shape)
    expect_finite("relevance", relevance)
    return relevance
