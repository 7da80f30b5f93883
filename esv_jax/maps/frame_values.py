"""Which frames count, from Element Shapley Values, times where in them, from relevance."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from esv_jax.estimators import SizeRegression
from esv_jax.explanations import attribute
from esv_jax.games import VariableLength
from esv_jax.gradients.derivatives import ScoreFunction, class_weights, expect_scores

_NUMBERS_AT_ONCE = 2**24  # of clips put to the network together


def esv_x_spatial(
    fn: ScoreFunction,
    clip: Array,
    target: int | Array,
    spatial: Array,
    *,
    key: Array,
    evaluations: int = 256,
) -> Array:
    """Element Shapley Values of the frames, laid out in each frame as a spatial map has it.

        map[t, y, x] = esv[t] * s[t, y, x],   s = max(spatial, 0) / its sum over the frame

    The elements are the clip's frames, their scores probabilities of the class, and what is left
    of a clip without some frames is the clip with the nearest kept frame in their places
    (`freeze`): a network that takes so many frames is asked about as many. The empty clip has
    probability 1 / C. A network with a single logit has the probability of its sigmoid, that of the
    empty clip being 1 / 2. Of 16 frames there are 65,536 parts, so the values are estimated from
    some: `SizeRegression`, exact where `evaluations` suffice for all. A frame of value below zero
    has a map below zero, most so where the spatial map is largest. A frame without positive values
    is laid out evenly. Each frame sums to its value.
    Source: of the values Price & Damen (2020); the product is this package's own.

    Args:
      fn: clip (t, h, w, c) -> logits (C,), in JAX. clip: floating point.
      target: a class; a traced one out of range gives NaN.
      spatial: (t, h, w), larger where more of the prediction lies in a frame.
      key: `jax.random.key(seed)`; consumed.
      evaluations: clips put to fn beside the whole, at least 2 t.
    Returns:
      (t, h, w), in units of probability.
    Raises:
      ValueError: too few evaluations, a target out of range.
    Cost: `evaluations` + 1 forward passes.
    """
    scores = expect_scores(fn, clip)
    weights = class_weights(target, scores)
    if scores.shape == (1,):  # its sigmoid is the softmax of two logits, the first of them 0
        single = fn
        fn = lambda clip: jnp.concatenate([jnp.zeros(1, scores.dtype), single(clip)])  # noqa: E731
        weights = jnp.concatenate([jnp.zeros(1, scores.dtype), weights])
    n_classes = weights.shape[0]
    at_once = max(1, _NUMBERS_AT_ONCE // clip.size)
    n_batches = -(-(evaluations + 1) // at_once)
    game = VariableLength(
        lambda frames, mask: fn(freeze(frames, mask)), batch_size=-(-(evaluations + 1) // n_batches)
    )
    prior = jnp.full(n_classes, 1 / n_classes, scores.dtype)
    found = attribute(game, SizeRegression(evaluations), clip, prior, key, None)
    values = jnp.matmul(found.values, weights, precision="highest")  # (t,)
    positive = jnp.maximum(spatial, 0)
    total = positive.sum((1, 2), keepdims=True)
    even = 1 / (spatial.shape[1] * spatial.shape[2])
    share = jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), even)
    return values[:, None, None] * share


def freeze(frames: Array, mask: Array) -> Array:
    """Frames (t, ...), missing ones replaced by the nearest kept one, of two as near the earlier.

    Args:
      mask: (t,) bool, which frames are kept; one at least.
    """
    t = frames.shape[0]
    own = jnp.arange(t)
    before = lax.cummax(jnp.where(mask, own, -2 * t))
    after = lax.cummin(jnp.where(mask, own, 4 * t), reverse=True)
    nearest = jnp.where(own - before <= after - own, before, after)
    return jnp.take(frames, nearest, axis=0)
