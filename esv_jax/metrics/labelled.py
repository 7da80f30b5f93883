"""Values of labelled sequences of different lengths, as they come to the measures over a set."""

from __future__ import annotations

from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_finite, expect_numbers, message


def checked_labels(name: str, labels: Any, n_sequences: int) -> np.ndarray:
    """Labels (V,) as integers >= 0."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(message(name, "integers", f"dtype {labels.dtype}"))
    expect(labels.shape == (n_sequences,), name, f"shape (V,) = ({n_sequences},)", labels.shape)
    expect(bool((labels >= 0).all()), name, "classes >= 0", labels.min(initial=0))
    return labels


def sequences_of(name: str, arrays: Any, lengths: Any) -> list[np.ndarray]:
    """V arrays (n_i, ...), their padding cut.

    Args:
      name: of `arrays` in errors.
      arrays: (V, N, ...) padded at their ends, or a list of V arrays (n_i, ...).
      lengths: (V,) elements in each, 1..N; None for all N, or for a list.
    """
    if isinstance(arrays, list | tuple):
        expect(lengths is None, "lengths", f"None beside a list of {name}", "lengths")
        each = [np.asarray(array) for array in arrays]
    else:
        array = np.asarray(arrays)
        expect(array.ndim >= 2, name, "shape (V, N, ...)", array.shape)
        sizes = np.full(len(array), array.shape[1]) if lengths is None else np.asarray(lengths)
        expect(
            sizes.shape == (len(array),), "lengths", f"shape (V,) = ({len(array)},)", sizes.shape
        )
        if not np.issubdtype(sizes.dtype, np.integer):
            raise TypeError(message("lengths", "integers", f"dtype {sizes.dtype}"))
        fits = (sizes >= 1) & (sizes <= array.shape[1])
        expect(bool(fits.all()), "lengths", f"1..{array.shape[1]}, elements in {name}", sizes)
        each = [row[:size] for row, size in zip(array, sizes, strict=True)]
    expect(len(each) >= 1, name, "at least one sequence", "none")
    for i, row in enumerate(each):
        fits = row.ndim >= 1 and len(row) >= 1
        expect(fits, f"{name}[{i}]", "elements (n >= 1) first", f"shape {row.shape}")
    return each


def values_of(values: Any, labels: np.ndarray | None, lengths: Any) -> list[np.ndarray]:
    """V arrays (n_i,) float64, the values of one class in each sequence.

    Args:
      values: (V, N) or a list of (n_i,), of the class in question; or with a last axis of classes,
        from which `labels` choose.
      labels: (V,), or None where values are of one class already.
      lengths: as for `sequences_of`.
    """
    chosen = []
    for i, row in enumerate(sequences_of("values", values, lengths)):
        name = f"values[{i}]"
        if row.ndim == 2 and labels is not None:
            c = row.shape[1]
            expect(bool(labels[i] < c), f"labels[{i}]", f"a class in 0..{c - 1}", labels[i])
            row = row[:, labels[i]]
        way_out = "Choose a class." if labels is None else ""
        expect(row.ndim == 1, name, "shape (n,), one value per element", row.shape, way_out)
        row = expect_numbers(name, row)
        expect_finite(name, row)
        chosen.append(row)
    return chosen
