"""Pictures of the study of estimators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

import esv_jax as ej
from esv_jax.plots import style
from experiments.estimators.measures import family_of

# Colours that colour-blind readers tell apart, as in `ej.plots`; a marker for each as well.
_FAMILIES = {
    "Algorithm 1": ("#D55E00", "v"),
    "Surrogate": ("#0072B2", "o"),
    "SizeRegression": ("#56B4E9", "D"),
    "PermutationSampling": ("#CC79A7", "^"),
    "shapiq KernelSHAP": ("#222222", "s"),
    "shapiq kADDSHAP": ("#6B6B6B", "X"),
    "shapiq SVARM": ("#9A9A9A", "P"),
}
_COLUMNS = 3


def plot_errors(found: Mapping[str, Any], path: Path) -> Path:
    """Relative error against evaluations, a panel per game, both axes logarithmic.

    Where heads are combined by scale shapiq's estimators take all head evaluations at every budget:
    their points lie above each other, marked with the number of values.
    """
    figure, axes = _new(found, 3.1)
    seen: dict[str, Any] = {}
    for ax, game in zip(axes, found.values(), strict=True):
        for family, (colour, marker) in _FAMILIES.items():
            rows = [r for r in game["rows"] + game["peers"] if family_of(r) == family]
            rows = [r for r in rows if "order" not in r["estimator"]]  # the default's line alone
            if not rows:
                continue
            rows.sort(key=lambda row: row["evaluations"])
            points = [(row["evaluations"], 100 * row["relative_error"]) for row in rows]
            stacked = family.startswith("shapiq") and not game["rowwise"]
            look = {"color": colour, "marker": marker, "markersize": 5.5}
            look |= {"linestyle": "none" if stacked else "-"}
            (seen[family],) = ax.plot(*np.transpose(points), **look)
            if stacked:
                left = family.endswith("kADDSHAP")
                for row, point in zip(rows, points, strict=True):
                    _label(ax, f"{row['values']:,}", point, -6 if left else 6, fontsize=7)
        ax.set_xscale("log")
        ax.set_yscale("log")
        style.log_ticks(ax.xaxis)
        style.log_ticks(ax.yaxis)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.margins(x=0.12, y=0.1)
        ax.set_xlabel(f"distinct {'' if game['rowwise'] else 'head '}evaluations")
    for ax in axes[::_COLUMNS]:
        ax.set_ylabel("relative error (%)")
    if any(name.startswith("shapiq") for name in seen):
        seen["numbers: values of shapiq's"] = Line2D([], [], linestyle="none")
    place = {"loc": "outside upper left", "ncols": 4}
    figure.legend(seen.values(), seen, **place, **style.LEGEND)
    return ej.plots.save_figure(figure, path)


def plot_coverage(found: Mapping[str, Any], path: Path) -> Path:
    """Share of known values within 95 % intervals, a panel per game; the band is 93 to 97 %."""
    figure, axes = _new(found, 3.0)
    shares = [100 * r["coverage"] for g in found.values() for r in g["rows"] if r["coverage"]]
    lowest = min([85.0, *(5 * (share // 5) for share in shares)])
    box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
    for ax, game in zip(axes, found.values(), strict=True):
        rows = [row for row in game["rows"] if row["coverage"] is not None]
        ax.axvspan(93, 97, color="#009E73", alpha=0.18, lw=0)
        ax.axvline(95, color="#009E73", lw=1)
        for y, row in enumerate(rows):
            colour, marker = _FAMILIES[family_of(row)]
            share = 100 * row["coverage"]
            ax.plot([share], [y], color=colour, marker=marker, markersize=6.5)
            side = 7 if share < lowest + 5 else -7
            _label(ax, f"{share:.1f}", (share, y), side, fontsize=7.5, bbox=box)
        ax.set_yticks(range(len(rows)), [row["estimator"] for row in rows])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.set_xlim(lowest, 100)
        ax.xaxis.set_major_locator(MultipleLocator(5))
        ax.set_xlabel(f"of {game['n_pairs']} sequence-class pairs (%)")
    style.head(figure, "Known values inside 95 % intervals; shaded: 93 to 97 %")
    return ej.plots.save_figure(figure, path)


def _label(
    ax: Any, text: str, point: tuple[float, float], points_right: float, **look: Any
) -> None:
    """Text beside a point."""
    align = {"ha": "left" if points_right > 0 else "right", "va": "center", "color": style.INK}
    offset = {"xytext": (points_right, 0), "textcoords": "offset points"}
    ax.annotate(text, point, **offset, **align, **look)


def _new(found: Mapping[str, Any], height: float) -> tuple[Any, list[Any]]:
    """A figure and a panel for each game, in rows of three."""
    columns, n_rows = min(len(found), _COLUMNS), -(-len(found) // _COLUMNS)
    figure = style.new_figure(4.0 * columns + 0.2, height * n_rows + 0.5)
    panels = list(figure.subplots(n_rows, columns, squeeze=False).flat)
    for ax in panels[len(found) :]:
        ax.remove()
    for ax, game in zip(panels, found.values(), strict=False):
        style.strip_down(ax)
        ax.grid(visible=True, axis="both", color=style.GRID, linewidth=0.8)
        ax.xaxis.label.set_fontsize(9)
        ax.yaxis.label.set_fontsize(9)
        title = {"loc": "left", "fontsize": 9.5, "fontweight": "bold", "color": style.INK}
        ax.set_title(game["title"], **title)
    return figure, panels[: len(found)]
