"""The curves of figure 3, and what of them is ESV's lead."""

from __future__ import annotations

from typing import Any

import numpy as np

from esv_jax.plots import style
from esv_jax.plots.figures import new_figure
from experiments.play_fair.fig3.comparison import MEASURES, Measure, Order
from experiments.play_fair.fig3.findings import OF_MODEL

# Colours of Okabe & Ito (2008); markers tell methods apart without them.
_LOOK = {
    "ESV": ("#0072B2", "o"),
    "Integrated Gradients": ("#D55E00", "s"),
    "Grad-CAM": ("#009E73", "^"),
    "gradient x input": ("#CC79A7", "v"),
    "leave-one-out": ("#E69F00", "D"),
    "leave-one-in": ("#56B4E9", "P"),
}
_AXES = {"accuracy": "accuracy (%)", "class_score": "mean score of the true class (%)"}
# Of the third column: label, method, order, colour, marker, line
_BASELINES: tuple[tuple[str, str, Order, str, str, str], ...] = (
    ("ESV, lowest first", "ESV", "ascending", "#0072B2", "o", "--"),
    ("ends first", "edges-in", "descending", "#009E73", "^", "-"),
    ("at random", "random", "descending", style.QUIET, "s", "-"),
    ("centre first", "centre-out", "descending", "#E69F00", "D", "-"),
    ("ESV, highest first", "ESV", "descending", "#0072B2", "o", "-"),
)


def plot_curves(numbers: dict[str, Any], title: str) -> Any:
    """Accuracy and class score by elements dropped: both orders, and orders by position."""
    figure: Any = new_figure(11.4, 6.8)
    axes = figure.subplots(2, 3)
    columns: tuple[Order, ...] = ("descending", "ascending")
    for row, measure in zip(axes, MEASURES, strict=True):
        for ax, order in zip(row, columns, strict=False):
            for method, (colour, marker) in _LOOK.items():
                found = numbers["curves"][method][order][measure]
                _line(ax, found, colour, marker, method, front=method == "ESV")
            _limits(ax, [numbers["curves"][method][order][measure] for method in _LOOK])
        for label, method, order, colour, marker, line in _BASELINES:
            found = numbers["curves"][method][order][measure]
            _line(row[2], found, colour, marker, label, line=line)
        _limits(row[2], [numbers["curves"][m][o][measure] for _, m, o, *_ in _BASELINES])
        for ax in row:
            _finish(ax, numbers["n_elements"], _AXES[measure])
    titles = "a  highest value first", "b  lowest value first", "c  by position"
    for ax, text in zip(axes[0], titles, strict=True):
        _heading(ax, text)
    for ax in axes[1]:
        ax.set_xlabel(f"elements dropped, of {numbers['n_elements']}", **style.TEXT)
    for ax, place in ((axes[0, 0], "left"), (axes[0, 2], "right")):
        legend = figure.legend(
            *ax.get_legend_handles_labels(),
            loc=f"outside lower {place}",
            ncols=3,
            frameon=False,
            fontsize=style.TEXT_SIZE,
            labelcolor=style.INK,
        )
        legend.set_in_layout(place == "left")  # the other stands beside it
    figure.get_layout_engine().set(wspace=0.05)
    style.head(figure, f"{title}; shaded: 95 % intervals")
    return figure


def plot_leads(numbers: dict[str, Any], title: str) -> Any:
    """ESV's lead over each method that asks the model, by elements dropped and by area."""
    figure: Any = new_figure(9.6, 6.6)
    axes = figure.subplots(2, 2, sharex=True)
    n = numbers["n_elements"]
    orders: tuple[Order, ...] = ("descending", "ascending")
    for row, measure in zip(axes, MEASURES, strict=True):
        for ax, order in zip(row, orders, strict=True):
            _leads(ax, numbers, order, measure)
            name = "accuracy" if measure == "accuracy" else "class score"
            ax.set_ylabel(f"ESV ahead, in points of {name}", **style.TEXT)
            ax.set_xticks([*range(1, n), n + 0.5], [*map(str, range(1, n)), "area"])
            style.strip_down(ax)
    _heading(axes[0, 0], "highest value first: how much lower by ESV")
    _heading(axes[0, 1], "lowest value first: how much higher by ESV")
    for ax in axes[1]:
        ax.set_xlabel(f"elements dropped, of {n}", **style.TEXT)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        [f"over {label}" for label in labels],
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        fontsize=style.TEXT_SIZE,
        labelcolor=style.INK,
        columnspacing=1.2,
    )
    style.head(figure, f"{title}; paired differences with 95 % intervals")
    return figure


def _leads(ax: Any, numbers: dict[str, Any], order: Order, measure: Measure) -> None:
    n = numbers["n_elements"]
    ax.axhline(0, color=style.INK, linewidth=0.9, zorder=1)
    ax.axvline(n - 0.25, color=style.GRID, linewidth=0.9)
    for i, method in enumerate(OF_MODEL):
        colour, marker = _LOOK[method]
        found = numbers["lead"][method][order][measure]
        area = found["area"]
        shift = 0.13 * (i - (len(OF_MODEL) - 1) / 2)  # so that bars stand beside each other
        mean, low, high = (
            100 * np.array([*found[part][1:], area[part]]) for part in ("mean", "low", "high")
        )
        place = np.array([*range(1, n), n + 0.5]) + shift
        ax.errorbar(
            place,
            mean,
            np.maximum([mean - low, high - mean], 0),
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=0,
            elinewidth=1.1,
            capsize=1.8,
            label=method,
            zorder=3,
        )
        ax.plot(place[:-1], mean[:-1], color=colour, linewidth=0.7, alpha=0.45)


def _line(
    ax: Any,
    found: dict[str, Any],
    colour: str,
    marker: str,
    label: str,
    *,
    line: str = "-",
    front: bool = False,
) -> None:
    mean, low, high = (100 * np.array(found[part]) for part in ("mean", "low", "high"))
    dropped = np.arange(len(mean))
    over = 4 if front else 3
    ax.fill_between(dropped, low, high, color=colour, alpha=0.13, linewidth=0, zorder=over - 2)
    ax.plot(
        dropped,
        mean,
        line,
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=2.2 if front else 1.4,
        label=label,
        zorder=over,
    )


def _limits(ax: Any, curves: list[dict[str, Any]]) -> None:
    """From below the lowest interval to above the highest, never far outside of 0..100."""
    low = 100 * min(min(curve["low"]) for curve in curves)
    high = 100 * max(max(curve["high"]) for curve in curves)
    room = 0.05 * (high - low) + 0.2
    ax.set_ylim(max(low - room, -2), min(high + room, 102))


def _finish(ax: Any, n: int, label: str) -> None:
    style.strip_down(ax)
    ax.axvline(n // 2, color=style.QUIET, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    ax.set_xticks(range(n) if n <= 12 else range(0, n, 2))
    ax.set_ylabel(label, **style.TEXT)


def _heading(ax: Any, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=style.TITLE_SIZE, fontweight="bold", color=style.INK)
