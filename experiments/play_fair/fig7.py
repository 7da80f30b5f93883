"""Figure 7: one class against another, by class-contrastive ESVs.

Claim of the paper: the ESVs of the true class minus those of the predicted class show which frames
cause a confusion: in a wrong prediction some frames still support the true class.

Measured: exact ESVs of all classes, for every sequence that has `n_elements`. The rival of the true
class is the predicted class where the prediction is wrong, else the runner-up. The contrast (n,) is
phi of the true class - phi of the rival; its sum is the difference of their evidential scores.
Elements above 0 support the true class. Half of the elements are dropped, the highest contrast
first, and the model scores the rest; likewise in the order of the true class's ESVs and in a random
one. The first scale of the contrast is the part of single elements: f of each element alone, for
the true class minus for the rival, less the priors, over n. The picture shows the sequences of
least margin, each pair of classes once before any twice.

Agrees: the sums match to 1e-5; more than half of the wrongly predicted sequences (interval) have
elements for both classes, compared for at least 5; the margin falls further than by a random order
(interval); and, for synthetic videos, whose classes come in pairs that are each other reversed in
time, single elements contribute at most 10 % of the contrast with the reversed class.

Settings that matter: n_elements (8); full shows eight sequences instead of four.

    python -m experiments.play_fair.fig7
    python -m experiments.play_fair.fig7 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, NamedTuple

import numpy as np

import esv_jax as ej
from esv_jax.plots import style
from experiments.drawing import band, name_axes
from experiments.harness import NOTHING, Finding, above, finding, markdown
from experiments.play_fair.examples import (
    Panel,
    Row,
    Standing,
    called,
    common_limits,
    contested,
    draw_panels,
    standing,
)
from experiments.play_fair.figure import Outcome, Settings, main, stored
from experiments.play_fair.methods import values
from experiments.play_fair.subjects import Elements, Subject, explain_exactly, of_class
from experiments.statistics import PARTS, mean_of, written

FEWEST = 5  # wrong predictions that are compared
EXACT = 1e-5  # gap of a sum
LITTLE, HALF = 0.1, 0.5  # shares of the contrast, and of the sequences
_COMMON = 5  # confused pairs that are listed
_LINES = {
    "contrast": ("contrast, true class - rival", style.SUPPORTING, "o", "-"),
    "true": ("ESV of the true class", style.INK, "s", "--"),
    "rival": ("ESV of the rival", style.DISTRACTING, "v", "--"),
    "alone": ("part of the contrast\nfrom single elements", style.QUIET, "d", ":"),
}


class Contrasts(NamedTuple):
    """Class-contrastive ESVs of V sequences.

    Attributes:
      of_true, of_rival: (V, n) ESVs of the true class and of its rival. contrast: their difference.
      evidence_true, evidence_rival: (V,) evidential scores.
    """

    of_true: np.ndarray
    of_rival: np.ndarray
    contrast: np.ndarray
    evidence_true: np.ndarray
    evidence_rival: np.ndarray


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Contrasts of all sequences, margins with half of the elements, and examples."""
    elements = subject.at_centres(settings.n_elements)
    found, contrasts = contrast(subject, elements)
    of_contrast, right = contrasts.contrast, found.right
    v, n = of_contrast.shape
    groups = {"right": right, "wrong": ~right}
    partner = reverse_of(subject.class_names)
    reverse = np.zeros(v, bool) if partner is None else found.rivals == partner[elements.labels]
    # The part of the contrast from single elements.
    of_rival = dataclasses.replace(elements, labels=found.rivals)
    single = [values("leave-one-in", subject, e, settings.seed) for e in (elements, of_rival)]
    alone = (single[0] - single[1]) / n
    lines = {
        "contrast": of_contrast,
        "true": contrasts.of_true,
        "rival": contrasts.of_rival,
        "alone": alone,
    }
    positions = {name: mean_of(x, settings) for name, x in lines.items()}
    rows = contested(found, elements.labels, 8 if settings.full else 4)
    numbers = {
        "n_sequences": v,
        "n_left_out": len(subject.sequences) - v,  # fewer elements
        "n_elements": n,
        "n_wrong": int((~right).sum()),
        "sum_gap": sum_gap(contrasts),
        "for_true": {k: mean_of((of_contrast[g] > 0).mean(1), settings) for k, g in groups.items()},
        "divided": {k: mean_of(divided(of_contrast[g]), settings) for k, g in groups.items()},
        "margins": margins_after_half(subject, elements, found, contrasts, settings),
        "reverse": None if partner is None else mean_of(reverse, settings),
        "single": parts(of_contrast, alone, settings),
        "single_reverse": parts(of_contrast[reverse], alone[reverse], settings),
        "positions": {name: {part: x[part] for part in PARTS} for name, x in positions.items()},
        "confused": _confused(subject, elements, found),
        "shown": [{"uid": elements.uids[row], "right": bool(right[row])} for row in rows],
    }
    pictures = {
        "examples": plot_examples(subject, elements, contrasts, found, rows),
        "positions": plot_positions(subject.title, numbers["positions"]),
    }
    each, per_video = ("video", "element"), ("video",)
    arrays = {
        "contrast": (each, of_contrast),
        "esv_true": (each, contrasts.of_true),
        "esv_rival": (each, contrasts.of_rival),
        "alone": (each, alone),
        "rival": (per_video, found.rivals),
        "margin": (per_video, found.margins),
    }
    store = stored(elements, arrays).assign_attrs(class_names=list(subject.class_names))
    return Outcome(numbers, _table(numbers), findings(numbers), pictures, store)


