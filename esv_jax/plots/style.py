"""How the figures look: colours, type sizes, spines, which ticks are labelled."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from esv_jax.extras import require
from esv_jax.looks import DISTRACTING, GRID, INK, QUIET, SUPPORTING

TITLE_SIZE = 10.5
TEXT_SIZE = 8.5
TEXT: dict[str, Any] = {"color": INK, "fontsize": TEXT_SIZE}
_LETTER = {"normal": 0.55, "bold": 0.65}  # mean width of a letter, in type sizes
_LEGEND_INCHES = 4.5  # narrower axes have no room for the legend beside the numbers


def sign_colours(values: np.ndarray) -> list[str]:
    """One colour per value: supporting where positive, distracting where zero or negative."""
    return [SUPPORTING if value > 0 else DISTRACTING for value in values]


def diverging() -> Any:
    """The colour map of signed values: vermillion below, white between, blue above; grey unknown.

    Draw it between limits of one size, -a and a, so that white is zero.
    """
    colours = require("matplotlib.colors", "plots")
    ends = [DISTRACTING, "#FFFFFF", SUPPORTING]
    scale = colours.LinearSegmentedColormap.from_list("esv_diverging", ends)
    return scale.with_extremes(bad=GRID)


def wrap(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """`text` in lines that fit a width."""
    return textwrap.fill(text, max(12, n_letters(inches, size, weight)))


def strip_down(ax: Any) -> None:
    """Take away what carries no information; pale lines at the y ticks, behind the bars."""
    for side in ("top", "right", "bottom"):
        ax.spines[side].set_visible(False)
    ax.spines["left"].set_color(QUIET)
    ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=TEXT_SIZE, length=3)
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)


def label_elements(ax: Any, labels: Sequence[str]) -> None:
    """Label every k-th element, with k such that labels do not touch; upright if they must."""
    inches = _inches(ax)
    n, longest = len(labels), max(len(label) for label in labels)
    room = n_letters(inches / max(n, 4), TEXT_SIZE)  # letters over one bar
    upright = longest > max(4, room)
    step = -(-3 // room) if upright else -(-(longest + 1) // room)
    step = next(s for k in range(9) for s in (10**k, 2 * 10**k, 5 * 10**k) if s >= step)
    places = np.arange(0, n, step)
    texts = [textwrap.shorten(labels[i], 24, placeholder="...") for i in places]
    ax.set_xticks(places, texts, rotation=90 if upright else 0, parse_math=False)
    half = max(n / 2, 2) + 0.2
    ax.set_xlim((n - 1) / 2 - half, (n - 1) / 2 + half)


def annotate(
    ax: Any, heading: str, lines: Sequence[str], meanings: tuple[str, str] | None = None
) -> None:
    """Heading and lines of text above the axes, on the left; the legend on the right.

    Args:
      ax: the axes.
      heading: in bold.
      lines: of smaller text below it, in order.
      meanings: what the two colours say; None for no legend.
    """
    inches = _inches(ax)
    text = "\n".join(wrap(line, inches, TEXT_SIZE) for line in lines)
    ax.annotate(
        text,
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        color=QUIET,
        fontsize=TEXT_SIZE,
        linespacing=1.25,
        parse_math=False,
    )
    ax.set_title(
        wrap(heading, inches, TITLE_SIZE, "bold"),
        loc="left",
        pad=9 + 1.3 * TEXT_SIZE * (text.count("\n") + 1),
        color=INK,
        fontsize=TITLE_SIZE,
        fontweight="bold",
        parse_math=False,
    )
    if meanings is not None and inches >= _LEGEND_INCHES:
        legend(ax, meanings, loc="lower right", bbox_to_anchor=(1, 1))


def legend(ax: Any, meanings: tuple[str, str], **where: Any) -> None:
    """What the two colours say; `where` and in how many columns, as `Axes.legend` takes it."""
    patch = require("matplotlib.patches", "plots").Patch
    ax.legend(
        handles=[patch(color=SUPPORTING), patch(color=DISTRACTING)],
        labels=meanings,
        frameon=False,
        fontsize=TEXT_SIZE,
        labelcolor=INK,
        labelspacing=0.3,
        handlelength=0.9,
        handleheight=0.9,
        borderaxespad=0.2,
        **where,
    )


def head(fig: Any, title: str) -> None:
    """A heading over all panels of a figure."""
    text = wrap(title, fig.get_figwidth(), TITLE_SIZE + 1)
    fig.suptitle(text, fontsize=TITLE_SIZE + 1, color=INK, parse_math=False)


def _inches(ax: Any) -> float:
    """Width of the axes."""
    return ax.get_window_extent().width / ax.figure.dpi


def n_letters(inches: float, size: float, weight: str = "normal") -> int:
    """Letters of a type size that fit a width."""
    return max(1, int(inches * 72 / (_LETTER[weight] * size)))


def rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue, 0..255, of "#0072b2" and the like."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
