"""Figure 7: one class against another, by class-contrastive ESVs.

Claim: the ESVs of the true class minus those of the predicted one say which frames made the model
take one class for the other: in a wrong prediction some speak for the true class nonetheless.

How: exact ESVs of all classes, for every sequence that has `n_elements`. The rival of the true
class is the predicted one where the model is wrong, else the runner-up. The contrast (n,) is
phi of the true class - phi of the rival; it adds up to the difference of their evidential scores.
Elements above 0 speak for the true class. Half of the elements are dropped, the highest contrast
first, and the model is asked anew; beside it the order of the true class's own ESVs, and a random
one. The picture shows the sequences of least margin, each pair of classes once before any twice:
the surest wrong ones, and where there are fewer than four, the least sure right ones.

Rules. The sum: reproduced where the largest gap is at most 1e-5, weaker to 1e-3. Divided frames:
both kinds in more than half of the wrongly predicted sequences, reproduced where the interval lies
above, weaker where the mean does; not measured of fewer than 5. Deciding frames: the margin falls
further than by a random order, reproduced where the interval of the paired difference lies above
0, weaker where it holds 0. Direction (of the synthetic videos, whose classes come in pairs that
are each other reversed in time): what single elements bring by themselves is at most 10 % of the
contrast, reproduced; at most half, weaker.

What elements bring by themselves is the contrast's first scale: f of each element alone, for the
true class minus for the rival, less the priors, over n.

Expected: on synthetic videos the runner-up is the true class reversed, and single frames tell
nothing of the direction; elsewhere single elements tell classes apart.

Settings that matter: n_elements (8); full shows eight sequences in place of four.

    python -m experiments.play_fair.fig7
    python -m experiments.play_fair.fig7 --subject japanese-vowels
    python -m experiments.play_fair.fig7 --subject features --features F.hdf --model M.safetensors
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import xarray

import esv_jax as ej
from experiments.play_fair.fig2.examples import Standing, contested, mean_of, standing
from experiments.play_fair.fig7.picture import Contrasts, plot_examples, plot_positions
from experiments.play_fair.fig7.verdicts import findings, text_of
from experiments.play_fair.figure import Outcome, Settings, markdown
from experiments.play_fair.methods import values
from experiments.play_fair.subjects import Elements, Subject, explain_true

_COMMON = 5  # confused pairs that are listed


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Contrasts of all sequences: who speaks for whom, what they decide, and a few of them."""
    elements = subject.at_centres(settings.n_elements)
    found, contrasts, gap = contrast(subject, elements)
    groups = {"right": found.right, "wrong": ~found.right}
    partner = reverse_of(subject.class_names)
    reverse = np.zeros(len(found.right), bool)
    if partner is not None:
        reverse = found.rivals == partner[elements.labels]
    alone = first_scale(subject, elements, found, settings)
    numbers = {
        "n_sequences": len(found.right),
        "n_left_out": len(subject.sequences) - len(found.right),  # of fewer elements
        "n_elements": elements.index.shape[1],
        "n_wrong": int((~found.right).sum()),
        "sum_gap": gap,
        "for_true": {
            name: mean_of((contrasts.contrast[rows] > 0).mean(1), settings)
            for name, rows in groups.items()
        },
        "divided": {
            name: mean_of(divided(contrasts.contrast[rows]), settings)
            for name, rows in groups.items()
        },
        "margins": margins_after_half(subject, elements, found, contrasts, settings),
        "reverse": None if partner is None else mean_of(reverse.astype(float), settings),
        "single": parts(contrasts.contrast, alone, np.ones_like(reverse), settings),
        "single_reverse": parts(contrasts.contrast, alone, reverse, settings),
        "positions": by_position(contrasts, alone, settings),
        "confused": _confused(subject, elements, found),
    }
    rows = contested(found, elements.labels, 8 if settings.full else 4)
    numbers["shown"] = [
        {"uid": subject.uids[int(elements.rows[row])], "right": bool(found.right[row])}
        for row in rows
    ]
    pictures = {
        "examples": plot_examples(subject, elements, contrasts, found, rows),
        "positions": plot_positions(subject.title, numbers["positions"]),
    }
    store = _store(subject, elements, contrasts, found, alone)
    return Outcome(numbers, _table(numbers), findings(numbers), pictures, store)


def contrast(subject: Subject, elements: Elements) -> tuple[Standing, Contrasts, float]:
    """Standings, contrasts, and the largest gap between their sums and what these should be."""
    prior = np.asarray(subject.trn.prior, float)
    esv, scores = explain_true(subject.game, subject.trn.prior, elements)
    found = standing(scores, elements.labels)
    rows, a, b = np.arange(len(scores)), elements.labels, found.rivals
    of_true, of_rival = esv[rows, :, a], esv[rows, :, b]
    evidence = scores - prior[None]
    gap = (of_true - of_rival).sum(1) - (evidence[rows, a] - evidence[rows, b])
    contrasts = Contrasts(
        of_true, of_rival, of_true - of_rival, evidence[rows, a], evidence[rows, b]
    )
    return found, contrasts, float(np.abs(gap).max())


def divided(contrast: np.ndarray) -> np.ndarray:
    """1 where some of the elements (V, n) speak for the true class and others for its rival."""
    return ((contrast > 0).any(1) & (contrast < 0).any(1)).astype(float)


def reverse_of(class_names: tuple[str, ...]) -> np.ndarray | None:
    """(C,) the class that shows each class reversed in time, of the synthetic videos' classes."""
    if tuple(class_names) != tuple(ej.data.SYNTHETIC_VIDEO_CLASSES):
        return None
    return np.arange(len(class_names)) ^ 1  # the second of a pair is the first run backwards


