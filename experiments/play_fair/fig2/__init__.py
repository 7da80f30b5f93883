"""Figure 2: ESV, Integrated Gradients and Grad-CAM on the same sequences.

Claim: the three methods often disagree about which frames speak for the true class. The paper
shows it on examples, without a number; the thresholds below are ours.

How: attributions of the true class by each method, for every sequence that has `n_elements`.
Agreement of two methods on a sequence is the Pearson correlation over its elements; the table has
its mean, the share of sequences below 0.5, and how often both have the same most supporting
element. ESVs and Integrated Gradients are of the probability, Grad-CAM of the logit; "ESV of the
logit" says how much of a difference comes from that alone. The picture shows sequences found by
rule: the surest right one, the one of median sureness, the least sure right one, the surest wrong
one, of different classes where there are any.

A pair "often disagrees" (reproduced) where the interval of the share of sequences with r < 0.5 lies
above 25 %; contradicted where it lies below 5 %; else weaker.

Expected: strong agreement on synthetic videos, where a frame shows the action or does not, and
disagreement in a quarter of the sequences and more where all elements carry some evidence.

Settings that matter: n_elements (8); full adds gradient x input, leave-one-out and leave-one-in.

    python -m experiments.play_fair.fig2
    python -m experiments.play_fair.fig2 --subject japanese-vowels
    python -m experiments.play_fair.fig2 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import xarray

import esv_jax as ej
from experiments.play_fair.fig2.examples import Standing, mean_of, standing, typical
from experiments.play_fair.fig2.panels import Row, called, common_limits, draw_panels, panel_of
from experiments.play_fair.figure import Finding, Outcome, Settings, Verdict, markdown, plus_minus
from experiments.play_fair.methods import all_values
from experiments.play_fair.subjects import Elements, Subject, explain_true

SHOWN = ("ESV", "Integrated Gradients", "Grad-CAM")
MORE = ("gradient x input", "leave-one-out", "leave-one-in")
OF_LOGIT = "ESV of the logit"
DISAGREE = 0.5  # correlations below it
OFTEN, SELDOM = 0.25, 0.05  # shares of the sequences
_FEWEST = 3  # elements: a correlation over two is 1 or -1
_NAMES = {
    "ESV": "ESV\n(probability)",
    "Integrated Gradients": "Integrated\nGradients, IG\n(prob./feature)",
    "Grad-CAM": "Grad-CAM\n(logit)",
}


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Agreement of each pair of methods over all sequences, and a picture of a few."""
    elements = subject.at_centres(settings.n_elements)
    v, n = elements.index.shape
    rows = np.arange(v)
    esv, scores = explain_true(subject.game, subject.trn.prior, elements)
    more = (*SHOWN[1:], *(MORE if settings.full else ()))
    values = {"ESV": esv[rows, :, elements.labels]}
    values |= all_values(subject, elements, settings.seed, more)
    values[OF_LOGIT] = _of_logit(subject, elements)
    found = standing(scores, elements.labels)
    r, pairs = {}, {}
    for a, b in combinations(values, 2):
        name = f"{a}, {b}"
        r[name] = correlations(values[a], values[b])
        pairs[name] = compare(values[a], values[b], r[name], settings)
    shown = typical(found, elements.labels)
    numbers = {
        "n_sequences": v,
        "n_left_out": len(subject.sequences) - v,  # of fewer elements
        "n_elements": n,
        "accuracy": float(found.right.mean()),
        "same_top_by_chance": 1 / n,
        "pairs": pairs,
        "shown": [{"rule": rule, "uid": _uid(subject, elements, row)} for rule, row in shown],
    }
    picture = _picture(subject, elements, values, scores, found, shown)
    store = xarray.Dataset(
        {
            "values": (("attribution", "video", "element"), np.stack(list(values.values()))),
            "pearson": (("pair", "video"), np.stack(list(r.values()))),
            "scores": (("video", "class"), scores),
            "label": (("video",), elements.labels),
            "index": (("video", "element"), elements.index),
        },
        coords={
            "attribution": list(values),  # xarray's sel has an argument called method
            "pair": list(r),
            "video": [_uid(subject, elements, row) for row in rows],
            "class": list(subject.class_names),
        },
    )
    return Outcome(numbers, _table(pairs), findings(pairs, v), {"examples": picture}, store)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of two methods' values (V, n) on each sequence, (V,).

    NaN where a method gives all elements the same value, or where there are fewer than 3.
    """
    if a.shape[1] < _FEWEST:
        return np.full(len(a), np.nan)
    agreement = ej.metrics.method_agreement(a[..., None], b[..., None])
    return np.asarray(agreement.pearson, float)[:, 0]


def compare(
    a: np.ndarray, b: np.ndarray, r: np.ndarray, settings: Settings
) -> dict[str, dict[str, float] | None]:
    """Means over sequences with intervals: correlation, share below 0.5, same top, same bottom."""
    same = {
        "same_top": a.argmax(1) == b.argmax(1),
        "same_bottom": a.argmin(1) == b.argmin(1),
        "same_sign": ((a > 0) == (b > 0)).mean(1),
    }
    below = np.where(np.isnan(r), np.nan, r < DISAGREE)
    every = {"r": r, "disagree": below, **same}
    return {name: mean_of(x.astype(float), settings) for name, x in every.items()}


def findings(pairs: dict[str, Any], n_sequences: int) -> list[Finding]:
    """Whether each pair of the three methods often disagrees; see the rule at the top."""
    rows = []
    for a, b in combinations(SHOWN, 2):
        one = pairs[f"{a}, {b}"]
        finding = f"{a} and {b} often disagree about the frames of the true class"
        if one["r"] is None:
            reason = f"a correlation needs {_FEWEST} elements, and values that differ"
            rows.append(Finding(finding, "examples", "-", "not measured", reason))
            continue
        measured = (
            f"r {_text(one['r'], 1, 2)}; below {DISAGREE} in {_text(one['disagree'])} % of"
            f" {n_sequences} sequences; same most supporting element in"
            f" {_text(one['same_top'])} %"
        )
        why = _why(pairs) if (a, b) == ("ESV", "Grad-CAM") else ""
        rows.append(Finding(finding, "examples", measured, verdict(one["disagree"]), why))
    return rows


def verdict(share: dict[str, float]) -> Verdict:
    """By the interval of the share of sequences on which two methods disagree."""
    if share["low"] > OFTEN:
        return "reproduced"
    return "contradicted" if share["high"] < SELDOM else "weaker"


def _why(pairs: dict[str, Any]) -> str:
    """What is left of Grad-CAM's disagreement with ESVs where both explain the logit."""
    r = pairs[f"Grad-CAM, {OF_LOGIT}"]["r"]
    return "" if r is None else f"Grad-CAM and ESVs of the logit: r {_text(r, 1, 2)}"


