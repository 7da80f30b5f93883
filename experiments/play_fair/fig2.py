"""Figure 2: ESV, Integrated Gradients and Grad-CAM on the same sequences.

Claim of the paper: the three methods often disagree about the frames that support the true class.
The paper shows examples without a number; the threshold below is ours.

Measured: attributions of the true class by each method, for every sequence that has `n_elements`.
Agreement of two methods on a sequence is Pearson's r over its elements. The table has its mean, the
share of sequences with r < 0.5, and how often both methods have the same highest element. ESVs and
Integrated Gradients explain the probability, Grad-CAM the logit; "ESV of the logit" shows the part
of a difference that comes from this alone. The picture shows sequences selected by rule: right
predictions of the greatest, median and least margin, and the most confident wrong one.

Agrees: the interval of the share of sequences with r < 0.5 lies above 25 %. Expected: strong
agreement on synthetic videos, disagreement where all elements carry some evidence.

Settings that matter: n_elements (8); full adds gradient x input, leave-one-out and leave-one-in.

    python -m experiments.play_fair.fig2
    python -m experiments.play_fair.fig2 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import sys
from itertools import combinations
from typing import Any

import numpy as np

import esv_jax as ej
from experiments.harness import Finding, above, finding, markdown
from experiments.play_fair import examples
from experiments.play_fair.figure import Outcome, Settings, main, stored
from experiments.play_fair.methods import all_values
from experiments.play_fair.subjects import Elements, Subject, explain_exactly, of_class
from experiments.statistics import Mean, mean_of, written

SHOWN = ("ESV", "Integrated Gradients", "Grad-CAM")
MORE = ("gradient x input", "leave-one-out", "leave-one-in")
OF_LOGIT = "ESV of the logit"
DISAGREE = 0.5  # correlations below it
OFTEN = 0.25  # share of the sequences
_FEWEST = 3  # elements: a correlation over two is 1 or -1
_NAMES = {
    "ESV": "ESV\n(probability)",
    "Integrated Gradients": "Integrated\nGradients, IG\n(prob./feature)",
    "Grad-CAM": "Grad-CAM\n(logit)",
}


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Agreement of each pair of methods over all sequences, with a picture of examples."""
    elements = subject.at_centres(settings.n_elements)
    v, n = elements.index.shape
    esv, scores = explain_exactly(subject.game, subject.trn.prior, elements)
    more = (*SHOWN[1:], *(MORE if settings.full else ()))
    values = {"ESV": of_class(esv, elements.labels)}
    values |= all_values(subject, elements, settings.seed, more)
    # Neither correlations nor the order of elements depend on the prior.
    logits = ej.MultiScale(subject.trn.heads, link="identity")
    esv, _ = explain_exactly(logits, np.zeros(len(subject.class_names), np.float32), elements)
    values[OF_LOGIT] = of_class(esv, elements.labels)
    found = examples.standing(scores, elements.labels)
    r = {f"{a}, {b}": correlations(values[a], values[b]) for a, b in combinations(values, 2)}
    pairs = {
        f"{a}, {b}": compare(values[a], values[b], r[f"{a}, {b}"], settings)
        for a, b in combinations(values, 2)
    }
    shown = examples.typical(found, elements.labels)
    numbers = {
        "n_sequences": v,
        "n_left_out": len(subject.sequences) - v,  # fewer elements
        "n_elements": n,
        "accuracy": float(found.right.mean()),
        "same_top_by_chance": 1 / n,
        "pairs": pairs,
        "shown": [{"rule": rule, "uid": elements.uids[row]} for rule, row in shown],
    }
    arrays = {
        # Not "method": `sel` of xarray has an argument of that name.
        "values": (("attribution", "video", "element"), np.stack(list(values.values()))),
        "pearson": (("pair", "video"), np.stack(list(r.values()))),
        "scores": (("video", "class"), scores),
    }
    coords = {"attribution": list(values), "pair": list(r), "class": list(subject.class_names)}
    return Outcome(
        numbers,
        _table(pairs),
        findings(pairs),
        {"examples": _picture(subject, elements, values, scores, found, shown)},
        stored(elements, arrays, **coords),
    )


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of two methods' values (V, n) on each sequence, (V,).

    NaN where a method gives all elements the same value, and for fewer than 3 elements.
    """
    if a.shape[1] < _FEWEST:
        return np.full(len(a), np.nan)
    return np.asarray(ej.metrics.pearson(a, b), float)


def compare(a: np.ndarray, b: np.ndarray, r: np.ndarray, settings: Settings) -> dict[str, Mean]:
    """Means over sequences: correlation, share below 0.5, same highest and lowest element, sign."""
    every = {
        "r": r,
        "disagree": np.where(np.isnan(r), np.nan, r < DISAGREE),
        "same_top": a.argmax(1) == b.argmax(1),
        "same_bottom": a.argmin(1) == b.argmin(1),
        "same_sign": ((a > 0) == (b > 0)).mean(1),
    }
    return {name: mean_of(x, settings) for name, x in every.items()}


def findings(pairs: dict[str, Any]) -> list[Finding]:
    """Share of sequences on which each pair of the three methods disagrees."""
    rows = []
    for a, b in combinations(SHOWN, 2):
        share = pairs[f"{a}, {b}"]["disagree"]
        few = f"r needs {_FEWEST} elements, and values that differ"
        note = few if share["mean"] is None else ""
        name = f"{a} and {b}: sequences with r < {DISAGREE} (%)"
        rows.append(finding(name, share, above(share, OFTEN), "often", note=note))
    return rows


def _table(pairs: dict[str, Any]) -> str:
    head = ("methods", "r", f"r < {DISAGREE} (%)", "same top (%)", "same bottom (%)")
    shares = ("disagree", "same_top", "same_bottom")
    rows = [
        (name, written(x["r"], 1, 2), *(written(x[share]) for share in shares))
        for name, x in pairs.items()
    ]
    return markdown(head, rows)


def _picture(
    subject: Subject,
    elements: Elements,
    values: dict[str, np.ndarray],
    scores: np.ndarray,
    found: examples.Standing,
    shown: list[tuple[str, int]],
) -> Any:
    """Frames of each sequence above a row of bars per method, each in its own range."""
    names, prior = subject.class_names, np.asarray(subject.trn.prior, float)
    panels = []
    for rule, row in shown:
        c = int(elements.labels[row])
        largest = {name: np.abs(values[name][row]).max() or 1.0 for name in SHOWN}
        scaled = {name: values[name][row] / largest[name] for name in SHOWN}
        limits = examples.common_limits(list(scaled.values()))
        bars = []
        for name, x in scaled.items():
            end = 1 if x.max() >= -x.min() else -1
            ticks = ([0, end], ["0", f"{end * largest[name]:.2g}"])
            bars.append(examples.Row(_NAMES[name], x, limits, ticks))
        rival = f" {examples.called(names[found.rivals[row]])}"
        esv = values["ESV"][row : row + 1]
        ig, cam = (correlations(esv, values[name][row : row + 1])[0] for name in SHOWN[1:])
        score = scores[row, c]
        lines = [
            f"predicted{'' if found.right[row] else rival};"
            f" score {score:.3f} - prior {prior[c]:.3f} = {score - prior[c]:.3f}",
            f"{elements.uids[row]}; r with ESV: IG {ig:.2f}, Grad-CAM {cam:.2f}",
        ]
        panels.append(examples.Panel(row, f"{rule}: {examples.called(names[c])}", lines, bars))
    scaling = "each row scaled to its largest absolute value"
    title = f"{subject.title}: attributions of the true class, {scaling}"
    return examples.draw_panels(subject, elements, panels, title, ("supporting", "distracting"))


if __name__ == "__main__":
    sys.exit(main("fig2", __doc__, measure))
