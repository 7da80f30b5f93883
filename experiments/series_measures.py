"""Accuracy, agreement of sampled ESVs, and discard curves of heads on labelled sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import esv_jax as ej
from experiments.statistics import Mean, Resampling, mean_of

_CHUNK = 32  # sequences between two steps of the progress bar; results do not depend on it


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and labelled test sequences."""

    model: ej.models.TrainedModel
    sequences: list[np.ndarray]
    labels: np.ndarray
    uids: Sequence[str]

    @property
    def game(self) -> ej.MultiScale:
        """f^ms under the softmax link."""
        return ej.MultiScale(self.model.heads)

    @property
    def lengths(self) -> np.ndarray:
        """Number of elements of each sequence, (V,)."""
        return np.array([len(x) for x in self.sequences])


def elements_of(sequences: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """Indices of the n elements at segment centres; of all elements of shorter sequences."""
    return [ej.data.segment_centres(len(x), min(n, len(x))) for x in sequences]


def explain_all(
    subject: Trained,
    elements: Sequence[np.ndarray],
    estimator: Any,
    *,
    key: jax.Array | None = None,
    desc: str,
) -> list[ej.Attribution]:
    """ESVs of the given elements of every sequence: V records on the host, without padding."""
    order = np.argsort([len(index) for index in elements], kind="stable")
    records: dict[int, ej.Attribution] = {}
    game = subject.game
    for start in tqdm(range(0, len(order), _CHUNK), desc=desc):
        rows = order[start : start + _CHUNK]
        batch = ej.explain_batch(
            game,
            _pad([subject.sequences[i][elements[i]] for i in rows]),
            [len(elements[i]) for i in rows],
            prior=subject.model.prior,
            estimator=estimator,
            key=key,
            uids=[subject.uids[i] for i in rows],
        )
        batch = jax.device_get(batch)
        records |= {int(i): batch[k] for k, i in enumerate(rows)}
    return [records[i] for i in range(len(order))]


def accuracy_by_elements(
    subject: Trained,
    exact: Sequence[ej.Attribution],
    sizes: Sequence[int],
    n_elements: int,
    *,
    key: jax.Array,
) -> list[dict[str, Any]]:
    """Accuracy of f^ms from n elements at segment centres, and from all elements.

    Up to `n_elements` elements f^ms is exact; beyond, it is `models.evaluate` with 256 drawn
    subsequences per scale. `exact` are the records of `min(length, n_elements)` elements of every
    sequence. A row leaves out sequences of fewer than n elements; `accuracy_same` is over the
    sequences of at least `n_elements`.
    """
    lengths, labels = subject.lengths, subject.labels
    same = lengths >= n_elements
    known = np.array([np.argmax(record.scores) for record in exact])

    def row(n: int | str, right: np.ndarray, there: np.ndarray, method: str) -> dict[str, Any]:
        return {
            "n": n,
            "accuracy": float(right[there].mean()),
            "n_sequences": int(there.sum()),
            "left_out": int((~there).sum()),
            "accuracy_same": float(right[same].mean()),
            "n_same": int(same.sum()),
            "method": method,
        }

    rows = []
    for n in tqdm(sizes, desc="accuracy by elements"):
        there = lengths >= n
        prediction = np.where(there, known, -1)
        if n < n_elements:
            kept = np.flatnonzero(there)
            xs = np.stack([ej.data.sample_elements(subject.sequences[i], n)[0] for i in kept])
            prediction[kept] = _scores(subject, xs).argmax(-1)
        rows.append(row(n, prediction == labels, there, "exact"))
    prediction, method = known.copy(), "exact"
    longer = np.flatnonzero(lengths > n_elements)
    if len(longer):
        sequences = [subject.sequences[i] for i in longer]
        sampled = ej.models.evaluate(subject.model.heads, sequences, labels[longer], key=key)
        prediction[longer] = sampled.logits.argmax(-1)
        method = f"sampled for the {len(longer)} longer than {n_elements}, exact for the others"
    rows.append(row("all", prediction == labels, np.ones(len(labels), bool), method))
    return rows


def agreement(
    approx: Sequence[ej.Attribution],
    exact: Sequence[ej.Attribution],
    labels: np.ndarray,
    max_subsequences: int,
) -> dict[str, Any]:
    """Sampled against exact ESVs of the true class, by number of elements and pooled.

    Where every scale has at most `max_subsequences` subsequences, all are drawn and the two agree
    to rounding; `pooled` is over the elements of the other sequences. By number of elements,
    medians over sequences.
    """
    metrics = {
        name: getattr(ej.metrics, name) for name in ("relative_error", "pearson", "lad_slope")
    }
    sizes = np.array([record.n for record in exact])
    pairs = [
        (np.asarray(a.values)[:, c], np.asarray(e.values)[:, c])
        for a, e, c in zip(approx, exact, labels, strict=True)
    ]
    by_elements = []
    for n in np.unique(sizes):
        members = np.flatnonzero(sizes == n)
        a, e = (np.stack([pairs[i][side] for i in members]) for side in (0, 1))
        by_elements.append(
            {
                "n": int(n),
                "n_sequences": len(members),
                "all_drawn": comb(int(n), int(n) // 2) <= max_subsequences,
                **{name: _number(np.median(metric(a, e))) for name, metric in metrics.items()},
            }
        )
    drawn = {row["n"]: row["all_drawn"] for row in by_elements}
    sampled = [pair for pair, n in zip(pairs, sizes, strict=True) if not drawn[int(n)]]
    pooled = {"n_sequences": len(sampled)}
    if sampled:
        a, e = (np.concatenate([pair[side] for pair in sampled]) for side in (0, 1))
        pooled |= {name: _number(metric(a, e)) for name, metric in metrics.items()}
    return {"by_elements": by_elements, "pooled": pooled}


class Discard(NamedTuple):
    """Curves over the number of elements dropped, 0..n - 1.

    Attributes:
      right: order -> (V, n) share of draws that are classified correctly.
      score: order -> (V, n) mean score of the true class.
    """

    right: dict[str, np.ndarray]
    score: dict[str, np.ndarray]


def discard(
    subject: Trained,
    xs: np.ndarray,
    esv: np.ndarray,
    labels: np.ndarray,
    n_random: int,
    *,
    rng: np.random.Generator,
) -> Discard:
    """Exact scores of f^ms as elements are dropped one by one, in three orders.

    Args:
      subject: the model.
      xs: (V, n, D) elements. esv: (V, n) their ESVs for the true class. labels: (V,).
      n_random: random orders per sequence, which are averaged. rng: draws the random orders.
    """
    orders = rng.permuted(np.broadcast_to(np.arange(esv.shape[1]), (n_random, *esv.shape)), axis=-1)
    random = np.argsort(orders, axis=-1).astype(float)  # rank in the order
    curves = {
        name: [
            ej.metrics.discard_curve(
                subject.game, xs, values, labels, prior=subject.model.prior, order=order
            )
            for values in tqdm(rows, desc=f"discarding, {name}", unit="order")
        ]
        for name, rows, order in (
            ("ascending", [esv], "ascending"),
            ("descending", [esv], "descending"),
            ("random", random, "ascending"),
        )
    }
    return Discard(
        {name: np.mean([curve.right for curve in rows], 0) for name, rows in curves.items()},
        {name: np.mean([curve.scores for curve in rows], 0) for name, rows in curves.items()},
    )


def discard_summary(curves: Discard, settings: Resampling) -> dict[str, Any]:
    """Curves, and paired differences of their means over the number dropped."""

    def differences(by_order: Mapping[str, np.ndarray]) -> dict[str, Mean]:
        area = {name: values.mean(1) for name, values in by_order.items()}
        pairs = (("ascending", "random"), ("random", "descending"))
        return {f"{a} - {b}": mean_of(area[a] - area[b], settings) for a, b in pairs}

    n_sequences, n = curves.right["random"].shape
    return {
        "n_sequences": n_sequences,
        "dropped": list(range(n)),
        "accuracy": {name: mean_of(values, settings) for name, values in curves.right.items()},
        "score": {name: mean_of(values, settings) for name, values in curves.score.items()},
        "accuracy_difference": differences(curves.right),
        "score_difference": differences(curves.score),
    }


def _scores(subject: Trained, xs: np.ndarray) -> np.ndarray:
    """Exact scores of f^ms, (B, C), from sequences of one length (B, n, D)."""
    batch = ej.explain_batch(subject.game, xs, prior=subject.model.prior, estimator=ej.Exact())
    return np.asarray(batch.scores)


def _pad(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """(B, N, D), zero beyond each sequence's end."""
    longest = max(map(len, sequences))
    padded = np.zeros((len(sequences), longest, sequences[0].shape[1]), np.float32)
    for row, x in zip(padded, sequences, strict=True):
        row[: len(x)] = x
    return padded


def _number(value: Any) -> float | None:
    """A float for JSON; None where it is not finite."""
    return float(value) if np.isfinite(value) else None
