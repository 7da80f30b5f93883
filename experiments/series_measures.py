"""Accuracy, agreement of sampled ESVs, and discard curves of heads on labelled sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import esv_jax as ej
from experiments.sequences import Labelled, elements_of
from experiments.statistics import Mean, mean_of

_CHUNK = 32  # sequences between two steps of the progress bar; results do not depend on it
_METRICS = ("relative_error", "pearson", "lad_slope")


def explain_all(
    subject: Labelled,
    elements: Sequence[np.ndarray],
    estimator: Any,
    *,
    key: jax.Array | None = None,
    desc: str,
) -> list[ej.Attribution]:
    """ESVs of the given elements of every sequence: V records on the host, without padding."""
    counts = np.array([len(index) for index in elements])
    order = np.argsort(counts, kind="stable")
    records: dict[int, ej.Attribution] = {}
    for start in tqdm(range(0, len(order), _CHUNK), desc=desc):
        rows = order[start : start + _CHUNK]
        width = subject.sequences[0].shape[1]
        padded = np.zeros((len(rows), counts[rows].max(), width), np.float32)
        for x, i in zip(padded, rows, strict=True):
            x[: counts[i]] = subject.sequences[i][elements[i]]
        batch = ej.explain_batch(
            subject.game,
            padded,
            counts[rows],
            prior=subject.trn.prior,
            estimator=estimator,
            key=key,
            uids=[subject.uids[i] for i in rows],
        )
        batch = jax.device_get(batch)
        records |= {int(i): batch[k] for k, i in enumerate(rows)}
    return [records[i] for i in range(len(order))]


def accuracy_by_elements(
    subject: Labelled,
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
    lengths, labels, sequences = subject.lengths, subject.labels, subject.sequences
    same = lengths >= n_elements
    known = np.array([np.argmax(record.scores) for record in exact])

    def row(n: int | str, prediction: np.ndarray, there: np.ndarray, method: str) -> dict[str, Any]:
        right = prediction == labels
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
        prediction = known.copy()
        if n < n_elements:
            index = elements_of(sequences, n)
            xs = np.stack([sequences[i][index[i]] for i in np.flatnonzero(there)])
            prior = subject.trn.prior
            batch = ej.explain_batch(subject.game, xs, prior=prior, estimator=ej.Exact())
            prediction[there] = np.asarray(batch.scores).argmax(-1)
        rows.append(row(n, prediction, there, "exact"))
    method, longer = "exact", np.flatnonzero(lengths > n_elements)
    if len(longer):
        long = [sequences[i] for i in longer]
        sampled = ej.models.evaluate(subject.trn.heads, long, labels[longer], key=key)
        known[longer] = sampled.logits.argmax(-1)
        method = f"sampled for the {len(longer)} longer than {n_elements}, exact for the others"
    return [*rows, row("all", known, np.ones(len(labels), bool), method)]


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

    def measured(a: np.ndarray, e: np.ndarray) -> dict[str, float | None]:
        found = {name: np.median(getattr(ej.metrics, name)(a, e)) for name in _METRICS}
        return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}

    pairs: dict[int, list[np.ndarray]] = {}
    for a, e, c in zip(approx, exact, labels, strict=True):
        pairs.setdefault(e.n, []).append(np.stack([a.values[:, c], e.values[:, c]]))
    by_elements = [
        {
            "n": n,
            "n_sequences": len(pairs[n]),
            "all_drawn": comb(n, n // 2) <= max_subsequences,
            **measured(*np.stack(pairs[n], 1)),
        }
        for n in sorted(pairs)
    ]
    sampled = [pair for row in by_elements if not row["all_drawn"] for pair in pairs[row["n"]]]
    pooled = measured(*np.concatenate(sampled, 1)) if sampled else {}
    return {"by_elements": by_elements, "pooled": {"n_sequences": len(sampled), **pooled}}


def discard(
    subject: Labelled,
    xs: np.ndarray,
    esv: np.ndarray,
    labels: np.ndarray,
    n_random: int,
    settings: Any,
) -> dict[str, Any]:
    """Exact scores of f^ms as elements are dropped one by one, in three orders.

    Args:
      subject: the model.
      xs: (V, n, D) elements. esv: (V, n) their ESVs for the true class. labels: (V,).
      n_random: random orders per sequence, which are averaged.
      settings: seed of the random orders and of the bootstrap, number of resamples.
    Returns:
      Curves over the number dropped, 0..n - 1, and paired differences of their means over it.
    """
    rng = np.random.default_rng(settings.seed)
    orders = rng.permuted(np.broadcast_to(np.arange(esv.shape[1]), (n_random, *esv.shape)), axis=-1)
    random = np.argsort(orders, axis=-1).astype(float)  # rank in the order
    curves = {
        name: [
            ej.metrics.discard_curve(
                subject.game, xs, values, labels, prior=subject.trn.prior, order=order
            )
            for values in tqdm(rows, desc=f"discarding, {name}", unit="order")
        ]
        for name, rows, order in (
            ("ascending", [esv], "ascending"),
            ("descending", [esv], "descending"),
            ("random", random, "ascending"),
        )
    }
    right = {name: np.mean([curve.right for curve in rows], 0) for name, rows in curves.items()}
    score = {name: np.mean([curve.scores for curve in rows], 0) for name, rows in curves.items()}

    def differences(by_order: Mapping[str, np.ndarray]) -> dict[str, Mean]:
        area = {name: values.mean(1) for name, values in by_order.items()}
        pairs = (("ascending", "random"), ("random", "descending"))
        return {f"{a} - {b}": mean_of(area[a] - area[b], settings) for a, b in pairs}

    return {
        "n_sequences": len(esv),
        "dropped": list(range(esv.shape[1])),
        "accuracy": {name: mean_of(values, settings) for name, values in right.items()},
        "score": {name: mean_of(values, settings) for name, values in score.items()},
        "accuracy_difference": differences(right),
        "score_difference": differences(score),
    }
