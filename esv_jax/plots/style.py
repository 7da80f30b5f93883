"""Style of all figures: colours, type sizes, spines, ticks, headings and legends."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from esv_jax.display import DISTRACTING, GRID, INK, QUIET, SUPPORTING
from esv_jax.extras import require

TITLE_SIZE = 10.5
TEXT_SIZE = 8.5
TEXT: dict[str, Any] = {"color": INK, "fontsize": TEXT_SIZE}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": TEXT_SIZE, "labelcolor": INK}
_LETTER = {"normal": 0.55, "bold": 0.65}  # mean width of a letter, in type sizes
_LEGEND_INCHES = 4.5  # narrower axes have no room for the legend beside the numbers
_LINE_POINTS = 1.3 * TEXT_SIZE  # of the text above the axes


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
    """Take away what carries no information; pale lines at the y ticks, behind what is drawn."""
    for side in ("top", "right", "bottom"):
        ax.spines[side].set_visible(False)
    ax.spines["left"].set_color(QUIET)
    ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=TEXT_SIZE, length=3)
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    if ax.get_yscale() == "linear":
        plain_ticks(ax.yaxis)


def plain_ticks(axis: Any) -> None:
    """Numbers at the ticks that stand alone, without a factor apart from them: 0.05, or 5e-6."""
    fix_minus = require("matplotlib.ticker", "plots").Formatter.fix_minus

    def text(value: float, _: Any) -> str:
        places = axis.get_majorticklocs()
        return fix_minus(_tick(value, np.diff(places).min() if len(places) > 1 else abs(value)))

    axis.set_major_formatter(text)


def log_ticks(axis: Any, digits: Sequence[int] = (1, 2, 5)) -> None:
    """Ticks of a logarithmic axis at these digits of each power of ten, as plain numbers."""
    ticker = require("matplotlib.ticker", "plots")
    axis.set_major_locator(ticker.LogLocator(subs=digits))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(lambda value, _: _tick(value, value))


def _tick(value: float, step: float) -> str:
    """A tick `step` away from the next, with the decimals that tell them apart."""
    if abs(value) <= 1e-6 * step:
        value = 0.0
    if 1e-4 <= step < 1e6:
        decimals = next(d for d in range(9) if abs(round(step, d) - step) <= 1e-3 * step)
        return f"{value:.{decimals}f}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}" if value else "0"


def count_ticks(ax: Any, places: np.ndarray, most: int) -> None:
    """Ticks of the x axis at whole numbers; of a single place, there alone."""
    if len(places) == 1:
        ax.set_xlim(places[0] - 0.5, places[0] + 0.5)
        ax.set_xticks(places)
        return
    ticker = require("matplotlib.ticker", "plots")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(most, integer=True, steps=(1, 2, 5, 10)))


def round_step(least: float) -> int:
    """The first of 1, 2, 5, 10, 20, ... that is at least so much."""
    return next(s for k in range(9) for s in (10**k, 2 * 10**k, 5 * 10**k) if s >= least)


def label_elements(ax: Any, labels: Sequence[str]) -> None:
    """Label every k-th element, with k such that labels do not touch; upright if they must."""
    inches = _inches(ax)
    n, longest = len(labels), max(len(label) for label in labels)
    room = n_letters(inches / max(n, 4), TEXT_SIZE)  # letters over one bar
    upright = longest > 4 and longest + 1 > room
    places = range(0, n, round_step((3 if upright else longest + 1.5) / room))
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
    inches = beside = _inches(ax)
    if meanings is not None and inches >= _LEGEND_INCHES:
        legend(ax, meanings, loc="lower right", bbox_to_anchor=(1, 1))
        beside -= ax.get_legend().get_window_extent().width / ax.figure.dpi + 0.1
    text = "\n".join(wrap(line, beside, TEXT_SIZE) for line in lines)
    if text:
        write_above(ax, text)
    rows = len(text.splitlines())
    ax.set_title(
        wrap(heading, inches if rows > 1 else beside, TITLE_SIZE, "bold"),
        loc="left",
        pad=8 + _LINE_POINTS * rows,
        color=INK,
        fontsize=TITLE_SIZE,
        fontweight="bold",
        parse_math=False,
    )


def write_above(ax: Any, text: str) -> None:
    """Small text, in lines already, above the axes on the left."""
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


def legend(ax: Any, meanings: tuple[str, str], **where: Any) -> None:
    """Draw the legend of the two colours; `where` and the columns as in `Axes.legend`."""
    patch = require("matplotlib.patches", "plots").Patch
    ax.legend(
        handles=[patch(color=SUPPORTING), patch(color=DISTRACTING)],
        labels=meanings,
        labelspacing=0.3,
        handlelength=0.9,
        handleheight=0.9,
        borderaxespad=0.2,
        **LEGEND,
        **where,
    )


def name_lines(ax: Any, lines: Sequence[Any]) -> None:
    """Names of lines on the right, outside of the axes, where they cover none of them."""
    drawn = ax.legend(
        lines,
        [wrap(line.get_label(), 1.8, TEXT_SIZE) for line in lines],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        handlelength=3.2,
        borderaxespad=0,
        **LEGEND,
    )
    as_written(drawn)


def as_written(legend_of_names: Any) -> None:
    """Names of a legend letter by letter: a dollar begins no formula."""
    for text in legend_of_names.get_texts():
        text.set_parse_math(False)


def head(fig: Any, title: str) -> None:
    """A heading over all panels of a figure, on the left as those of axes are."""
    size = TITLE_SIZE + 1
    text = wrap(title, fig.get_figwidth(), size, "bold")
    look = {"fontsize": size, "fontweight": "bold", "color": INK, "parse_math": False}
    fig.suptitle(text, x=0.01, horizontalalignment="left", **look)


def in_units(units: str | None) -> str:
    """`(probability)` of units that are given."""
    return f"({units or 'units of the score'})"


def _inches(ax: Any) -> float:
    """Width of the axes."""
    return ax.get_window_extent().width / ax.figure.dpi


def n_letters(inches: float, size: float, weight: str = "normal") -> int:
    """Letters of a type size that fit a width."""
    return max(1, int(inches * 72 / (_LETTER[weight] * size)))


def text_inches(n: int) -> float:
    """Width of n letters of text."""
    return n * _LETTER["normal"] * TEXT_SIZE / 72


def rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue, 0..255, of "#0072b2" and the like."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
