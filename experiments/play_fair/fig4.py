"""Figure 4: number of supporting elements, and positions of the extreme ones.

Claims of the paper: about half of 8 frames do not support the true class; right predictions have
more supporting frames than wrong ones; TSN and TRN differ; the first and last frames matter most to
TRN, and TSN has less of a preference.

Measured on exact ESVs of `n_elements` elements at segment centres, of the multi-scale model (TRN)
and of an average consensus (TSN) where there is one. (a) Share of elements with an ESV > 0 for the
true class, of right and wrong predictions; of wrong ones also for the predicted class. (b) Share of
sequences whose highest, or lowest, ESV for the true class lies at each position, with binomial
intervals; 1/n everywhere without preference. A model's preference is the distance of these shares
from 1/n: half the sum of absolute differences, averaged over the highest and the lowest.

Agrees: 40 to 60 % of TRN's elements do not support; the interval of a difference lies above 0 (of
TRN - TSN: excludes 0 and is not within 2 points of it); the interval of the share at either end
lies above 2/n. Groups of fewer than 5 sequences are not compared. In clips of the synthetic subject
the event lies anywhere, most often in the middle. `--full` changes nothing.

    python -m experiments.play_fair.fig4
    python -m experiments.play_fair.fig4 --subject japanese-vowels
    python -m experiments.play_fair.fig4 --subject features --features F.hdf \\
        --model M.safetensors --tsn T.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray

import esv_jax as ej
from esv_jax.metrics.statistics import support_statistics
from esv_jax.plots import style
from esv_jax.plots.style import new_figure
from experiments.harness import Finding, above, finding, markdown
from experiments.play_fair.figure import Outcome, Settings, main
from experiments.play_fair.subjects import Elements, Subject, explain_exactly, of_class
from experiments.statistics import (
    Mean,
    mean_of,
    plain,
    resampled_means,
    wilson,
    with_interval,
    written,
)

GROUPS = ("all", "right", "wrong", "wrong, predicted class")
EXTREMES = {"supporting": "most supporting", "distracting": "most distracting"}
LEAST = 5  # sequences of a group that is compared
ALIKE = 0.02  # shares that differ by less are equal

# Of Okabe & Ito (2008), each with its own marker.
_MODELS = {"TRN": ("#0072B2", "o"), "TSN": ("#D55E00", "s")}
_LOOK = {
    "right": ("right predictions, true class", "#0072B2", "o"),
    "wrong": ("wrong predictions, true class", "#D55E00", "v"),
    "wrong, predicted class": ("wrong predictions, predicted class", "#CC79A7", "D"),
}


class Explained(NamedTuple):
    """ESVs and predictions of a model for V sequences of n elements.

    Attributes:
      esv: (V, n) of the true class. esv_predicted: (V, n) of the predicted class.
      predicted: (V,) classes. right: (V,) bool.
    """

    esv: np.ndarray
    esv_predicted: np.ndarray
    predicted: np.ndarray
    right: np.ndarray


def measure(subject: Subject, settings: Settings) -> Outcome:
    """Supporting elements and positions of both models, with their differences."""
    elements = subject.at_centres(settings.n_elements)
    models = {"TRN": explained(subject.game, subject.trn.prior, elements)}
    if subject.tsn_game is not None:
        models["TSN"] = explained(subject.tsn_game, subject.tsn.prior, elements)
    numbers: dict[str, Any] = {
        "n_elements": settings.n_elements,
        "n_sequences": len(elements.rows),
        "models": {name: statistics_of(model, settings) for name, model in models.items()},
    }
    if "TSN" in models:
        numbers["TRN - TSN"] = differences(models["TRN"], models["TSN"], settings)
    return Outcome(
        numbers,
        _table(numbers),
        findings(numbers),
        {
            "supporting": plot_supporting(models, numbers, subject.title),
            "positions": plot_positions(numbers, subject.title),
        },
        _store(models, elements, subject),
    )


def explained(game: Any, prior: np.ndarray, elements: Elements) -> Explained:
    """Exact ESVs and the prediction of each sequence."""
    esv, scores = explain_exactly(game, prior, elements)
    predicted = scores.argmax(1)
    right = predicted == elements.labels
    return Explained(of_class(esv, elements.labels), of_class(esv, predicted), predicted, right)


def statistics_of(model: Explained, settings: Settings) -> dict[str, Any]:
    """Shares of supporting elements by group, and shares of sequences by position."""
    true, predicted = (support_statistics(esv) for esv in (model.esv, model.esv_predicted))
    found: dict[str, Any] = {"accuracy": mean_of(model.right, settings), "groups": {}}
    members = np.ones(len(model.right), bool), model.right, ~model.right, ~model.right
    for group, member in zip(GROUPS, members, strict=True):
        statistics = predicted if group.endswith("class") else true
        found["groups"][group] = {
            name: mean_of(np.where(member, getattr(statistics, name), np.nan), settings)
            for name in ("supporting", "support", "distraction")
        }
    shares = (
        np.where(model.right, true.supporting, np.nan),
        np.where(model.right, np.nan, true.supporting),
    )
    means = resampled_means(np.stack(shares, axis=1), settings)
    gap = [found["groups"][group]["supporting"]["mean"] for group in ("right", "wrong")]
    gap_mean = np.nan if None in gap else gap[0] - gap[1]
    found["right - wrong"] = with_interval(gap_mean, means[:, 0] - means[:, 1])
    found["n_right"], found["n_wrong"] = int(model.right.sum()), int((~model.right).sum())
    return found | _positions(model.esv, settings)


def differences(trn: Explained, tsn: Explained, settings: Settings) -> dict[str, Any]:
    """TRN - TSN on the same sequences: supporting shares, and preference of positions."""
    share = (trn.esv > 0).mean(1) - (tsn.esv > 0).mean(1)
    both = trn.right & tsn.right
    draws = [preference(resampled_means(extremes(model.esv), settings)) for model in (trn, tsn)]
    value = [preference(extremes(model.esv).mean(0)) for model in (trn, tsn)]
    return {
        "supporting, all": mean_of(share, settings),
        "supporting, both right": mean_of(np.where(both, share, np.nan), settings),
        "n_both_right": int(both.sum()),
        "preference": with_interval(value[0] - value[1], draws[0] - draws[1]),
    }


def extremes(esv: np.ndarray) -> np.ndarray:
    """Indicators of the highest and the lowest value, (V, 2, n); ties share 1."""
    high = esv == esv.max(1, keepdims=True)
    low = esv == esv.min(1, keepdims=True)
    return np.stack([high / high.sum(1, keepdims=True), low / low.sum(1, keepdims=True)], axis=1)


def preference(shares: np.ndarray) -> np.ndarray:
    """Distance of shares (..., 2, n) from 1/n: 0 without preference, at most 1 - 1/n."""
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
    found["preference"] = with_interval(preference(where.mean(0)), draws)
    found["preference"]["of none"] = _preference_of_none(v, n, settings)
    return found


def _preference_of_none(v: int, n: int, settings: Settings) -> float:
    """Mean of `preference` where all positions are equally likely."""
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


def _store(models: dict[str, Explained], elements: Elements, subject: Subject) -> xarray.Dataset:
    def stacked(field: str) -> np.ndarray:
        return np.stack([getattr(model, field) for model in models.values()])

    each = ("model", "video", "element")
    return xarray.Dataset(
        {
            "esv": (each, stacked("esv")),
            "esv_predicted": (each, stacked("esv_predicted")),
            "predicted": (each[:2], stacked("predicted")),
            "label": (("video",), elements.labels),
            "index": (each[1:], elements.index),
        },
        coords={"model": list(models), "video": [subject.uids[i] for i in elements.rows]},
    )


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Shares and differences beside the paper's; those of TSN where there is one."""
    models, between, n = numbers["models"], numbers.get("TRN - TSN"), numbers["n_elements"]
    rows = []
    for name, model in models.items():
        share = _not_supporting(model)
        agrees = abs(share["mean"] - 0.5) <= 0.1 if name == "TRN" else None
        text = f"elements that do not support the true class, {name} (%)"
        rows.append(finding(text, share, agrees, "about 50"))
    for name, model in models.items():
        text = f"supporting elements, right - wrong predictions, {name} (points)"
        counts = {group: model[f"n_{group}"] for group in ("right", "wrong")}
        gap, few = model["right - wrong"], [g for g, count in counts.items() if count < LEAST]
        if few:
            rows.append(Finding(text, "> 0", note=f"fewer than {LEAST} {few[0]} predictions"))
        else:
            note = f"{counts['right']} right, {counts['wrong']} wrong"
            rows.append(finding(text, gap, above(gap), "> 0", note=note))
    text = "supporting elements, TRN - TSN, both right (points)"
    if between is None:
        rows.append(Finding(text, "differ", note="no TSN"))
    elif between["n_both_right"] < LEAST:
        rows.append(Finding(text, "differ", note=f"fewer than {LEAST} sequences both right"))
    else:
        gap = between["supporting, both right"]
        note = f"{between['n_both_right']} sequences"
        rows.append(finding(text, gap, models_differ(gap), "differ", note=note))
    for extreme, meaning in EXTREMES.items():
        text = f"sequences with the {meaning} element at either end, TRN (%)"
        if n <= 2:
            rows.append(Finding(text, note="expected at least 3 elements"))
        else:
            share = models["TRN"]["ends"][extreme]
            rows.append(finding(text, share, above(share, 2 / n), f"> {200 / n:.0f} (chance)"))
    text = "preference of positions, TRN - TSN (points)"
    if between is None:
        return [*rows, Finding(text, "> 0", note="no TSN")]
    gap = between["preference"]
    return [*rows, finding(text, gap, above(gap), "> 0")]


