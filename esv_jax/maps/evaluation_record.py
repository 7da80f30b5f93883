"""Scores of methods by metrics on a set of clips.

Runs on the host, in NumPy and double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax import Array

from esv_jax.checks import expect
from esv_jax.files import JSONObject
from esv_jax.maps.map_metrics import METRICS
from esv_jax.metrics import bootstrap_interval, krippendorff_alpha, metric_reliability
from esv_jax.metrics.reliability import input_weights, method_ranks

RANDOM = "random"
"""The method that the reliability of a metric is measured against."""


class ClipScores(NamedTuple):
    """Scores of the maps of one clip.

    Attributes:
      scores: (metrics, methods) float64, NaN where undefined.
      seconds: (methods,) per map; with compilation at the first clip of a shape.
      warnings: a sentence for each map that is not finite.
    """

    scores: np.ndarray
    seconds: np.ndarray
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class EvaluationSummary:
    """Means over clips, and the reliability of the metrics.

    Attributes:
      methods, metrics: names. higher_is_better: of each metric.
      mean: (metrics, methods) over the clips with a score; NaN without.
      low, high: (metrics, methods), of the bootstrap interval; NaN for fewer than two clips.
      n_clips: (metrics, methods) int, clips with a score.
      reliability: `metrics.metric_reliability` of each metric. None without the method "random" or
        two clips of positive weight.
      alpha: Krippendorff's, ordinal, of the ranks of the methods on each clip; None for fewer than
        two clips.
      n_ranked: clips in `reliability` and `alpha` of each metric: those on which all methods have a
        score, and the scores differ.
      seconds: (methods,) per map, the median over clips, which leaves out compilation.
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

    def table(self) -> list[JSONObject]:
        """A row for each metric and method: metric, method, mean, low, high, n_clips, seconds."""
        return [
            {
                "metric": metric,
                "method": method,
                "mean": float(self.mean[k, m]),
                "low": float(self.low[k, m]),
                "high": float(self.high[k, m]),
                "n_clips": int(self.n_clips[k, m]),
                "seconds": float(self.seconds[m]),
            }
            for k, metric in enumerate(self.metrics)
            for m, method in enumerate(self.methods)
        ]

    def metric_table(self) -> list[JSONObject]:
        """A row for each metric: metric, higher_is_better, reliability, alpha, n_ranked."""
        return [
            {
                "metric": metric,
                "higher_is_better": self.higher_is_better[k],
                "reliability": self.reliability[k],
                "alpha": self.alpha[k],
                "n_ranked": self.n_ranked[k],
            }
            for k, metric in enumerate(self.metrics)
        ]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of methods by metrics on V clips.

    Attributes:
      methods, metrics: names.
      scores: (metrics, V, methods) float64, NaN where undefined.
      seconds: (V, methods) per map.
      warnings: a sentence for each map that is not finite.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: np.ndarray
    seconds: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> tuple[bool, ...]:
        """Direction of each metric."""
        return tuple(METRICS[name].higher_is_better for name in self.metrics)

    def summary(
        self, *, key: Array, confidence: float = 0.95, resamples: int = 2000
    ) -> EvaluationSummary:
        """Means with bootstrap intervals, and the reliability of each metric.

        Args:
          key, confidence, resamples: see `metrics.bootstrap_interval`; all metrics and methods
            share the resamples.
        Cost: clips * resamples multiply-adds per score, clips**2 * methods per metric.
        """
        known = ~np.isnan(self.scores)
        n = known.sum(1)
        total = np.where(known, self.scores, 0).sum(1)
        mean = np.where(n > 0, total / np.maximum(n, 1), np.nan)
        low, high = np.full((2, *mean.shape), np.nan)
        enough = n >= 2
        if enough.any():
            values = np.moveaxis(self.scores, 1, 0)[:, enough]
            low[enough], high[enough] = bootstrap_interval(
                values, key=key, confidence=confidence, resamples=resamples
            )
        ranked = [_ranked_rows(table) for table in self.scores]
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
        if RANDOM not in self.methods or len(table) < 2:
            return None
        column = self.methods.index(RANDOM)
        weights = input_weights(method_ranks(table, not higher), column)
        if np.count_nonzero(weights) < 2:
            return None
        return metric_reliability(table, column, lower_is_better=not higher)


def combine_scores(
    methods: Sequence[str],
    metrics: Sequence[str],
    clips: Sequence[ClipScores],
    names: Sequence[str] | None = None,
) -> Evaluation:
    """The `Evaluation` of V clips from their scores.

    Args:
      methods, metrics: of the evaluator. clips: V. names: of clips, for warnings; default "clip 0"
        and so on.
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


def _ranked_rows(table: np.ndarray) -> np.ndarray:
    """The rows of (V, methods) without NaN whose scores differ."""
    complete = table[~np.isnan(table).any(1)]
    return complete[np.ptp(complete, axis=1) > 0]


def _alpha(table: np.ndarray, higher: bool) -> float | None:
    if len(table) < 2:
        return None
    return krippendorff_alpha(method_ranks(table, not higher), "ordinal")
