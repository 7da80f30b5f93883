"""Statistics of attribution values over a set of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import (
    AnyArray,
    expect,
    expect_finite,
    expect_floating,
    expect_int,
    expect_key,
    expect_numbers,
)

Rows: TypeAlias = ArrayLike | Sequence[ArrayLike]
"""(V, N, ...) padded at the end, or a list of V arrays (n_i, ...)."""
Integers: TypeAlias = ArrayLike | Sequence[int]

_RESAMPLES_AT_ONCE = 64  # drawn from one key


class Interval(NamedTuple):
    """Ends of an interval, arrays of one shape."""

    low: np.ndarray
    high: np.ndarray


def bootstrap_interval(
    values: Rows, *, key: Array, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Percentile bootstrap interval of the mean over sequences, the first axis.

    Equal keys draw the same sequences, so the interval of `a - b` is that of a paired
    difference. Source: Efron (1979). Runs on the host, in NumPy.

    Args:
      values: (V, ...); NaN marks a missing value.
      key: `jax.random.key(seed)`; consumed.
      confidence: nominal coverage, in (0, 1).
      resamples: of V sequences each, drawn with replacement.
    Returns:
      `Interval` of (...) float64.
    Raises:
      ValueError: no sequences, a position where all values are missing, numbers out of range,
      no key. TypeError: not numbers.
    Cost: V * resamples draws, and as many multiply-adds per position.
    """
    values = expect_numbers("values", values)
    expect(values.ndim >= 1 and len(values) >= 1, "values", "shape (V, ...)", values.shape)
    expect(0 < confidence < 1, "confidence", "a share in (0, 1)", confidence)
    resamples = expect_int("resamples", resamples, 1)
    v = len(values)
    flat = values.reshape(v, -1)
    present = ~np.isnan(flat)
    expect(bool(present.any(0).all()), "values", "a sequence with a value everywhere", "only NaN")
    filled, weight = np.where(present, flat, 0), present.astype(np.float64)
    key = expect_key("key", key)
    means = np.empty((resamples, flat.shape[1]))
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        rows = min(_RESAMPLES_AT_ONCE, resamples - start)
        drawn = np.asarray(jax.random.randint(jax.random.fold_in(key, start), (rows, v), 0, v))
        cell = drawn + v * np.arange(rows)[:, None]
        times = np.bincount(cell.ravel(), minlength=rows * v).reshape(rows, v).astype(np.float64)
        total, count = times @ filled, times @ weight
        means[start : start + rows] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    tail = (1 - confidence) / 2
    known = ~np.isnan(means).all(0)  # a position with few values may be in no resample
    low, high = np.full((2, flat.shape[1]), np.nan)
    low[known], high[known] = np.nanquantile(means[:, known], [tail, 1 - tail], axis=0)
    return Interval(low.reshape(values.shape[1:]), high.reshape(values.shape[1:]))


class SupportStatistics(NamedTuple):
    """Statistics per sequence (and class), arrays of one shape.

    Attributes:
      supporting: share of the elements whose value is positive.
      distracting: share whose value is zero or negative; 1 - supporting.
      support: sum of the positive values, >= 0.
      distraction: sum of the others, <= 0. For ESVs, both add up to the evidential score.
    """

    supporting: Array
    distracting: Array
    support: Array
    distraction: Array


def support_statistics(values: ArrayLike) -> SupportStatistics:
    """Shares and sums of supporting (> 0) and distracting (<= 0) elements of each sequence.

    Source of the terms: Price & Damen (2020).

    Args:
      values: (..., n), values of one class per row.
    Returns:
      `SupportStatistics` of (...).
    Raises:
      ValueError: no elements, non-finite values. TypeError: values not floating point.
    """
    values = expect_floating("values", values)
    expect(values.shape[-1:] > (0,), "values", "shape (..., n), n >= 1", values.shape)
    expect_finite("values", values)
    positive = values > 0
    share = positive.sum(-1).astype(values.dtype) / values.shape[-1]
    support = jnp.where(positive, values, 0).sum(-1)
    distraction = jnp.where(positive, 0, values).sum(-1)
    return SupportStatistics(share, 1 - share, support, distraction)


class PositionStatistics(NamedTuple):
    """Statistics over a set of sequences by position, K positions; NaN at those without data.

    Attributes:
      most_supporting: (K,) sequences whose highest value is here; tied elements share one.
      most_distracting: (K,) sequences whose lowest value is here.
      above: (K, K) probability that the value at position i is above the one at j, in a sequence
        that has both; ties count 1/2. above + its transpose = 1, 1/2 on the diagonal.
      supporting: (K,) share of the elements here with a value > 0.
      distracting: (K,) share with a value <= 0.
      n_sequences: (K,) sequences that have elements here.
    """

    most_supporting: np.ndarray
    most_distracting: np.ndarray
    above: np.ndarray
    supporting: np.ndarray
    distracting: np.ndarray
    n_sequences: np.ndarray


