"""Positions of the most supporting and the most distracting elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from esv_jax.checks import expect_int
from esv_jax.metrics.labelled import checked_labels, values_of


class PositionStatistics(NamedTuple):
    """Statistics over a set of sequences by position, K positions; of classes, (G, ...) each.

    A number that no sequence speaks to is NaN.

    Attributes:
      most_supporting: (K,) sequences whose highest value lies there; elements that tie share one.
      most_distracting: (K,) sequences whose lowest value lies there.
      above: (K, K) probability that the value at position i is above the one at j, in a sequence
        that has both; ties count 1/2. above + its transpose = 1, 1/2 on the diagonal.
      supporting: (K,) share of the elements there with a value > 0.
      distracting: (K,) share with a value <= 0.
      n_sequences: (K,) sequences that have elements there.
    """

    most_supporting: np.ndarray
    most_distracting: np.ndarray
    above: np.ndarray
    supporting: np.ndarray
    distracting: np.ndarray
    n_sequences: np.ndarray


class Positions(NamedTuple):
    """Result of `position_statistics`.

    Attributes:
      overall: of all sequences.
      classes: (G,) int, the classes there are, ascending; none where none were given.
      by_class: of the sequences of each, fields with a leading axis G.
    """

    overall: PositionStatistics
    classes: np.ndarray
    by_class: PositionStatistics


def position_statistics(
    values: Any, classes: Any = None, lengths: Any = None, *, bins: int | None = None
) -> Positions:
    """Which positions support and distract, overall and per class.

    A position is the element's index; sequences of other lengths then share the positions that
    they have. With `bins` it is relative: element i of n lies in bin floor((i + 1/2) bins / n),
    and where several elements of a sequence share a bin, `above` is the share of their pairs.
    Every sequence weighs the same in `above`; every element in the shares.

    Args:
      values: (V, N) or a list of (n_i,), of one class per sequence (commonly the true one); or of
        every class, (V, N, C) or (n_i, C), from which `classes` choose.
      classes: (V,) int, the class of each sequence; None for one set.
      lengths: (V,) elements in each; default N.
      bins: relative positions, >= 1; None for indices. With more bins than elements some are
        empty.
    Returns:
      `Positions`, float64, on the host; K is `bins` or the greatest length.
    Raises:
      ValueError: shapes that disagree, values that are not finite, bins < 1. TypeError: classes or
      lengths that are no integers.
    Cost: V n**2 comparisons; G K**2 numbers of memory.
    """
    given = None
    if classes is not None:
        n_sequences = len(values)
        given = checked_labels("classes", classes, n_sequences)
    rows = values_of(values, given, lengths)
    k = max(map(len, rows)) if bins is None else expect_int("bins", bins, 1)
    group = np.zeros(len(rows), int) if given is None else np.unique(given, return_inverse=True)[1]
    sums = _Sums(*(np.zeros((int(group.max()) + 1, *shape)) for shape in _shapes(k)))
    for row, g in zip(rows, group.ravel(), strict=True):
        _add(sums, int(g), row, _position(len(row), bins, k))
    overall = _Sums(*(field.sum(0) for field in sums))
    found = np.unique(given) if given is not None else np.zeros(0, int)
    return Positions(_summary(overall), found, _summary(_Sums(*(f[: len(found)] for f in sums))))


class _Sums(NamedTuple):
    """Sums over the sequences of each group."""

    highest: np.ndarray
    lowest: np.ndarray
    above: np.ndarray
    pairs: np.ndarray
    positive: np.ndarray
    elements: np.ndarray
    sequences: np.ndarray


def _shapes(k: int) -> tuple[tuple[int, ...], ...]:
    return (k,), (k,), (k, k), (k, k), (k,), (k,), (k,)


def _position(n: int, bins: int | None, k: int) -> np.ndarray:
    """Which of k positions each of n elements has, (n, k) of zeros and ones."""
    i = np.arange(n)
    at = i if bins is None else (2 * i + 1) * k // (2 * n)
    return (at[:, None] == np.arange(k)).astype(np.float64)


def _add(sums: _Sums, g: int, row: np.ndarray, place: np.ndarray) -> None:
    """Add one sequence's values (n,) at its places (n, K) to group g."""
    highest, lowest = row == row.max(), row == row.min()
    sums.highest[g] += (highest / highest.sum()) @ place
    sums.lowest[g] += (lowest / lowest.sum()) @ place
    above = (row[:, None] > row[None, :]) + 0.5 * (row[:, None] == row[None, :])
    elements = place.sum(0)
    pairs = elements[:, None] * elements[None, :]
    sums.above[g] += (place.T @ above @ place) / np.maximum(pairs, 1)
    sums.pairs[g] += pairs > 0
    sums.positive[g] += (row > 0) @ place
    sums.elements[g] += elements
    sums.sequences[g] += elements > 0


def _summary(sums: _Sums) -> PositionStatistics:
    supporting = _ratio(sums.positive, sums.elements)
    return PositionStatistics(
        most_supporting=sums.highest,
        most_distracting=sums.lowest,
        above=_ratio(sums.above, sums.pairs),
        supporting=supporting,
        distracting=1 - supporting,
        n_sequences=sums.sequences.astype(int),
    )


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where nothing was counted."""
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
