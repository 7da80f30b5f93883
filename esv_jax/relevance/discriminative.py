"""Discriminative relevance: which relevance of a clip its frames have without any motion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, expect_choice, expect_int
from esv_jax.gradients.derivatives import ScoreFunction, expect_input
from esv_jax.relevance.composites import Composite
from esv_jax.relevance.lrp import lrp
from esv_jax.relevance.plan import Unknown
from esv_jax.relevance.propagation import FunctionRule, MaxPool
from esv_jax.relevance.rules import Rule

Scale = Literal["score", "clip"]
_NUMBERS_AT_ONCE = 2**24  # of static clips held together, where no batch size is given


class Discriminative(NamedTuple):
    """Relevance of a clip in two parts, (t, h, w, c) each; unpacks as `spatial, temporal`.

    Attributes:
      spatial: relevance of each frame in a clip that shows this frame alone.
      temporal: what the clip's relevance has beyond it.
    """

    spatial: Array
    temporal: Array

    @property
    def sums(self) -> tuple[Array, Array]:
        """The sums of both, ()."""
        return self.spatial.sum(), self.temporal.sum()

    @property
    def by_frame(self) -> tuple[Array, Array]:
        """The sums of both for each frame, (t,)."""
        axes = tuple(range(1, self.spatial.ndim))
        return self.spatial.sum(axes), self.temporal.sum(axes)


def discriminative(
    fn: ScoreFunction,
    clip: Any,
    target: int | Array,
    *,
    composite: Composite | Rule | str = "epsilon_plus",
    scale: Scale = "score",
    positive: bool = False,
    relevance: Any = None,
    batch_size: int | None = None,
    use_bias: bool | None = None,
    stabilizer: float | None = None,
    max_pool: MaxPool = "winner",
    functions: Mapping[str, FunctionRule] | None = None,
    unknown: Unknown = "error",
) -> Discriminative:
    """Relevance of a clip, divided into what each frame shows and what moves between them.

    A static clip repeats frame t over all T positions: nothing in it moves. Its relevance at
    position t is the frame's spatial part; what the clip's own relevance at t has beyond it, pixel
    by pixel, is the temporal part. Position t rather than a mean over positions, so that what a
    network does at its borders is alike in both: of a static clip the temporal part is zero.
    Source: Hiley et al. (2019), Discriminating Spatial and Temporal Relevance.

    Args:
      fn: clip (t, ...) -> logits (C,), in JAX. clip: floating point, frames first.
      target: the class, the same for all clips.
      composite, use_bias, stabilizer, max_pool, functions, unknown: as for `lrp`.
      scale: "score" lets every clip share out its own score of the class: the spatial part is small
        where frames alone say little. "clip" lets the static clips share out that of the clip: both
        parts then tell only where relevance lies.
      positive: whether to keep of both parts what is positive; by default signed, and the parts
        add up to the clip's relevance.
      relevance: of the clip, where it is known already, like `clip`.
      batch_size: static clips at once; by default as memory for 16 million numbers has it.
    Returns:
      `Discriminative`, in units of the score.
    Raises:
      As `lrp`; ValueError: more than one target, relevance of another shape, batch_size < 1.
    Cost: t + 1 LRP passes, one compiled program under `jax.jit`.
    """
    clip = expect_input(clip)
    expect(clip.ndim >= 2, "clip", "shape (t, ...)", clip.shape)
    expect(jnp.ndim(target) == 0, "target", "one class", target)
    expect_choice("scale", scale, get_args(Scale))
    t = clip.shape[0]
    if batch_size is None:
        batch_size = max(1, _NUMBERS_AT_ONCE // clip.size)
    batch_size = min(expect_int("batch_size", batch_size, 1), t)

    def explain(one: Array, start: Any) -> Array:
        return lrp(
            fn,
            one,
            target,
            composite=composite,
            use_bias=use_bias,
            stabilizer=stabilizer,
            max_pool=max_pool,
            start=start,
            functions=functions,
            unknown=unknown,
        )

    if relevance is None:
        own = explain(clip, "score")
    else:
        own = jnp.asarray(relevance)
        expect(own.shape == clip.shape, "relevance", f"the clip's shape {clip.shape}", own.shape)

    def of_frame(place: Array) -> Array:
        still = jnp.broadcast_to(clip[place], clip.shape)
        return explain(still, "score" if scale == "score" else "one")[place]

    if batch_size == t:  # no loop: in one, XLA runs convolutions at a third of their speed on CPUs
        spatial = jax.vmap(of_frame)(jnp.arange(t))
    else:
        spatial = jax.lax.map(of_frame, jnp.arange(t), batch_size=batch_size)
    if scale == "clip":
        spatial = spatial * fn(clip)[target].astype(spatial.dtype)
    temporal = own.astype(spatial.dtype) - spatial
    if positive:
        spatial, temporal = jnp.maximum(spatial, 0), jnp.maximum(temporal, 0)
    return Discriminative(spatial, temporal)
