"""Which sequences are shown, and how a mean over sequences is stated: no choice by hand."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

import esv_jax as ej
from experiments.play_fair.figure import Settings


class Standing(NamedTuple):
    """How the true class stands, (V,) each.

    Attributes:
      rivals: the strongest other class: the predicted one of a wrong prediction, else the
        runner-up.
      margins: score of the true class minus that of its rival; negative where wrong.
      right: whether the model predicts the true class.
    """

    rivals: np.ndarray
    margins: np.ndarray
    right: np.ndarray


def standing(scores: np.ndarray, labels: np.ndarray) -> Standing:
    """The strongest other class of each sequence, and how far it is behind; scores (V, C)."""
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    rivals = others.argmax(-1)
    margins = scores[rows, labels] - others[rows, rivals]
    return Standing(rivals, margins, scores.argmax(-1) == labels)


def typical(found: Standing, labels: np.ndarray) -> list[tuple[str, int]]:
    """Up to four sequences, each with the rule that chose it.

    The surest right one (greatest margin), the one at the median margin of the right ones, the
    least sure right one, the surest wrong one (least margin); without a wrong one, the one at the
    lower quartile of the right ones. Each is the nearest to its rule of a class that is not shown
    yet, or, where all are, the nearest not shown yet.
    """
    right, wrong = np.flatnonzero(found.right), np.flatnonzero(~found.right)
    rules = [
        ("Right, surest", right, 1.0),
        ("Right, median", right, 0.5),
        ("Right, least sure", right, 0.0),
        ("Wrong, surest", wrong, 0.0),
    ]
    if not len(wrong):
        rules[3] = ("Right, lower quartile", right, 0.25)
    shown: list[tuple[str, int]] = []
    for rule, rows, quantile in rules:
        rows = np.setdiff1d(rows, [row for _, row in shown])
        if not len(rows):
            continue
        among = found.margins[right if rows[0] in right else wrong]
        distance = np.abs(found.margins[rows] - np.quantile(among, quantile))
        seen = np.isin(labels[rows], [labels[row] for _, row in shown])
        shown.append((rule, int(rows[np.lexsort((distance, seen))[0]])))
    return shown


def contested(found: Standing, labels: np.ndarray, n: int) -> list[int]:
    """The n sequences of least margin, one of each pair of classes before a second of any.

    Wrong predictions come first, the surest before the others; then right ones, the least sure
    before the others.
    """
    order = np.argsort(found.margins, kind="stable")
    pairs = [frozenset((int(labels[row]), int(found.rivals[row]))) for row in order]
    again = [pair in pairs[:k] for k, pair in enumerate(pairs)]
    return order[np.argsort(again, kind="stable")][:n].tolist()


def mean_of(values: np.ndarray, settings: Settings) -> dict[str, float] | None:
    """Mean over sequences (V,) with its 95 % interval, NaN left out; None where all are NaN."""
    known = values[~np.isnan(values)].astype(float)
    if not len(known):
        return None
    low, high = ej.metrics.bootstrap_interval(
        known, key=jax.random.key(settings.seed), resamples=settings.n_resamples
    )
    return {"mean": float(known.mean()), "low": float(low), "high": float(high)}