def models_differ(gap: Mean) -> bool:
    """True where the interval excludes 0 and is not within 2 points of it."""
    low, high = gap["low"], gap["high"]
    return bool((low > 0 or high < 0) and not (low >= -ALIKE and high <= ALIKE))


def _not_supporting(model: dict[str, Any]) -> Mean:
    found = model["groups"]["all"]["supporting"]
    ends = {"mean": "mean", "low": "high", "high": "low"}
    return {name: None if found[end] is None else 1 - found[end] for name, end in ends.items()}


def plot_supporting(models: Mapping[str, Explained], numbers: Mapping[str, Any], title: str) -> Any:
    """Histograms of the number of supporting elements by group, with the means above.

    Groups of fewer than 5 sequences are left out.
    """
    n = numbers["n_elements"]
    figure = new_figure(4.6 * len(models) + (1.4 if len(models) == 1 else 0), 4.2)
    axes = figure.subplots(2, len(models), height_ratios=(1, 4), sharex=True, squeeze=False)
    for (top, ax), (name, explained) in zip(axes.T, models.items(), strict=True):
        model = numbers["models"][name]
        members = explained.right, ~explained.right, ~explained.right
        values = explained.esv, explained.esv, explained.esv_predicted
        width = 0.8 / len(_LOOK)
        for k, (group, (_, colour, marker)) in enumerate(_LOOK.items()):
            count = (values[k][members[k]] > 0).sum(1)
            if len(count) < LEAST:
                continue
            share = np.bincount(count, minlength=n + 1) / len(count)
            ax.bar(np.arange(n + 1) + (k - 1) * width, 100 * share, width, color=colour)
            mean = model["groups"][group]["supporting"]
            _point(top, n, mean, 2 - k, colour, marker)
        counts = ", ".join(
            f"{model[f'n_{kind}']} {kind}" + (" (not drawn)" if model[f"n_{kind}"] < LEAST else "")
            for kind in ("right", "wrong")
        )
        top.set_title(f"{name}: {counts}", loc="left", fontsize=style.TITLE_SIZE, color=style.INK)
        top.set_ylim(-0.8, 2.8)
        top.set_yticks([])
        top.axvline(n / 2, color=style.QUIET, lw=0.8, ls=(0, (4, 3)))
        ax.set_xlabel(f"elements of {n} with an ESV > 0", **style.TEXT)
        ax.set_xticks(range(0, n + 1, 1 if n <= 12 else 2))
        style.strip_down(ax)
        style.strip_down(top)
        top.tick_params(length=0)
    axes[0, 0].set_ylabel("mean", **style.TEXT)
    axes[1, 0].set_ylabel("share of the predictions (%)", **style.TEXT)
    highest = max(ax.get_ylim()[1] for ax in axes[1])
    for ax in axes[1]:
        ax.set_ylim(0, highest)
    handles = [
        axes[0, 0].plot([], [], color=colour, marker=marker, lw=0, ms=6, label=label)[0]
        for label, colour, marker in _LOOK.values()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        **style.LEGEND,
        handletextpad=0.2,
        columnspacing=1.5,
    )
    style.head(figure, f"{title}: elements that support a class, and their mean with 95 % interval")
    return figure


