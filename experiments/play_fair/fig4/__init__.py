"""How many elements support a class, and where the most supporting and distracting ones lie.

Claims of the paper: about half of 8 frames do not support the true class; right predictions have
more supporting frames than wrong ones; TSN and TRN differ; the first and last frames matter most to
TRN, while TSN has less of a preference.

Measured on exact ESVs of `n_elements` elements at segment centres, of the multi-scale model (TRN)
and, where there is one, of an average consensus (TSN). (a) The share of elements with an ESV > 0
for the true class, of right and wrong predictions apart; for wrong ones also for the class that was
predicted. (b) How often the highest and the lowest ESV for the true class lies at each position,
with binomial intervals; without preference it is 1/n everywhere. A model's preference is the
distance of these shares from 1/n: half the sum of absolute differences, averaged over the highest
and the lowest.

Expected: the claims. Clips of the synthetic subject have their event anywhere, so that no position
is preferred but for the middle, which shows it most often. Groups of fewer than 5 sequences are not
judged. Every sequence that is long enough is used; `--full` changes nothing here.

    python -m experiments.play_fair.fig4
    python -m experiments.play_fair.fig4 --subject japanese-vowels
    python -m experiments.play_fair.fig4 --subject features --features F.hdf \\
        --model M.safetensors --tsn T.safetensors
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray

import esv_jax as ej
from experiments.play_fair.fig4 import findings, picture
from experiments.play_fair.figure import Outcome, Settings, markdown
from experiments.play_fair.numbers import (
    mean_of,
    plain,
    resampled_means,
    wilson,
    with_ends,
    written,
)
from experiments.play_fair.subjects import Elements, Subject, explain_true

GROUPS = ("all", "right", "wrong", "wrong, predicted class")
EXTREMES = {"supporting": "most supporting", "distracting": "most distracting"}


class Answer(NamedTuple):
    """What a model says of V sequences of n elements.

    Attributes:
      esv: (V, n) of the true class. esv_predicted: (V, n) of the class predicted.
      predicted: (V,) classes. right: (V,) bool.
    """

    esv: np.ndarray
    esv_predicted: np.ndarray
    predicted: np.ndarray
    right: np.ndarray


def measure(subject: Subject, settings: Settings) -> Outcome:
    elements = subject.at_centres(settings.n_elements)
    answers = {"TRN": ask(subject.game, subject.trn.prior, elements)}
    if subject.tsn_game is not None:
        answers["TSN"] = ask(subject.tsn_game, subject.tsn.prior, elements)
    numbers: dict[str, Any] = {
        "n_elements": settings.n_elements,
        "n_sequences": len(elements.rows),
        "models": {name: of_model(answer, settings) for name, answer in answers.items()},
    }
    if "TSN" in answers:
        numbers["TRN - TSN"] = differences(answers["TRN"], answers["TSN"], settings)
    return Outcome(
        numbers,
        _table(numbers),
        findings.compare(numbers, subject.name),
        {
            "supporting": picture.plot_supporting(answers, numbers, subject.title),
            "positions": picture.plot_positions(numbers, subject.title),
        },
        _store(answers, elements, subject),
    )


def ask(game: Any, prior: np.ndarray, elements: Elements) -> Answer:
    """Exact ESVs and the prediction of each sequence."""
    esv, scores = explain_true(game, prior, elements)
    rows, predicted = np.arange(len(esv)), scores.argmax(1)
    return Answer(
        esv[rows, :, elements.labels],
        esv[rows, :, predicted],
        predicted,
        predicted == elements.labels,
    )


def of_model(answer: Answer, settings: Settings) -> dict[str, Any]:
    """Shares of supporting elements by group, and shares of sequences by position."""
    true, predicted = (
        ej.metrics.support_statistics(esv) for esv in (answer.esv, answer.esv_predicted)
    )
    found: dict[str, Any] = {"accuracy": mean_of(answer.right, settings), "groups": {}}
    members = np.ones(len(answer.right), bool), answer.right, ~answer.right, ~answer.right
    for group, member in zip(GROUPS, members, strict=True):
        statistics = predicted if group.endswith("class") else true
        found["groups"][group] = {
            name: mean_of(np.where(member, getattr(statistics, name), np.nan), settings)
            for name in ("supporting", "support", "distraction")
        }
    shares = (
        np.where(answer.right, true.supporting, np.nan),
        np.where(answer.right, np.nan, true.supporting),
    )
    means = resampled_means(np.stack(shares, axis=1), settings)
    gap = [found["groups"][group]["supporting"]["mean"] for group in ("right", "wrong")]
    known = None not in gap
    found["right - wrong"] = with_ends(
        gap[0] - gap[1] if known else np.nan, means[:, 0] - means[:, 1]
    )
    found["n_right"], found["n_wrong"] = int(answer.right.sum()), int((~answer.right).sum())
    return found | _positions(answer.esv, settings)


def differences(trn: Answer, tsn: Answer, settings: Settings) -> dict[str, Any]:
    """TRN less TSN on the same sequences: supporting shares, and preference of positions."""
    share = (trn.esv > 0).mean(1) - (tsn.esv > 0).mean(1)
    both = trn.right & tsn.right
    draws = [preference(resampled_means(extremes(answer.esv), settings)) for answer in (trn, tsn)]
    value = [preference(extremes(answer.esv).mean(0)) for answer in (trn, tsn)]
    return {
        "supporting, all": mean_of(share, settings),
        "supporting, both right": mean_of(np.where(both, share, np.nan), settings),
        "n_both_right": int(both.sum()),
        "preference": with_ends(value[0] - value[1], draws[0] - draws[1]),
    }


def extremes(esv: np.ndarray) -> np.ndarray:
    """Where the highest and the lowest value lie, (V, 2, n): 1 there, ties share it."""
    high = esv == esv.max(1, keepdims=True)
    low = esv == esv.min(1, keepdims=True)
    return np.stack([high / high.sum(1, keepdims=True), low / low.sum(1, keepdims=True)], axis=1)


def preference(shares: np.ndarray) -> np.ndarray:
    """Distance of shares (..., 2, n) from 1/n: 0 without preference, 1 - 1/n of one position."""
    return (np.abs(shares - 1 / shares.shape[-1]).sum(-1) / 2).mean(-1)


def _positions(esv: np.ndarray, settings: Settings) -> dict[str, Any]:
    v, n = esv.shape
    overall = ej.metrics.position_statistics(esv).overall
    found: dict[str, Any] = {"positions": {}, "ends": {}}
    ends = sorted({0, n - 1})
    for name in EXTREMES:
        counts = getattr(overall, f"most_{name}")
        low, high = wilson(counts, v)
        found["positions"][name] = plain({"mean": counts / v, "low": low, "high": high})
        at_ends = counts[ends].sum()
        low, high = wilson(at_ends, v)
        found["ends"][name] = plain({"mean": at_ends / v, "low": low, "high": high})
    where = extremes(esv)
    draws = preference(resampled_means(where, settings))
    found["preference"] = with_ends(preference(where.mean(0)), draws)
    found["preference"]["of none"] = _preference_of_none(v, n, settings)
    return found


def _preference_of_none(v: int, n: int, settings: Settings) -> float:
    """What `preference` comes to on average where every position is as likely as another."""
    rng = np.random.default_rng(settings.seed)
    counts = rng.multinomial(v, np.full(n, 1 / n), size=(settings.n_resamples, 2))
    return float(preference(counts / v).mean())


def _table(numbers: dict[str, Any]) -> str:
    rows = [
        (
            name,
            group,
            found["supporting"]["n_sequences"],
            written(found["supporting"]),
            written(found["support"], 1, 3),
            written(found["distraction"], 1, 3),
        )
        for name, model in numbers["models"].items()
        for group, found in model["groups"].items()
    ]
    head = "model", "predictions", "sequences", "supporting (%)", "sum of ESV > 0", "of the others"
    parts = [markdown(head, rows)]
    rows = [
        (name, meaning, *(f"{100 * share:.1f}" for share in model["positions"][extreme]["mean"]))
        for name, model in numbers["models"].items()
        for extreme, meaning in EXTREMES.items()
    ]
    n = numbers["n_elements"]
    head = ("model", "share of sequences (%) by position", *map(str, range(1, n + 1)))
    parts.append(markdown(head, rows))
    parts.append(f"{numbers['n_sequences']} sequences of {n} elements; chance {100 / n:.1f} %.")
    return "\n\n".join(parts)


def _store(answers: dict[str, Answer], elements: Elements, subject: Subject) -> xarray.Dataset:
    def stacked(field: str) -> np.ndarray:
        return np.stack([getattr(answer, field) for answer in answers.values()])

    each = ("model", "video", "element")
    return xarray.Dataset(
        {
            "esv": (each, stacked("esv")),
            "esv_predicted": (each, stacked("esv_predicted")),
            "predicted": (each[:2], stacked("predicted")),
            "label": (("video",), elements.labels),
            "index": (each[1:], elements.index),
        },
        coords={"model": list(answers), "video": [subject.uids[i] for i in elements.rows]},
    )