def _of_logit(subject: Subject, elements: Elements) -> np.ndarray:
    """ESVs (V, n) of the true class's logit. The prior's part is equal for all elements: left out.

    Correlations and the order of elements do not depend on it; signs do.
    """
    game = ej.MultiScale(subject.trn.heads, link="identity")
    esv, _ = explain_true(game, np.zeros(len(subject.class_names), np.float32), elements)
    return esv[np.arange(len(esv)), :, elements.labels]


def _table(pairs: dict[str, Any]) -> str:
    head = ("methods", "r", f"r < {DISAGREE} (%)", "same top (%)", "same bottom (%)")
    rows = [
        (name, _text(x["r"], 1, 2), *(_text(x[k]) for k in ("disagree", "same_top", "same_bottom")))
        for name, x in pairs.items()
    ]
    return markdown(head, rows)


def _text(x: dict[str, float] | None, scale: float = 100, digits: int = 1) -> str:
    """A mean with its interval, in percent unless told otherwise."""
    return "-" if x is None else plus_minus(*(scale * value for value in x.values()), digits)


def _uid(subject: Subject, elements: Elements, row: int) -> str:
    return subject.uids[int(elements.rows[row])]


def _picture(
    subject: Subject,
    elements: Elements,
    values: dict[str, np.ndarray],
    scores: np.ndarray,
    found: Standing,
    shown: list[tuple[str, int]],
) -> Any:
    """Each sequence's frames, over one row of bars per method, each in its own range."""
    names, prior = subject.class_names, np.asarray(subject.trn.prior, float)
    panels = []
    for rule, row in shown:
        c = int(elements.labels[row])
        largest = {name: np.abs(values[name][row]).max() or 1.0 for name in SHOWN}
        scaled = {name: values[name][row] / largest[name] for name in SHOWN}
        limits = common_limits(list(scaled.values()))
        bars = []
        for name in SHOWN:
            end = 1 if scaled[name].max() >= -scaled[name].min() else -1
            ticks = ([0, end], ["0", f"{end * largest[name]:.2g}"])
            bars.append(Row(_NAMES[name], scaled[name], limits, ticks))
        predicted = c if found.right[row] else int(found.rivals[row])
        said = "predicted so" if found.right[row] else f"predicted {called(names[predicted])}"
        esv = values["ESV"][row : row + 1]
        pair = [correlations(esv, values[name][row : row + 1])[0] for name in SHOWN[1:]]
        score = scores[row, c]
        lines = [
            f"{said}; score {score:.3f} - prior {prior[c]:.3f} = {score - prior[c]:.3f}",
            f"{_uid(subject, elements, row)}; r with ESV: IG {pair[0]:.2f}, Grad-CAM {pair[1]:.2f}",
        ]
        panels.append(panel_of(subject, elements, row, f"{rule}: {called(names[c])}", lines, bars))
    what = "attributions of the true class, each row scaled to its largest absolute value"
    title = f"{subject.title}: {what}"
    return draw_panels(panels, title, ("supporting", "distracting"))
