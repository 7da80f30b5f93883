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
    python -m experiments.play_fair.fig6 --subject japanese-vowels
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
from esv_jax.plots.style import new_figure
from experiments.harness import Finding, below, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main
from experiments.play_fair.methods import all_values
from experiments.play_fair.subjects import Subject, explain_exactly, of_class
from experiments.statistics import (
    at,
    mean_of,
    plain,
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

# Of Okabe & Ito (2008), a marker for each as well.
_FIRST, _SECOND = ("#0072B2", "o"), ("#D55E00", "s")
_LOOK = {
    "ESV": ("ESV", *_FIRST),
    "Integrated Gradients": ("Integrated\nGradients", *_SECOND),
    "Grad-CAM": ("Grad-CAM", "#009E73", "D"),
}
_MEASURES = {"pearson": "Pearson r", "change": "relative change"}


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Trends by scale and length, and smoothness."""
    marginals = true_marginals(subject, settings.n_elements)
    shares = supporting_shares(subject, None if settings.full else _SEQUENCES)
    rows, jitter = jittered(subject, settings, None if settings.full else _MOVED)
    numbers = {
        "n_elements": settings.n_elements,
        "marginals": of_marginals(marginals, settings),
        "lengths": of_lengths(shares, settings),
        "smoothness": of_jitter(jitter, settings.n_elements / subject.lengths[rows], settings),
    }
    return Outcome(
        numbers,
        _table(numbers),
        findings(numbers),
        {"trends": plot_all(numbers, subject.title)},
        _store(subject, marginals, shares, rows, jitter),
    )


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
    taken = _evenly(np.arange(v), most)
    found = np.full((v, len(LENGTHS)), np.nan)
    for k, n in enumerate(tqdm(LENGTHS, desc="lengths", unit="length")):
        rows = taken[subject.lengths[taken] >= n]
        if not len(rows):
            break
        index = np.stack([ej.data.segment_centres(subject.lengths[i], n) for i in rows])
        elements = subject.take(rows, index)
        esv, _ = explain_exactly(subject.game, subject.trn.prior, elements)
        own = of_class(esv, elements.labels)
        found[rows, k] = support_statistics(own).supporting
    return found


def jittered(
    subject: Subject, settings: Settings, most: int | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows (V',) of at most `most` sequences of 2n elements or more, and the methods' smoothness.

    For each method (V', 2): Pearson correlation and change, means over the moves. A sequence whose
    last centre has no element after it is left out.
    """
    n = settings.n_elements
    centres = {
        i: ej.data.segment_centres(subject.lengths[i], n)
        for i in np.flatnonzero(subject.lengths >= 2 * n)
    }
    rows = [i for i, c in centres.items() if c[0] >= 1 and c[-1] + 1 < subject.lengths[i]]
    rows = _evenly(np.array(rows, int), most)
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


def of_marginals(marginals: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means by scale of marginal contributions and of their absolute values."""
    signed, size = marginals.mean(2), np.abs(marginals).mean(2)
    return {
        name: mean_of(values, settings) | {"trend": trend(values, settings)}
        for name, values in (("signed", signed), ("absolute", size))
    }


def of_lengths(shares: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means by length of all sequences, and of those that have the greatest length."""
    known = ~np.isnan(shares).all(0)
    shares = shares[:, known]
    longest = shares[~np.isnan(shares[:, -1])]
    return {
        "n": [n for n, there in zip(LENGTHS, known, strict=True) if there],
        "all": mean_of(shares, settings),
        "same": mean_of(longest, settings) | {"trend": trend(longest, settings)},
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
    found: dict[str, Any] = {"methods": {}, "ESV - other": {}}
    for name, values in finite.items():
        found["methods"][name] = _of_both(values, settings)
        if name != "ESV":
            found["ESV - other"][name] = _of_both(finite["ESV"] - values, settings)
    return found | {"n_sequences": len(shift), "median shift": float(np.median(shift))}


def trend(values: np.ndarray, settings: Settings) -> dict[str, Any] | None:
    """Spearman's rho of means (V, K) with K, last - first, and consecutive differences.

    None for K < 3.
    """
    if values.shape[1] < 3:
        return None
    mean, draws = values.mean(0), resampled_means(values, settings)
    steps = mean_of(np.diff(values, axis=1), settings)
    return {
        "spearman": with_interval(spearman(mean), spearman(draws)),
        "last - first": with_interval(mean[-1] - mean[0], draws[:, -1] - draws[:, 0]),
        "steps": plain(steps),
    }


def spearman(values: np.ndarray) -> np.ndarray:
    """Rank correlation of values (..., K) with 0..K - 1; ties share ranks; NaN where constant."""
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    ties = (values[..., None, :] == values[..., :, None]).sum(-1)
    rank = below + (ties - 1) / 2
    rank = rank - rank.mean(-1, keepdims=True)
    k = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
    norm = np.sqrt((rank**2).sum(-1) * (k**2).sum())
    return np.where(norm > 0, (rank * k).sum(-1) / np.where(norm > 0, norm, 1), np.nan)


def _evenly(rows: np.ndarray, most: int | None) -> np.ndarray:
    """At most `most` of the rows, evenly spaced; None for all."""
    if most is None or len(rows) <= most:
        return rows
    return rows[ej.data.segment_centres(len(rows), most)]


def _of_both(values: np.ndarray, settings: Settings) -> dict[str, Any]:
    found = mean_of(values, settings)
    return {name: at(found, k) for k, name in enumerate(("pearson", "change"))}


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Differences and Spearman's rho of the trends, and smoothness beside the gradients'."""
    n, lengths, marginals = (numbers[name] for name in ("n_elements", "lengths", "marginals"))
    longest, count = lengths["n"][-1], lengths["same"]["n_sequences"][0]
    return [
        *falls("marginal contribution", f"scales 1 to {n}", marginals["signed"], 1),
        *falls("absolute marginal contribution", f"scales 1 to {n}", marginals["absolute"], 1),
        *falls(
            "supporting elements (%)",
            f"1 to {longest} elements, {count} sequences",
            lengths["same"],
            100,
        ),
        *smooth(numbers["smoothness"]),
    ]


def falls(quantity: str, span: str, found: dict[str, Any], scale: float) -> list[Finding]:
    """Last - first mean, and Spearman's rho of the means."""
    names = f"{quantity}, last - first", f"{quantity}, Spearman's rho"
    expected = "< 0", f"<= {STEADY}"
    trend = found["trend"]
    if trend is None:
        pairs = zip(names, expected, strict=True)
        return [Finding(name, bound, note="fewer than 3 points") for name, bound in pairs]
    drop, rho = trend["last - first"], trend["spearman"]
    first, last = (scale * found["mean"][k] for k in (0, -1))
    note = f"{span}: {first:.4g} to {last:.4g}"
    steps = sum(step < 0 for step in trend["steps"]["high"] if step is not None)
    fallen = f"{steps} of {len(found['mean']) - 1} steps fall beyond their interval"
    steady = None if rho["high"] is None else bool(rho["high"] <= STEADY)
    return [
        finding(names[0], drop, below(drop), expected[0], scale=scale, note=note),
        finding(names[1], rho, steady, expected[1], scale=1, note=fallen),
    ]


def smooth(found: dict[str, Any] | None) -> list[Finding]:
    """ESV - each gradient method, in Pearson's r and in relative change."""
    rows = []
    for name in METHODS[1:]:
        for measure, label in _MEASURES.items():
            text = f"moved by one element: {label}, ESV - {name}"
            expected = "> 0" if measure == "pearson" else "<= 0"
            if found is None:
                rows.append(Finding(text, expected, note="no sequence is long enough"))
                continue
            gap = found["ESV - other"][name][measure]
            low = gap["low"]
            agrees = None if low is None else bool((low > 0) == (measure == "pearson"))
            note = f"one element is {100 * found['median shift']:.0f} % of a segment"
            rows.append(finding(text, gap, agrees, expected, scale=1, note=note))
    return rows


def _table(numbers: dict[str, Any]) -> str:
    marginals, lengths, smooth = (numbers[k] for k in ("marginals", "lengths", "smoothness"))
    scales = range(numbers["n_elements"])
    rows = [
        (s + 1, written(at(_means(marginals["signed"]), s), 1, 4))
        + (written(at(_means(marginals["absolute"]), s), 1, 4),)
        for s in scales
    ]
    parts = [markdown(("scale", "marginal contribution", "absolute value"), rows)]
    count = lengths["same"]["n_sequences"][0]
    rows = [
        (n, lengths["all"]["n_sequences"][k], written(at(lengths["all"], k)))
        + (written(at(_means(lengths["same"]), k)),)
        for k, n in enumerate(lengths["n"])
    ]
    same = f"the {count} that have {lengths['n'][-1]} (%)"
    parts.append(markdown(("elements", "sequences", "supporting (%)", same), rows))
    if smooth is not None:
        rows = [
            (name, written(found["pearson"], 1, 3), written(found["change"], 1, 3))
            for name, found in smooth["methods"].items()
        ]
        head = "moved by one", "Pearson", "change"
        parts.append(markdown(head, rows))
        parts.append(f"{smooth['n_sequences']} sequences moved.")
    return "\n\n".join(parts)


def _means(found: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in found.items() if name != "trend"}


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
    if jitter:
        smooth = np.full((len(METHODS), len(subject.sequences), 2), np.nan)
        smooth[:, rows] = np.stack([jitter[name] for name in METHODS])
        fields["smoothness"] = (("attribution", "video", "measure"), smooth)
    coords = {"video": subject.uids, "length": list(LENGTHS), "scale": np.arange(1, n + 1)}
    if jitter:
        coords |= {"attribution": list(METHODS), "measure": ["pearson", "change"]}
    return xarray.Dataset(fields, coords=coords)


def plot_all(numbers: Mapping[str, Any], title: str) -> Any:
    """(a), (b) and, where it was measured, (c), side by side; 95 % intervals over sequences."""
    smooth = numbers["smoothness"]
    widths = (3.4, 3.4) if smooth is None else (3.4, 3.4, 1.7, 1.7)
    figure = new_figure(sum(widths) + 0.6, 3.7)
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    figure.get_layout_engine().set(wspace=0.05)
    _scales(axes[0], numbers)
    _lengths(axes[1], numbers["lengths"])
    if smooth is not None:
        for ax, (name, label) in zip(axes[2:], _MEASURES.items(), strict=True):
            _smoothness(ax, smooth["methods"], name, label)
        text = f"(c) moved by one element: {smooth['n_sequences']} sequences"
        _title(axes[2], text)
    style.head(
        figure, f"{title}: ESVs of the true class by scale, length and shift, 95 % intervals"
    )
    return figure


def _scales(ax: Any, numbers: Mapping[str, Any]) -> None:
    marginals, n = numbers["marginals"], numbers["n_elements"]
    ax.axhline(0, color=style.QUIET, lw=0.8)
    for name, (colour, marker) in (("absolute", _SECOND), ("signed", _FIRST)):
        label = {"signed": "with its sign", "absolute": "absolute value"}[name]
        _line(ax, np.arange(1, n + 1), marginals[name], 1, colour, marker, label)
    ax.set_xticks(range(1, n + 1, 1 if n <= 10 else 2))
    ax.set_xlabel("scale at which an element joins", **style.TEXT)
    ax.set_ylabel("marginal contribution (probability)", **style.TEXT)
    _legend(ax)
    style.strip_down(ax)
    _title(ax, f"(a) {n} elements: {marginals['signed']['n_sequences'][0]} sequences")


def _lengths(ax: Any, lengths: Mapping[str, Any]) -> None:
    n, counts = lengths["n"], lengths["all"]["n_sequences"]
    x = np.arange(len(n))
    if min(counts) < max(counts):
        _line(ax, x, lengths["all"], 100, *_FIRST, "all that are long enough")
        label = f"the {min(counts)} that have {n[-1]}"
        _line(ax, x, lengths["same"], 100, "#6B6B6B", "s", label, lw=1, ls="--", ms=4)
        _legend(ax)
    else:
        _line(ax, x, lengths["all"], 100, *_FIRST, "")
    ax.axhline(50, color=style.QUIET, lw=1, ls=(0, (4, 3)))
    ax.set_xticks(x, n)
    ax.set_xlabel("elements of the sequence", **style.TEXT)
    ax.set_ylabel("elements with an ESV > 0 (%)", **style.TEXT)
    lowest = min(value for value in lengths["all"]["mean"] + lengths["same"]["mean"])
    ax.set_ylim(min(45, 100 * lowest - 8), 101)
    style.strip_down(ax)
    few, many = min(counts), max(counts)
    _title(ax, f"(b) {many if few == many else f'{few} to {many}'} sequences")


def _smoothness(ax: Any, methods: Mapping[str, Any], name: str, label: str) -> None:
    for k, (method, found) in enumerate(methods.items()):
        _, colour, marker = _LOOK[method]
        one = {key: [found[name][key]] for key in ("mean", "low", "high")}
        if one["mean"][0] is not None:
            _line(ax, np.array([k]), one, 1, colour, marker, "", ms=7)
    ax.set_xticks(
        range(len(methods)), [_LOOK[method][0] for method in methods], rotation=45, ha="right"
    )
    ax.set_xlim(-0.5, len(methods) - 0.5)
    low, high = ax.get_ylim()
    ax.set_ylim(min(0, low), max(1, high) if name == "pearson" else high * 1.05)
    ax.set_ylabel(label, **style.TEXT)
    ax.yaxis.get_major_locator().set_params(nbins=6)
    style.strip_down(ax)


def _line(
    ax: Any,
    x: np.ndarray,
    found: Mapping[str, Any],
    scale: float,
    colour: str,
    marker: str,
    label: str,
    **more: Any,
) -> None:
    """Means with their intervals."""
    mean, low, high = (
        scale * np.array(found[key], float) for key in ("mean", "low", "high")
    )  # None becomes NaN
    drawn = {"lw": 1.4, "ms": 5.5, "elinewidth": 1.4, "capsize": 2.5} | more
    ends = np.nan_to_num([mean - low, high - mean])
    ax.errorbar(x, mean, ends, color=colour, marker=marker, label=label, **drawn)


def _legend(ax: Any) -> None:
    ax.legend(loc="best", **style.LEGEND)


def _title(ax: Any, text: str) -> None:
    ax.set_title(text, loc="left", **style.TEXT)


if __name__ == "__main__":
    sys.exit(main("fig6", __doc__, measure))
