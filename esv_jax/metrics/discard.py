"""Accuracy and class score as elements are dropped in the order of their attributions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike

from esv_jax.checks import AnyArray, expect, expect_choice, expect_finite
from esv_jax.games.few_scores import expect_scorable, picked_cost, score, score_together
from esv_jax.games.protocol import Game, ScaleGame
from esv_jax.games.scoring import Request, block_sequences, request_cost
from esv_jax.inputs import checked_inputs
from esv_jax.metrics.statistics import (
    Integers,
    Rows,
    checked_labels,
    class_values,
    split_sequences,
)

Order = Literal["ascending", "descending"]
ORDERS: tuple[Order, ...] = get_args(Order)


class DiscardAreas(NamedTuple):
    """Areas under the two curves: (V,) per sequence, or floats over the set."""

    accuracy: Any
    class_score: Any


@dataclasses.dataclass(frozen=True, eq=False)
class DiscardCurve:
    """Curves over the number of elements dropped, 0..N - 1, N being the longest length.

    Attributes:
      right: (V, N) 1 where the model predicts the label, else 0; NaN where no elements are left.
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
        """(N,) sequences at each point: those with more elements than were dropped."""
        return (~np.isnan(self.right)).sum(0)

    @property
    def accuracy(self) -> np.ndarray:
        """(N,) share of correct predictions over the sequences at each point."""
        return np.nanmean(self.right, axis=0)

    @property
    def class_score(self) -> np.ndarray:
        """(N,) mean score of the label's class over the sequences at each point."""
        return np.nanmean(self.scores, axis=0)

    @property
    def areas(self) -> DiscardAreas:
        """Per sequence, (V,) each: the mean over its n_i points.

        This is the area under a step curve over the share dropped, so sequences of all lengths
        weigh the same. Intervals: `bootstrap_interval` of these, or of `right` and `scores`.
        """
        return DiscardAreas(np.nanmean(self.right, axis=1), np.nanmean(self.scores, axis=1))

    @property
    def auc(self) -> DiscardAreas:
        """Means of `areas`. For sequences of one length, the means of the two curves."""
        return DiscardAreas(*(float(area.mean()) for area in self.areas))


def discard_curve(
    game: Game,
    xs: Rows,
    values: Rows,
    labels: Integers,
    *,
    prior: ArrayLike | Sequence[float],
    order: Order = "ascending",
    lengths: Integers | None = None,
) -> DiscardCurve:
    """Accuracy and class score as elements are dropped one by one.

    After each drop the model scores the remaining elements in temporal order, down to a single
    one. Good attributions keep the curve high in ascending order (the least important elements
    go first) and lower it in descending order. Source: Price & Damen (2020).

    Args:
      game: the model explained, e.g. `MultiScale(heads)`.
      xs: (V, N, ...) sequences padded at the end, or a list of V arrays (n_i, ...). At most 20
        elements each for a `MultiScale` game, whose scores need those of all subsequences.
      values: (V, N) or a list of (n_i,), attributions of the label's class by any method; or of
        every class, (V, N, C) or (n_i, C). Ties drop the earlier element first.
      labels: (V,) int, true classes (or any others to follow).
      prior: scores of the empty sequence, (C,).
      order: "ascending" drops the lowest value first, "descending" the highest.
      lengths: (V,) elements in each sequence; default N.
    Returns:
      `DiscardCurve`, on the host.
    Raises:
      ValueError: shapes that disagree, a sequence too long, non-finite values, another order.
      TypeError: labels that are not integers; xs as in `explain`.
    Cost: per sequence n evaluations of a game that scores subsequences independently, otherwise
      one pass over its 2**n subsequences; one compilation per length.
    """
    expect_choice("order", order, ORDERS)
    sequences = split_sequences("xs", xs, lengths)
    v = len(sequences)
    labels = checked_labels("labels", labels, v)
    rows = class_values(values, labels, None if isinstance(values, list | tuple) else lengths)
    expect(len(rows) == v, "values", f"as many sequences as xs, {v}", len(rows))
    for i, (x, row) in enumerate(zip(sequences, rows, strict=True)):
        expect(len(x) == len(row), f"values[{i}]", f"{len(x)} elements as in xs[{i}]", len(row))
        same = x.shape[1:] == sequences[0].shape[1:]
        expect(same, f"xs[{i}]", "elements like the first's", x.shape)
        expect_finite(f"xs[{i}]", x, "Drop or fill such elements first.")
        expect_scorable(game, len(x), f"xs[{i}]")
    first, checked_prior, _ = checked_inputs(game, sequences[0], prior, "xs[0]")
    sequences = [x.astype(first.dtype) for x in sequences]
    c = len(checked_prior)
    expect(bool(labels.max() < c), "labels", f"classes in 0..{c - 1}", labels.max())
    members = [_kept_elements(row, order) for row in rows]
    with game.progress_bar(sum(map(len, members))):
        tables = _score_tables(game, sequences, members, checked_prior)
    sizes = np.array([len(x) for x in sequences])
    right, scores = np.full((2, v, sizes.max()), np.nan)
    for i, table in enumerate(tables):
        finite = bool(np.isfinite(table).all())
        expect(finite, f"xs[{i}]", "finite scores of every subsequence", "NaN or infinity")
        right[i, : sizes[i]] = table.argmax(-1) == labels[i]
        scores[i, : sizes[i]] = table[:, labels[i]]
    return DiscardCurve(right, scores, sizes, order)


def _kept_elements(values: np.ndarray, order: Order) -> np.ndarray:
    """Membership (n, n) of the elements kept after 0..n - 1 drops by values (n,)."""
    n = len(values)
    rank = np.empty(n, int)
    rank[np.argsort(values if order == "ascending" else -values, kind="stable")] = np.arange(n)
    return rank[None, :] >= np.arange(n)[:, None]


def _score_tables(
    game: Game, sequences: list[np.ndarray], members: list[np.ndarray], prior: AnyArray
) -> list[np.ndarray]:
    """Scores (n_i, C) of each sequence's subsequences, in blocks of one fixed shape per length."""
    if game.on_host:
        pairs = zip(sequences, members, strict=True)
        return [np.asarray(score(game, x, member, prior=prior)) for x, member in pairs]
    sizes = np.array([len(x) for x in sequences])
    scores: dict[int, np.ndarray] = {}
    for n in np.unique(sizes).tolist():
        same_length = np.flatnonzero(sizes == n).tolist()
        x = sequences[same_length[0]]
        if isinstance(game, ScaleGame):
            n_bytes = picked_cost(game, x, n)
        else:
            n_bytes = request_cost(game, x, Request("subsets", n)).n_bytes
        width = block_sequences(n_bytes)
        for start in range(0, len(same_length), width):
            rows = same_length[start : start + width]
            block = rows + rows[:1] * (width - len(rows))  # padding, dropped below
            xs = np.stack([sequences[i] for i in block])
            table = score_together(game, xs, np.stack([members[i] for i in block]), prior)
            scores |= dict(zip(rows, np.asarray(table), strict=False))
    return [scores[i] for i in range(len(sequences))]