def plot_positions(numbers: Mapping[str, Any], title: str) -> Any:
    """Share of sequences with an extreme at each position, with intervals and chance."""
    n = numbers["n_elements"]
    figure = new_figure(9.2, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    models = numbers["models"]
    for ax, (extreme, label) in zip(axes, EXTREMES.items(), strict=True):
        ax.axhline(100 / n, color=style.QUIET, lw=1, ls=(0, (4, 3)), label=f"chance, 1/{n}")
        for k, (name, model) in enumerate(models.items()):
            colour, marker = _MODELS[name]
            found = {key: 100 * np.array(v) for key, v in model["positions"][extreme].items()}
            shift = 0 if len(models) == 1 else 0.2 * k - 0.1
            ax.errorbar(
                np.arange(1, n + 1) + shift,
                found["mean"],
                np.maximum([found["mean"] - found["low"], found["high"] - found["mean"]], 0),
                color=colour,
                marker=marker,
                ms=5.5,
                lw=1.2,
                elinewidth=1.4,
                capsize=2.5,
                label=name,
            )
        ax.set_xlabel(f"position of the {label} element, of {n}", **style.TEXT)
        ax.set_xticks(range(1, n + 1))
        style.strip_down(ax)
    axes[0].set_ylabel("share of the sequences (%)", **style.TEXT)
    axes[0].set_ylim(bottom=0)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        **style.LEGEND,
    )
    count = numbers["n_sequences"]
    style.head(figure, f"{title}: positions of the extremes in {count} sequences, 95 % intervals")
    return figure


def _point(ax: Any, n: int, mean: dict[str, Any], y: int, colour: str, marker: str) -> None:
    """A mean share with its interval, on the axis of counts."""
    low, middle, high = (n * mean[key] for key in ("low", "mean", "high"))
    ax.errorbar(
        middle,
        y,
        xerr=[[middle - low], [high - middle]],
        color=colour,
        marker=marker,
        ms=6,
        capsize=2.5,
        elinewidth=1.4,
    )


if __name__ == "__main__":
    sys.exit(main("fig4", __doc__, measure))
