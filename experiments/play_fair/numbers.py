"""Means over sequences with their bootstrap, and how they are written down."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import jax
import numpy as np

import esv_jax as ej
from experiments.play_fair.figure import Settings, Verdict, plus_minus


def mean_of(values: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Mean over sequences with its 95 % interval, plain: floats, or lists of values (V, K).

    NaN says that a sequence has no value there; a place where none has any is None, and so is the
    interval of a single one.
    """
    values = np.asarray(values, float)
    flat = values.reshape(len(values), -1)
    n = (~np.isnan(flat)).sum(0)
    found = np.full((3, flat.shape[1]), np.nan)
    if (n > 0).any():
        there = flat[:, n > 0]
        key = jax.random.key(settings.seed)
        ends = ej.metrics.bootstrap_interval(there, key=key, resamples=settings.n_resamples)
        found[:, n > 0] = np.nanmean(there, axis=0), ends.low, ends.high
        found[1:, n == 1] = np.nan
    named = dict(zip(("mean", "low", "high"), found, strict=True)) | {"n_sequences": n}
    return {name: plain(row.reshape(values.shape[1:])) for name, row in named.items()}


def resampled_means(values: np.ndarray, settings: Settings) -> np.ndarray:
    """Means (R, ...) over sequences drawn anew, for intervals of what is made of several means.

    Args:
      values: (V, ...), NaN where a sequence has no value. A seed draws the same sequences of any
        V values, so that differences are paired.
    Returns:
      (R, ...); NaN where no sequence that was drawn has a value.
    """
    v = len(values)
    flat = np.asarray(values, float).reshape(v, -1)
    present = ~np.isnan(flat)
    filled = np.where(present, flat, 0)
    rng = np.random.default_rng(settings.seed)
    means = np.empty((settings.n_resamples, flat.shape[1]))
    for row in range(settings.n_resamples):
        times = rng.multinomial(v, np.full(v, 1 / v)).astype(float)
        count = times @ present
        means[row] = np.where(count > 0, times @ filled / np.maximum(count, 1), np.nan)
    return means.reshape(settings.n_resamples, *np.shape(values)[1:])


def with_ends(value: Any, draws: np.ndarray) -> dict[str, Any]:
    """A number made of means, with the 95 % percentile interval of its resamples (R,)."""
    none = np.isnan(draws).all()
    low, high = (np.nan, np.nan) if none else np.nanquantile(draws, [0.025, 0.975])
    return plain({"mean": float(value), "low": float(low), "high": float(high)})


def wilson(count: Any, total: int) -> tuple[Any, Any]:
    """95 % interval of binomial shares, of counts of any shape. Source: Wilson (1927)."""
    z = NormalDist().inv_cdf(0.975)
    centre = (count + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * np.sqrt(count * (total - count) / total + z**2 / 4)
    return centre - half, centre + half


def plain(values: Any) -> Any:
    """An array as nested lists (a number where it has no axes), None in the place of NaN."""
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, list):
        return [plain(value) for value in values]
    if isinstance(values, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(values).tolist())
    return None if isinstance(values, float) and np.isnan(values) else values


def by_sign(found: dict[str, Any]) -> Verdict:
    """What a difference says that should be positive: its whole interval above 0, below, or not."""
    if found["low"] is None:
        return "not measured"
    if found["low"] > 0:
        return "reproduced"
    return "contradicted" if found["high"] < 0 else "weaker"


def written(found: dict[str, Any], scale: float = 100, digits: int = 1) -> str:
    """A mean with its interval, in per cent by default; "-" where there is none."""
    if found["mean"] is None:
        return "-"
    if found["low"] is None:
        return f"{scale * found['mean']:.{digits}f}"
    return plus_minus(*(scale * found[name] for name in ("mean", "low", "high")), digits)


def at(found: dict[str, Any], k: int) -> dict[str, Any]:
    """The k-th of means that were found together."""
    return {name: values[k] for name, values in found.items()}
