"""Accuracy and class score as elements are dropped in the order of their attributions."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_choice, expect_finite, message
from esv_jax.games import Game
from esv_jax.games.protocol import ScaleGame
from esv_jax.games.scoring import (
    Request,
    block_sequences,
    expect_scorable,
    picked_cost,
    request_cost,
    score,
    score_together,
)
from esv_jax.inputs import checked_inputs
from esv_jax.metrics.bootstrap import Interval, bootstrap_interval
from esv_jax.metrics.labelled import checked_labels, sequences_of, values_of

Order = Literal["ascending", "descending"]
ORDERS: tuple[Order, ...] = get_args(Order)


class DiscardAreas(NamedTuple):
    """Areas under the two curves: floats of a set, (V,) of each sequence."""

    accuracy: Any
    class_score: Any


class DiscardIntervals(NamedTuple):
    """Bootstrap intervals over sequences: of the curves (N,), of the areas ()."""

    accuracy: Interval
    class_score: Interval
    accuracy_auc: Interval
    class_score_auc: Interval


@dataclasses.dataclass(frozen=True, eq=False)
class DiscardCurve:
    """Curves over the number of elements dropped, 0..N - 1, N being the longest length.

    Attributes:
      right: (V, N) 1 where the model still predicts the label, else 0; NaN where a sequence has
        no elements left.
      scores: (V, N) scores of the label's class, after the link; NaN likewise.
      lengths: (V,) elements per sequence.
      order: "ascending" or "descending".
    """

    right: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray
    order: Order

    @property
    def n_sequences(self) -> np.ndarray:
        """(N,) sequences behind each point: those of more elements than were dropped."""
        return (~np.isnan(self.right)).sum(0)

    @property
    def accuracy(self) -> np.ndarray:
        """(N,) share of the sequences behind each point that are predicted right."""
        return np.nanmean(self.right, axis=0)

    @property
    def class_score(self) -> np.ndarray:
        """(N,) mean score of the label's class over the sequences behind each point."""
        return np.nanmean(self.scores, axis=0)

    @property
    def areas(self) -> DiscardAreas:
        """Per sequence, (V,) each: the mean over its own points, 0..n_i - 1 dropped.

        The area under the curve drawn as steps over the share dropped, so that sequences of
        different lengths weigh the same.
        """
        return DiscardAreas(np.nanmean(self.right, axis=1), np.nanmean(self.scores, axis=1))

    @property
    def auc(self) -> DiscardAreas:
        """Means of `areas`, floats. Of sequences of one length, the means of the two curves."""
        return DiscardAreas(*(float(area.mean()) for area in self.areas))

    def interval(
        self, confidence: float = 0.95, *, key: Array, resamples: int = 2000
    ) -> DiscardIntervals:
        """Bootstrap intervals over sequences; see `bootstrap_interval`.

        For the difference of two curves of the same sequences take `bootstrap_interval` of the
        differences of `areas` (or `scores`): it is paired.
        """
        draw = functools.partial(
            bootstrap_interval, key=key, confidence=confidence, resamples=resamples
        )
        return DiscardIntervals(*map(draw, (self.right, self.scores, *self.areas)))


