"""Figure 5: probability that the element at one position has a higher ESV than at another.

Claim of the paper: P(phi_i > phi_j) differs between positions, and by class.

Measured on exact ESVs of `n_elements` elements at segment centres, for the true class: the share of
sequences in which element i is above element j, over all sequences and by class, of the multi-scale
model (TRN), and over all sequences of an average consensus (TSN) where there is one. 1/2 means no
preference. A pair differs from 1/2 where its 95 % binomial interval excludes it; by chance one pair
in twenty does.

Two distances are compared with chance. Overall: the mean of (P - 1/2)^2 over pairs, against the
same after shuffling the elements of every sequence. Between classes: the mean squared difference of
a class's P from that of all, weighted by sequences, against the same after shuffling classes among
sequences. The picture shows the four classes furthest from 1/2, by the mean over pairs of
(P - 1/2)^2 - var/V, where var/V is the part expected by chance; classes of fewer than 10 sequences
are left out.

Agrees: the distance is beyond 95 % of the shuffles; at least half of the pairs differ. `--full`
draws 2000 shuffles instead of 400.

    python -m experiments.play_fair.fig5
    python -m experiments.play_fair.fig5 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import esv_jax as ej
from esv_jax.plots import style
from experiments.drawing import bare
from experiments.harness import Finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main, stored
from experiments.play_fair.subjects import Subject, true_class_esv
from experiments.statistics import plain, wilson

LEAST = 10  # sequences of a class that is compared
SHOWN = 4
_SHUFFLES, _FULL_SHUFFLES = 400, 2000
_COLUMNS = 3
_MOST_NUMBERS = 10  # positions whose cells hold a number
_INCHES = 2.9


class Matrix(NamedTuple):
    """P(phi_i > phi_j) over a set of sequences.

    Attributes:
      share: (n, n), ties count 1/2. low, high: (n, n), 95 % interval.
      n_sequences: number of sequences.
    """

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_sequences: int

    @property
    def differs(self) -> np.ndarray:
        """Bool (n, n): the interval excludes 1/2."""
        return (self.low > 0.5) | (self.high < 0.5)


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Matrices of both models and of some classes, and their distances from 1/2."""
    n = settings.n_elements
    if n < 2:
        raise ValueError("n_elements: expected at least 2, got 1.")
    elements = subject.at_centres(n)
    esv = true_class_esv(subject.game, subject.trn.prior, elements)
    pairs, labels, names = pairs_above(esv), elements.labels, subject.class_names
    matrices = {"TRN": matrix(esv)}
    if subject.tsn_game is not None:
        matrices["TSN"] = matrix(true_class_esv(subject.tsn_game, subject.tsn.prior, elements))
    distances = class_distances(pairs, labels)
    for c in list(distances)[:SHOWN]:
        matrices[names[c]] = matrix(esv[labels == c])
    n_shuffles = _FULL_SHUFFLES if settings.full else _SHUFFLES
    rng = np.random.default_rng(settings.seed)
    overall = against_shuffles(overall_distance(pairs), shuffled_elements(esv, n_shuffles, rng))
    numbers = {
        "n_elements": n,
        "n_sequences": len(esv),
        "n_pairs": n * (n - 1) // 2,
        "matrices": {
            name: plain(found._asdict() | {"n_differ": int(_upper(found.differs).sum())})
            for name, found in matrices.items()
        },
        "classes": {
            names[c]: {"n_sequences": int((labels == c).sum()), "squared distance": distance}
            for c, distance in distances.items()
        },
        "overall": overall,
        "between classes": between_classes(pairs, labels, n_shuffles, rng),
    }
    dims = ("set", "element", "other")
    fields = {
        name: np.stack([getattr(m, name) for m in matrices.values()]) for name in Matrix._fields
    }
    arrays = {name: (dims[: array.ndim], array) for name, array in fields.items()}
    arrays["esv"] = (("video", "element"), esv)
    store = stored(elements, arrays, set=list(matrices))
    pictures = {"pairs": plot_matrices(matrices, subject.title)}
    return Outcome(numbers, _table(numbers), findings(numbers), pictures, store)


def pairs_above(esv: np.ndarray) -> np.ndarray:
    """Indicator that element i is above element j, (V, n, n): 1, 0, or 1/2 for a tie."""
    a, b = esv[:, :, None], esv[:, None, :]
    return (a > b) + 0.5 * (a == b)


def matrix(esv: np.ndarray) -> Matrix:
    """Shares with intervals, from values (V, n)."""
    share = ej.metrics.position_statistics(esv).above
    found = wilson(share * len(esv), len(esv))
    return Matrix(share, np.array(found["low"]), np.array(found["high"]), len(esv))


def overall_distance(pairs: np.ndarray) -> float:
    """Mean over pairs i < j of (P - 1/2)^2."""
    return float(((_upper(pairs.mean(0)) - 0.5) ** 2).mean())


