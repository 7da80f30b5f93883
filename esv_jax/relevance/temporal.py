"""Relevance of motion: the part of relevance that depends on change over time."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Unpack, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from esv_jax.blur import Edge
from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_choice,
    expect_finite,
    expect_floating,
    expect_int,
    is_concrete,
)
from esv_jax.gradients.derivatives import ScoreFunction, expect_input
from esv_jax.relevance.lrp import PropagationOptions, Start, lrp

Scale = Literal["score", "clip"]
_MODES = {"replicate": "edge", "zero": "constant"}
_NUMBERS_AT_ONCE = 2**24  # in one batch of static clips, where no batch size is given


def selective(relevance: ArrayLike, sigma: float = 2.0, edge: Edge = "replicate") -> Array:
    """The relevance that is motion: where its temporal derivative exceeds sigma deviations.

    Takes any volume: from LRP, Integrated Gradients, Grad-CAM, or ESVs times a spatial map.
    Source: Hiley et al. (2020), Explaining Motion Relevance, section 3.

    Args:
      relevance: (t, h, w), or (t, h, w, c), whose channels are summed for the derivative and have
        one mask.
      sigma: threshold in standard deviations of `temporal_derivative` over the volume, >= 0.
      edge: values beyond the volume: "replicate" repeats its edge, so that a constant map has no
        motion; with "zero" the first and last frame and the border count as changes, as in the
        code of the authors.
    Returns:
      Like `relevance`, zero where the derivative is below the threshold.
    Raises:
      ValueError: another rank, fewer than two values, numbers that are not finite, sigma < 0,
      another edge. TypeError: not floating point.
    Cost: a few passes over the volume.
    """
    relevance = _expect_volume(relevance)
    expect(not is_concrete(sigma) or bool(sigma >= 0), "sigma", "a number >= 0", sigma)
    derivative = temporal_derivative(relevance, edge)
    mask = derivative > sigma * derivative.std(ddof=1)
    return jnp.where(mask if relevance.ndim == 3 else mask[..., None], relevance, 0)


def temporal_derivative(relevance: ArrayLike, edge: Edge = "replicate") -> Array:
    """|Sobel derivative over time| of a relevance volume, its channels summed first; (t, h, w).

    in(t - 1) - in(t + 1), smoothed over the nine pixels around with weights [1, 2, 1] x [1, 2, 1],
    not normalised: a step of 1 everywhere gives 16. Arguments as for `selective`.
    """
    relevance = _expect_volume(relevance)
    expect_choice("edge", edge, _MODES)
    volume = relevance if relevance.ndim == 3 else relevance.sum(-1)
    padded = jnp.pad(volume, 1, mode=_MODES[edge])
    change = padded[:-2] - padded[2:]  # first, so that constant values give exactly zero
    change = change[:, :-2] + 2 * change[:, 1:-1] + change[:, 2:]
    return jnp.abs(change[:, :, :-2] + 2 * change[:, :, 1:-1] + change[:, :, 2:])


def motion_share(relevance: ArrayLike, sigmas: ArrayLike, edge: Edge = "replicate") -> Array:
    """Share of the absolute relevance that is motion, by threshold: (S,) for S sigmas, 0..1.

    The rest is relevance of appearance, the spatial bias of a model. Arguments as for
    `selective`.
    """
    sigmas = expect_floating("sigmas", sigmas)
    expect(sigmas.ndim == 1 and sigmas.size > 0, "sigmas", "shape (S,)", sigmas.shape)
    relevance = _expect_volume(relevance)
    valid = not is_concrete(sigmas) or bool((sigmas >= 0).all())
    expect(valid, "sigmas", "numbers >= 0", sigmas)
    derivative = temporal_derivative(relevance, edge)
    size = jnp.abs(relevance)
    size = size if size.ndim == 3 else size.sum(-1)
    deviation = derivative.std(ddof=1)
    kept = jnp.stack([jnp.where(derivative > s * deviation, size, 0).sum() for s in sigmas])
    total = size.sum()
    return jnp.where(total > 0, kept / jnp.where(total > 0, total, 1), 0)


def _expect_volume(relevance: ArrayLike) -> Array:
    relevance = expect_floating("relevance", relevance)
    expected = "shape (t, h, w) or (t, h, w, c)"
    expect(relevance.ndim in (3, 4), "relevance", expected, relevance.shape)
    fits = math.prod(relevance.shape[:3]) >= 2 and relevance.size > 0
    expect(fits, "relevance", "at least two places", relevance.shape)
    expect_finite("relevance", relevance)
    return relevance


class Discriminative(NamedTuple):
    """Relevance of a clip in two parts, like the clip; unpacks as `spatial, temporal`.

    Attributes:
      spatial: relevance of each frame in a clip that repeats this frame.
      temporal: relevance of the clip minus the spatial part.
    """

    spatial: Array
    temporal: Array


def discriminative(
    fn: ScoreFunction,
    clip: ArrayLike,
    target: int | Array,
    *,
    scale: Scale = "score",
    relevance: ArrayLike | None = None,
    batch_size: int | None = None,
    **options: Unpack[PropagationOptions],
) -> Discriminative:
    """Relevance of a clip in a spatial part, of its frames alone, and a temporal part.

    A static clip repeats frame t over all positions, so it has no motion. Its relevance at
    position t is the spatial part of the frame; the relevance of the clip at t minus this is the
    temporal part. Position t is taken rather than a mean over positions, so that effects of the
    borders are the same in both: for a static clip the temporal part is zero.
    Source: Hiley et al. (2019), Discriminating Spatial and Temporal Relevance.

    Args:
      fn: clip (t, ...) -> logits (C,), in JAX, or as for `lrp`. clip: floating point, frames first.
      target: the class, the same for all clips.
      scale: "score" starts each static clip from its own score of the class: the spatial part is
        small where single frames have small scores. "clip" starts them from the score of the
        clip: both parts then differ only in where relevance lies.
      relevance: of the clip, like `clip`, if it is known already.
      batch_size: static clips per batch; default about 16 million numbers.
      **options: of `lrp`: composite, use_bias, stabilizer, max_pool, functions, unknown.
    Returns:
      `Discriminative`, in units of the score; its parts add up to the relevance of the clip.
    Raises:
      As `lrp`; ValueError: more than one target, batch_size < 1.
    Cost: t + 1 LRP passes, one compiled program under `jax.jit`.
    """
    clip, fn = expect_input(clip), ScoresOf(fn)
    expect(clip.ndim >= 2, "clip", "shape (t, ...)", clip.shape)
    expect(jnp.ndim(target) == 0, "target", "one class", target)
    expect_choice("scale", scale, get_args(Scale))
    t = clip.shape[0]
    if batch_size is None:
        batch_size = max(1, _NUMBERS_AT_ONCE // clip.size)
    batch_size = min(expect_int("batch_size", batch_size, 1), t)
    own = lrp(fn, clip, target, **options) if relevance is None else jnp.asarray(relevance)
    expect(own.shape == clip.shape, "relevance", f"the clip's shape {clip.shape}", own.shape)
    start: Start = "score" if scale == "score" else "one"

    def for_frame(index: Array) -> Array:
        static = jnp.broadcast_to(clip[index], clip.shape)
        return lrp(fn, static, target, start=start, **options)[index]

    if batch_size == t:  # no loop: in one, XLA runs convolutions at a third of their speed on CPUs
        spatial = jax.vmap(for_frame)(jnp.arange(t))
    else:
        spatial = jax.lax.map(for_frame, jnp.arange(t), batch_size=batch_size)
    if scale == "clip":
        spatial = spatial * fn(clip)[target].astype(spatial.dtype)
    return Discriminative(spatial, own.astype(spatial.dtype) - spatial)
