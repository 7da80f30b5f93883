"""What is measured of multi-scale heads on labelled sequences: accuracy, agreement, discarding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

import jax
import numpy as np

import esv_jax as ej

Progress = Callable[..., Iterable[Any]]  # tqdm, or anything that takes an iterable and `desc`
_CHUNK = 32  # sequences between two steps of the progress bar; results do not depend on it
_LEVEL = 95  # per cent, of the bootstrap intervals


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained model and the labelled sequences it is measured on."""

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
        """Elements of each sequence, (V,)."""
        return np.array([len(x) for x in self.sequences])


def elements_of(sequences: Sequence[np.ndarray], n: int) -> list[np.ndarray]:
    """Indices of the n elements at segment centres, of all elements where there are fewer."""
    return [ej.data.segment_centres(len(x), min(n, len(x))) for x in sequences]


def explain_all(
    subject: Subject,
    elements: Sequence[np.ndarray],
    estimator: Any,
    progress: Progress,
    *,
    key: jax.Array | None = None,
    desc: str,
) -> list[ej.Attribution]:
    """ESVs of the given elements of every sequence: V records on the host, padding removed.

    Sequences are taken in order of length, so that the bar moves with the compiled programs.
    """
    order = np.argsort([len(index) for index in elements], kind="stable")
    records: dict[int, ej.Attribution] = {}
    game = subject.game
    for start in progress(range(0, len(order), _CHUNK), desc=desc):
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
        records |= {int(i): batch[place] for place, i in enumerate(rows)}
    return [records[i] for i in range(len(order))]


def accuracy_by_elements(
    subject: Subject,
    exact: Sequence[ej.Attribution],
    sizes: Sequence[int],
    n_elements: int,
    progress: Progress,
    *,
    key: jax.Array,
) -> list[dict[str, Any]]:
    """Accuracy of f^ms from n elements at segment centres, and from all elements.

    From at most `n_elements` elements f^ms is exact, the mean over every subsequence; beyond, it
    is `models.evaluate` with 256 subsequences drawn per scale. `exact` are the records of
    `min(length, n_elements)` elements of every sequence. A row leaves out sequences of fewer than
    n elements; `accuracy_same` is over the same sequences in every row, those of at least
    `n_elements`.
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
    for n in progress(sizes, desc="accuracy by elements"):
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
    to rounding; `pooled` is over the elements of the other sequences. Errors are medians over
    sequences.
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
      right: order name -> (V, n) share of draws of the order that are classified right.
      score: order name -> (V, n) mean score of the true class.
    """

    right: dict[str, np.ndarray]
    score: dict[str, np.ndarray]


def discard(
    subject: Subject,
    xs: np.ndarray,
    esv: np.ndarray,
    whole: np.ndarray,
    labels: np.ndarray,
    n_random: int,
    progress: Progress,
    *,
    rng: np.random.Generator,
) -> Discard:
    """Exact scores of f^ms as elements are dropped one by one, in three orders.

    Args:
      subject: the model asked.
      xs: (V, n, D) elements. esv: (V, n) their ESVs for the true class.
      whole: (V, C) scores of all elements. labels: (V,) true classes.
      n_random: random orders drawn per sequence; their mean is taken.
      progress: the bar. rng: draws the random orders.
    """
    v, n, d = xs.shape
    random = np.broadcast_to(np.arange(n), (n_random, v, n))
    orders = {
        "ascending": np.argsort(esv, axis=-1, kind="stable")[None],
        "descending": np.argsort(-esv, axis=-1, kind="stable")[None],
        "random": rng.permuted(random, axis=-1),
    }
    stacked = np.concatenate(list(orders.values()))  # (Q, V, n)
    scores = np.empty((n, *stacked.shape[:2], whole.shape[-1]), whole.dtype)
    scores[0] = whole[None]
    for dropped in progress(range(1, n), desc="discarding"):
        kept = np.sort(stacked[:, :, dropped:], axis=-1)  # temporal order
        rows = np.take_along_axis(xs[None], kept[..., None], axis=2)
        rows = rows.reshape(-1, n - dropped, d)
        scores[dropped] = _scores(subject, rows).reshape(scores.shape[1:])
    right = (scores.argmax(-1) == labels).astype(float)  # (n, Q, V)
    true = np.take_along_axis(scores, labels[None, None, :, None], axis=-1)[..., 0]
    parts = np.cumsum([len(order) for order in orders.values()])[:-1]

    def by_order(values: np.ndarray) -> dict[str, np.ndarray]:
        means = [part.mean(1).T for part in np.split(values, parts, axis=1)]
        return dict(zip(orders, means, strict=True))

    return Discard(by_order(right), by_order(true.astype(float)))


def bootstrap(
    values: np.ndarray, n_resamples: int, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval (95 %) of the mean over the first axis, sequences."""
    rows = rng.integers(len(values), size=(n_resamples, len(values)))
    means = np.stack([values[row].mean(0) for row in rows])
    low, high = np.percentile(means, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2], axis=0)
    return low, high


def discard_summary(curves: Discard, n_resamples: int, seed: int) -> dict[str, Any]:
    """Curves and differences of their means over the number dropped, with bootstrap intervals.

    Every interval uses the same resamples of the sequences, so differences are paired.
    """

    def interval(values: np.ndarray) -> dict[str, Any]:
        low, high = bootstrap(values, n_resamples, rng=np.random.default_rng(seed))
        return {"mean": values.mean(0).tolist(), "low": low.tolist(), "high": high.tolist()}

    def differences(by_order: Mapping[str, np.ndarray]) -> dict[str, Any]:
        area = {name: values.mean(1) for name, values in by_order.items()}
        return {
            "ascending - random": interval(area["ascending"] - area["random"]),
            "random - descending": interval(area["random"] - area["descending"]),
        }

    n_sequences, n = curves.right["random"].shape
    return {
        "n_sequences": n_sequences,
        "dropped": list(range(n)),
        "accuracy": {name: interval(values) for name, values in curves.right.items()},
        "score": {name: interval(values) for name, values in curves.score.items()},
        "accuracy_difference": differences(curves.right),
        "score_difference": differences(curves.score),
    }


def _scores(subject: Subject, xs: np.ndarray) -> np.ndarray:
    """Exact scores of f^ms, (B, C), of sequences of one length (B, n, D)."""
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
    """A float for JSON; None where it is not finite, such as the correlation of constants."""
    return float(value) if np.isfinite(value) else None
