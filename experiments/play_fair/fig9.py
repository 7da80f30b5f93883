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
    python -m experiments.play_fair.fig9 --subject japanese-vowels
    python -m experiments.play_fair.fig9 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

import esv_jax as ej
from esv_jax.plots import style
from esv_jax.plots.style import new_figure
from experiments.harness import Finding, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main
from experiments.play_fair.subjects import Subject, explain_exactly, of_class
from experiments.statistics import mean_of, written

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


def measure(subject: Subject, settings: Settings) -> Outcome:
    """The curves of one subject."""
    return measure_with(subject, settings, ESTIMATORS, _N)


def measure_with(
    subject: Subject, settings: Settings, estimators: dict[str, Any], n: int
) -> Outcome:
    """Curves by given estimators (the first leads) beside n elements at segment centres."""
    rows = select_rows(subject.lengths, n, _FULL if settings.full else _REDUCED)
    if not len(rows):
        return _only_exact(subject, n)
    curves = measured_curves(subject, rows, n, estimators, settings.seed)
    by_sequence = _by_sequence(curves, list(estimators))
    numbers = {
        "n": n,
        "n_sequences": len(curves),
        "lengths": sorted({curve.size for curve in curves}),
        "uids": [subject.uids[curve.row] for curve in curves],
        "other_elements": mean_of(by_sequence["other"], settings),
        "estimators": {name: _summary(curves, by_sequence, name, settings) for name in estimators},
    }
    leading = by_sequence[f"{next(iter(estimators))} sums"]
    shown = _shown(leading)
    notes = [f"{text} r of sums, {leading[i]:.2f}" for text, i in shown]
    picture = draw_curves(subject, [curves[i] for _, i in shown], notes)
    return Outcome(
        numbers,
        table(numbers),
        findings(numbers),
        {"all_elements": picture},
        _store(subject, curves, by_sequence),
    )


def _by_sequence(curves: list[Curve], names: list[str]) -> dict[str, np.ndarray]:
    """Correlations of each sequence with the exact values, (V,) each."""
    found = {"other": np.array([correlation(curve.other, curve.exact) for curve in curves])}
    for name in names:
        found[f"{name} sums"] = np.array([correlation(c.sums(name), c.exact) for c in curves])
        found[f"{name} centres"] = np.array(
            [correlation(c.lines[name].values[c.centres], c.exact) for c in curves]
        )
    return found


def _summary(
    curves: list[Curve], by_sequence: dict[str, np.ndarray], name: str, settings: Settings
) -> dict[str, Any]:
    """Numbers of one estimator."""
    sums = np.concatenate([curve.sums(name) for curve in curves])
    exact = np.concatenate([curve.exact for curve in curves])
    lines = [curve.lines[name] for curve in curves]
    return {
        "correlation": mean_of(by_sequence[f"{name} sums"], settings),
        "correlation_by_sequence": [_plain(r) for r in by_sequence[f"{name} sums"]],
        "correlation_pooled": _plain(correlation(sums, exact)),
        "correlation_at_centres": mean_of(by_sequence[f"{name} centres"], settings),
        "width": _plain(np.median([width(line) for line in lines])),
        "spread": _plain(np.median([spread(line) for line in lines])),
        "gap": _plain(np.median([abs(line.gap) for line in lines])),
        "largest_gap": _plain(max(abs(line.gap) for line in lines)),
    }


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


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
    rows = np.flatnonzero(subject.lengths == longest)
    rows = rows[ej.data.segment_centres(len(rows), min(3, len(rows)))]
    curves = whole_curves(subject, rows)
    reason = f"no sequence has more than {n} elements"
    numbers = {
        "n": n,
        "n_sequences": 0,
        "lengths": [longest],
        "uids": [subject.uids[i] for i in rows],
        "largest_gap": max(abs(curve.lines["exact"].gap) for curve in curves),
    }
    text = f"{reason}: all ESVs are exact. Largest efficiency gap {numbers['largest_gap']:.1e}."
    picture = draw_curves(subject, curves, ["exact"] * len(curves))
    store = _store(subject, curves, {})
    return Outcome(numbers, text, not_measured(reason), {"all_elements": picture}, store)


