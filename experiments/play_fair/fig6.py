"""Figure 6: marginal contributions by scale, supporting elements by length, smoothness of ESVs.

Claims of the paper: the marginal contribution of an element falls with the scale at which it joins;
the more frames, the fewer of them support the class; ESVs change smoothly where frames are taken
slightly elsewhere.

Measured on exact ESVs of the multi-scale model (TRN), for the true class. (a) The change of score
when an element joins subsequences of s - 1 others, averaged over elements and sequences, and the
average of its absolute value; `n_elements` at segment centres. (b) The share of elements with an
ESV > 0 of 1, 2, 3, 4, 6, 8, 12 and 16 elements at segment centres, of every sequence that is long
enough; the trend is that of the sequences that have the most. (c) Pearson's r over elements, and
relative change, between the values of `n_elements` elements and of their neighbours (one later and
one before), of ESVs, Integrated Gradients and Grad-CAM; of sequences of at least twice as many
elements. Trends are Spearman correlations of means with scale or length, and the difference of the
last and the first mean, with paired bootstrap.

Agrees: the interval of a difference lies below 0, that of Spearman's rho at most at -0.8; r of ESVs
lies above that of another method, their change not above it. (b) takes 400 sequences and (c) 200,
evenly spaced; both take all with `--full`, as (a) always does.

    python -m experiments.play_fair.fig6
    python -m experiments.play_fair.fig6 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import xarray
from tqdm import tqdm

import esv_jax as ej
from esv_jax.metrics.accuracy import smoothness
from esv_jax.metrics.statistics import support_statistics
from esv_jax.plots import style
from experiments.drawing import BLUE, GREEN, GREY, VERMILLION, name_axes, points
from experiments.harness import NOTHING, Finding, above, below, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main
from experiments.play_fair.methods import all_values
from experiments.play_fair.subjects import Subject, true_class_esv
from experiments.sequences import evenly
from experiments.statistics import (
    PARTS,
    at,
    mean_of,
    rank_correlation,
    resampled_means,
    with_interval,
    written,
)

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
METHODS = ("ESV", "Integrated Gradients", "Grad-CAM")
MOVES = (1, -1)
STEADY = -0.8  # Spearman's rho of a steady fall
_SEQUENCES, _MOVED = 400, 200  # of (b) and (c), without --full
_BATCH = 1024  # sequences whose marginals of every class are held at once
_LOOK = {
    "ESV": ("ESV", BLUE, "o"),
    "Integrated Gradients": ("Integrated\nGradients", VERMILLION, "s"),
    "Grad-CAM": ("Grad-CAM", GREEN, "D"),
}
_MEASURES = {"pearson": "Pearson r", "change": "relative change"}


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Trends by scale and length, and smoothness."""
    marginals = true_marginals(subject, settings.n_elements)
    shares = supporting_shares(subject, None if settings.full else _SEQUENCES)
    rows, jitter = jittered(subject, settings, None if settings.full else _MOVED)
    by_scale = {"signed": marginals.mean(2), "absolute": np.abs(marginals).mean(2)}
    numbers = {
        "n_elements": settings.n_elements,
        "marginals": {name: with_trend(x, settings) for name, x in by_scale.items()},
        "lengths": of_lengths(shares, settings),
        "smoothness": of_jitter(jitter, settings.n_elements / subject.lengths[rows], settings),
    }
    pictures = {"trends": plot_all(numbers, subject.title)}
    store = _store(subject, marginals, shares, rows, jitter)
    return Outcome(numbers, _table(numbers), findings(numbers), pictures, store)


def true_marginals(subject: Subject, n: int) -> np.ndarray:
    """Mean marginal contributions (V', scale, element) for the true class."""
    elements = subject.at_centres(n)
    found = []
    for start in range(0, len(elements.rows), _BATCH):
        part = slice(start, start + _BATCH)
        batch = ej.explain_batch(
            subject.game,
            elements.xs[part],
            prior=subject.trn.prior,
            estimator=ej.Exact(),
            marginals=True,
        )
        labels = elements.labels[part]
        marginals = np.asarray(jax.device_get(batch.marginals))
        found.append(marginals[np.arange(len(labels)), :, :, labels].astype(float))
    return np.concatenate(found)