def first_scale(
    subject: Subject, elements: Elements, found: Standing, settings: Settings
) -> np.ndarray:
    """The part of the contrast (V, n) that elements bring by themselves."""
    of_rival = dataclasses.replace(elements, labels=found.rivals)
    alone = [values("leave-one-in", subject, e, settings.seed) for e in (elements, of_rival)]
    return (alone[0] - alone[1]) / elements.index.shape[1]


def parts(
    contrast: np.ndarray, alone: np.ndarray, rows: np.ndarray, settings: Settings
) -> dict[str, Any]:
    """Means over some sequences of the whole contrast and of what single elements bring."""
    rows = rows.astype(bool)
    return {
        "n_sequences": int(rows.sum()),
        "contrast": mean_of(contrast[rows].sum(1), settings),
        "alone": mean_of(alone[rows].sum(1), settings),
    }


def margins_after_half(
    subject: Subject, elements: Elements, found: Standing, contrasts: Contrasts, settings: Settings
) -> dict[str, Any] | None:
    """Margins of the true class over its rival with half of the elements dropped, by three orders.

    None of single elements. "gain" is the paired difference to a random order: how much further
    the margin falls.
    """
    v, n = elements.index.shape
    if n < 2:
        return None
    orders = {
        "contrast": contrasts.contrast,
        "ESV of the true class": contrasts.of_true,
        "random": np.random.default_rng(settings.seed).random((v, n)),
    }
    left = {name: _margins(subject, elements, found, x)[:, n // 2] for name, x in orders.items()}
    return {
        "n_dropped": n // 2,
        "all": mean_of(found.margins, settings),
        **{name: mean_of(margin, settings) for name, margin in left.items()},
        "gain": mean_of(left["random"] - left["contrast"], settings),
        "gain_of_esv": mean_of(left["random"] - left["ESV of the true class"], settings),
    }


def _margins(
    subject: Subject, elements: Elements, found: Standing, order: np.ndarray
) -> np.ndarray:
    """Score of the true class - that of the rival (V, n), the highest of an order dropped first."""
    scores = [
        ej.metrics.discard_curve(
            subject.game,
            elements.xs,
            order,
            labels,
            prior=subject.trn.prior,
            order="descending",
        ).scores
        for labels in (elements.labels, found.rivals)
    ]
    return scores[0] - scores[1]


def by_position(contrasts: Contrasts, alone: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Means with intervals at each of n positions: lists."""
    every = {
        "contrast": contrasts.contrast,
        "true": contrasts.of_true,
        "rival": contrasts.of_rival,
        "alone": alone,
    }
    found = {}
    for name, x in every.items():
        columns = [mean_of(column, settings) for column in x.T]
        found[name] = {key: [c[key] for c in columns if c] for key in ("mean", "low", "high")}
    return found


def _confused(subject: Subject, elements: Elements, found: Standing) -> list[dict[str, Any]]:
    """The commonest wrong predictions: true class, predicted class, how many."""
    wrong = np.stack([elements.labels, found.rivals], 1)[~found.right]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    names = subject.class_names
    return [
        {"true": names[pairs[k][0]], "predicted": names[pairs[k][1]], "n": int(counts[k])}
        for k in np.argsort(-counts, kind="stable")[:_COMMON]
    ]


def _store(
    subject: Subject,
    elements: Elements,
    contrasts: Contrasts,
    found: Standing,
    alone: np.ndarray,
) -> xarray.Dataset:
    each, per_video = ("video", "element"), ("video",)
    return xarray.Dataset(
        {
            "contrast": (each, contrasts.contrast),
            "esv_true": (each, contrasts.of_true),
            "esv_rival": (each, contrasts.of_rival),
            "alone": (each, alone),
            "index": (each, elements.index),
            "label": (per_video, elements.labels),
            "rival": (per_video, found.rivals),
            "margin": (per_video, found.margins),
        },
        coords={"video": [subject.uids[int(row)] for row in elements.rows]},
        attrs={"class_names": list(subject.class_names)},
    )


def _table(numbers: dict[str, Any]) -> str:
    n, wrong = numbers["n_sequences"], numbers["n_wrong"]
    margins = numbers["margins"] or {}
    rows = [("sequences (wrongly predicted)", f"{n} ({wrong})")]
    for name, said in (("right", "right"), ("wrong", "wrong")):
        what = f"elements for the true class, {said} predictions (%)"
        rows.append((what, text_of(numbers["for_true"][name])))
        what = f"elements for both classes, {said} predictions (% of sequences)"
        rows.append((what, text_of(numbers["divided"][name])))
    rows.append(("largest gap of the sums", f"{numbers['sum_gap']:.1e}"))
    for name in ("all", "contrast", "ESV of the true class", "random"):
        what = "margin, all elements" if name == "all" else f"margin, half dropped by {name}"
        rows.append((what, text_of(margins.get(name), 1, 3)))
    single = numbers["single"]
    rows.append(("sum of the contrast", text_of(single["contrast"], 1, 3)))
    rows.append(("of it, single elements", text_of(single["alone"], 1, 3)))
    if numbers["reverse"] is not None:
        what = "rival is the true class reversed (% of sequences)"
        rows.append((what, text_of(numbers["reverse"])))
    for pair in numbers["confused"]:
        rows.append((f"{pair['true']}, taken for {pair['predicted']}", str(pair["n"])))
    return markdown(("", "measured"), rows)
