"""Percentile bootstrap of a mean over sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_int, expect_key, expect_numbers

_TOGETHER = 64  # resamples at once, from one key each


class Interval(NamedTuple):
    """Ends of an interval, arrays of one shape."""

    low: np.ndarray
    high: np.ndarray


def bootstrap_interval(
    values: Any, *, key: Array, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Percentile bootstrap interval of the mean over sequences, the first axis.

    Equal keys draw the same sequences, so that the interval of `a - b` is that of a paired
    difference. Source: Efron (1979). Runs on the host, in NumPy.

    Args:
      values: (V, ...); NaN says that a sequence has no value there, and is left out.
      key: `jax.random.key(seed)`; consumed.
      confidence: share of intervals that should cover the mean, in (0, 1).
      resamples: of V sequences each, drawn with replacement.
    Returns:
      `Interval` of (...) float64.
    Raises:
      ValueError: no sequences, a place where none has a value, numbers out of range, no key.
      TypeError: not numbers.
    Cost: V * resamples draws and as many multiply-adds per place.
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
    for start in range(0, resamples, _TOGETHER):
        stop = min(start + _TOGETHER, resamples)
        rows = stop - start
        drawn_rows = jax.random.randint(jax.random.fold_in(key, start), (rows, v), 0, v)
        cell = np.asarray(drawn_rows) + v * np.arange(rows)[:, None]
        times = np.bincount(cell.ravel(), minlength=rows * v).reshape(rows, v).astype(np.float64)
        total, count = times @ filled, times @ weight
        means[start:stop] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    tail = (1 - confidence) / 2
    drawn = ~np.isnan(means).all(0)  # a place that few sequences reach may be in no resample
    low, high = np.full((2, flat.shape[1]), np.nan)
    low[drawn], high[drawn] = np.nanquantile(means[:, drawn], [tail, 1 - tail], axis=0)
    return Interval(low.reshape(values.shape[1:]), high.reshape(values.shape[1:]))