def contrast(subject: Subject, elements: Elements) -> tuple[Standing, Contrasts]:
    """Standings and contrasts."""
    esv, scores = explain_exactly(subject.game, subject.trn.prior, elements)
    found = standing(scores, elements.labels)
    rows, a, b = np.arange(len(scores)), elements.labels, found.rivals
    of_true, of_rival = of_class(esv, a), of_class(esv, b)
    evidence = scores - np.asarray(subject.trn.prior, float)[None]
    contrasts = (of_true, of_rival, of_true - of_rival, evidence[rows, a], evidence[rows, b])
    return found, Contrasts(*contrasts)


def sum_gap(contrasts: Contrasts) -> float:
    """Largest difference of a contrast's sum from that of the evidential scores."""
    evidence = contrasts.evidence_true - contrasts.evidence_rival
    return float(np.abs(contrasts.contrast.sum(1) - evidence).max())


def divided(contrast: np.ndarray) -> np.ndarray:
    """True where some elements of (V, n) support the true class and others its rival."""
    return (contrast > 0).any(1) & (contrast < 0).any(1)


def reverse_of(class_names: tuple[str, ...]) -> np.ndarray | None:
    """Index (C,) of each synthetic class's reversal in time; None for other classes."""
    if tuple(class_names) != tuple(ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES):
        return None
    return np.arange(len(class_names)) ^ 1  # the second of a pair is the first run backwards


