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
    python -m experiments.play_fair.fig4 --subject features --features F.hdf \\
        --model M.safetensors --tsn T.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import esv_jax as ej
from esv_jax.metrics.statistics import support_statistics
from esv_jax.plots import style
from experiments.drawing import BLUE, PURPLE, VERMILLION, legend_below, name_axes, points
from experiments.harness import NOTHING, Finding, above, below, finding, markdown, within
from experiments.play_fair.figure import Outcome, Settings, main, stored
from experiments.play_fair.subjects import Elements, Subject, explain_exactly, of_class
from experiments.statistics import (
    ends,
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

_MODELS = {"TRN": (BLUE, "o"), "TSN": (VERMILLION, "s")}
_LOOK = {
    "right": ("right predictions, true class", BLUE, "o"),
    "wrong": ("wrong predictions, true class", VERMILLION, "v"),
    "wrong, predicted class": ("wrong predictions, predicted class", PURPLE, "D"),
}
_DASHED = {"color": style.QUIET, "lw": 1, "ls": (0, (4, 3))}


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

    def group(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """ESVs (V, n) for the class of a group, and its members (V,)."""
        member = ~self.right if name.startswith("wrong") else self.right | (name == "all")
        return self.esv_predicted if name.endswith("class") else self.esv, member


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
    pictures = {
        "supporting": plot_supporting(models, numbers, subject.title),
        "positions": plot_positions(numbers, subject.title),
    }
    dims = ("model", "video", "element")
    arrays = {
        field: (dims[: 2 + field.startswith("esv")], [getattr(m, field) for m in models.values()])
        for field in ("esv", "esv_predicted", "predicted")
    }
    store = stored(elements, arrays, model=list(models))
    return Outcome(numbers, _table(numbers), findings(numbers), pictures, store)


def explained(game: Any, prior: np.ndarray, elements: Elements) -> Explained:
    """Exact ESVs and the prediction of each sequence."""
    esv, scores = explain_exactly(game, prior, elements)
    predicted = scores.argmax(1)
    right = predicted == elements.labels
    return Explained(of_class(esv, elements.labels), of_class(esv, predicted), predicted, right)


def statistics_of(model: Explained, settings: Settings) -> dict[str, Any]:
    """Shares of supporting elements by group, and shares of sequences by position."""
    found: dict[str, Any] = {"accuracy": mean_of(model.right, settings), "groups": {}}
    supporting = {}
    for group in GROUPS:
        esv, member = model.group(group)
        statistics = support_statistics(esv)
        values = {
            name: np.where(member, getattr(statistics, name), np.nan)
            for name in ("supporting", "support", "distraction")
        }
        supporting[group] = values["supporting"]
        found["groups"][group] = {name: mean_of(x, settings) for name, x in values.items()}
    means = resampled_means(np.stack([supporting[g] for g in ("right", "wrong")], 1), settings)
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
    highest_lowest = (esv.max(1, keepdims=True), esv.min(1, keepdims=True))
    found = np.stack([esv == end for end in highest_lowest], axis=1)
    return found / found.sum(2, keepdims=True)


def preference(shares: np.ndarray) -> np.ndarray:
    """Distance of shares (..., 2, n) from 1/n: 0 without preference, at most 1 - 1/n."""
    return (np.abs(shares - 1 / shares.shape[-1]).sum(-1) / 2).mean(-1)


def _positions(esv: np.ndarray, settings: Settings) -> dict[str, Any]:
    """Shares of sequences with an extreme at each position and at either end, and preference."""
    v, n = esv.shape
    overall = ej.metrics.position_statistics(esv)
    counts = {name: getattr(overall, f"most_{name}") for name in EXTREMES}
    where = extremes(esv)
    draws = preference(resampled_means(where, settings))
    # Of sequences whose extremes are equally likely everywhere.
    rng = np.random.default_rng(settings.seed)
    none = rng.multinomial(v, np.full(n, 1 / n), size=(settings.n_resamples, 2)) / v
    return {
        "positions": {name: wilson(count, v) for name, count in counts.items()},
        "ends": {
            name: wilson(count[sorted({0, n - 1})].sum(), v) for name, count in counts.items()
        },
        "preference": with_interval(preference(where.mean(0)), draws)
        | {"of none": float(preference(none).mean())},
    }


def _table(numbers: dict[str, Any]) -> str:
    n, models = numbers["n_elements"], numbers["models"]
    rows = [
        (name, group, found["supporting"]["n_sequences"], written(found["supporting"]))
        + tuple(written(found[part], 1, 3) for part in ("support", "distraction"))
        for name, model in models.items()
        for group, found in model["groups"].items()
    ]
    head = "model", "predictions", "sequences", "supporting (%)", "sum of ESV > 0", "of the others"
    places = [
        (name, meaning, *(f"{100 * share:.1f}" for share in model["positions"][extreme]["mean"]))
        for name, model in models.items()
        for extreme, meaning in EXTREMES.items()
    ]
    numbered = ("model", "share of sequences (%) by position", *map(str, range(1, n + 1)))
    count = f"{numbers['n_sequences']} sequences of {n} elements; chance {100 / n:.1f} %."
    return "\n\n".join([markdown(head, rows), markdown(numbered, places), count])


def findings(numbers: dict[str, Any]) -> list[Finding]:
    """Shares and differences beside the paper's; those of TSN where there is one."""
    models, between, n = numbers["models"], numbers.get("TRN - TSN"), numbers["n_elements"]
    rows = []
    for name, model in models.items():
        mean, low, high = 1 - ends(model["groups"]["all"]["supporting"], 1)
        share = plain({"mean": mean, "low": high, "high": low})
        agrees = bool(abs(mean - 0.5) <= 0.1) if name == "TRN" else None
        text = f"elements that do not support the true class, {name} (%)"
        rows.append(finding(text, share, agrees, "about 50"))
    for name, model in models.items():
        text = f"supporting elements, right - wrong predictions, {name} (points)"
        gap, note = model["right - wrong"], f"{model['n_right']} right, {model['n_wrong']} wrong"
        for group in ("wrong", "right"):
            if model[f"n_{group}"] < LEAST:
                gap, note = NOTHING, f"fewer than {LEAST} {group} predictions"
        rows.append(finding(text, gap, above(gap), "> 0", note=note))
    gap, note = NOTHING, "no TSN"
    if between is not None:
        gap, note = between["supporting, both right"], f"{between['n_both_right']} sequences"
        if between["n_both_right"] < LEAST:
            gap, note = NOTHING, f"fewer than {LEAST} sequences both right"
    differ = (above(gap) or below(gap)) and not within(gap, -ALIKE, ALIKE)
    text = "supporting elements, TRN - TSN, both right (points)"
    rows.append(finding(text, gap, differ, "differ", note=note))
    for extreme, meaning in EXTREMES.items():
        text = f"sequences with the {meaning} element at either end, TRN (%)"
        share, expected, note = models["TRN"]["ends"][extreme], f"> {200 / n:.0f} (chance)", ""
        if n <= 2:
            share, expected, note = NOTHING, "", "expected at least 3 elements"
        rows.append(finding(text, share, above(share, 2 / n), expected, note=note))
    gap, note = (NOTHING, "no TSN") if between is None else (between["preference"], "")
    text = "preference of positions, TRN - TSN (points)"
    return [*rows, finding(text, gap, above(gap), "> 0", note=note)]


def plot_supporting(models: Mapping[str, Explained], numbers: Mapping[str, Any], title: str) -> Any:
    """Histograms of the number of supporting elements by group, with the means above.

    Groups of fewer than 5 sequences are left out.
    """
    n = numbers["n_elements"]
    figure = style.new_figure(4.6 * len(models) + 1.4 * (len(models) == 1), 4.2)
    axes = figure.subplots(2, len(models), height_ratios=(1, 4), sharex=True, squeeze=False)
    width = 0.8 / len(_LOOK)
    for (top, ax), (name, explained) in zip(axes.T, models.items(), strict=True):
        model = numbers["models"][name]
        for k, (group, (label, colour, marker)) in enumerate(_LOOK.items()):
            if name == "TRN":  # for the legend
                ax.plot([], [], color=colour, marker=marker, lw=0, ms=6, label=label)
            esv, member = explained.group(group)
            count = (esv[member] > 0).sum(1)
            if len(count) >= LEAST:
                share = 100 * np.bincount(count, minlength=n + 1) / len(count)
                ax.bar(np.arange(n + 1) + (k - 1) * width, share, width, color=colour)
                middle, low, high = ends(model["groups"][group]["supporting"], n)
                error = [[middle - low], [high - middle]]
                top.errorbar(middle, 2 - k, xerr=error, color=colour, marker=marker, capsize=2.5)
        counts = ", ".join(
            f"{model[f'n_{kind}']} {kind}" + (" (not drawn)" if model[f"n_{kind}"] < LEAST else "")
            for kind in ("right", "wrong")
        )
        top.set_title(f"{name}: {counts}", loc="left", fontsize=style.TITLE_SIZE, color=style.INK)
        top.set(ylim=(-0.8, 2.8), yticks=[])
        top.axvline(n / 2, **_DASHED)
        name_axes(ax, f"elements of {n} with an ESV > 0")
        name_axes(top)
        top.tick_params(length=0)
        ax.set_xticks(range(0, n + 1, 1 if n <= 12 else 2))
    axes[0, 0].set_ylabel("mean", **style.TEXT)
    axes[1, 0].set_ylabel("share of the predictions (%)", **style.TEXT)
    highest = max(ax.get_ylim()[1] for ax in axes[1])
    for ax in axes[1]:
        ax.set_ylim(0, highest)
    legend_below(figure, axes[1, 0], handletextpad=0.2, columnspacing=1.5)
    style.head(figure, f"{title}: elements that support a class, and their mean with 95 % interval")
    return figure


def plot_positions(numbers: Mapping[str, Any], title: str) -> Any:
    """Share of sequences with an extreme at each position, with intervals and chance."""
    n, models = numbers["n_elements"], numbers["models"]
    figure = style.new_figure(9.2, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (extreme, label) in zip(axes, EXTREMES.items(), strict=True):
        ax.axhline(100 / n, label=f"chance, 1/{n}", **_DASHED)
        for k, (name, model) in enumerate(models.items()):
            x = np.arange(1, n + 1) + (0 if len(models) == 1 else 0.2 * k - 0.1)
            points(ax, x, model["positions"][extreme], *_MODELS[name], label=name)
        name_axes(ax, f"position of the {label} element, of {n}")
        ax.set_xticks(range(1, n + 1))
    axes[0].set_ylabel("share of the sequences (%)", **style.TEXT)
    axes[0].set_ylim(bottom=0)
    legend_below(figure, axes[0])
    count = numbers["n_sequences"]
    style.head(figure, f"{title}: positions of the extremes in {count} sequences, 95 % intervals")
    return figure


if __name__ == "__main__":
    sys.exit(main("fig4", __doc__, measure))
