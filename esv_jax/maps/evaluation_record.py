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
        arrays = {"mean": self.mean, "low": self.low, "high": self.high, "n_clips": self.n_clips}
        return [
            {"metric": metric, "method": method}
            | {name: array[k, m].item() for name, array in arrays.items()}
            | {"seconds": float(self.seconds[m])}
            for k, metric in enumerate(self.metrics)
            for m, method in enumerate(self.methods)
        ]

    def metric_table(self) -> list[JSONObject]:
        """A row for each metric: metric, higher_is_better, reliability, alpha, n_ranked."""
        names = ("metric", "higher_is_better", "reliability", "alpha", "n_ranked")
        columns = (
            *(self.metrics, self.higher_is_better),
            *(self.reliability, self.alpha, self.n_ranked),
        )
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


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
        """Means with their `metrics.bootstrap_interval`, and the reliability of each metric.

        All metrics and methods share the resamples.
        """
        known = ~np.isnan(self.scores)
        n = known.sum(1)
        total = np.where(known, self.scores, 0).sum(1)
        low, high = np.full((2, *n.shape), np.nan)
        enough = n >= 2
        if enough.any():
            values = np.moveaxis(self.scores, 1, 0)[:, enough]
            low[enough], high[enough] = bootstrap_interval(
                values, key=key, confidence=confidence, resamples=resamples
            )
        complete = [table[~np.isnan(table).any(1)] for table in self.scores]
        ranked = [table[np.ptp(table, axis=1) > 0] for table in complete]
        random = self.methods.index(RANDOM) if RANDOM in self.methods else None
        pairs = [
            _agreement(table, random, not higher)
            for table, higher in zip(ranked, self.higher_is_better, strict=True)
        ]
        return EvaluationSummary(
            methods=self.methods,
            metrics=self.metrics,
            higher_is_better=self.higher_is_better,
            mean=np.where(n > 0, total / np.maximum(n, 1), np.nan),
            low=low,
            high=high,
            n_clips=n,
            reliability=tuple(reliability for reliability, _ in pairs),
            alpha=tuple(alpha for _, alpha in pairs),
            n_ranked=tuple(map(len, ranked)),
            seconds=np.median(self.seconds, axis=0),
        )


def _agreement(
    table: np.ndarray, random: int | None, lower: bool
) -> tuple[float | None, float | None]:
    """Reliability and Krippendorff's alpha of scores (V, methods); None where undefined."""
    if len(table) < 2:
        return None, None
    ranks = method_ranks(table, lower)
    alpha = krippendorff_alpha(ranks, "ordinal")
    if random is None or np.count_nonzero(input_weights(ranks, random)) < 2:
        return None, alpha
    return metric_reliability(table, random, lower_is_better=lower), alpha


def combine_scores(
    methods: Sequence[str],
    metrics: Sequence[str],
    clips: Sequence[ClipScores],
    names: Sequence[str] | None = None,
) -> Evaluation:
    """The `Evaluation` of V clips from their scores; `names` are those of the clips in warnings.

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