def supporting_shares(subject: Subject, most: int | None) -> np.ndarray:
    """Shares of supporting elements (V, lengths); NaN where a sequence is too short or left out.

    At most `most` sequences are taken, evenly spaced; None takes all.
    """
    v = len(subject.sequences)
    taken = evenly(np.arange(v), most)
    found = np.full((v, len(LENGTHS)), np.nan)
    for k, n in enumerate(tqdm(LENGTHS, desc="lengths", unit="length")):
        rows = taken[subject.lengths[taken] >= n]
        if not len(rows):
            break
        elements = subject.at_centres(n, rows)
        own = true_class_esv(subject.game, subject.trn.prior, elements)
        found[rows, k] = support_statistics(own).supporting
    return found


def jittered(
    subject: Subject, settings: Settings, most: int | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows (V',) of at most `most` sequences of 2n elements or more, and the methods' smoothness.

    For each method (V', 2): Pearson correlation and change, means over the moves. A sequence whose
    last centre has no element after it is left out.
    """
    n, lengths = settings.n_elements, subject.lengths
    long = np.flatnonzero(lengths >= 2 * n)
    centres = {i: ej.data.segment_centres(lengths[i], n) for i in long}
    rows = [i for i, c in centres.items() if c[0] >= 1 and c[-1] + 1 < lengths[i]]
    rows = evenly(np.array(rows, int), most)
    if not len(rows):
        return rows, {}
    moved = np.concatenate([np.stack([centres[i] for i in rows]) + m for m in (0, *MOVES)])
    elements = subject.take(np.tile(rows, 1 + len(MOVES)), moved)
    found = {}
    for name, values in all_values(subject, elements, settings.seed, METHODS).items():
        original, *others = values.reshape(1 + len(MOVES), len(rows), n)
        pairs = [smoothness(original, other) for other in others]
        found[name] = np.mean([np.stack(pair, axis=1) for pair in pairs], axis=0).astype(float)
    return rows, found


def with_trend(values: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means (V, K) over sequences, with their trend."""
    return mean_of(values, settings) | {"trend": trend(values, settings)}


def of_lengths(shares: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means by length of all sequences, and of those that have the greatest length."""
    known = ~np.isnan(shares).all(0)
    shares = shares[:, known]
    return {
        "n": np.array(LENGTHS)[known].tolist(),
        "all": mean_of(shares, settings),
        "same": with_trend(shares[~np.isnan(shares[:, -1])], settings),
    }


def of_jitter(
    jitter: dict[str, np.ndarray], shift: np.ndarray, settings: Settings
) -> dict[str, Any] | None:
    """Means over sequences, and of ESV - each other method; None without sequences.

    `shift` (V',) is the length of one element as a share of a segment.
    """
    if not jitter:
        return None
    finite = {name: np.where(np.isfinite(v), v, np.nan) for name, v in jitter.items()}

    def of_both(values: np.ndarray) -> dict[str, Any]:
        found = mean_of(values, settings)
        return {name: at(found, k) for k, name in enumerate(_MEASURES)}

    return {
        "methods": {name: of_both(v) for name, v in finite.items()},
        "ESV - other": {n: of_both(finite["ESV"] - v) for n, v in finite.items() if n != "ESV"},
        "n_sequences": len(shift),
        "median shift": float(np.median(shift)),
    }


def trend(values: np.ndarray, settings: Settings) -> dict[str, Any] | None:
    """Spearman's rho of means (V, K) with K, last - first, and consecutive differences.

    None for K < 3.
    """
    if values.shape[1] < 3:
        return None
    mean, draws = values.mean(0), resampled_means(values, settings)
    k = np.arange(len(mean))
    return {
        "spearman": with_interval(rank_correlation(mean, k), rank_correlation(draws, k)),
        "last - first": with_interval(mean[-1] - mean[0], draws[:, -1] - draws[:, 0]),
        "steps": mean_of(np.diff(values, axis=1), settings),
    }


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Differences and Spearman's rho of the trends, and smoothness beside the gradients'."""
    lengths, marginals = numbers["lengths"], numbers["marginals"]
    scales = f"scales 1 to {numbers['n_elements']}"
    same = lengths["same"]
    span = f"1 to {lengths['n'][-1]} elements, {same['n_sequences'][0]} sequences"
    return [
        *falls("marginal contribution", scales, marginals["signed"], 1),
        *falls("absolute marginal contribution", scales, marginals["absolute"], 1),
        *falls("supporting elements (%)", span, same, 100),
        *smooth(numbers["smoothness"]),
    ]


def falls(quantity: str, span: str, found: dict[str, Any], scale: float) -> list[Finding]:
    """Last - first mean, and Spearman's rho of the means."""
    drop = rho = NOTHING
    note = fallen = "fewer than 3 points"
    if found["trend"] is not None:
        drop, rho, steps = (found["trend"][k] for k in ("last - first", "spearman", "steps"))
        first, last = (scale * found["mean"][k] for k in (0, -1))
        note = f"{span}: {first:.4g} to {last:.4g}"
        count = sum(high < 0 for high in steps["high"] if high is not None)
        fallen = f"{count} of {len(steps['high'])} steps fall beyond their interval"
    steady = None if rho["high"] is None else bool(rho["high"] <= STEADY)
    names = f"{quantity}, last - first", f"{quantity}, Spearman's rho"
    return [
        finding(names[0], drop, below(drop), "< 0", scale=scale, note=note),
        finding(names[1], rho, steady, f"<= {STEADY}", scale=1, note=fallen),
    ]


def smooth(found: dict[str, Any] | None) -> list[Finding]:
    """ESV - each gradient method, in Pearson's r and in relative change."""
    rows = []
    for name in METHODS[1:]:
        for measure, label in _MEASURES.items():
            text = f"moved by one element: {label}, ESV - {name}"
            expected = "> 0" if measure == "pearson" else "<= 0"
            gap, note = NOTHING, "no sequence is long enough"
            if found is not None:
                gap = found["ESV - other"][name][measure]
                note = f"one element is {100 * found['median shift']:.0f} % of a segment"
            agrees = above(gap)
            if agrees is not None and measure == "change":
                agrees = not agrees
            rows.append(finding(text, gap, agrees, expected, scale=1, note=note))
    return rows


def _table(numbers: dict[str, Any]) -> str:
    marginals, lengths, smooth = (numbers[k] for k in ("marginals", "lengths", "smoothness"))
    rows = [
        (s + 1, *(written(at(found, s), 1, 4) for found in marginals.values()))
        for s in range(numbers["n_elements"])
    ]
    parts = [markdown(("scale", "marginal contribution", "absolute value"), rows)]
    every, same = lengths["all"], lengths["same"]
    rows = [
        (n, every["n_sequences"][k], written(at(every, k)), written(at(same, k)))
        for k, n in enumerate(lengths["n"])
    ]
    count = f"the {same['n_sequences'][0]} that have {lengths['n'][-1]} (%)"
    parts.append(markdown(("elements", "sequences", "supporting (%)", count), rows))
    if smooth is not None:
        rows = [
            (name, *(written(found[measure], 1, 3) for measure in _MEASURES))
            for name, found in smooth["methods"].items()
        ]
        parts.append(markdown(("moved by one", "Pearson", "change"), rows))
        parts.append(f"{smooth['n_sequences']} sequences moved.")
    return "\n\n".join(parts)


def _store(
    subject: Subject,
    marginals: np.ndarray,
    shares: np.ndarray,
    rows: np.ndarray,
    jitter: dict[str, np.ndarray],
) -> xarray.Dataset:
    n = marginals.shape[1]
    wide = np.full((len(subject.sequences), n, n), np.nan)
    wide[subject.lengths >= n] = marginals
    fields = {
        "marginals": (("video", "scale", "element"), wide),
        "supporting": (("video", "length"), shares),
    }
    coords = {"video": list(subject.uids), "length": list(LENGTHS), "scale": np.arange(1, n + 1)}
    if jitter:
        smooth = np.full((len(METHODS), len(subject.sequences), 2), np.nan)
        smooth[:, rows] = np.stack([jitter[name] for name in METHODS])
        fields["smoothness"] = (("attribution", "video", "measure"), smooth)
        coords |= {"attribution": list(METHODS), "measure": list(_MEASURES)}
    return xarray.Dataset(fields, coords=coords)


def plot_all(numbers: Mapping[str, Any], title: str) -> Any:
    """(a), (b) and, where it was measured, (c), side by side; 95 % intervals over sequences."""
    smooth, n = numbers["smoothness"], numbers["n_elements"]
    widths = (3.4, 3.4) if smooth is None else (3.4, 3.4, 1.7, 1.7)
    figure = style.new_figure(sum(widths) + 0.6, 3.7)
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    figure.get_layout_engine().set(wspace=0.05)
    ax, marginals = axes[0], numbers["marginals"]
    ax.axhline(0, color=style.QUIET, lw=0.8)
    x = np.arange(1, n + 1)
    points(ax, x, marginals["absolute"], VERMILLION, "s", 1, label="absolute value")
    points(ax, x, marginals["signed"], BLUE, "o", 1, label="with its sign")
    ax.set_xticks(x[:: 1 if n <= 10 else 2])
    name_axes(ax, "scale at which an element joins", "marginal contribution (probability)")
    ax.legend(loc="best", **style.LEGEND)
    count = marginals["signed"]["n_sequences"][0]
    ax.set_title(f"(a) {n} elements: {count} sequences", loc="left", **style.TEXT)
    _lengths(axes[1], numbers["lengths"])
    if smooth is not None:
        for ax, name in zip(axes[2:], _MEASURES, strict=True):
            _smoothness(ax, smooth["methods"], name)
        text = f"(c) moved by one element: {smooth['n_sequences']} sequences"
        axes[2].set_title(text, loc="left", **style.TEXT)
    by = "by scale, length and shift, 95 % intervals"
    style.head(figure, f"{title}: ESVs of the true class {by}")
    return figure


def _lengths(ax: Any, lengths: Mapping[str, Any]) -> None:
    n, counts = lengths["n"], lengths["all"]["n_sequences"]
    x, few, many = np.arange(len(n)), min(counts), max(counts)
    points(ax, x, lengths["all"], BLUE, "o", label="all that are long enough")
    if few < many:
        look = {"label": f"the {few} that have {n[-1]}", "lw": 1, "ls": "--", "ms": 4}
        points(ax, x, lengths["same"], GREY, "s", **look)
        ax.legend(loc="best", **style.LEGEND)
    ax.axhline(50, color=style.QUIET, lw=1, ls=(0, (4, 3)))
    ax.set_xticks(x, n)
    name_axes(ax, "elements of the sequence", "elements with an ESV > 0 (%)")
    ax.set_ylim(min(45, 100 * min(lengths["all"]["mean"] + lengths["same"]["mean"]) - 8), 101)
    text = f"(b) {many if few == many else f'{few} to {many}'} sequences"
    ax.set_title(text, loc="left", **style.TEXT)


def _smoothness(ax: Any, methods: Mapping[str, Any], name: str) -> None:
    for k, (method, found) in enumerate(methods.items()):
        if found[name]["mean"] is not None:
            one = {part: [found[name][part]] for part in PARTS}
            points(ax, [k], one, *_LOOK[method][1:], 1, ms=7)
    labels = [_LOOK[method][0] for method in methods]
    ax.set_xticks(range(len(methods)), labels, rotation=45, ha="right")
    ax.set_xlim(-0.5, len(methods) - 0.5)
    low, high = ax.get_ylim()
    ax.set_ylim(min(0, low), max(1, high) if name == "pearson" else high * 1.05)
    ax.yaxis.get_major_locator().set_params(nbins=6)
    name_axes(ax, "", _MEASURES[name])


if __name__ == "__main__":
    sys.exit(main("fig6", __doc__, measure))
