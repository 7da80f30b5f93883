"""Parts of pictures that studies share: colours, means with intervals, headings, legends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from esv_jax.plots import style
from experiments.statistics import ends

# Of Okabe & Ito (2008); markers tell lines apart without colours.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
)
GREY = "#6B6B6B"
HEADING: dict[str, Any] = {
    "loc": "left",
    "fontsize": style.TITLE_SIZE,
    "fontweight": "bold",
    "color": style.INK,
    "parse_math": False,
}
_POINTS = {"lw": 1.4, "ms": 5.5, "elinewidth": 1.4, "capsize": 2.5}


def points(
    ax: Any,
    x: Any,
    found: Mapping[str, Any],
    colour: str,
    marker: str,
    scale: float = 100,
    **look: Any,
) -> None:
    """Means at `x` with their intervals as bars; without a bar where there is no interval."""
    mean, low, high = ends(found, scale)
    error = np.nan_to_num(np.maximum([mean - low, high - mean], 0))
    ax.errorbar(x, mean, error, color=colour, marker=marker, **_POINTS | look)


def band(
    ax: Any, found: Mapping[str, Any], colour: str, marker: str, scale: float = 100, **look: Any
) -> None:
    """A line of means at 0, 1, ..., and their intervals as a band."""
    mean, low, high = ends(found, scale)
    x = np.arange(len(mean))
    zorder = look.setdefault("zorder", 3)
    ax.fill_between(x, low, high, color=colour, alpha=0.14, lw=0, zorder=zorder - 2)
    ax.plot(x, mean, color=colour, marker=marker, **{"lw": 1.4, "ms": 4.5} | look)


def name_axes(ax: Any, x: str = "", y: str = "") -> None:
    """Names below and beside axes, which keep only what carries information."""
    ax.set_xlabel(x, **style.TEXT)
    ax.set_ylabel(y, **style.TEXT)
    style.strip_down(ax)


def bare(ax: Any) -> None:
    """Axes without a frame and without marks at the ticks."""
    ax.tick_params(length=0, labelsize=style.TEXT_SIZE, labelcolor=style.INK)
    for spine in ax.spines.values():
        spine.set_visible(False)


def legend_below(figure: Any, ax: Any, columns: int = 3, side: str = "center", **more: Any) -> Any:
    """A legend of the labels of some axes, below all panels."""
    drawn = ax.get_legend_handles_labels()
    where = {"loc": f"outside lower {side}", "ncols": columns}
    return figure.legend(*drawn, **where, **style.LEGEND, **more)
