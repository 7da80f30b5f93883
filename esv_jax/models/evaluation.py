"""Accuracy of a model on whole labelled sequences, estimated from sampled subsequences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax import checks
from esv_jax.checks import message
from esv_jax.models.heads import HeadStack, TsnHead, scale_logits, tsn_logits

# Largest number of elements x features in memory while evaluating; 64 MiB in single precision.
_MAX_ALIVE = 2**24


class Examples(NamedTuple):
    """Labelled sequences, padded with zeros to the longest.

    Attributes:
      features: (m, n, D) float32.
      lengths: elements of each sequence, (m,) int.
      labels: (m,) int.
    """

    features: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class Evaluation(NamedTuple):
    """Result of `evaluate`.

    Attributes:
      accuracy: share of sequences whose largest logit is the label's, ().
      loss: mean cross-entropy of softmax(logits), ().
      scale_accuracy: of each head alone, on the sequences long enough for it, (n_scales,); NaN
        where there are none.
      logits: (m, C), f^ms of every sequence.
    """

    accuracy: Array
    loss: Array
    scale_accuracy: Array
    logits: Array


def evaluate(
    heads: HeadStack | TsnHead,
    sequences: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    key: Array,
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


def evaluate_examples(
    heads: HeadStack | TsnHead, examples: Examples, n_subsequences: int, *, key: Array
) -> Evaluation:
    """`evaluate` on padded examples; can be jitted with `n_subsequences` static."""
    keys = jax.random.split(key, examples.labels.shape[0])
    n_max = heads.n_max if isinstance(heads, HeadStack) else 1
    alive = n_subsequences * n_max * n_max * heads.feature_dim

    by_scale, exists = jax.lax.map(  # (m, n_scales, C), (m, n_scales)
        lambda sequence: _sampled_logits(heads, n_subsequences, *sequence),
        (examples.features, examples.lengths, keys),
        batch_size=max(1, _MAX_ALIVE // alive),
    )
    counts = exists.sum(axis=1, keepdims=True).astype(by_scale.dtype)
    logits = jnp.where(exists[..., None], by_scale, 0).sum(axis=1) / counts
    labels = jnp.asarray(examples.labels)
    right = (by_scale.argmax(axis=-1) == labels[:, None]) & exists
    log_probs = jax.nn.log_softmax(logits)
    return Evaluation(
        accuracy=(logits.argmax(axis=-1) == labels).mean(),
        loss=-jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean(),
        scale_accuracy=right.sum(axis=0) / exists.sum(axis=0),
        logits=logits,
    )


_evaluate = partial(jax.jit, static_argnames="n_subsequences")(evaluate_examples)


def _sampled_logits(
    heads: HeadStack | TsnHead, n_subsequences: int, x: Array, length: Array, key: Array
) -> tuple[Array, Array]:
    """Mean logits (n_scales, C) of each head over sampled subsequences of one padded x (n, D).

    Average consensus takes all elements and draws nothing. The second result is whether the
    sequence is long enough for each scale, (n_scales,).
    """
    n = x.shape[0]
    if isinstance(heads, TsnHead):
        return tsn_logits(heads, x, jnp.arange(n) < length)[None], jnp.ones(1, bool)
    scales = jnp.arange(1, heads.n_max + 1)
    exists = scales <= length

    def one_draw(draw_key: Array) -> Array:
        sizes = jnp.where(exists, scales, 0)
        positions, mask = draw_subsequences(sizes, length, heads.n_max, n, key=draw_key)
        return scale_logits(heads, x[positions], mask)

    return jax.vmap(one_draw)(jax.random.split(key, n_subsequences)).mean(axis=0), exists


def draw_subsequences(
    sizes: Array, length: Array, n_positions: int, n: int, *, key: Array
) -> tuple[Array, Array]:
    """Random subsequences of one sequence, one of each size, in temporal order.

    Each is uniform among those of its size. The smaller ones lie within the larger: a single
    random order of the elements serves all sizes.

    Args:
      sizes: (g,) ints, at most `length` and `n_positions`; 0 draws no element.
      length: () int, elements of the sequence.
      n_positions: width p of the result.
      n: length the sequence is padded to.
      key: consumed.
    Returns:
      Element indices (g, p), padded with 0, and the mask (g, p), False for padding.
    """
    noise = jnp.where(jnp.arange(n) < length, jax.random.uniform(key, (n,)), jnp.inf)
    order = jnp.argsort(noise)[:n_positions]
    order = jnp.pad(order, (0, n_positions - order.shape[0]), constant_values=n)
    taken = jnp.arange(n_positions)[None] < sizes[:, None]
    positions = jnp.sort(jnp.where(taken, order[None], n), axis=-1)
    mask = positions < n
    return jnp.where(mask, positions, 0), mask


def pad_examples(
    sequences: Sequence[ArrayLike], labels: ArrayLike, n_classes: int, name: str = "sequences"
) -> Examples:
    """Check labelled sequences and pad them.

    Args:
      sequences: m arrays (n_i, D), floating-point and finite, n_i >= 1.
      labels: (m,) ints in 0..n_classes - 1.
      n_classes: classes C.
      name: of the sequences in messages.
    Raises:
      ValueError: shapes, classes out of range, values that are not finite. TypeError: dtypes.
    """
    checks.expect(len(sequences) > 0, name, "at least one sequence", "none")
    arrays: list[np.ndarray] = []
    for i, sequence in enumerate(sequences):
        each, array = f"{name}[{i}]", np.asarray(sequence)
        checks.as_array(each, array)
        width = arrays[0].shape[1] if i else None
        letters = f"(n, D) with D = {width}" if i else "(n, D)"
        checks.expect_shape(each, array, (None, width), letters)
        checks.expect(len(array) > 0, each, "at least one element", "none", "Leave it out.")
        checks.expect_finite(each, array)
        arrays.append(array)
    lengths = np.array([len(array) for array in arrays], dtype=np.int64)
    features = np.zeros((len(arrays), lengths.max(), arrays[0].shape[1]), np.float32)
    for row, array in zip(features, arrays, strict=True):
        row[: len(array)] = array

    name, classes = "labels" if name == "sequences" else f"{name} labels", np.asarray(labels)
    checks.expect_shape(name, classes, (len(arrays),), f"({len(arrays)},), one per sequence")
    is_integer, got = np.issubdtype(classes.dtype, np.integer), f"dtype {classes.dtype}"
    checks.expect(is_integer, name, "integers", got, "Number the classes from 0.", kind=TypeError)
    for i in np.flatnonzero((classes < 0) | (classes >= n_classes))[:1]:
        expected = f"classes in 0..{n_classes - 1}"
        raise ValueError(message(f"{name}[{i}]", expected, int(classes[i])))
    return Examples(features, lengths, classes.astype(np.int64))
