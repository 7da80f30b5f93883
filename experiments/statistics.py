"""Means over sequences with 95 % intervals, as plain values.

A mean is {"mean", "low", "high", "n_sequences"}: numbers, or nested lists where the values of a
sequence have axes. None stands for NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike
from scipy.stats import rankdata

import esv_jax as ej
from experiments.harness import plus_minus

Mean = dict[str, Any]
PARTS = ("mean", "low", "high")


class Resampling(Protocol):
    """Settings of a bootstrap."""

    seed: int
    n_resamples: int


def mean_of(values: ArrayLike, settings: Resampling) -> Mean:
    """Mean over sequences (V, ...) with its percentile bootstrap interval.

    NaN marks a sequence without a value. The mean is None where no sequence has one; the interval
    is None where fewer than two have.
    """
    values = np.asarray(values, float)
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    n = (~np.isnan(flat)).sum(0)
    found = np.full((3, flat.shape[1]), np.nan)
    if (n > 0).any():
        present = flat[:, n > 0]
        key = jax.random.key(settings.seed)
        ends = ej.metrics.bootstrap_interval(present, key=key, resamples=settings.n_resamples)
        found[:, n > 0] = np.nanmean(present, axis=0), ends.low, ends.high
        found[1:, n == 1] = np.nan
    named = dict(zip(PARTS, found, strict=True)) | {"n_sequences": n}
    return {name: plain(row.reshape(values.shape[1:])) for name, row in named.items()}


def resampled_means(values: np.ndarray, settings: Resampling) -> np.ndarray:
    """Bootstrap means for intervals of functions of several means.

    Args:
      values: (V, ...), NaN where a sequence has no value. A seed draws the same sequences for all
        arrays of V rows, so differences are paired.
    Returns:
      (R, ...); NaN where no sequence that was drawn has a value.
    """
    v = len(values)
    flat = np.asarray(values, float).reshape(v, -1)
    rng = np.random.default_rng(settings.seed)
    times = rng.multinomial(v, np.full(v, 1 / v), size=settings.n_resamples).astype(float)
    count = times @ ~np.isnan(flat)
    means = np.where(count > 0, times @ np.nan_to_num(flat) / np.maximum(count, 1), np.nan)
    return means.reshape(settings.n_resamples, *np.shape(values)[1:])


def with_interval(value: float | np.ndarray, draws: np.ndarray) -> Mean:
    """A function of means with the 95 % percentile interval of its resamples (R,)."""
    absent = np.isnan(draws).all()
    low, high = (np.nan, np.nan) if absent else np.nanquantile(draws, [0.025, 0.975])
    return plain({"mean": float(value), "low": float(low), "high": float(high)})


def wilson(count: Any, total: int) -> Mean:
    """Binomial shares with 95 % intervals, of counts of any shape. Source: Wilson (1927)."""
    z = NormalDist().inv_cdf(0.975)
    centre = (count + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * np.sqrt(count * (total - count) / total + z**2 / 4)
    return plain({"mean": count / total, "low": centre - half, "high": centre + half})


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rho of (..., K) and (..., K); ties share ranks; NaN where either is constant."""
    a, b = (rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2 for x in (a, b))
    norm = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(norm > 0, (a * b).sum(-1) / np.where(norm > 0, norm, 1), np.nan)


def plain(values: Any) -> Any:
    """Arrays as nested lists, None in the place of NaN."""
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    if isinstance(values, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(values).tolist())
    return None if isinstance(values, float) and np.isnan(values) else values


def written(found: Mean, scale: float = 100, digits: int = 1) -> str:
    """A mean with its interval, in per cent by default; "-" where there is none."""
    if found["mean"] is None:
        return "-"
    if found["low"] is None:
        return f"{scale * found['mean']:.{digits}f}"
    return plus_minus(*(scale * found[name] for name in PARTS), digits)


def at(found: Mean, *index: int) -> Mean:
    """One of the means that were computed together."""
    return {
        name: plain(np.array(values, object)[index])
        for name, values in found.items()
        if name in (*PARTS, "n_sequences")
    }


def ends(found: Mapping[str, Any], scale: float = 100) -> np.ndarray:
    """Means and the ends of their intervals, (3, ...), NaN where there is none."""
    return scale * np.array([found[name] for name in PARTS], float)
