"""Scores of methods by metrics on a set of clips, their means, and the worth of the metrics.

Runs on the host, in NumPy and double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from esv_jax.checks import expect
from esv_jax.maps.measures import METRICS
from esv_jax.metrics import (
    bootstrap_interval,
    krippendorff_alpha,
    method_ranks,
    metric_reliability,
)
from esv_jax.metrics.reliability import input_weights

YARDSTICK = "random"
"""The method that the reliability of a metric is measured with."""


class ClipScores(NamedTuple):
    """Scores of the maps of one clip.

    Attributes:
      scores: (metrics, methods) float64, NaN where undefined.
      seconds: (methods,) that the maps took; at the first clip of a shape, with compilation.
      warnings: a sentence for each map that could not be used.
    """

    scores: np.ndarray
    seconds: np.ndarray
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class EvaluationSummary:
    """Means over clips, and what the metrics themselves are worth.

    Attributes:
      methods, metrics: names. higher_is_better: of each metric.
      mean: (metrics, methods) over the clips with a score; NaN where there is none.
      low, high: (metrics, methods), of the bootstrap interval; NaN of fewer than two clips.
      n_clips: (metrics, methods) int, clips with a score.
      reliability: `metrics.metric_reliability` of each metric. None where it is undefined: without
        the method "random", or without two clips that count.
      alpha: Krippendorff's, of the ranks that each metric gives the methods on each clip, ordinal;
        None without two clips to compare.
      n_ranked: of each metric, the clips that both are taken over: those on which every method has
        a score, and not all the same.
      seconds: (methods,) for a map, the median over clips, so that compilation does not count.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    higher_is_better: tuple[bool, ...]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_clips: np.ndarray
    reliability: tuple[float | None, ...]
    alpha: tuple[float | None, ...]
    n_ranked: tuple[int, ...]
    seconds: np.ndarray

    def table(self) -> list[dict[str, Any]]:
        """A row for each metric and method: metric, method, mean, low, high, n_clips, seconds."""
        arrays = {"mean": self.mean, "low": self.low, "high": self.high}
        return [
            {
                "metric": metric,
                "method": method,
                **{name: float(array[k, m]) for name, array in arrays.items()},
                "n_clips": int(self.n_clips[k, m]),
                "seconds": float(self.seconds[m]),
            }
            for k, metric in enumerate(self.metrics)
            for m, method in enumerate(self.methods)
        ]

    def metric_table(self) -> list[dict[str, Any]]:
        """A row for each metric: metric, higher_is_better, reliability, alpha, n_ranked."""
        columns = (self.higher_is_better, self.reliability, self.alpha, self.n_ranked)
        names = ("metric", "higher_is_better", "reliability", "alpha", "n_ranked")
        rows = zip(self.metrics, *columns, strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of methods by metrics on V clips.

    Attributes:
      methods, metrics: names.
      scores: (metrics, V, methods) float64, NaN where undefined.
      seconds: (V, methods) that each map took.
      warnings: a sentence for each map that could not be used.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: np.ndarray
    seconds: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> tuple[bool, ...]:
        """Return per metric whether higher scores are better."""
        return tuple(METRICS[name].higher_is_better for name in self.metrics)

    def summary(
        self, *, key: Array, confidence: float = 0.95, resamples: int = 2000
    ) -> EvaluationSummary:
        """Means with bootstrap intervals, and the reliability of each metric.

        Args:
          key, confidence, resamples: see `metrics.bootstrap_interval`; the same clips are drawn
            for all metrics and methods.
        Cost: clips * resamples multiply-adds per score, clips**2 * methods per metric.
        """
        there = ~np.isnan(self.scores)
        n = there.sum(1)
        total = np.where(there, self.scores, 0).sum(1)
        mean = np.where(n > 0, total / np.maximum(n, 1), np.nan)
        low, high = np.full((2, *mean.shape), np.nan)
        enough = n >= 2
        if enough.any():
            values = np.moveaxis(self.scores, 1, 0)[:, enough]
            low[enough], high[enough] = bootstrap_interval(
                values, key=key, confidence=confidence, resamples=resamples
            )
        ranked = [_that_rank(table) for table in self.scores]
        pairs = list(zip(ranked, self.higher_is_better, strict=True))
        return EvaluationSummary(
            methods=self.methods,
            metrics=self.metrics,
            higher_is_better=self.higher_is_better,
            mean=mean,
            low=low,
            high=high,
            n_clips=n,
            reliability=tuple(self._reliability(*pair) for pair in pairs),
            alpha=tuple(_alpha(*pair) for pair in pairs),
            n_ranked=tuple(map(len, ranked)),
            seconds=np.median(self.seconds, axis=0),
        )

    def _reliability(self, table: np.ndarray, higher: bool) -> float | None:
        if YARDSTICK not in self.methods or len(table) < 2:
            return None
        column = self.methods.index(YARDSTICK)
        weights = input_weights(method_ranks(table, not higher), column)
        if np.count_nonzero(weights) < 2:
            return None
        return metric_reliability(table, column, lower_is_better=not higher)


def gathered(
    methods: Sequence[str],
    metrics: Sequence[str],
    clips: Sequence[ClipScores],
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Combine the scores of single clips by a `Judge` into an `Evaluation`.

    Args:
      methods, metrics: of the judge. clips: V. names: of clips, for warnings; default "clip 0" on.
    Raises:
      ValueError: no clips, scores of other methods or metrics.
    """
    expect(len(clips) > 0, "clips", "scores of at least one", "none")
    names = [f"clip {i}" for i in range(len(clips))] if names is None else names
    shape = (len(metrics), len(methods))
    for i, clip in enumerate(clips):
        got = np.shape(clip.scores)
        expect(got == shape, f"clips[{i}]", f"scores (metrics, methods) = {shape}", got)
    return Evaluation(
        tuple(methods),
        tuple(metrics),
        np.stack([clip.scores for clip in clips], axis=1).astype(np.float64),
        np.stack([clip.seconds for clip in clips]).astype(np.float64),
        tuple(f"{names[i]}, {text}" for i, clip in enumerate(clips) for text in clip.warnings),
    )


def _that_rank(table: np.ndarray) -> np.ndarray:
    """The rows of (V, methods) in which every method has a score, and not all the same."""
    complete = table[~np.isnan(table).any(1)]
    return complete[np.ptp(complete, axis=1) > 0]


def _alpha(table: np.ndarray, higher: bool) -> float | None:
    if len(table) < 2:
        return None
    return krippendorff_alpha(method_ranks(table, not higher), "ordinal")
