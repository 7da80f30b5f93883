"""ESVs of all elements of sequences, and exact ones of those at segment centres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import esv_jax as ej
from experiments.play_fair.subjects import Subject, explain_true

_MOST_LENGTHS = 3  # each is a compilation of every estimator
_ALIKE = 1e-6  # relative range of values that differ by rounding alone


class Line(NamedTuple):
    """ESVs of the true class by one estimator.

    Attributes:
      values: (N,). half: (N,), half width of 95 % intervals; zero where exact.
      again: (N,), from another key. gap: sum of values - (score - prior).
    """

    values: np.ndarray
    half: np.ndarray
    again: np.ndarray
    gap: float


class Curve(NamedTuple):
    """One sequence of N elements, of the true class everywhere.

    Attributes:
      row: which sequence. centres: (n,) elements at segment centres. exact: (n,) their exact ESVs.
      other: (n,) exact ESVs of other elements, one of each segment. score: f^ms of the n elements.
      lines: all N elements by each estimator, by name.
    """

    row: int
    centres: np.ndarray
    exact: np.ndarray
    other: np.ndarray
    score: float
    lines: dict[str, Line]

    @property
    def size(self) -> int:
        """N."""
        return len(next(iter(self.lines.values())).values)

    def sums(self, name: str) -> np.ndarray:
        """(n,): an estimator's values summed over each segment; see `overlaps`."""
        return overlaps(self.size, len(self.centres)) @ self.lines[name].values


def chosen_rows(lengths: np.ndarray, n: int, count: int) -> np.ndarray:
    """Sequences of more than n elements: `count`, spread evenly over those of few lengths.

    Of the lengths the three most frequent, the longer first where equally so. Empty where no
    sequence is longer than n.
    """
    times = Counter(length for length in lengths.tolist() if length > n)
    kept = sorted(times, key=lambda length: (-times[length], -length))[:_MOST_LENGTHS]
    rows = np.flatnonzero(np.isin(lengths, kept))
    if not len(rows):
        return rows
    return rows[ej.data.segment_centres(len(rows), min(count, len(rows)))]


def overlaps(length: int, n: int) -> np.ndarray:
    """How much of each element lies in each of n equal segments, (n, length); columns sum to 1.

    An element that a border cuts counts for both sides by the share that lies there, so that all
    segments are equally long whatever the length is.
    """
    ends = np.arange(n + 1)[:, None] * length / n
    first = np.arange(length)
    return np.clip(np.minimum(ends[1:], first + 1) - np.maximum(ends[:-1], first), 0, 1)


def segments_of(length: int, n: int) -> np.ndarray:
    """Which of n equal segments holds the middle of each element, (length,)."""
    return (2 * np.arange(length) + 1) * n // (2 * length)


def other_elements(length: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """An element of each segment, drawn from those beside its centre where there are any, (n,)."""
    segments, centres = segments_of(length, n), ej.data.segment_centres(length, n)
    others = [np.setdiff1d(np.flatnonzero(segments == i), centres[i]) for i in range(n)]
    pairs = zip(centres, others, strict=True)
    return np.array([rng.choice(other) if len(other) else centre for centre, other in pairs])


def measured_curves(
    subject: Subject, rows: np.ndarray, n: int, estimators: dict[str, Any], seed: int
) -> list[Curve]:
    """A curve per sequence, in order of `rows`; every estimator runs with two keys."""
    rng = np.random.default_rng(seed)
    centres = [ej.data.segment_centres(subject.lengths[i], n) for i in rows]
    others = [other_elements(subject.lengths[i], n, rng) for i in rows]
    exact, scores = _exact(subject, rows, np.array(centres))
    exact_others, _ = _exact(subject, rows, np.array(others))
    lines: dict[int, dict[str, Line]] = {int(i): {} for i in rows}
    for name, estimator in estimators.items():
        for i, line in _lines(subject, rows, estimator, name, seed):
            lines[i][name] = line
    each = zip(rows.tolist(), centres, exact, exact_others, scores, strict=True)
    return [Curve(i, at, own, other, float(p), lines[i]) for i, at, own, other, p in each]


def whole_curves(subject: Subject, rows: np.ndarray) -> list[Curve]:
    """Exact ESVs of all elements of short sequences: the elements themselves are the centres."""
    curves = []
    for i in rows.tolist():
        x, c = subject.sequences[i], int(subject.labels[i])
        found = ej.explain(subject.game, x, prior=subject.trn.prior, estimator=ej.Exact())
        values = np.asarray(found.values[:, c], float)
        line = Line(values, np.zeros_like(values), values, float(found.efficiency_gap()[c]))
        index = np.arange(len(x))
        curves.append(Curve(i, index, values, values, float(found.scores[c]), {"exact": line}))
    return curves


def _exact(subject: Subject, rows: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact ESVs (V, n) and scores (V,) of the true class."""
    elements = subject.take(rows, index)
    values, scores = explain_true(subject.game, subject.trn.prior, elements)
    v = np.arange(len(rows))
    return values[v, :, elements.labels], scores[v, elements.labels]


def _lines(
    subject: Subject, rows: np.ndarray, estimator: Any, name: str, seed: int
) -> Iterator[tuple[int, Line]]:
    """All elements of every sequence by one estimator, those of one length together."""
    key = jax.random.key(seed)
    lengths = subject.lengths[rows]
    for length in tqdm(np.unique(lengths).tolist(), desc=f"all elements, {name}", unit="length"):
        here = rows[lengths == length]
        labels = subject.labels[here]
        first, second = (
            ej.explain_batch(
                subject.game,
                np.stack([subject.sequences[i] for i in here]),
                prior=subject.trn.prior,
                estimator=estimator,
                key=jax.random.fold_in(key, run),
                uids=[subject.uids[i] for i in here],
            )
            for run in range(2)
        )
        v = np.arange(len(here))
        values, again = (np.asarray(a.values, float)[v, :, labels] for a in (first, second))
        half = np.asarray(first.half_width(0.95), float)[v, :, labels]
        gaps = np.asarray(first.efficiency_gap(), float)[v, labels]
        for place, i in enumerate(here.tolist()):
            yield i, Line(values[place], half[place], again[place], float(gaps[place]))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; NaN where either is all alike but for rounding."""
    if min(np.ptp(v) - _ALIKE * np.abs(v).max() for v in (a, b)) <= 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def width(line: Line) -> float:
    """Median width of the 95 % intervals, relative to mean |value|."""
    return float(np.median(2 * line.half) / np.abs(line.values).mean())


def spread(line: Line) -> float:
    """Standard deviation between the two runs, relative to mean |value|.

    Of two numbers the variance is half their squared difference; it is averaged over elements.
    """
    variance = ((line.values - line.again) ** 2).mean() / 2
    return float(np.sqrt(variance) / np.abs(line.values).mean())
