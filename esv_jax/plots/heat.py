"""Heat maps: coloured cells with their numbers, their axes, and a colour bar that says its unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_finite
from esv_jax.plots import style
from esv_jax.plots.figures import fit_height

MOST_NUMBERS = 12  # elements whose cells have room for a number
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue (BT.709)
_DARK = 0.5  # luminance; on darker cells the text is white
_CELL_TEXT = 7.5  # type size


def expect_square(name: str, matrix: Any, way_out: str = "") -> np.ndarray:
    """Return a matrix as float64 (n, n), n >= 1; refuse other shapes and what is not finite."""
    matrix = np.asarray(matrix, np.float64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and matrix.size > 0
    expect(square, name, "shape (n, n)", matrix.shape, way_out)
    expect_finite(name, matrix)
    return matrix


def reach(values: np.ndarray) -> float:
    """The greatest |value| that is known, the limit of a centred scale; 1 of nothing but zeros."""
    known = np.abs(values[np.isfinite(values)])
    return float(known.max(initial=0)) or 1.0


def square_inches(labels: Sequence[str]) -> float:
    """Width of a figure with one cell per pair of labels and a colour bar, in inches."""
    return float(np.clip(1.5 + 0.42 * len(labels), 3.9, 7.3)) + names_inches(labels)


def names_inches(names: Sequence[str]) -> float:
    """About how wide the names of rows are, with what stands beside them."""
    longest = max(len(line) for name in names for line in name.split("\n"))
    return 0.5 + style.text_inches(longest)


def draw_cells(ax: Any, values: np.ndarray, *, texts: Any = None, **look: Any) -> Any:
    """Coloured cells (rows, columns) in a pale frame, which also holds the white ones; the image.

    Args:
      ax: the axes.
      values: (rows, columns); NaN has the colour of what is unknown.
      texts: what stands in the cells, rows of columns; None for no text.
      look: as `Axes.imshow` takes it.
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


def draw_signed(ax: Any, values: np.ndarray, limit: float, **look: Any) -> Any:
    """Cells of signed values, white at zero, of full colour at `limit` on both sides; the image."""
    return draw_cells(ax, values, cmap=style.diverging(), vmin=-limit, vmax=limit, **look)


def colour_bar(ax: Any, image: Any, label: str, **where: Any) -> Any:
    """A colour bar beside the axes, with its label; `where` as `Figure.colorbar` takes it."""
    bar = ax.figure.colorbar(image, ax=ax, **{"shrink": 0.8, "aspect": 22, "pad": 0.02} | where)
    bar.set_label(label, **style.TEXT)
    bar.ax.tick_params(colors=style.QUIET, labelcolor=style.INK, labelsize=style.TEXT_SIZE)
    bar.outline.set_visible(False)
    style.plain_ticks(bar.ax.yaxis)
    return bar


def fit_square(ax: Any) -> None:
    """Make the figure of these axes alone as high as n x n square cells need."""
    ax.figure.draw_without_rendering()  # settles how wide the cells are
    width = ax.get_position(original=True).width * ax.figure.get_figwidth()
    fit_height(ax.figure, [ax], width)
