"""Heat maps: coloured cells with numbers, labels and a colour bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_finite
from esv_jax.display import number
from esv_jax.extras import require
from esv_jax.plots import style
from esv_jax.plots.elements import class_text, expect_one

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.image import AxesImage

MOST_NUMBERS = 12  # elements whose cells hold numbers
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue (BT.709)
_DARK = 0.5  # luminance; on darker cells the text is white
_CELL_TEXT = 7.5  # type size
_METHOD_INCHES = 0.42  # height of a row
_ERROR_INCHES = (0.72, 0.4)  # width and height of a cell


def plot_scale_profile(
    attribution: Attribution,
    target: int,
    *,
    class_name: str | None = None,
    element_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of the mean marginal contribution of each element (right) by scale (up).

    In an exact record, the mean of a column is the ESV of the element. Grey cells had no
    subsequence.

    Args:
      attribution: the record of one sequence, (n, C), with marginals.
      target: the class, 0..C-1.
      class_name: name of the class; default its number.
      element_labels: n labels of the elements; default 0..n-1.
      units: units of the scores for the colour bar, e.g. "probability".
      title: heading in place of the class name.
      ax: axes to draw into; default those of a new figure, `ax.figure`, without a window.
    Returns:
      The axes; `ax.images[0]` are the cells.
    Raises:
      ValueError: a batch, a class out of range, no marginals, another number of labels.
    """
    expect_one(attribution)
    heading, lines = class_text(attribution, target, class_name, title)
    marginals = attribution.marginals
    way_out = "Explain with marginals=True."
    expect(marginals is not None, "attribution", "marginals", "none", way_out)
    n = attribution.n
    labels = style.expect_labels("element_labels", element_labels, n)
    cells = np.asarray(marginals, np.float64)[:, :, target].copy()
    if attribution.coverage is not None:
        cells[np.asarray(attribution.coverage) == 0] = np.nan
    lines[-1] = lines[-1].removesuffix("; whiskers: 95 % interval")
    notes = ["the mean of a column is its ESV"] if attribution.exact else []
    notes += ["grey: no subsequence there"] if np.isnan(cells).any() else []
    lines += ["; ".join(notes)] if notes else []

    ax, is_new = style.given_or_new(ax, float(np.clip(3 + 0.3 * n, 5.6, 10)), 4)
    image = draw_signed(ax, cells, reach(cells), origin="lower", aspect="auto")
    colour_bar(ax, image, f"mean marginal contribution\n{style.in_units(units)}")
    style.label_columns(ax, labels)
    style.label_rows(ax, [str(s) for s in range(1, n + 1)])
    style.annotate(ax, heading, lines)
    ax.set_xlabel("element", **style.TEXT)
    ax.set_ylabel("scale (elements)", **style.TEXT)
    if is_new:
        style.fit_height(ax.figure, [ax], float(np.clip(0.3 * n, 2.1, 5)))
    return ax