def _store(
    subject: Subject, curves: list[Curve], by_sequence: dict[str, np.ndarray]
) -> xarray.Dataset:
    """Values of the true class, NaN beyond a sequence's length."""
    names = list(curves[0].lines)
    shape = (len(curves), len(names), max(curve.size for curve in curves))
    arrays = {field: np.full(shape, np.nan) for field in ("values", "half", "again")}
    for v, curve in enumerate(curves):
        for e, name in enumerate(names):
            for field, rows in arrays.items():
                rows[v, e, : curve.size] = getattr(curve.lines[name], field)
    dims = ("video", "estimator", "element")
    centre = ("video", "centre")
    return xarray.Dataset(
        {
            "values": (dims, arrays["values"]),
            "half_width": (dims, arrays["half"]),
            "values_of_another_key": (dims, arrays["again"]),
            "efficiency_gap": (dims[:2], [[c.lines[e].gap for e in names] for c in curves]),
            "centre_index": (centre, [c.centres for c in curves]),
            "exact": (centre, [c.exact for c in curves]),
            "exact_of_other_elements": (centre, [c.other for c in curves]),
            "label": (("video",), [int(subject.labels[c.row]) for c in curves]),
            **{f"r {name}": (("video",), rows) for name, rows in by_sequence.items()},
        },
        coords={"video": [subject.uids[c.row] for c in curves], "estimator": names},
    )


def select_rows(lengths: np.ndarray, n: int, count: int) -> np.ndarray:
    """At most `count` sequences of more than n elements, evenly spaced, of three lengths.

    The lengths are the most frequent ones, the longer first among equally frequent ones. Empty
    where no sequence is longer than n.
    """
    times = Counter(length for length in lengths.tolist() if length > n)
    kept = sorted(times, key=lambda length: (-times[length], -length))[:_MOST_LENGTHS]
    rows = np.flatnonzero(np.isin(lengths, kept))
    if not len(rows):
        return rows
    return rows[ej.data.segment_centres(len(rows), min(count, len(rows)))]


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
    """Exact ESVs of all elements of short sequences; the elements are the centres."""
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
    values, scores = explain_exactly(subject.game, subject.trn.prior, elements)
    own = scores[np.arange(len(rows)), elements.labels]
    return of_class(values, elements.labels), own


def _lines(
    subject: Subject, rows: np.ndarray, estimator: Any, name: str, seed: int
) -> Iterator[tuple[int, Line]]:
    """All elements of every sequence by one estimator, batched by length."""
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
        values, again, half = (
            of_class(np.asarray(a, float), labels)
            for a in (first.values, second.values, first.half_width(0.95))
        )
        gaps = np.asarray(first.efficiency_gap(), float)[np.arange(len(here)), labels]
        for i, *parts, gap in zip(here.tolist(), values, half, again, gaps, strict=True):
            yield i, Line(*parts, float(gap))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; NaN where either is constant up to rounding."""
    if min(np.ptp(v) - _ALIKE * np.abs(v).max() for v in (a, b)) <= 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def width(line: Line) -> float:
    """Median width of the 95 % intervals, relative to mean |value|."""
    return float(np.median(2 * line.half) / np.abs(line.values).mean())


def spread(line: Line) -> float:
    """Standard deviation between the two runs, relative to mean |value|.

    The variance of two numbers is half their squared difference; it is averaged over elements.
    """
    variance = ((line.values - line.again) ** 2).mean() / 2
    return float(np.sqrt(variance) / np.abs(line.values).mean())


def not_measured(reason: str) -> list[Finding]:
    """Both findings without numbers."""
    return [Finding(text, f">= {FOLLOWS}", note=reason) for text in _FINDINGS.values()]


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Mean correlations of the leading estimator with the exact values."""
    name = next(iter(numbers["estimators"]))
    rows = []
    for kind, text in _FINDINGS.items():
        found = numbers["estimators"][name][kind]
        mean = found["mean"]
        agrees = None if mean is None else bool(mean >= FOLLOWS)
        note = name
        if kind == "correlation":
            note += f"; {numbers['n']} other elements: r {written(numbers['other_elements'], 1, 3)}"
        rows.append(finding(text, found, agrees, f">= {FOLLOWS}", scale=1, note=note))
    return rows


def table(numbers: dict[str, Any]) -> str:
    """A row per estimator."""
    rows = []
    for name, found in numbers["estimators"].items():
        pooled = found["correlation_pooled"]
        rows.append(
            (
                name,
                written(found["correlation"], 1, 3),
                "-" if pooled is None else f"{pooled:.3f}",
                written(found["correlation_at_centres"], 1, 3),
                *(_per_cent(found[part]) for part in ("width", "spread")),
                f"{found['gap']:.1e} ({found['largest_gap']:.1e})",
            )
        )
    other = written(numbers["other_elements"], 1, 3)
    rows.append(("exact, other elements", other, *["-"] * 5))
    lengths = ", ".join(map(str, numbers["lengths"]))
    head = ("all elements by", "r of sums", "r pooled", "r at centres", "width", "spread")
    text = (
        f"{numbers['n_sequences']} sequences of {lengths} elements; r with exact ESVs of"
        f" {numbers['n']}; width of 95 % intervals and spread between two keys relative to"
        " mean |ESV|, medians."
    )
    return f"{text}\n\n{markdown((*head, 'gap, median (largest)'), rows)}"


