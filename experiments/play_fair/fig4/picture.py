"""Pictures of figure 4: how many elements support, and where the extremes lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from esv_jax.plots.figures import new_figure
from esv_jax.plots.style import GRID, INK, QUIET, TEXT_SIZE, TITLE_SIZE
from experiments.play_fair.fig4.findings import LEAST

# Of Okabe & Ito (2008): told apart with every common colour vision; each with its own marker.
MODELS = {"TRN": ("#0072B2", "o"), "TSN": ("#D55E00", "s")}
_GROUPS = {
    "right": ("right predictions, true class", "#0072B2", "o"),
    "wrong": ("wrong predictions, true class", "#D55E00", "v"),
    "wrong, predicted class": ("wrong predictions, predicted class", "#CC79A7", "D"),
}
_EXTREMES = {"supporting": "most supporting element", "distracting": "most distracting element"}


def plot_supporting(answers: Mapping[str, Any], numbers: Mapping[str, Any], title: str) -> Any:
    """Histograms of the number of supporting elements, and their means above, by group.

    Groups of fewer than 5 sequences are left out.
    """
    n = numbers["n_elements"]
    figure = new_figure(4.6 * len(answers) + (1.4 if len(answers) == 1 else 0), 4.2)
    axes = figure.subplots(2, len(answers), height_ratios=(1, 4), sharex=True, squeeze=False)
    for (top, ax), (name, answer) in zip(axes.T, answers.items(), strict=True):
        model = numbers["models"][name]
        members = answer.right, ~answer.right, ~answer.right
        values = answer.esv, answer.esv, answer.esv_predicted
        width = 0.8 / len(_GROUPS)
        for k, (group, (_, colour, marker)) in enumerate(_GROUPS.items()):
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
        top.set_title(f"{name}: {counts}", loc="left", fontsize=TITLE_SIZE, color=INK)
        top.set_ylim(-0.8, 2.8)
        top.set_yticks([])
        top.axvline(n / 2, color=QUIET, lw=0.8, ls=(0, (4, 3)))
        ax.set_xlabel(f"elements of {n} with an ESV > 0")
        ax.set_xticks(range(0, n + 1, 1 if n <= 12 else 2))
        dress(ax)
        for side in ("left", "top", "right"):
            top.spines[side].set_visible(False)
        top.tick_params(length=0)
        top.spines["bottom"].set_color(GRID)
    axes[0, 0].set_ylabel("mean", fontsize=TEXT_SIZE, color=INK)
    axes[1, 0].set_ylabel("share of the predictions (%)")
    highest = max(ax.get_ylim()[1] for ax in axes[1])
    for ax in axes[1]:
        ax.set_ylim(0, highest)
    handles = [
        axes[0, 0].plot([], [], color=colour, marker=marker, lw=0, ms=6, label=label)[0]
        for label, colour, marker in _GROUPS.values()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=TEXT_SIZE,
        labelcolor=INK,
        handletextpad=0.2,
        columnspacing=1.5,
    )
    heading(figure, f"{title}: elements that support a class, and their mean with 95 % interval")
    return figure


def plot_positions(numbers: Mapping[str, Any], title: str) -> Any:
    """Share of sequences whose extreme lies at each position, with intervals, beside chance."""
    n = numbers["n_elements"]
    figure = new_figure(9.2, 3.6)
    axes = figure.subplots(1, 2, sharey=True)
    models = numbers["models"]
    for ax, (extreme, label) in zip(axes, _EXTREMES.items(), strict=True):
        ax.axhline(100 / n, color=QUIET, lw=1, ls=(0, (4, 3)), label=f"chance, 1/{n}")
        for k, (name, model) in enumerate(models.items()):
            colour, marker = MODELS[name]
            found = {key: 100 * np.array(v) for key, v in model["positions"][extreme].items()}
            shift = 0 if len(models) == 1 else 0.2 * k - 0.1
            ax.errorbar(
                np.arange(1, n + 1) + shift,
                found["mean"],
                [found["mean"] - found["low"], found["high"] - found["mean"]],
                color=colour,
                marker=marker,
                ms=5.5,
                lw=1.2,
                elinewidth=1.4,
                capsize=2.5,
                label=name,
            )
        ax.set_xlabel(f"position of the {label}, of {n}")
        ax.set_xticks(range(1, n + 1))
        dress(ax)
    axes[0].set_ylabel("share of the sequences (%)")
    axes[0].set_ylim(bottom=0)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=TEXT_SIZE,
        labelcolor=INK,
    )
    count = numbers["n_sequences"]
    heading(figure, f"{title}: where the extremes lie in {count} sequences, 95 % intervals")
    return figure


def heading(figure: Any, text: str) -> None:
    """A heading over all panels, on the left."""
    figure.suptitle(
        text,
        x=0.01,
        ha="left",
        fontsize=TITLE_SIZE,
        fontweight="bold",
        color=INK,
        parse_math=False,
    )


def dress(ax: Any) -> None:
    """Axes without a frame, with pale lines behind what is drawn."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        ax.spines[side].set_color(QUIET)
    ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=TEXT_SIZE, length=3)
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(fontsize=9, color=INK)


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
