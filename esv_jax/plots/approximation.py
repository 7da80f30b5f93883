"""Error of approximate values over two settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.checks import expect
from esv_jax.display import number
from esv_jax.extras import require
from esv_jax.plots import style
from esv_jax.plots.figures import fit_height, given_or_new
from esv_jax.plots.heat import colour_bar, draw_cells, names_inches
from esv_jax.plots.labels import expect_labels, label_columns, label_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL_INCHES = (0.72, 0.4)


def plot_approximation(
    errors: Any,
    row_labels: Sequence[Any],
    col_labels: Sequence[Any],
    *,
    row_name: str = "subsequences per scale",
    col_name: str = "iterations",
    label: str = "relative error",
    log: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of approximation errors with a number in each cell, as figure 8 of the paper.

    Source: Price & Damen (2020), figure 8. Cells that were not measured (NaN) are grey.

    Args:
      errors: (rows, columns), >= 0 or NaN.
      row_labels, col_labels: labels of the rows, from the top down, and of the columns.
      row_name, col_name: what the labels are, for the axes.
      label: what the errors are, with their unit, for the colour bar.
      log: whether colours follow the logarithm; errors are then > 0.
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, that no window shows.
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
    down = expect_labels("row_labels", row_labels, rows)
    along = expect_labels("col_labels", col_labels, columns)

    beside = names_inches(down)
    width = max(5.6, 1.7 + beside + _CELL_INCHES[0] * columns)
    ax, is_new = given_or_new(ax, width, left=beside)
    colours = require("matplotlib.colors", "plots")
    low, high = (float(known.min()), float(known.max())) if log else (0.0, float(known.max()))
    norm = colours.LogNorm(low, max(high, 1.5 * low)) if log else colours.Normalize(0, high or 1)
    scale = require("matplotlib", "plots").colormaps["cividis"].with_extremes(bad=style.GRID)
    texts = [[number(x) if np.isfinite(x) else "" for x in row] for row in errors]
    image = draw_cells(ax, errors, texts=texts, cmap=scale, norm=norm, aspect="auto")
    bar = colour_bar(ax, image, label)
    if log:
        style.log_ticks(bar.ax.yaxis, (1, 2, 5) if high < 100 * low else (1,))
    label_columns(ax, along)
    label_rows(ax, down)
    grey = ["grey: not measured"] if known.size < errors.size else []
    style.annotate(ax, title or f"Approximation: {label}", ["dark: close to exact", *grey])
    ax.set_xlabel(col_name, **style.TEXT)
    ax.set_ylabel(row_name, **style.TEXT)
    if is_new:
        fit_height(ax.figure, [ax], max(1.2, _CELL_INCHES[1] * rows))
    return ax
