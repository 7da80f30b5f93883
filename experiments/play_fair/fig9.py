"""Figure 9: ESVs of every frame.

Claim of the paper: sampled ESVs of all frames of a video follow the exact ones of 16.

Measured on 12 sequences of more than 16 elements (60 with --full), evenly spaced among those of the
three most frequent lengths: ESVs of the true class of all N elements by `Surrogate()`, the default
for long sequences, and by Algorithm 1 (m = 256, 4 iterations), each with two keys; exact ESVs of
the 16 elements at segment centres. The two are different quantities: the values of N elements are
smaller. In the picture they are multiplied by N / 16, an ESV per sixteenth of the sequence. Two
correlations with the exact 16, both means over sequences of Pearson's r:

- at the same elements, the 16 of the N values at the centres;
- of the N values summed over 16 equal segments; an element cut by a border counts on both sides by
  its share. The exact values contain nothing of the elements between the centres: for comparison,
  exact ESVs of 16 other elements, one drawn from each segment, are correlated with them too.

Width: median of the 95 % intervals of a sequence, relative to its mean |ESV|. Spread: standard
deviation between two keys, in the same units. Gap: |sum of ESVs - (score - prior)|. The picture
shows the sequences of the highest, the median and the lowest correlation of sums.

Agrees: mean correlation of at least 0.9. Where no sequence has more than 16 elements, the figure
shows exact ESVs of three and compares nothing.

Settings that matter: --full, --seed (of both keys, and of the other elements).

    python -m experiments.play_fair.fig9
    python -m experiments.play_fair.fig9 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

import esv_jax as ej
from esv_jax.plots import style
from experiments.drawing import HEADING, bare, legend_below, name_axes
from experiments.harness import Finding, as_number, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main, stored
from experiments.play_fair.subjects import Subject, explain_exactly, of_class, true_class_esv
from experiments.sequences import evenly
from experiments.statistics import mean_of, plain, written

ESTIMATORS = {
    "Surrogate(1024)": ej.Surrogate(pool=1024),  # the default
    "Algorithm 1 (256 x 4)": ej.Constructive(max_subsequences=256, iterations=4),
}
FOLLOWS = 0.9  # mean correlation
_N = 16
_REDUCED, _FULL = 12, 60  # sequences
_MOST_LENGTHS = 3  # each is a compilation of every estimator
_ALIKE = 1e-6  # relative range of values that differ by rounding alone
_FINDINGS = {
    "correlation_at_centres": "r of ESVs of all frames with exact ones of 16, at the centres",
    "correlation": "r of ESVs of all frames with exact ones of 16, summed over segments",
}

_LEADING, _SECOND, _EXACT = style.SUPPORTING, "#999999", style.DISTRACTING
_INCHES, _PANEL = 10.0, 2.1
_LEFT = 0.85  # inches of labels beside the panels


class Line(NamedTuple):
    """ESVs of the true class by one estimator.

    Attributes:
      values: (N,). half: (N,), half width of 95 % intervals; zero where exact.
      again: (N,), with another key. gap: sum of values - (score - prior).
    """

    values: np.ndarray
    half: np.ndarray
    again: np.ndarray
    gap: float


class Curve(NamedTuple):
    """One sequence of N elements, of the true class everywhere.

    Attributes:
      row: index of the sequence. centres: (n,) elements at segment centres.
      exact: (n,) exact ESVs of the centres.
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
        """(n,): values of an estimator, summed over each segment; see `overlaps`."""
        return overlaps(self.size, len(self.centres)) @ self.lines[name].values


def measure(
    subject: Subject, settings: Settings, estimators: dict[str, Any] = ESTIMATORS, n: int = _N
) -> Outcome:
    """Curves by given estimators (the first leads) beside n elements at segment centres."""
    rows = select_rows(subject.lengths, n, _FULL if settings.full else _REDUCED)
    if not len(rows):
        return _only_exact(subject, n)
    curves = measured_curves(subject, rows, n, estimators, settings.seed)
    r = {"other": np.array([correlation(curve.other, curve.exact) for curve in curves])}
    for name in estimators:
        r[f"{name} sums"] = np.array([correlation(c.sums(name), c.exact) for c in curves])
        at_centres = [correlation(c.lines[name].values[c.centres], c.exact) for c in curves]
        r[f"{name} centres"] = np.array(at_centres)
    numbers = {
        "n": n,
        "n_sequences": len(curves),
        "lengths": sorted({curve.size for curve in curves}),
        "uids": [subject.uids[curve.row] for curve in curves],
        "other_elements": mean_of(r["other"], settings),
        "estimators": {name: _summary(curves, r, name, settings) for name in estimators},
    }
    leading = r[f"{next(iter(estimators))} sums"]
    shown = _shown(leading)
    notes = [f"{text} r of sums, {leading[i]:.2f}" for text, i in shown]
    pictures = {"all_elements": draw_curves(subject, [curves[i] for _, i in shown], notes)}
    store = _store(subject, curves, r)
    return Outcome(numbers, table(numbers), findings(numbers), pictures, store)