def parts(contrast: np.ndarray, alone: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means over sequences of the contrast and of its part from single elements."""
    return {
        "n_sequences": len(contrast),
        "contrast": mean_of(contrast.sum(1), settings),
        "alone": mean_of(alone.sum(1), settings),
    }


def margins_after_half(
    subject: Subject, elements: Elements, found: Standing, contrasts: Contrasts, settings: Settings
) -> dict[str, Any] | None:
    """Margins of the true class over its rival with half of the elements dropped, by three orders.

    "gain" is the paired difference to a random order, positive where the margin falls further.
    None for sequences of one element.
    """
    v, n = elements.index.shape
    if n < 2:
        return None
    orders = {
        "contrast": contrasts.contrast,
        "ESV of the true class": contrasts.of_true,
        "random": np.random.default_rng(settings.seed).random((v, n)),
    }
    left = {}
    for name, order in orders.items():
        true, rival = (
            ej.metrics.discard_curve(
                subject.game,
                elements.xs,
                order,
                labels,
                prior=subject.trn.prior,
                order="descending",
            ).scores[:, n // 2]
            for labels in (elements.labels, found.rivals)
        )
        left[name] = true - rival
    return {
        "n_dropped": n // 2,
        "all": mean_of(found.margins, settings),
        **{name: mean_of(margin, settings) for name, margin in left.items()},
        "gain": mean_of(left["random"] - left["contrast"], settings),
        "gain_of_esv": mean_of(left["random"] - left["ESV of the true class"], settings),
    }


def _confused(subject: Subject, elements: Elements, found: Standing) -> list[dict[str, Any]]:
    """The most frequent wrong predictions: true class, predicted class, count."""
    wrong = np.stack([elements.labels, found.rivals], 1)[~found.right]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    names = subject.class_names
    return [
        {"true": names[pairs[k][0]], "predicted": names[pairs[k][1]], "n": int(counts[k])}
        for k in np.argsort(-counts, kind="stable")[:_COMMON]
    ]


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Gap of the sums, sequences with elements for both classes, margins, and direction."""
    gap, n_wrong, margins = numbers["sum_gap"], numbers["n_wrong"], numbers["margins"]
    rows = [Finding("largest gap of the contrast's sum", "0", gap, agrees=gap <= EXACT)]
    both, note = numbers["divided"]["wrong"], f"{n_wrong} wrong predictions"
    if n_wrong < FEWEST:
        both, note = NOTHING, f"{note}, expected at least {FEWEST}"
    text = "wrong predictions with elements for both classes (%)"
    rows.append(finding(text, both, above(both, HALF), "examples", note=note))
    gain, note = NOTHING, "sequences of one element"
    if margins is not None:
        gain, note = margins["gain"], f"margin {margins['all']['mean']:.2f} with all elements"
    text = "further fall of the margin than at random, half dropped by contrast"
    rows.append(finding(text, gain, above(gain), "> 0", scale=1, note=note))
    text = "contrast with the reversed class from single elements"
    single = numbers["single_reverse"]
    if numbers["reverse"] is None:
        return [*rows, Finding(text, note="classes without reversals")]
    if not single["n_sequences"]:
        return [*rows, Finding(text, note="no sequence with the reversed class as rival")]
    note = f"of a contrast of {written(single['contrast'], 1, 2)}"
    return [*rows, finding(text, single["alone"], is_little(single), "about 0", scale=1, note=note)]


def is_little(single: dict[str, Any]) -> bool | None:
    """True where both ends of the part from single elements are at most 10 % of the contrast."""
    if single["alone"]["low"] is None:
        return None
    most = max(abs(single["alone"]["low"]), abs(single["alone"]["high"]))
    return bool(most <= LITTLE * single["contrast"]["low"])


def _table(numbers: dict[str, Any]) -> str:
    n, wrong, margins = (numbers[name] for name in ("n_sequences", "n_wrong", "margins"))
    rows = [("sequences (wrongly predicted)", f"{n} ({wrong})")]
    for name in ("right", "wrong"):
        share, both = numbers["for_true"][name], numbers["divided"][name]
        rows.append((f"elements for the true class, {name} predictions (%)", written(share)))
        rows.append((f"{name} predictions with elements for both classes (%)", written(both)))
    rows.append(("largest gap of the sums", f"{numbers['sum_gap']:.1e}"))
    if margins is not None:
        rows.append(("margin, all elements", written(margins["all"], 1, 3)))
        for name in ("contrast", "ESV of the true class", "random"):
            rows.append((f"margin, half dropped by {name}", written(margins[name], 1, 3)))
    rows.append(("sum of the contrast", written(numbers["single"]["contrast"], 1, 3)))
    rows.append(("part from single elements", written(numbers["single"]["alone"], 1, 3)))
    if numbers["reverse"] is not None:
        text = "sequences with the reversed class as rival (%)"
        rows.append((text, written(numbers["reverse"])))
    for pair in numbers["confused"]:
        rows.append((f"{pair['true']}, predicted {pair['predicted']}", str(pair["n"])))
    return markdown(("", "measured"), rows)


def plot_examples(
    subject: Subject, elements: Elements, contrasts: Contrasts, found: Standing, rows: list[int]
) -> Any:
    """Frames of each sequence above ESVs of both classes and the contrast, on one axis."""
    names, panels = subject.class_names, []
    for row in rows:
        right = found.right[row]
        true, rival = (called(names[c[row]]) for c in (elements.labels, found.rivals))
        kind, other = ("Right", "runner-up") if right else ("Wrong", "predicted")
        of_true, of_rival = contrasts.evidence_true[row], contrasts.evidence_rival[row]
        minus = f"{of_rival:.3f}" if of_rival >= 0 else f"({of_rival:.3f})"
        share = (contrasts.contrast[row] > 0).sum()
        lines = [
            f"{other} {rival}; {elements.uids[row]}",
            f"evidential scores {of_true:.3f} - {minus} = {of_true - of_rival:.3f};"
            f" {share} of {len(elements.index[row])} for the true class",
        ]
        values = {
            "ESV of the\ntrue class": contrasts.of_true[row],
            f"ESV of the\n{other}{'' if right else ' class'}": contrasts.of_rival[row],
            "contrast": contrasts.contrast[row],
        }
        limits = common_limits(list(values.values()))
        bars = [Row(name, x, limits) for name, x in values.items()]
        panels.append(Panel(row, f"{kind}: {true}", lines, bars))
    n_right, n_wrong = int(found.right[rows].sum()), int((~found.right).sum())
    shown = len(rows) - n_right
    parts = [f"most confident wrong predictions ({shown} of {n_wrong})"] if shown else []
    parts += [f"least confident right ones ({n_right})"] if n_right else []
    title = f"{subject.title}: {', '.join(parts)}; values are probabilities"
    meanings = ("supporting; in the contrast, for the true class", "distracting; for the rival")
    return draw_panels(subject, elements, panels, title, meanings)


def plot_positions(title: str, positions: dict[str, dict[str, list[float]]]) -> Any:
    """Means over all sequences at each position, with intervals."""
    figure = style.new_figure(6.4, 3.4)
    ax = figure.subplots()
    n = len(positions["contrast"]["mean"])
    for name, (label, colour, marker, line) in _LINES.items():
        band(ax, positions[name], colour, marker, 1, label=label, ls=line)
    ax.axhline(0, color=style.INK, linewidth=0.8)
    ax.set_xticks(range(0, n, -(-n // 20)))
    name_axes(ax, f"element at a segment centre, of {n}", "mean over sequences (probability)")
    text = f"{title}: one class against its rival; shaded: 95 % intervals"
    ax.set_title(text, loc="left", fontsize=style.TITLE_SIZE, color=style.INK)
    figure.legend(loc="outside right center", **style.LEGEND)
    return figure


if __name__ == "__main__":
    sys.exit(main("fig7", __doc__, measure))