def discard_curve(
    game: Game,
    xs: Any,
    values: Any,
    labels: Any,
    *,
    prior: Any,
    order: Order = "ascending",
    lengths: Any = None,
) -> DiscardCurve:
    """Accuracy and class score as elements are dropped one by one, from the model itself.

    After each drop the model scores what is left, in its temporal order: the last point of a
    sequence is one element. Good attributions keep the curve up in ascending order (what matters
    least goes first) and bring it down in descending order.
    Source: Price & Damen (2020), who discard frames by their ESVs.

    Args:
      game: what was explained, e.g. `MultiScale(heads)`.
      xs: (V, N, ...) sequences padded at their ends, or a list of V arrays (n_i, ...). At most 20
        elements each for a `MultiScale` game, whose scores are built from those of all parts.
      values: (V, N) or a list of (n_i,), attributions of the label's class; or of every class,
        (V, N, C) or (n_i, C). Of any method; see also `baselines`. Ties drop the earlier first.
      labels: (V,) int, true classes (or any whose score is followed).
      prior: scores of the empty sequence, (C,).
      order: "ascending" drops the lowest value first, "descending" the highest.
      lengths: (V,) elements in each sequence; default N.
    Returns:
      `DiscardCurve`, on the host.
    Raises:
      ValueError: shapes that disagree, a sequence too long (take fewer elements), values that are
        not finite, another order. TypeError: labels that are no integers; xs as in `explain`.
    Cost: per sequence n evaluations of a game that scores each subsequence on its own, otherwise
      one pass over its 2**n subsequences; one compilation per length.
    """
    expect_choice("order", order, ORDERS)
    sequences = sequences_of("xs", xs, lengths)
    v = len(sequences)
    labels = checked_labels("labels", labels, v)
    rows = values_of(values, labels, lengths if not isinstance(values, list | tuple) else None)
    expect(len(rows) == v, "values", f"as many sequences as xs, {v}", len(rows))
    for i, (x, row) in enumerate(zip(sequences, rows, strict=True)):
        expect(len(x) == len(row), f"values[{i}]", f"{len(x)} elements as in xs[{i}]", len(row))
        expect(
            x.shape[1:] == sequences[0].shape[1:], f"xs[{i}]", "elements like the first's", x.shape
        )
        expect_finite(f"xs[{i}]", x, "Drop or fill such elements first.")
        expect_scorable(game, len(x), f"xs[{i}]")
    first, prior, _ = checked_inputs(game, sequences[0], prior, "xs[0]")
    sequences = [x.astype(first.dtype) for x in sequences]
    c = len(prior)
    expect(bool(labels.max() < c), "labels", f"classes in 0..{c - 1}", labels.max())
    members = [kept_elements(row, order) for row in rows]
    with game.progress_bar(sum(map(len, members))):
        scores = _scores_by_length(game, sequences, members, prior)
    sizes = np.array([len(x) for x in sequences])
    right, of_label = np.full((2, v, sizes.max()), np.nan)
    for i, table in enumerate(scores):
        if not np.isfinite(table).all():
            expected = "finite scores of every subsequence"
            raise ValueError(message(f"xs[{i}]", expected, "NaN or infinity"))
        right[i, : sizes[i]] = table.argmax(-1) == labels[i]
        of_label[i, : sizes[i]] = table[:, labels[i]]
    return DiscardCurve(right, of_label, sizes, order)


def kept_elements(values: np.ndarray, order: Order) -> np.ndarray:
    """Return the elements kept after 0..n - 1 drops by values (n,), as (n, n) bool."""
    n = len(values)
    rank = np.empty(n, int)
    rank[np.argsort(values if order == "ascending" else -values, kind="stable")] = np.arange(n)
    return rank[None, :] >= np.arange(n)[:, None]


def _scores_by_length(
    game: Game, sequences: list[np.ndarray], members: list[np.ndarray], prior: Any
) -> list[np.ndarray]:
    """Scores (n_i, C) of each sequence's subsequences, in blocks of one fixed shape per length."""
    if game.on_host:
        return [
            np.asarray(score(game, x, member, prior))
            for x, member in zip(sequences, members, strict=True)
        ]
    sizes = np.array([len(x) for x in sequences])
    scores: dict[int, np.ndarray] = {}
    for n in np.unique(sizes).tolist():
        which = np.flatnonzero(sizes == n).tolist()
        together = block_sequences(_bytes(game, sequences[which[0]]))
        for start in range(0, len(which), together):
            rows = which[start : start + together]
            block = rows + rows[:1] * (together - len(rows))  # padding is computed, not kept
            xs = np.stack([sequences[i] for i in block])
            table = score_together(game, xs, np.stack([members[i] for i in block]), prior)
            scores |= dict(zip(rows, np.asarray(table), strict=False))
    return [scores[i] for i in range(len(sequences))]


def _bytes(game: Game, x: np.ndarray) -> int:
    """Working memory of one sequence's n subsequences, from its shape alone."""
    if isinstance(game, ScaleGame):
        return picked_cost(game, x, len(x))
    request = Request("subsets", len(x))
    return request_cost(game, x, request).n_bytes
