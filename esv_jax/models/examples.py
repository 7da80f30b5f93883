"""Labelled sequences as padded arrays, and what training takes from them: split, prior, scale."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax import checks

_SHARE = 0.1  # of each class, held out by default


class Examples(NamedTuple):
    """Labelled sequences, padded with zeros to the longest.

    Attributes:
      features: (m, n, D) float32.
      lengths: elements of each sequence, (m,) int.
      labels: (m,) int.
    """

    features: Any
    lengths: Any
    labels: Any


def pad_examples(
    sequences: Sequence[Any], labels: Any, n_classes: int, name: str = "sequences"
) -> Examples:
    """Check labelled sequences and pad them.

    Args:
      sequences: m arrays (n_i, D), floating-point and finite, n_i >= 1.
      labels: (m,) ints in 0..n_classes - 1.
      n_classes: classes C.
      name: what messages call the sequences.
    """
    checks.expect(len(sequences) > 0, name, "at least one sequence", "none")
    arrays: list[np.ndarray] = []
    for i, sequence in enumerate(sequences):
        place = f"{name}[{i}]"
        array = np.asarray(sequence)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            got = f"dtype {array.dtype}"
            raise TypeError(checks.message(place, "a floating-point array", got, "Cast it."))
        width = None if i == 0 else arrays[0].shape[1]
        letters = "(n, D)" if i == 0 else f"(n, D) with D = {width}"
        checks.expect_shape(place, array, (None, width), letters)
        checks.expect(len(array) > 0, place, "at least one element", "none", "Leave it out.")
        checks.expect_finite(place, array)
        arrays.append(array)
    lengths = np.array([len(array) for array in arrays], dtype=np.int64)
    features = np.zeros((len(arrays), lengths.max(), arrays[0].shape[1]), np.float32)
    for row, array in zip(features, arrays, strict=True):
        row[: len(array)] = array
    checked = _checked_labels(labels, len(arrays), n_classes, name)
    return Examples(features, lengths, checked)


def _checked_labels(labels: Any, m: int, n_classes: int, name: str) -> np.ndarray:
    array = np.asarray(labels)
    where = "labels" if name == "sequences" else f"{name} labels"
    checks.expect_shape(where, array, (m,), f"({m},), one per sequence")
    if not np.issubdtype(array.dtype, np.integer):
        way_out = "Number the classes from 0."
        raise TypeError(checks.message(where, "integers", f"dtype {array.dtype}", way_out))
    outside = (array < 0) | (array >= n_classes)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        expected = f"classes in 0..{n_classes - 1}"
        raise ValueError(checks.message(f"{where}[{i}]", expected, int(array[i])))
    return array.astype(np.int64)


def hold_out(
    examples: Examples, fraction: float | None, *, key: jax.Array
) -> tuple[Examples, Examples | None]:
    """Split off a share of each class, drawn by `key`; each class keeps at least one.

    Args:
      fraction: of each class, rounded to whole examples; None for a tenth, but at least one of each
        class that has two.
    Returns:
      The rest, and what was held out: None for `fraction` 0, or where by default there is nothing
      to hold out because no class has two examples.
    Raises:
      ValueError: a fraction that holds out nothing.
    """
    if fraction == 0:
        return examples, None
    share, least = (_SHARE, 1) if fraction is None else (fraction, 0)
    order = np.asarray(jax.random.permutation(key, len(examples.labels)))
    held = np.zeros(len(order), dtype=bool)
    for c in np.unique(examples.labels):
        members = order[examples.labels[order] == c]
        n = max(round(share * len(members)), least)
        held[members[: min(n, len(members) - 1)]] = True
    if fraction is None and not held.any():
        return examples, None
    checks.expect(
        bool(held.any()),
        "validation_fraction",
        "a share that holds out at least one example",
        f"{fraction} of {len(order)} examples",
        "Leave it out, give a validation set, a larger fraction, or 0.",
    )
    return _take(examples, ~held), _take(examples, held)


def _take(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(*(array[rows] for array in examples))


def class_prior(labels: np.ndarray, n_classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Relative frequency of each class, (C,) float64: `(count + a) / (m + a * C)`."""
    counts = np.bincount(labels, minlength=n_classes) + float(smoothing)
    return counts / counts.sum()


def feature_moments(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over all elements, (D,) float32 each.

    A feature that never changes keeps its unit: its standard deviation is given as 1.
    """
    there = np.arange(examples.features.shape[1]) < examples.lengths[:, None]  # (m, n)
    elements = examples.features[there].astype(np.float64)  # (all elements, D)
    std = elements.std(axis=0)
    return elements.mean(axis=0).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def examples_digest(examples: Examples | None) -> str:
    """SHA-256 of the examples, to tell whether a run is resumed on the same data."""
    digest = hashlib.sha256()
    for array in examples or ():
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