def position_statistics(
    values: Rows, lengths: Integers | None = None, *, bins: int | None = None
) -> PositionStatistics:
    """Positions of the most supporting and distracting elements.

    A position is the index of an element. With `bins` it is relative: element i of n is in bin
    floor((i + 1/2) bins / n), and where several elements of a sequence share a bin, `above` is
    the share of their pairs. `above` weighs sequences equally, the shares weigh elements equally.

    Args:
      values: (V, N) or a list of (n_i,), of one class per sequence (commonly the true one).
      lengths: (V,) elements in each; default N.
      bins: number of relative positions, >= 1; None for indices.
    Returns:
      `PositionStatistics`, float64, on the host; K is `bins` or the greatest length.
    Raises:
      ValueError: shapes that disagree, non-finite values, bins < 1. TypeError: lengths that are
      not integers.
    Cost: V n**2 comparisons.
    """
    rows = class_values(values, None, lengths)
    k = max(map(len, rows)) if bins is None else expect_int("bins", bins, 1)
    totals = [np.zeros(())] * 7
    for row in rows:
        i, n = np.arange(len(row)), len(row)
        at = i if bins is None else (2 * i + 1) * k // (2 * n)
        own = _sums(row, (at[:, None] == np.arange(k)).astype(np.float64))
        totals = [total + part for total, part in zip(totals, own, strict=True)]
    highest, lowest, above, pairs, positive, elements, sequences = totals

    def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    share = ratio(positive, elements)
    return PositionStatistics(
        highest, lowest, ratio(above, pairs), share, 1 - share, sequences.astype(int)
    )


def _sums(row: np.ndarray, position: np.ndarray) -> list[np.ndarray]:
    """Sums for `position_statistics` of one sequence, values (n,) at one-hot positions (n, K)."""
    highest, lowest = row == row.max(), row == row.min()
    above = (row[:, None] > row[None, :]) + 0.5 * (row[:, None] == row[None, :])
    elements = position.sum(0)
    pairs = elements[:, None] * elements[None, :]
    return [
        (highest / highest.sum()) @ position,
        (lowest / lowest.sum()) @ position,
        (position.T @ above @ position) / np.maximum(pairs, 1),
        (pairs > 0).astype(np.float64),
        (row > 0) @ position,
        elements,
        (elements > 0).astype(np.float64),
    ]


def _expect_integers(name: str, value: AnyArray) -> None:
    is_integer = bool(jnp.issubdtype(value.dtype, jnp.integer))
    expect(is_integer, name, "integers", f"dtype {value.dtype}", kind=TypeError)


def checked_labels(name: str, labels: Integers, n_sequences: int) -> np.ndarray:
    """Labels (V,) as integers >= 0."""
    labels = np.asarray(labels)
    _expect_integers(name, labels)
    expect(labels.shape == (n_sequences,), name, f"shape (V,) = ({n_sequences},)", labels.shape)
    expect(bool((labels >= 0).all()), name, "classes >= 0", labels.min(initial=0))
    return labels


def split_sequences(name: str, rows: Rows, lengths: Integers | None) -> list[np.ndarray]:
    """V arrays (n_i, ...) without padding; `name` is for errors, the others are as in `Rows`."""
    if isinstance(rows, list | tuple):
        expect(lengths is None, "lengths", f"None beside a list of {name}", "lengths")
        each = [np.asarray(row) for row in rows]
    else:
        array = np.asarray(rows)
        expect(array.ndim >= 2, name, "shape (V, N, ...)", array.shape)
        v, n = array.shape[:2]
        sizes = np.full(v, n) if lengths is None else np.asarray(lengths)
        expect(sizes.shape == (v,), "lengths", f"shape (V,) = ({v},)", sizes.shape)
        _expect_integers("lengths", sizes)
        fits = bool(((sizes >= 1) & (sizes <= n)).all())
        expect(fits, "lengths", f"1..{n}, elements in {name}", sizes)
        each = [row[:size] for row, size in zip(array, sizes, strict=True)]
    expect(len(each) >= 1, name, "at least one sequence", "none")
    for i, row in enumerate(each):
        fits = row.ndim >= 1 and len(row) >= 1
        expect(fits, f"{name}[{i}]", "elements (n >= 1) first", f"shape {row.shape}")
    return each


def class_values(
    values: Rows, labels: np.ndarray | None, lengths: Integers | None
) -> list[np.ndarray]:
    """V arrays (n_i,) float64, the values of one class in each sequence.

    Where values have a last axis of classes, `labels` (V,) selects one.
    """
    selected = []
    for i, row in enumerate(split_sequences("values", values, lengths)):
        name = f"values[{i}]"
        if row.ndim == 2 and labels is not None:
            c = row.shape[1]
            expect(bool(labels[i] < c), f"labels[{i}]", f"a class in 0..{c - 1}", labels[i])
            row = row[:, labels[i]]
        way_out = "Choose a class." if labels is None else ""
        expect(row.ndim == 1, name, "shape (n,), one value per element", row.shape, way_out)
        selected.append(expect_numbers(name, row))
        expect_finite(name, selected[-1])
    return selected
