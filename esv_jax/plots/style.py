"""Style of all figures: size, colours, ticks, labels, text above the axes, files.

Figures are made on a canvas of their own; no window, backend or global setting is involved.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.checks import expect
from esv_jax.display import DISTRACTING as DISTRACTING
from esv_jax.display import GRID as GRID
from esv_jax.display import INK as INK
from esv_jax.display import QUIET as QUIET
from esv_jax.display import SUPPORTING as SUPPORTING
from esv_jax.extras import require
from esv_jax.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

TITLE_SIZE = 10.5
TEXT_SIZE = 8.5
TEXT: dict[str, Any] = {"color": INK, "fontsize": TEXT_SIZE}
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": TEXT_SIZE, "labelcolor": INK}
_LETTER = {"normal": 0.55, "bold": 0.65}  # mean width of a letter, in type sizes
_LEGEND_INCHES = 4.5  # narrower axes have no legend
_LINE_POINTS = 1.3 * TEXT_SIZE  # of the text above the axes
_LEFT_INCHES, _RIGHT_INCHES = 0.8, 0.1  # beside axes, for their labels
_SLACK_INCHES = 0.08
_MOST_ROWS = 20  # with a label
_SUFFIXES = (".png", ".svg", ".pdf")
_FONTS = {  # a vector file looks alike everywhere; a PDF's text can be searched and edited
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, unknown to pyplot."""
    figure = require("matplotlib.figure", "plots").Figure(
        figsize=(width, height), layout="constrained", facecolor="white"
    )
    require("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg(figure)
    return figure


def given_or_new(
    ax: Axes | None, width: float, height: float, *, left: float = _LEFT_INCHES
) -> tuple[Axes, float | None]:
    """The caller's axes and None; or those of a new figure and the height for `finish`.

    About `left` inches of the width are for the labels.
    """
    if ax is not None:
        return ax, None
    return new_figure(width, 3.4).subplots(gridspec_kw=margins(width, left)), height


def margins(width: float, left: float = _LEFT_INCHES) -> dict[str, float]:
    """Ends of the axes before the layout moves them, by which the text above them is wrapped."""
    return {"left": left / width, "right": 1 - _RIGHT_INCHES / width}


def finish(
    ax: Axes,
    heading: str,
    lines: Sequence[str],
    meanings: tuple[str, str] | None = None,
    *,
    labels: tuple[str, str],
    height: float | None = None,
) -> Axes:
    """Write the text above axes and the labels of x and y; then make them `height` inches high."""
    annotate(ax, heading, lines, meanings)
    ax.set_xlabel(labels[0], **TEXT)
    ax.set_ylabel(labels[1], **TEXT)
    if height is not None:
        fit_height(ax.figure, [ax], height)
    return ax


def fit_height(figure: Figure, axes: Sequence[Axes], inches: float) -> None:
    """Set the height of a figure to that of stacked panels, `inches` together, and their text."""
    around = [ax.get_tightbbox().height - ax.get_window_extent().height for ax in axes]
    around += [text.get_window_extent().height for text in figure.texts]
    gaps = 2 * figure.get_layout_engine().get()["h_pad"] * len(axes) + _SLACK_INCHES
    figure.set_figheight(inches + sum(around) / figure.dpi + gaps)


def save_figure(fig: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure as PNG, SVG or PDF, atomically; an existing file is replaced.

    Letters are outlines in an SVG, which needs no fonts to look the same, and text in a PDF.

    Args:
      fig: the figure; of axes from `plot_elements`, `ax.figure`.
      path: the file, in a folder that exists; its suffix (.png, .svg, .pdf) is the format.
      dpi: pixels per inch of a PNG.
    Raises:
      ValueError: another suffix, a path that is a folder.
      FileNotFoundError, OSError: no such folder, a file that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    expect(suffix in _SUFFIXES, "path", f"a name ending in {', '.join(_SUFFIXES)}", f"{path}")
    with atomic_path(path) as temporary, require("matplotlib", "plots").rc_context(_FONTS):
        fig.savefig(temporary, format=suffix[1:], dpi=dpi, bbox_inches="tight", pad_inches=0.1)
    return path


def diverging() -> Colormap:
    """The colour map of signed values: vermillion, white, blue; grey for NaN."""
    colours = require("matplotlib.colors", "plots")
    ends = [DISTRACTING, "#FFFFFF", SUPPORTING]
    scale = colours.LinearSegmentedColormap.from_list("esv_diverging", ends)
    return scale.with_extremes(bad=GRID)


def rgb(colour: str) -> tuple[int, ...]:
    """Red, green and blue, 0..255, of "#0072b2" and the like."""
    return tuple(bytes.fromhex(colour[1:]))


def n_letters(inches: float, size: float, weight: str = "normal") -> int:
    """Number of letters of a type size that fit a width."""
    return max(1, int(inches * 72 / (_LETTER[weight] * size)))


def text_inches(n: int) -> float:
    """Width of n letters of text."""
    return n * _LETTER["normal"] * TEXT_SIZE / 72


def wrap(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """`text` in lines that fit a width."""
    return textwrap.fill(text, max(12, n_letters(inches, size, weight)))


def width_of(ax: Axes) -> float:
    """Width of axes in inches."""
    return ax.get_window_extent().width / ax.figure.dpi


def strip_down(ax: Axes) -> None:
    """Remove what carries no information; pale lines at the y ticks, behind what is drawn."""
    for side in ("top", "right", "bottom"):
        ax.spines[side].set_visible(False)
    ax.spines["left"].set_color(QUIET)
    ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=TEXT_SIZE, length=3)
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    if ax.get_yscale() == "linear":
        plain_ticks(ax.yaxis)


def plain_ticks(axis: Axis) -> None:
    """Complete numbers at the ticks, without a common factor: 0.05, or 5e-6."""
    fix_minus = require("matplotlib.ticker", "plots").Formatter.fix_minus

    def text(value: float, _: int | None) -> str:
        places = axis.get_majorticklocs()
        return fix_minus(_tick(value, np.diff(places).min() if len(places) > 1 else abs(value)))

    axis.set_major_formatter(text)


def log_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times each power of ten, as plain numbers."""
    ticker = require("matplotlib.ticker", "plots")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(lambda value, _: _tick(value, value))


def _tick(value: float, step: float) -> str:
    """A tick `step` away from the next, with as many decimals as they need to differ."""
    if abs(value) <= 1e-6 * step:
        value = 0.0
    if 1e-4 <= step < 1e6:
        decimals = next(d for d in range(9) if abs(round(step, d) - step) <= 1e-3 * step)
        return f"{value:.{decimals}f}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}" if value else "0"


def count_ticks(ax: Axes, places: np.ndarray, most: int) -> None:
    """Ticks of the x axis at whole numbers; a single value has the only tick."""
    if len(places) == 1:
        ax.set_xlim(places[0] - 0.5, places[0] + 0.5)
        ax.set_xticks(places)
        return
    ticker = require("matplotlib.ticker", "plots")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(most, integer=True, steps=(1, 2, 5, 10)))


def expect_labels(name: str, labels: Sequence[object] | None, n: int) -> list[str]:
    """Return n labels as text, 0..n-1 by default; refuse another number of them."""
    texts = [str(label) for label in (range(n) if labels is None else labels)]
    expect(len(texts) == n, name, f"{n} labels", len(texts))
    return texts


def label_elements(ax: Axes, labels: Sequence[str]) -> None:
    """Label every k-th element so that labels do not touch; upright if they are long."""
    n, longest = len(labels), max(len(label) for label in labels)
    fitting = n_letters(width_of(ax) / max(n, 4), TEXT_SIZE)  # letters per element
    upright = longest > 4 and longest + 1 > fitting
    shown = range(0, n, _round_step((3 if upright else longest + 1.5) / fitting))
    texts = [textwrap.shorten(labels[i], 24, placeholder="...") for i in shown]
    ax.set_xticks(shown, texts, rotation=90 if upright else 0, parse_math=False)
    half = max(n / 2, 2) + 0.2
    ax.set_xlim((n - 1) / 2 - half, (n - 1) / 2 + half)


def label_cells(ax: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Label the columns and at most 20 rows of cells, which reach to the ends of the axes."""
    label_elements(ax, columns)
    ax.set_xlim(-0.5, len(columns) - 0.5)
    step = _round_step(len(rows) / _MOST_ROWS)
    ax.set_yticks(range(0, len(rows), step), rows[::step], parse_math=False)


def label_pictures(ax: Axes, places: np.ndarray, labels: Sequence[str], inches: float) -> None:
    """Label pictures that are `inches` apart; longer labels are cut."""
    fitting = n_letters(0.85 * inches, TEXT_SIZE)  # digits are wider than most letters
    cut = max(1, fitting - 3)
    texts = [label if len(label) <= fitting else f"{label[:cut]}..." for label in labels]
    ax.set_xticks(places, texts, parse_math=False)
    ax.tick_params(axis="x", length=0, pad=4, labelcolor=INK, labelsize=TEXT_SIZE)


def _round_step(least: float) -> int:
    """The first of 1, 2, 5, 10, 20, ... that is at least `least`."""
    return next(s for k in range(9) for s in (10**k, 2 * 10**k, 5 * 10**k) if s >= least)


def annotate(
    ax: Axes, heading: str, lines: Sequence[str], meanings: tuple[str, str] | None = None
) -> None:
    """Write a bold heading and lines above the axes, the meanings of the colours on the right."""
    inches = beside = width_of(ax)
    if meanings is not None and inches >= _LEGEND_INCHES:
        legend(ax, meanings, loc="lower right", bbox_to_anchor=(1, 1))
        beside -= ax.get_legend().get_window_extent().width / ax.figure.dpi + 0.1
    text = "\n".join(wrap(line, beside, TEXT_SIZE) for line in lines)
    if text:
        write_above(ax, text)
    rows = len(text.splitlines())
    title = wrap(heading, inches if rows > 1 else beside, TITLE_SIZE, "bold")
    look = {"color": INK, "fontsize": TITLE_SIZE, "fontweight": "bold", "parse_math": False}
    ax.set_title(title, loc="left", pad=8 + _LINE_POINTS * rows, **look)


def write_above(ax: Axes, text: str) -> None:
    """Write small text above the axes, on the left."""
    place = {"xytext": (0, 5), "xycoords": "axes fraction", "textcoords": "offset points"}
    look = {"color": QUIET, "fontsize": TEXT_SIZE, "linespacing": 1.25, "parse_math": False}
    ax.annotate(text, (0, 1), **place, **look)


def head(figure: Figure, title: str) -> None:
    """Write a heading over all panels of a figure."""
    size = TITLE_SIZE + 1
    text = wrap(title, figure.get_figwidth(), size, "bold")
    look = {"fontsize": size, "fontweight": "bold", "color": INK, "parse_math": False}
    figure.suptitle(text, x=0.01, horizontalalignment="left", **look)


def legend(ax: Axes, meanings: tuple[str, str], **where: Any) -> None:
    """Draw the legend of the two colours; `where` as in `Axes.legend`."""
    patch = require("matplotlib.patches", "plots").Patch
    handles = [patch(color=SUPPORTING), patch(color=DISTRACTING)]
    look = {"handlelength": 0.9, "handleheight": 0.9, "labelspacing": 0.3, "borderaxespad": 0.2}
    ax.legend(handles, meanings, **look, **LEGEND, **where)


def name_lines(ax: Axes, lines: Sequence[Line2D]) -> None:
    """Write the names of lines to the right of the axes."""
    names = [wrap(line.get_label(), 1.8, TEXT_SIZE) for line in lines]
    where = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "borderaxespad": 0}
    plain_text(ax.legend(lines, names, handlelength=3.2, **where, **LEGEND))


def plain_text(drawn: Legend) -> None:
    """Show names as they are: a dollar does not begin a formula."""
    for text in drawn.get_texts():
        text.set_parse_math(False)