def class_distances(pairs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Class -> mean over pairs of (P - 1/2)^2 - var/V, the furthest first.

    The second term, the unbiased variance of P, removes the bias of small classes. Classes of fewer
    than `LEAST` sequences are left out.
    """
    found = {}
    for c in np.unique(labels):
        own = _upper(pairs[labels == c])
        if len(own) >= LEAST:
            noise = own.var(0, ddof=1) / len(own)
            found[int(c)] = float(((own.mean(0) - 0.5) ** 2 - noise).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def shuffled_elements(esv: np.ndarray, n_shuffles: int, rng: np.random.Generator) -> np.ndarray:
    """`overall_distance` after shuffling the elements of every sequence, (n_shuffles,)."""
    found = [overall_distance(pairs_above(rng.permuted(esv, axis=1))) for _ in range(n_shuffles)]
    return np.array(found)


def between_classes(
    pairs: np.ndarray, labels: np.ndarray, n_shuffles: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Distance of the classes' P from that of all, against shuffled classes; None for one class."""
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
    """A squared distance beside those of shuffles; p counts the distance itself among these."""
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


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Distances from 1/2 and between classes, and the number of pairs that differ."""
    differ, n_pairs = numbers["matrices"]["TRN"]["n_differ"], numbers["n_pairs"]
    text = f"pairs that differ from 1/2, of {n_pairs}"
    return [
        _distance("root mean square of P - 1/2, TRN, all classes (%)", numbers["overall"]),
        Finding(text, value=float(differ), agrees=2 * differ >= n_pairs),
        _distance("root mean square of P(class) - P(all), TRN (%)", numbers["between classes"]),
    ]


def _distance(quantity: str, found: dict[str, float] | None) -> Finding:
    """Root of a squared distance in per cent; the bound is the 95 % quantile of shuffles."""
    if found is None:
        return Finding(quantity, note="one class")
    squares = (found[name] for name in ("squared distance", "by chance", "by chance, 95 %"))
    root, chance, bound = (100 * square**0.5 for square in squares)
    note = f"shuffled: {chance:.1f}, p = {found['p']:.2g}"
    expected = f"> {bound:.1f} (shuffled, 95 %)"
    return Finding(quantity, expected, root, agrees=root > bound, note=note)


def _table(numbers: dict[str, Any]) -> str:
    rows = []
    for name, found in numbers["matrices"].items():
        share = np.array(found["share"])
        i, j = np.unravel_index(share.argmax(), share.shape)
        apart = 100 * np.abs(_upper(share) - 0.5).mean()
        ends = f"[{100 * found['low'][i][j]:.0f}, {100 * found['high'][i][j]:.0f}]"
        highest = f"{i + 1} above {j + 1}: {100 * share[i, j]:.0f} {ends}"
        rows.append((name, found["n_sequences"], f"{apart:.1f}", found["n_differ"], highest))
    head = "set", "sequences", "mean of abs(P - 50 %)", "pairs that differ", "clearest pair (%)"
    pairs = f"{numbers['n_pairs']} pairs of {numbers['n_elements']} positions"
    return f"{markdown(head, rows)}\n\n{pairs}; by chance one in twenty differs from 50 %."


def plot_matrices(matrices: Mapping[str, Matrix], title: str) -> Any:
    """A panel per set; 50 % is white, bold numbers have an interval that excludes it."""
    n_rows, columns = -(-len(matrices) // _COLUMNS), min(len(matrices), _COLUMNS)
    figure = style.new_figure(_INCHES * columns + 1.2, (_INCHES + 0.45) * n_rows + 0.5)
    axes = figure.subplots(n_rows, columns, squeeze=False)
    widest = max(np.abs(found.share - 0.5).max() for found in matrices.values())
    half = 5 * np.ceil(20 * max(widest, 0.05))  # per cent
    for k, (ax, (name, found)) in enumerate(zip(axes.flat, matrices.items(), strict=False)):
        image = _panel(ax, name, found, half)
        if k % columns == 0:
            ax.set_ylabel("position i", **style.TEXT)
        if k + columns >= len(matrices):
            ax.set_xlabel("position j", **style.TEXT)
    for ax in axes.flat[len(matrices) :]:
        ax.set_axis_off()
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("sequences with ESV of i > ESV of j (%)", **style.TEXT)
    bar.ax.tick_params(colors=style.QUIET, labelcolor=style.INK, labelsize=style.TEXT_SIZE)
    bar.outline.set_visible(False)
    style.head(figure, f"{title}: P(ESV i > ESV j); bold: the 95 % interval excludes 50 %")
    return figure


def _panel(ax: Any, name: str, found: Matrix, half: float) -> Any:
    n = len(found.share)
    apart = ~np.eye(n, dtype=bool)
    shown = np.where(apart, 100 * found.share, np.nan)
    image = ax.imshow(shown, cmap="PuOr_r", vmin=50 - half, vmax=50 + half)
    for i, j in np.argwhere(apart & (n <= _MOST_NUMBERS)):
        depth, differs = abs(shown[i, j] - 50) / half, found.differs[i, j]
        on_pale = style.INK if differs or depth > 0.25 else style.QUIET
        look = {"color": "white" if depth > 0.65 else on_pale, "fontsize": 7.5}
        look["fontweight"] = "bold" if differs else "normal"
        ax.text(j, i, f"{shown[i, j]:.0f}", ha="center", va="center", **look)
    ticks = np.arange(0, n, 1 if n <= _MOST_NUMBERS else 2)
    ax.set_xticks(ticks, ticks + 1)
    ax.set_yticks(ticks, ticks + 1)
    bare(ax)
    kind = f"{name}, all classes" if name in ("TRN", "TSN") else f"TRN, class {name}"
    text = f"{style.wrap(kind, _INCHES, style.TITLE_SIZE)}\n{found.n_sequences} sequences"
    ax.set_title(text, loc="left", **style.TEXT, parse_math=False)
    return image


if __name__ == "__main__":
    sys.exit(main("fig5", __doc__, measure))
