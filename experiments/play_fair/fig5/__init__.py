"""How likely the element at one position has a higher ESV than the one at another.

Claim of the paper: P(phi_i > phi_j) differs between positions, and differs by class.

Measured on exact ESVs of `n_elements` elements at segment centres, for the true class: the share of
sequences in which element i is above element j, over all sequences and class by class, of the
multi-scale model (TRN) and over all sequences of an average consensus (TSN) where there is one.
1/2 says that neither is preferred. An entry differs from 1/2 where its 95 % binomial interval over
sequences leaves it out; of pairs without preference one in twenty would.

Two distances say whether more differs than chance explains. Overall: the mean of (P - 1/2)^2 over
pairs, against the same after shuffling the elements of every sequence. Between classes: the mean
squared difference of a class's P and that of all, weighted by sequences, against the same after
shuffling the classes among sequences. Shown are the four classes furthest from 1/2, by the mean
over pairs of (P - 1/2)^2 - var/V, where var/V is what V sequences would show by chance; classes of
fewer than 10 sequences are left out.

Expected: more than chance in both. `--full` draws 2000 shuffles in the place of 400.

    python -m experiments.play_fair.fig5
    python -m experiments.play_fair.fig5 --subject japanese-vowels
    python -m experiments.play_fair.fig5 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray

import esv_jax as ej
from experiments.play_fair.fig5.findings import compare
from experiments.play_fair.fig5.picture import plot_matrices
from experiments.play_fair.figure import Outcome, Settings, markdown
from experiments.play_fair.numbers import plain, wilson
from experiments.play_fair.subjects import Elements, Subject, explain_true

LEAST = 10  # sequences of a class that is looked at
SHOWN = 4
_SHUFFLES, _FULL_SHUFFLES = 400, 2000


class Matrix(NamedTuple):
    """P(phi_i > phi_j) of a set of sequences.

    Attributes:
      share: (n, n), ties count 1/2. low, high: (n, n), 95 % interval.
      n_sequences: sequences behind it.
    """

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_sequences: int

    @property
    def differs(self) -> np.ndarray:
        """Bool (n, n): the interval leaves out 1/2."""
        return (self.low > 0.5) | (self.high < 0.5)


def measure(subject: Subject, settings: Settings) -> Outcome:
    n = settings.n_elements
    if n < 2:
        raise ValueError("n_elements: expected at least 2 positions to compare, got 1.")
    elements = subject.at_centres(n)
    esv = _of_true_class(subject.game, subject.trn.prior, elements)
    pairs = above(esv)
    matrices = {"TRN": matrix(esv)}
    if subject.tsn_game is not None:
        tsn = _of_true_class(subject.tsn_game, subject.tsn.prior, elements)
        matrices["TSN"] = matrix(tsn)
    distances = class_distances(pairs, elements.labels)
    for c in list(distances)[:SHOWN]:
        matrices[subject.class_names[c]] = matrix(esv[elements.labels == c])
    n_shuffles = _FULL_SHUFFLES if settings.full else _SHUFFLES
    rng = np.random.default_rng(settings.seed)
    numbers = {
        "n_elements": n,
        "n_sequences": len(esv),
        "n_pairs": n * (n - 1) // 2,
        "matrices": {name: _plain(found) for name, found in matrices.items()},
        "classes": {
            subject.class_names[c]: {
                "n_sequences": int((elements.labels == c).sum()),
                "squared distance": distance,
            }
            for c, distance in distances.items()
        },
        "overall": against_shuffles(
            overall_distance(pairs), shuffled_elements(esv, n_shuffles, rng)
        ),
        "between classes": between_classes(pairs, elements.labels, n_shuffles, rng),
    }
    return Outcome(
        numbers,
        _table(numbers),
        compare(numbers, subject.name),
        {"pairs": plot_matrices(matrices, subject.title)},
        _store(matrices, esv, elements, subject),
    )


def above(esv: np.ndarray) -> np.ndarray:
    """Whether element i is above element j in each sequence, (V, n, n): 1, 0, or 1/2 of a tie."""
    a, b = esv[:, :, None], esv[:, None, :]
    return (a > b) + 0.5 * (a == b)


def matrix(esv: np.ndarray) -> Matrix:
    """Shares of the sequences, of values (V, n), with their intervals."""
    share = ej.metrics.position_statistics(esv).overall.above
    return Matrix(share, *wilson(share * len(esv), len(esv)), len(esv))


def overall_distance(pairs: np.ndarray) -> float:
    """Mean over pairs i < j of (P - 1/2)^2."""
    return float(((_upper(pairs.mean(0)) - 0.5) ** 2).mean())


def class_distances(pairs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Class -> mean over pairs of (P - 1/2)^2 - var/V, the furthest first.

    The second term is the unbiased variance of P, so that few sequences do not look far from 1/2.
    Classes of fewer than `LEAST` sequences are left out.
    """
    found = {}
    for c in np.unique(labels):
        of_class = _upper(pairs[labels == c])
        if len(of_class) >= LEAST:
            noise = of_class.var(0, ddof=1) / len(of_class)
            found[int(c)] = float(((of_class.mean(0) - 0.5) ** 2 - noise).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def shuffled_elements(esv: np.ndarray, n_shuffles: int, rng: np.random.Generator) -> np.ndarray:
    """`overall_distance` after shuffling the elements of every sequence, (n_shuffles,)."""
    i, j = np.triu_indices(esv.shape[1], 1)
    found = np.empty(n_shuffles)
    for k in range(n_shuffles):
        mixed = rng.permuted(esv, axis=1)
        share = ((mixed[:, i] > mixed[:, j]) + 0.5 * (mixed[:, i] == mixed[:, j])).mean(0)
        found[k] = ((share - 0.5) ** 2).mean()
    return found


def between_classes(
    pairs: np.ndarray, labels: np.ndarray, n_shuffles: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Distance of the classes' P from that of all, against shuffled classes; None of one class."""
    classes, group = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        return None
    flat = _upper(pairs)
    member = np.eye(len(classes))[group]  # (V, G)
    count, centred = member.sum(0), flat - flat.mean(0)

    def distance(member: np.ndarray) -> float:
        share = member.T @ centred / count[:, None]
        return float((count / count.sum()) @ (share**2).mean(1))

    shuffled = [distance(rng.permutation(member)) for _ in range(n_shuffles)]
    return against_shuffles(distance(member), np.array(shuffled))


def against_shuffles(distance: float, shuffled: np.ndarray) -> dict[str, float]:
    """A squared distance beside what chance shows; p counts the distance itself among these."""
    return {
        "squared distance": distance,
        "by chance": float(shuffled.mean()),
        "by chance, 95 %": float(np.quantile(shuffled, 0.95)),
        "p": float((1 + (shuffled >= distance).sum()) / (1 + len(shuffled))),
    }


def _upper(pairs: np.ndarray) -> np.ndarray:
    """Entries i < j, (..., n (n - 1) / 2)."""
    i, j = np.triu_indices(pairs.shape[-1], 1)
    return pairs[..., i, j]


def _of_true_class(game: Any, prior: np.ndarray, elements: Elements) -> np.ndarray:
    esv, _ = explain_true(game, prior, elements)
    return esv[np.arange(len(esv)), :, elements.labels]


def _plain(found: Matrix) -> dict[str, Any]:
    ends = {name: getattr(found, name) for name in ("share", "low", "high")}
    differs = int(_upper(found.differs).sum())
    return plain(ends) | {"n_sequences": found.n_sequences, "n_differ": differs}


def _table(numbers: dict[str, Any]) -> str:
    rows = []
    for name, found in numbers["matrices"].items():
        share, differ = np.array(found["share"]), found["n_differ"]
        i, j = np.unravel_index(share.argmax(), share.shape)
        apart = 100 * np.abs(_upper(share) - 0.5).mean()
        ends = f"[{100 * found['low'][i][j]:.0f}, {100 * found['high'][i][j]:.0f}]"
        highest = f"{i + 1} above {j + 1}: {100 * share[i, j]:.0f} {ends}"
        rows.append((name, found["n_sequences"], f"{apart:.1f}", differ, highest))
    head = "set", "sequences", "mean of abs(P - 50 %)", "pairs that differ", "clearest pair (%)"
    of = f"{numbers['n_pairs']} pairs of {numbers['n_elements']} positions; by chance one in"
    return f"{markdown(head, rows)}\n\n{of} twenty would differ from 50 %."


def _store(
    matrices: dict[str, Matrix], esv: np.ndarray, elements: Elements, subject: Subject
) -> xarray.Dataset:
    dims = ("set", "element", "other")
    fields = {
        name: np.stack([getattr(m, name) for m in matrices.values()]) for name in Matrix._fields
    }
    return xarray.Dataset(
        {name: (dims[: array.ndim], array) for name, array in fields.items()}
        | {
            "esv": (("video", "element"), esv),
            "label": (("video",), elements.labels),
            "index": (("video", "element"), elements.index),
        },
        coords={"set": list(matrices), "video": [subject.uids[i] for i in elements.rows]},
    )
