"""Figure 9: every frame.

Claim of the paper: sampled ESVs of all frames of a video follow the exact ones of 16.

Measured on 12 sequences of more than 16 elements (60 with --full), spread evenly over those of the
three most frequent lengths: ESVs of the true class of all N elements by `Surrogate()`, the default
beyond what exact ESVs can take, and by Algorithm 1 (m = 256, 4 iterations), each with two keys;
exact ESVs of the 16 elements at segment centres. The two are different quantities: among N elements
each stands for less. In the picture the N values are multiplied by N / 16, an ESV per sixteenth of
the sequence. Two correlations with the exact 16, both means over sequences of Pearson's r:

- at the same elements, the 16 of the N values that are of the centres;
- of the N values summed over 16 equal segments, an element that a border cuts counting on both
  sides by its share. What lies between the centres is unknown to the exact values: for comparison,
  exact ESVs of 16 other elements, one drawn from each segment, are correlated with them too.

Width: median of the 95 % intervals of a sequence, relative to its mean |ESV|. Spread: standard
deviation between two keys, in the same units. Gap: |sum of ESVs - (score - prior)|, in units of
the score. In the picture: the sequences of the highest, the median and the lowest correlation of
sums.

Expected: mean correlations of at least 0.9. Sequences of at most 16 elements are
explained exactly; where there are no others the figure shows three of these and compares nothing.

Settings that matter: --full, --seed (of both keys, and of the other elements).

    python -m experiments.play_fair.fig9
    python -m experiments.play_fair.fig9 --subject japanese-vowels
    python -m experiments.play_fair.fig9 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import xarray

import esv_jax as ej
from experiments.play_fair.fig9.curves import (
    Curve,
    chosen_rows,
    correlation,
    measured_curves,
    spread,
    whole_curves,
    width,
)
from experiments.play_fair.fig9.picture import draw_curves
from experiments.play_fair.fig9.words import findings, not_measured, table
from experiments.play_fair.figure import Outcome, Settings
from experiments.play_fair.subjects import Subject

ESTIMATORS = {
    "Surrogate(1024)": ej.Surrogate(pool=1024),  # the default
    "Algorithm 1 (256 x 4)": ej.Constructive(max_subsequences=256, iterations=4),
}
_N = 16
_REDUCED, _FULL = 12, 60  # sequences


def measure(subject: Subject, settings: Settings) -> Outcome:
    """The curves of one subject."""
    return measure_with(subject, settings, ESTIMATORS, _N)


def measure_with(
    subject: Subject, settings: Settings, estimators: dict[str, Any], n: int
) -> Outcome:
    """As `measure`, with given estimators (the first leads) and n elements at segment centres."""
    rows = chosen_rows(subject.lengths, n, _FULL if settings.full else _REDUCED)
    if not len(rows):
        return _only_exact(subject, n)
    curves = measured_curves(subject, rows, n, estimators, settings.seed)
    by_sequence = _by_sequence(curves, list(estimators))
    numbers = {
        "n": n,
        "n_sequences": len(curves),
        "lengths": sorted({curve.size for curve in curves}),
        "uids": [subject.uids[curve.row] for curve in curves],
        "other_elements": _mean(by_sequence["other"], settings),
        "estimators": {name: _summary(curves, by_sequence, name, settings) for name in estimators},
    }
    leading = by_sequence[f"{next(iter(estimators))} sums"]
    shown = _shown(leading)
    notes = [f"{text} r of sums, {leading[place]:.2f}" for text, place in shown]
    picture = draw_curves(subject, [curves[place] for _, place in shown], notes)
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
    """What is said of an estimator."""
    sums = np.concatenate([curve.sums(name) for curve in curves])
    exact = np.concatenate([curve.exact for curve in curves])
    lines = [curve.lines[name] for curve in curves]
    return {
        "correlation": _mean(by_sequence[f"{name} sums"], settings),
        "correlation_by_sequence": [_plain(r) for r in by_sequence[f"{name} sums"]],
        "correlation_pooled": _plain(correlation(sums, exact)),
        "correlation_at_centres": _mean(by_sequence[f"{name} centres"], settings),
        "width": _plain(np.median([width(line) for line in lines])),
        "spread": _plain(np.median([spread(line) for line in lines])),
        "gap": _plain(np.median([abs(line.gap) for line in lines])),
        "largest_gap": _plain(max(abs(line.gap) for line in lines)),
    }


def _mean(values: np.ndarray, settings: Settings) -> list[float] | None:
    """Mean over the sequences that have a value, and its 95 % interval; None where none has."""
    if np.isnan(values).all():
        return None
    key = jax.random.key(settings.seed)
    ends = ej.metrics.bootstrap_interval(values, key=key, resamples=settings.n_resamples)
    return [float(np.nanmean(values)), float(ends.low), float(ends.high)]


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shown(correlations: np.ndarray) -> list[tuple[str, int]]:
    """The sequences of the highest, the median and the lowest correlation; each once."""
    order = np.argsort(-correlations, kind="stable")  # NaN last
    order = order[: max(1, int((~np.isnan(correlations)).sum()))]
    places = {"highest": 0, "median": len(order) // 2, "lowest": len(order) - 1}
    once = {place: name for name, place in reversed(places.items())}
    return [(once[place], int(order[place])) for place in sorted(once)]


def _only_exact(subject: Subject, n: int) -> Outcome:
    """Three of the longest sequences explained exactly, where none is longer than n."""
    longest = int(subject.lengths.max())
    rows = np.flatnonzero(subject.lengths == longest)
    rows = rows[ej.data.segment_centres(len(rows), min(3, len(rows)))]
    curves = whole_curves(subject, rows)
    reason = f"no sequence has more than {n} elements: all ESVs are exact"
    numbers = {
        "n": n,
        "n_sequences": 0,
        "lengths": [longest],
        "uids": [subject.uids[i] for i in rows],
        "largest_gap": max(abs(curve.lines["exact"].gap) for curve in curves),
    }
    text = f"Nothing to compare: {reason}. Largest efficiency gap {numbers['largest_gap']:.1e}."
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
