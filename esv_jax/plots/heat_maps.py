"""Heat maps of signed numbers of one sequence: contributions by scale, interactions of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_finite
from esv_jax.plots import style
from esv_jax.plots.elements import class_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INTERACTION_MEANINGS = ("worth more together", "dispensable beside each other")
_MOST_NUMBERS = 12  # elements whose cells hold numbers
_MOST_DECIMALS = 3  # that fit a cell
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue (BT.709)
_DARK = 0.5  # luminance; on darker cells the text is white
_CELL_TEXT = 7.5  # type size


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
      target, class_name, element_labels, title, ax: see `plot_elements`.
      units: units of the scores for the colour bar, e.g. "probability".
    Returns:
      The axes; `ax.images[0]` are the cells.
    Raises:
      ValueError: a batch, a class out of range, no marginals, another number of labels.
    """
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

    width, tall = float(np.clip(3 + 0.3 * n, 5.6, 10)), float(np.clip(0.3 * n, 2.1, 5))
    ax, height = style.given_or_new(ax, width, tall)
    _draw_cells(ax, cells, "mean marginal contribution\n", units, origin="lower", aspect="auto")
    style.label_cells(ax, labels, [str(s) for s in range(1, n + 1)])
    return style.finish(ax, heading, lines, labels=("element", "scale (elements)"), height=height)


def plot_interactions(
    matrix: ArrayLike,
    *,
    element_labels: Sequence[str] | None = None,
    class_name: str | None = None,
    units: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of pairwise interactions: blue pairs are worth more together.

    The diagonal is grey. With up to 12 elements the cells hold their numbers.

    Args:
      matrix: (n, n) of one class, symmetric, from `pairwise_interactions`.
      class_name: name of the class, for the text above. title: heading.
      units: units of the scores for the colour bar, e.g. "probability".
      element_labels, ax: see `plot_elements`.
    Returns:
      The axes; `ax.images[0]` are the cells.
    Raises:
      ValueError: another shape, values that are not finite, a matrix that is not symmetric,
        another number of labels.
    """
    square = expect_interactions(matrix)
    n = len(square)
    labels = style.expect_labels("element_labels", element_labels, n)
    shown = np.where(np.eye(n, dtype=bool), np.nan, square)
    left = 0.5 + style.text_inches(max(map(len, labels)))
    width = float(np.clip(1.5 + 0.42 * n, 3.9, 7.3)) + left
    ax, height = style.given_or_new(ax, width, width, left=left)
    _draw_cells(ax, shown, "interaction ", units, n <= _MOST_NUMBERS)
    style.label_cells(ax, labels, labels)
    lines = [] if class_name is None else [class_name]
    lines.append("blue: {}; vermillion: {}".format(*INTERACTION_MEANINGS))
    style.finish(ax, title or "Interactions of pairs", lines, labels=("element", "element"))
    if height is not None:  # as high as n x n squares of the width that is left for them
        ax.figure.draw_without_rendering()
        width = ax.get_position(original=True).width * ax.figure.get_figwidth()
        style.fit_height(ax.figure, [ax], width)
    return ax


def expect_interactions(matrix: ArrayLike) -> np.ndarray:
    """Return a matrix as float64 (n, n), n >= 1, finite and symmetric; refuse others."""
    square = np.asarray(matrix, np.float64)
    fits = square.ndim == 2 and square.shape[0] == square.shape[1] and square.size > 0
    way_out = "Index the class: interactions[..., c]."
    expect(fits, "matrix", "shape (n, n)", square.shape, way_out)
    expect_finite("matrix", square)
    gap = float(np.abs(square - square.T).max())
    got = f"one that differs by {gap:.3g}"
    expect(gap <= 1e-3 * reach(square), "matrix", "a symmetric one", got)
    return square


def reach(values: np.ndarray) -> float:
    """The greatest finite |value|, the limit of a centred scale; 1 if all are zero."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0


def _draw_cells(
    ax: Axes,
    values: np.ndarray,
    label: str,
    units: str | None,
    numbers: bool = False,
    **look: Any,
) -> None:
    """Draw cells (rows, columns), white at zero and grey for NaN, and a colour bar."""
    limit = reach(values)
    look |= {"cmap": style.diverging(), "vmin": -limit, "vmax": limit}
    image = ax.imshow(np.ma.masked_invalid(values), interpolation="nearest", **look)
    for spine in ax.spines.values():
        spine.set_color(style.GRID)
    ax.tick_params(length=0, labelcolor=style.INK, labelsize=style.TEXT_SIZE)
    if numbers:
        is_dark = image.to_rgba(image.get_array())[..., :3] @ _LUMINANCE < _DARK
        decimals = int(max(1 - np.floor(np.log10(limit)), 0))  # two digits of the greatest
        for (i, j), value in np.ndenumerate(values):
            text = "" if np.isnan(value) else _number(value, decimals)
            colour = "white" if is_dark[i, j] else style.INK
            ax.text(j, i, text, color=colour, ha="center", va="center", fontsize=_CELL_TEXT)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, aspect=22, pad=0.02)
    bar.set_label(f"{label}({units or 'units of the score'})", **style.TEXT)
    bar.ax.tick_params(colors=style.QUIET, labelcolor=style.INK, labelsize=style.TEXT_SIZE)
    bar.outline.set_visible(False)
    style.plain_ticks(bar.ax.yaxis)


def _number(value: float, decimals: int) -> str:
    """`value` with these decimals; one digit and a power of ten where they are more than 3."""
    if decimals <= _MOST_DECIMALS:
        return f"{round(value, decimals) + 0.0:.{decimals}f}"  # no -0.000
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}e{int(exponent)}" if value else "0"