def plot_method_grid(
    values: Mapping[str, ArrayLike],
    *,
    element_labels: Sequence[str] | None = None,
    class_name: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of several methods on one sequence: a row per method, a column per element.

    Methods have different units, so every row has its own scale: full colour is its greatest
    |value|, which is written beside its name.

    Args:
      values: names -> (n,) values of one class, finite.
      element_labels: n labels of the elements; default 0..n-1.
      class_name: name of the class, for the text above.
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, without a window.
    Returns:
      The axes; `ax.images[0]` are the rows, each divided by its greatest |value|.
    Raises:
      ValueError: no methods, rows of different lengths or of several classes, values that are not
        finite, another number of labels.
    """
    expect(len(values) > 0, "values", "at least one method", "none")
    rows = {str(name): np.asarray(row, np.float64) for name, row in values.items()}
    n = next(iter(rows.values())).size
    for name, row in rows.items():
        fits = row.ndim == 1 and len(row) == n > 0
        expect(fits, f"values[{name!r}]", f"shape (n,) with n = {n}", row.shape)
        expect_finite(f"values[{name!r}]", row)
    labels = style.expect_labels("element_labels", element_labels, n)
    names = [
        f"{style.wrap(name, 1.8, style.TEXT_SIZE)}\n(max {number(np.abs(row).max())})"
        for name, row in rows.items()
    ]
    width = float(np.clip(4 + 0.25 * n, 6.4, 12))
    ax, is_new = style.given_or_new(ax, width, left=names_inches(names))
    cells = np.stack([row / reach(row) for row in rows.values()])
    image = draw_signed(ax, cells, 1.0, aspect="auto")
    ax.set_yticks(range(len(rows)), names, parse_math=False)
    for edge in np.arange(1, len(rows)) - 0.5:
        ax.axhline(edge, color="white", linewidth=2.5)
    style.label_columns(ax, labels)
    bar = colour_bar(ax, image, "share of the row's\ngreatest |value|", aspect=12)
    bar.set_ticks([-1, 0, 1])
    lines = [] if class_name is None else [class_name]
    style.annotate(ax, title or "Methods side by side", [*lines, "each row has its own scale"])
    ax.set_xlabel("element", **style.TEXT)
    if is_new:
        style.fit_height(ax.figure, [ax], max(1.2, _METHOD_INCHES * len(rows)))
    return ax


def plot_approximation(
    errors: ArrayLike,
    row_labels: Sequence[object],
    col_labels: Sequence[object],
    *,
    row_name: str = "subsequences per scale",
    col_name: str = "iterations",
    label: str = "relative error",
    log: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of approximation errors over two settings, with a number in each cell.

    Source: Price & Damen (2020), figure 8. Cells that were not measured (NaN) are grey.

    Args:
      errors: (rows, columns), >= 0 or NaN.
      row_labels, col_labels: labels of the rows, from the top down, and of the columns.
      row_name, col_name: names of the two settings.
      label: name of the errors with their unit, for the colour bar.
      log: colours follow the logarithm; errors are then > 0.
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, without a window.
    Returns:
      The axes; `ax.images[0]` are the cells.
    Raises:
      ValueError: another shape, nothing measured, errors that are infinite or negative (or zero
        with `log`), another number of labels.
    """
    errors = np.asarray(errors, np.float64)
    fits = errors.ndim == 2 and errors.size > 0
    expect(fits, "errors", "shape (rows, columns)", errors.shape)
    known = errors[~np.isnan(errors)]
    expect(known.size > 0, "errors", "at least one number", "only NaN")
    right = bool(np.isfinite(known).all() and (known > 0 if log else known >= 0).all())
    bound = "> 0 with log=True" if log else ">= 0"
    expect(right, "errors", f"finite numbers {bound}", f"{known.min():.4g}..{known.max():.4g}")
    rows, columns = errors.shape
    down = style.expect_labels("row_labels", row_labels, rows)
    along = style.expect_labels("col_labels", col_labels, columns)

    beside = names_inches(down)
    width = max(5.6, 1.7 + beside + _ERROR_INCHES[0] * columns)
    ax, is_new = style.given_or_new(ax, width, left=beside)
    colours = require("matplotlib.colors", "plots")
    low, high = (float(known.min()), float(known.max())) if log else (0.0, float(known.max()))
    norm = colours.LogNorm(low, max(high, 1.5 * low)) if log else colours.Normalize(0, high or 1)
    scale = require("matplotlib", "plots").colormaps["cividis"].with_extremes(bad=style.GRID)
    texts = [[number(x) if np.isfinite(x) else "" for x in row] for row in errors]
    image = draw_cells(ax, errors, texts=texts, cmap=scale, norm=norm, aspect="auto")
    bar = colour_bar(ax, image, label)
    if log:
        style.log_ticks(bar.ax.yaxis, (1, 2, 5) if high < 100 * low else (1,))
    style.label_columns(ax, along)
    style.label_rows(ax, down)
    grey = ["grey: not measured"] if known.size < errors.size else []
    style.annotate(ax, title or f"Approximation: {label}", ["dark: close to exact", *grey])
    ax.set_xlabel(col_name, **style.TEXT)
    ax.set_ylabel(row_name, **style.TEXT)
    if is_new:
        style.fit_height(ax.figure, [ax], max(1.2, _ERROR_INCHES[1] * rows))
    return ax


# Parts that heat maps share


def expect_square(name: str, matrix: ArrayLike, way_out: str = "") -> np.ndarray:
    """Return a matrix as float64 (n, n), n >= 1; refuse other shapes and what is not finite."""
    matrix = np.asarray(matrix, np.float64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and matrix.size > 0
    expect(square, name, "shape (n, n)", matrix.shape, way_out)
    expect_finite(name, matrix)
    return matrix


def reach(values: np.ndarray) -> float:
    """The greatest finite |value|, the limit of a centred scale; 1 if all are zero."""
    known = np.abs(values[np.isfinite(values)])
    return float(known.max(initial=0)) or 1.0


def square_inches(labels: Sequence[str]) -> float:
    """Width of a figure with one cell per pair of labels and a colour bar, in inches."""
    return float(np.clip(1.5 + 0.42 * len(labels), 3.9, 7.3)) + names_inches(labels)


def names_inches(names: Sequence[str]) -> float:
    """Approximate width of the names of rows and the axis label beside them."""
    longest = max(len(line) for name in names for line in name.split("\n"))
    return 0.5 + style.text_inches(longest)


def draw_cells(
    ax: Axes, values: np.ndarray, *, texts: Sequence[Sequence[str]] | None = None, **look: Any
) -> AxesImage:
    """Draw coloured cells (rows, columns) in a pale frame.

    Args:
      ax: the axes.
      values: (rows, columns); NaN has the colour for bad values.
      texts: text of each cell, or None.
      look: options of `Axes.imshow`.
    """
    image = ax.imshow(np.ma.masked_invalid(values), interpolation="nearest", **look)
    for spine in ax.spines.values():
        spine.set_color(style.GRID)
    ax.tick_params(length=0, labelcolor=style.INK, labelsize=style.TEXT_SIZE)
    if texts is not None:
        colours = image.to_rgba(image.get_array())[..., :3]
        for (i, j), text in np.ndenumerate(np.asarray(texts, object)):
            colour = "white" if colours[i, j] @ _LUMINANCE < _DARK else style.INK
            ax.text(j, i, text, color=colour, ha="center", va="center", fontsize=_CELL_TEXT)
    return image


def draw_signed(ax: Axes, values: np.ndarray, limit: float, **look: Any) -> AxesImage:
    """Draw cells of signed values, white at zero and of full colour at -limit and limit."""
    return draw_cells(ax, values, cmap=style.diverging(), vmin=-limit, vmax=limit, **look)


def colour_bar(ax: Axes, image: AxesImage, label: str, **where: Any) -> Colorbar:
    """Draw a colour bar beside the axes; `where` are options of `Figure.colorbar`."""
    bar = ax.figure.colorbar(image, ax=ax, **{"shrink": 0.8, "aspect": 22, "pad": 0.02} | where)
    bar.set_label(label, **style.TEXT)
    bar.ax.tick_params(colors=style.QUIET, labelcolor=style.INK, labelsize=style.TEXT_SIZE)
    bar.outline.set_visible(False)
    style.plain_ticks(bar.ax.yaxis)
    return bar


def fit_square(ax: Axes) -> None:
    """Set the height of the axes' figure so that n x n cells are squares."""
    ax.figure.draw_without_rendering()  # settles the width of the cells
    width = ax.get_position(original=True).width * ax.figure.get_figwidth()
    style.fit_height(ax.figure, [ax], width)
