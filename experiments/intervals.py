"""Means over clips with their intervals, and how they are written."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import esv_jax as ej

Row = dict[str, float]
"""`mean`, `low` and `high`."""


def interval(values: Any, seed: int, resamples: int) -> Row:
    """Mean over clips with its 95 % bootstrap interval; NaN are left out."""
    values = np.asarray(values, np.float64)
    ends = ej.metrics.bootstrap_interval(values, key=jax.random.key(seed), resamples=resamples)
    return {"mean": float(np.nanmean(values)), "low": float(ends.low), "high": float(ends.high)}


def share(row: Row) -> str:
    """`35.2 % [32.6, 37.8]`."""
    return f"{100 * row['mean']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def points(row: Row) -> str:
    """`+3.1 points [+1.0, +5.2]`."""
    ends = f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['mean']:+.1f} points {ends}"


def number(row: Row, digits: int = 3) -> str:
    """`0.512 [0.480, 0.541]`."""
    ends = ", ".join(f"{row[name]:.{digits}f}" for name in ("low", "high"))
    return f"{row['mean']:.{digits}f} [{ends}]"