def _summary(
    curves: list[Curve], r: dict[str, np.ndarray], name: str, settings: Settings
) -> dict[str, Any]:
    """Numbers of one estimator."""
    sums = np.concatenate([curve.sums(name) for curve in curves])
    exact = np.concatenate([curve.exact for curve in curves])
    lines = [curve.lines[name] for curve in curves]

    def size(line: Line) -> float:
        return np.abs(line.values).mean()

    def variance(line: Line) -> float:  # of two numbers: half their squared difference
        return ((line.values - line.again) ** 2).mean() / 2

    gaps = np.abs([line.gap for line in lines])
    return {
        "correlation": mean_of(r[f"{name} sums"], settings),
        "correlation_at_centres": mean_of(r[f"{name} centres"], settings),
    } | plain(
        {
            "correlation_by_sequence": r[f"{name} sums"],
            "correlation_pooled": correlation(sums, exact),
            "width": np.median([2 * np.median(line.half) / size(line) for line in lines]),
            "spread": np.median([np.sqrt(variance(line)) / size(line) for line in lines]),
            "gap": np.median(gaps),
            "largest_gap": gaps.max(),
        }
    )


def _shown(correlations: np.ndarray) -> list[tuple[str, int]]:
    """The sequences of the highest, the median and the lowest correlation; each once."""
    order = np.argsort(-correlations, kind="stable")  # NaN last
    order = order[: max(1, int((~np.isnan(correlations)).sum()))]
    ranks = {"highest": 0, "median": len(order) // 2, "lowest": len(order) - 1}
    once = {rank: name for name, rank in reversed(ranks.items())}
    return [(once[rank], int(order[rank])) for rank in sorted(once)]


def _only_exact(subject: Subject, n: int) -> Outcome:
    """Three of the longest sequences, explained exactly."""
    longest = int(subject.lengths.max())
    curves = []
    for i in evenly(np.flatnonzero(subject.lengths == longest), 3).tolist():
        x, c = subject.sequences[i], int(subject.labels[i])
        found = ej.explain(subject.game, x, prior=subject.trn.prior, estimator=ej.Exact())
        values, gap = np.asarray(found.values[:, c], float), float(found.efficiency_gap()[c])
        lines = {"exact": Line(values, np.zeros_like(values), values, gap)}
        curves.append(Curve(i, np.arange(longest), values, values, float(found.scores[c]), lines))
    reason = f"no sequence has more than {n} elements"
    numbers = {
        "n": n,
        "n_sequences": 0,
        "lengths": [longest],
        "uids": [subject.uids[curve.row] for curve in curves],
        "largest_gap": max(abs(curve.lines["exact"].gap) for curve in curves),
    }
    text = f"{reason}: all ESVs are exact. Largest efficiency gap {numbers['largest_gap']:.1e}."
    pictures = {"all_elements": draw_curves(subject, curves, ["exact"] * len(curves))}
    rows = [Finding(quantity, f">= {FOLLOWS}", note=reason) for quantity in _FINDINGS.values()]
    return Outcome(numbers, text, rows, pictures, _store(subject, curves, {}))


def _store(subject: Subject, curves: list[Curve], r: dict[str, np.ndarray]) -> Any:
    """Values of the true class, NaN beyond a sequence's length."""
    names = list(curves[0].lines)
    shape = (len(curves), len(names), max(curve.size for curve in curves))
    fields = {"values": "values", "half": "half_width", "again": "values_of_another_key"}
    arrays = {field: np.full(shape, np.nan) for field in fields}
    for v, curve in enumerate(curves):
        for e, name in enumerate(names):
            for field, rows in arrays.items():
                rows[v, e, : curve.size] = getattr(curve.lines[name], field)
    dims, centre = ("video", "estimator", "element"), ("video", "centre")
    elements = subject.take(
        np.array([c.row for c in curves]), np.array([c.centres for c in curves])
    )
    found = stored(elements, {}, estimator=names).drop_vars("index")
    return found.assign(
        {fields[field]: (dims, rows) for field, rows in arrays.items()}
        | {
            "efficiency_gap": (dims[:2], [[c.lines[e].gap for e in names] for c in curves]),
            "centre_index": (centre, elements.index),
            "exact": (centre, [c.exact for c in curves]),
            "exact_of_other_elements": (centre, [c.other for c in curves]),
        }
        | {f"r {name}": (("video",), rows) for name, rows in r.items()}
    )


def select_rows(lengths: np.ndarray, n: int, count: int) -> np.ndarray:
    """At most `count` sequences of more than n elements, evenly spaced, of three lengths.

    The lengths are the most frequent ones, the longer first among equally frequent ones. Empty
    where no sequence is longer than n.
    """
    times = Counter(length for length in lengths.tolist() if length > n)
    kept = sorted(times, key=lambda length: (-times[length], -length))[:_MOST_LENGTHS]
    return evenly(np.flatnonzero(np.isin(lengths, kept)), count)


def overlaps(length: int, n: int) -> np.ndarray:
    """Share of each element that lies in each of n equal segments, (n, length); columns sum to 1.

    An element that a border cuts counts on both sides by its share.
    """
    ends = np.arange(n + 1)[:, None] * length / n
    first = np.arange(length)
    return np.clip(np.minimum(ends[1:], first + 1) - np.maximum(ends[:-1], first), 0, 1)


def segments_of(length: int, n: int) -> np.ndarray:
    """Index of the segment (of n equal ones) that holds the middle of each element, (length,)."""
    return (2 * np.arange(length) + 1) * n // (2 * length)


def other_elements(length: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """An element of each segment other than its centre, drawn at random, (n,).

    The centre itself where a segment has no other element.
    """
    segments, centres = segments_of(length, n), ej.data.segment_centres(length, n)
    others = [np.setdiff1d(np.flatnonzero(segments == i), centres[i]) for i in range(n)]
    pairs = zip(centres, others, strict=True)
    return np.array([rng.choice(other) if len(other) else centre for centre, other in pairs])


def measured_curves(
    subject: Subject, rows: np.ndarray, n: int, estimators: dict[str, Any], seed: int
) -> list[Curve]:
    """A curve per sequence, in the order of `rows`; every estimator runs with two keys."""
    rng = np.random.default_rng(seed)
    elements = subject.at_centres(n, rows)
    others = np.array([other_elements(subject.lengths[i], n, rng) for i in rows])
    game, prior, labels = subject.game, subject.trn.prior, elements.labels
    exact, scores = explain_exactly(game, prior, elements)
    exact_others = true_class_esv(game, prior, subject.take(rows, others))
    found = {name: _lines(subject, rows, e, name, seed) for name, e in estimators.items()}
    lines = [{name: every[i] for name, every in found.items()} for i in rows.tolist()]
    own = scores[np.arange(len(rows)), labels].tolist()
    parts = elements.index, of_class(exact, labels), exact_others, own, lines
    return [Curve(*row) for row in zip(rows.tolist(), *parts, strict=True)]


def _lines(
    subject: Subject, rows: np.ndarray, estimator: Any, name: str, seed: int
) -> dict[int, Line]:
    """All elements of every sequence by one estimator, batched by length."""
    key, lengths = jax.random.key(seed), subject.lengths[rows]
    lines = {}
    for length in tqdm(np.unique(lengths).tolist(), desc=f"all elements, {name}", unit="length"):
        here = rows[lengths == length]
        elements = subject.at_centres(length, here)
        first, second = (
            ej.explain_batch(
                subject.game,
                elements.xs,
                prior=subject.trn.prior,
                estimator=estimator,
                key=jax.random.fold_in(key, run),
                uids=elements.uids,
            )
            for run in range(2)
        )
        values, half, again = (
            of_class(np.asarray(a, float), elements.labels)
            for a in (first.values, first.half_width(0.95), second.values)
        )
        gaps = np.asarray(first.efficiency_gap(), float)[np.arange(len(here)), elements.labels]
        for i, *parts, gap in zip(here.tolist(), values, half, again, gaps, strict=True):
            lines[i] = Line(*parts, float(gap))
    return lines


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; NaN where either is constant up to rounding."""
    if min(np.ptp(v) - _ALIKE * np.abs(v).max() for v in (a, b)) <= 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Mean correlations of the leading estimator with the exact values."""
    name = next(iter(numbers["estimators"]))
    rows = []
    for kind, text in _FINDINGS.items():
        found, note = numbers["estimators"][name][kind], name
        agrees = None if found["mean"] is None else bool(found["mean"] >= FOLLOWS)
        if kind == "correlation":
            note += f"; {numbers['n']} other elements: r {written(numbers['other_elements'], 1, 3)}"
        rows.append(finding(text, found, agrees, f">= {FOLLOWS}", scale=1, note=note))
    return rows


def table(numbers: dict[str, Any]) -> str:
    """A row per estimator."""
    rows = []
    for name, found in numbers["estimators"].items():
        sums, centres = found["correlation"], found["correlation_at_centres"]
        shares = (None if found[k] is None else 100 * found[k] for k in ("width", "spread"))
        cells = written(sums, 1, 3), as_number(found["correlation_pooled"]), written(centres, 1, 3)
        gap = f"{found['gap']:.1e} ({found['largest_gap']:.1e})"
        rows.append((name, *cells, *(as_number(share, ".3g") for share in shares), gap))
    other = written(numbers["other_elements"], 1, 3)
    rows.append(("exact, other elements", other, *["-"] * 5))
    lengths = ", ".join(map(str, numbers["lengths"]))
    text = (
        f"{numbers['n_sequences']} sequences of {lengths} elements; r with exact ESVs of"
        f" {numbers['n']}; width of 95 % intervals and spread between two keys relative to"
        " mean |ESV|, medians."
    )
    head = ("all elements by", "r of sums", "r pooled", "r at centres", "width (%)", "spread (%)")
    return f"{text}\n\n{markdown((*head, 'gap, median (largest)'), rows)}"


def draw_curves(subject: Subject, curves: list[Curve], notes: list[str]) -> Any:
    """A panel per sequence; `notes` are the rules of selection."""
    n = len(curves[0].centres)
    heights = [_PANEL]
    if subject.draw is not None:
        heights.append((_INCHES - _LEFT) / n)  # square frames
    figure = style.new_figure(_INCHES, len(curves) * (sum(heights) + 0.75) + 0.7)
    shape = (len(curves) * len(heights), 1)
    axes = figure.subplots(*shape, squeeze=False, height_ratios=heights * len(curves))
    for curve, note, own in zip(curves, notes, np.split(axes[:, 0], len(curves)), strict=True):
        _draw_lines(own[0], curve)
        if subject.draw is not None:
            _draw_frames(own[1], subject.draw(curve.row, curve.centres), curve)
            own[0].tick_params(axis="x", labelbottom=False)
            own[0].set_xlabel("")
        name = subject.class_names[subject.labels[curve.row]]
        text = f"{subject.uids[curve.row]}, class {name}, score {curve.score:.2f}: {note}"
        own[0].set_title(text, **HEADING)
        for ax in own:
            ax.set_xlim(-0.5, curve.size - 0.5)
            ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    legend_below(figure, axes[0, 0], 4)
    all_of = f"ESVs of all N elements (times N / {n}) and exact ones of {n}"
    if "exact" in curves[0].lines:
        all_of = f"exact ESVs of all {n} elements for the true class"
    style.head(figure, f"{subject.title}: {all_of}")
    return figure


def _draw_lines(ax: Any, curve: Curve) -> None:
    """Line and band over all elements, a thin line of the other estimator, exact markers."""
    x, n = np.arange(curve.size), len(curve.centres)
    factor = curve.size / n
    ax.axhline(0, color=style.QUIET, linewidth=0.8)
    looks = ({"color": _LEADING, "lw": 1.6}, {"color": _SECOND, "lw": 1.0, "ls": "--"})
    for order, (look, (name, line)) in enumerate(zip(looks, curve.lines.items(), strict=False)):
        values, half = factor * line.values, factor * line.half
        if order == 0 and half.any():
            band = {"color": _LEADING, "alpha": 0.25, "lw": 0, "label": f"{name}, 95 % band"}
            ax.fill_between(x, values - half, values + half, **band)
        marker = "o" if name == "exact" else None
        look |= {"marker": marker, "markersize": 4, "zorder": 3 - order}
        ax.plot(x, values, label=f"{name}, all elements", **look)
    if "exact" not in curve.lines:
        look = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 4}
        label = f"exact, {n} elements"
        ax.plot(curve.centres, curve.exact, "o", color=_EXACT, label=label, **look)
    per = "ESV (probability)" if factor == 1 else f"ESV per 1/{n}\n(probability)"
    name_axes(ax, "element", per)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _draw_frames(ax: Any, frames: np.ndarray, curve: Curve) -> None:
    """The frames at segment centres, each as wide as its segment."""
    segment = curve.size / len(curve.centres)
    for i, image in enumerate(frames):
        left = i * segment - 0.5
        ax.imshow(image, extent=(left + 0.03 * segment, left + 0.97 * segment, 0, 1), aspect="auto")
    ax.set(ylim=(0, 1), yticks=[])
    bare(ax)
    ax.set_xlabel("element (frames: at segment centres)", **style.TEXT)


if __name__ == "__main__":
    sys.exit(main("fig9", __doc__, measure))