def _per_cent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def draw_curves(subject: Subject, curves: list[Curve], notes: list[str]) -> Any:
    """A panel per sequence; `notes` are the rules of selection."""
    frames = subject.draw is not None
    strip = (_INCHES - _LEFT) / len(curves[0].centres)  # square frames
    heights = [_PANEL, strip] if frames else [_PANEL]
    figure = new_figure(_INCHES, len(curves) * (sum(heights) + 0.75) + 0.7)
    shape = (len(curves) * len(heights), 1)
    axes = figure.subplots(*shape, squeeze=False, height_ratios=heights * len(curves))[:, 0]
    for k, (curve, note) in enumerate(zip(curves, notes, strict=True)):
        ax = axes[k * len(heights)]
        _draw_panel(ax, subject, curve, note, has_frames=frames)
        if frames:
            _draw_frames(axes[2 * k + 1], subject, curve)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        **style.LEGEND,
    )
    style.head(figure, _heading(subject, curves))
    return figure


def _heading(subject: Subject, curves: list[Curve]) -> str:
    n = len(curves[0].centres)
    if "exact" in curves[0].lines:
        return f"{subject.title}: exact ESVs of all {n} elements for the true class"
    return f"{subject.title}: ESVs of all N elements (times N / {n}) and exact ones of {n}"


def _draw_panel(ax: Any, subject: Subject, curve: Curve, note: str, *, has_frames: bool) -> None:
    """Line and band over all elements, a thin line of the other estimator, exact markers."""
    x, n = np.arange(curve.size), len(curve.centres)
    factor = curve.size / n
    ax.axhline(0, color=style.QUIET, linewidth=0.8)
    for order, (name, line) in enumerate(curve.lines.items()):
        values, half = factor * line.values, factor * line.half
        leading = order == 0
        if leading and half.any():
            low, high = values - half, values + half
            label = f"{name}, 95 % band"
            ax.fill_between(x, low, high, color=_LEADING, alpha=0.25, lw=0, label=label)
        ax.plot(
            x,
            values,
            color=_LEADING if leading else _SECOND,
            linewidth=1.6 if leading else 1.0,
            linestyle="-" if leading else "--",
            marker="o" if name == "exact" else None,
            markersize=4,
            label=f"{name}, all elements",
            zorder=3 - order,
        )
    if "exact" not in curve.lines:
        ax.plot(
            curve.centres,
            curve.exact,
            "o",
            color=_EXACT,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=f"exact, {n} elements",
            zorder=4,
        )
    style.strip_down(ax)
    ax.set_xlim(-0.5, curve.size - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if has_frames:
        ax.tick_params(axis="x", labelbottom=False)
    else:
        ax.set_xlabel("element", **style.TEXT)
    per = "ESV (probability)" if factor == 1 else f"ESV per 1/{n}\n(probability)"
    ax.set_ylabel(per, **style.TEXT)
    name = subject.class_names[subject.labels[curve.row]]
    text = f"{subject.uids[curve.row]}, class {name}, score {curve.score:.2f}: {note}"
    heading = {"fontsize": style.TITLE_SIZE, "fontweight": "bold", "color": style.INK}
    ax.set_title(text, loc="left", parse_math=False, **heading)


def _draw_frames(ax: Any, subject: Subject, curve: Curve) -> None:
    """The frames at segment centres, each as wide as its segment."""
    assert subject.draw is not None
    segment = curve.size / len(curve.centres)
    for i, image in enumerate(subject.draw(curve.row, curve.centres)):
        left = i * segment - 0.5
        ax.imshow(image, extent=(left + 0.03 * segment, left + 0.97 * segment, 0, 1), aspect="auto")
    ax.set_xlim(-0.5, curve.size - 0.5)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.tick_params(length=0, labelsize=style.TEXT_SIZE, labelcolor=style.INK)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("element (frames: at segment centres)", **style.TEXT)


if __name__ == "__main__":
    sys.exit(main("fig9", __doc__, measure))
