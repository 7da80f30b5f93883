"""Accuracy of a model on whole sequences, with f^ms estimated from sampled subsequences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax import checks
from esv_jax.models.examples import Examples, pad_examples
from esv_jax.models.heads import HeadStack, TsnHead, scale_logits, tsn_logits

# Elements x features alive at once while evaluating; 64 MiB in single precision.
_MAX_ALIVE = 2**24


class Evaluation(NamedTuple):
    """Result of `evaluate`.

    Attributes:
      accuracy: share of sequences whose largest logit is the label's, ().
      loss: mean cross-entropy of softmax(logits), ().
      scale_accuracy: of each head alone, on the sequences long enough for it, (n_scales,); NaN
        where there are none.
      logits: (m, C), f^ms of every sequence.
    """

    accuracy: jax.Array
    loss: jax.Array
    scale_accuracy: jax.Array
    logits: jax.Array


def draw_subsequences(
    sizes: jax.Array, length: jax.Array, n_positions: int, n: int, *, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Random subsequences of one sequence, one of each size, in temporal order.

    Each is uniform among those of its size. The smaller ones lie within the larger: a single
    random order of the elements serves all sizes.

    Args:
      sizes: (g,) ints, at most `length` and `n_positions`; 0 asks for no element.
      length: () int, elements of the sequence.
      n_positions: width p of the result.
      n: length the sequence is padded to.
      key: consumed.
    Returns:
      Element indices (g, p), 0 where there is none, and the mask (g, p).
    """
    noise = jnp.where(jnp.arange(n) < length, jax.random.uniform(key, (n,)), jnp.inf)
    order = jnp.argsort(noise)[:n_positions]
    order = jnp.pad(order, (0, n_positions - order.shape[0]), constant_values=n)
    taken = jnp.arange(n_positions)[None] < sizes[:, None]
    positions = jnp.sort(jnp.where(taken, order[None], n), axis=-1)
    mask = positions < n
    return jnp.where(mask, positions, 0), mask


def sampled_logits(
    heads: HeadStack | TsnHead, x: jax.Array, length: jax.Array, n_subsequences: int, *, key: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean logits of each head over sampled subsequences of one padded sequence.

    Args:
      heads: the model; average consensus takes all elements and draws nothing.
      x: (n, D), padded.
      length: () int, elements that are there.
      n_subsequences: subsequences per scale.
      key: consumed.
    Returns:
      (n_scales, C), and whether the sequence is long enough for each scale, (n_scales,).
    """
    n = x.shape[0]
    if isinstance(heads, TsnHead):
        return tsn_logits(heads, x, jnp.arange(n) < length)[None], jnp.ones(1, bool)
    scales = jnp.arange(1, heads.n_max + 1)
    there = scales <= length

    def one_draw(draw_key: jax.Array) -> jax.Array:
        sizes = jnp.where(there, scales, 0)
        positions, mask = draw_subsequences(sizes, length, heads.n_max, n, key=draw_key)
        return scale_logits(heads, x[positions], mask)

    return jax.vmap(one_draw)(jax.random.split(key, n_subsequences)).mean(axis=0), there


def evaluate_examples(
    heads: HeadStack | TsnHead, examples: Examples, n_subsequences: int, *, key: jax.Array
) -> Evaluation:
    """`evaluate` on padded examples; can be jitted with `n_subsequences` static."""
    keys = jax.random.split(key, examples.labels.shape[0])
    n_max = heads.n_max if isinstance(heads, HeadStack) else 1
    alive = n_subsequences * n_max * n_max * heads.feature_dim

    def one(sequence: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, length, sequence_key = sequence
        return sampled_logits(heads, x, length, n_subsequences, key=sequence_key)

    by_scale, there = jax.lax.map(  # (m, n_scales, C), (m, n_scales)
        one, (examples.features, examples.lengths, keys), batch_size=max(1, _MAX_ALIVE // alive)
    )
    counts = there.sum(axis=1, keepdims=True).astype(by_scale.dtype)
    logits = jnp.where(there[..., None], by_scale, 0).sum(axis=1) / counts
    labels = examples.labels
    right = (by_scale.argmax(axis=-1) == labels[:, None]) & there
    log_probs = jax.nn.log_softmax(logits)
    return Evaluation(
        accuracy=(logits.argmax(axis=-1) == labels).mean(),
        loss=-jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean(),
        scale_accuracy=right.sum(axis=0) / there.sum(axis=0),
        logits=logits,
    )


_evaluate = partial(jax.jit, static_argnames="n_subsequences")(evaluate_examples)


def evaluate(
    heads: HeadStack | TsnHead,
    sequences: Sequence[Any],
    labels: Any,
    *,
    key: jax.Array,
    n_subsequences: int = 256,
) -> Evaluation:
    """Accuracy of the multi-scale (or average-consensus) model on whole sequences.

    The multi-scale model is estimated by drawing subsequences:

        f^ms(X) = mean over s = 1..min(n, n_max) of the mean of f_s over length-s subsequences

    Source: Price & Damen (2020), Eq. 8.

    Args:
      heads: the model.
      sequences: m arrays (n_i, D).
      labels: (m,) ints.
      key: consumed; average consensus is exact and leaves it unused.
      n_subsequences: subsequences drawn per sequence and scale.
    """
    key = checks.expect_key("key", key)
    n_subsequences = checks.expect_int("n_subsequences", n_subsequences, minimum=1)
    examples = pad_examples(sequences, labels, heads.n_classes)
    got, expected = examples.features.shape[2], heads.feature_dim
    checks.expect(got == expected, "sequences", f"feature width D = {expected}", got)
    result = _evaluate(heads, examples, n_subsequences, key=key)
    return jax.tree.map(np.asarray, result)
