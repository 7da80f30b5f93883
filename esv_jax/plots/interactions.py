"""Pairwise interactions, as a matrix or as arcs over the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect, expect_finite, expect_int, expect_shape
from esv_jax.display import count_text, number, sign_colours
from esv_jax.plots import style
from esv_jax.plots.heat_maps import (
    MOST_NUMBERS,
    colour_bar,
    draw_signed,
    expect_square,
    fit_square,
    names_inches,
    reach,
    square_inches,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEANINGS = ("worth more together", "dispensable beside each other")
_WIDEST, _THINNEST = 5.0, 0.3  # points, of an arc
_LARGEST = 130.0  # square points, of the mark of an element
_PANEL_INCHES, _EMPTY_INCHES = 2.4, 0.6  # height with arcs, and without
_MOST_DECIMALS = 3  # that fit a cell
_WAY_OUT = "Index the class: interactions[..., c]."


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
      element_labels: n labels of the elements; default 0..n-1.
      class_name: name of the class, for the text above.
      units: units of the scores for the colour bar, e.g. "probability".
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, without a window.
    Returns:
      The axes; `ax.images[0]` are the cells.
    Raises:
      ValueError: another shape, values that are not finite, a matrix that is not symmetric,
        another number of labels.
    """
    square = _expect_interactions(matrix)
    n = len(square)
    labels = style.expect_labels("element_labels", element_labels, n)
    shown = np.where(np.eye(n, dtype=bool), np.nan, square)
    limit = reach(shown)
    texts = _numbers(shown, limit) if n <= MOST_NUMBERS else None
    ax, is_new = style.given_or_new(ax, square_inches(labels), left=names_inches(labels))
    image = draw_signed(ax, shown, limit, texts=texts, aspect="equal")
    colour_bar(ax, image, f"interaction {style.in_units(units)}")
    style.label_columns(ax, labels)
    style.label_rows(ax, labels)
    lines = [] if class_name is None else [class_name]
    lines.append(f"blue: {_MEANINGS[0]}; vermillion: {_MEANINGS[1]}")
    style.annotate(ax, title or "Interactions of pairs", lines)
    ax.set_xlabel("element", **style.TEXT)
    ax.set_ylabel("element", **style.TEXT)
    if is_new:
        fit_square(ax)
    return ax


def plot_interaction_arcs(
    matrix: ArrayLike,
    esv: ArrayLike | None = None,
    *,
    strongest: int = 20,
    element_labels: Sequence[str] | None = None,
    class_name: str | None = None,
    units: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Arcs between the elements of the strongest pairs, in temporal order.

    The width of an arc is proportional to |interaction|; its colour is the sign. With ESVs, the
    areas of the elements' marks are proportional to |ESV|, in the colours of bars.

    Args:
      esv: (n,) ESVs of the class; None for marks of one size.
      strongest: largest number of pairs drawn, >= 1. Pairs of exactly zero are not drawn.
      matrix, element_labels, class_name, units, title, ax: see `plot_interactions`; the units are
        in the text above.
    Returns:
      The axes; its lines are the arcs, the strongest last, each with the label "i-j".
    Raises:
      ValueError: see `plot_interactions`; ESVs of another shape, `strongest` < 1.
      TypeError: `strongest` that is not an integer.
    """
    square = _expect_interactions(matrix)
    n = len(square)
    strongest = expect_int("strongest", strongest, minimum=1)
    labels = style.expect_labels("element_labels", element_labels, n)
    values = None
    if esv is not None:
        expect_shape(
            "esv", np.asarray(esv), (n,), f"({n},), one value per element", "Index the class."
        )
        expect_finite("esv", esv)
        values = np.asarray(esv, np.float64)
    pairs = _strongest(square, strongest)
    widest = reach(np.array([square[i, j] for i, j in pairs]))
    ax, is_new = style.given_or_new(ax, float(np.clip(3 + 0.2 * n, 6.8, 12)))
    for i, j in reversed(pairs):
        _draw_arc(ax, i, j, square[i, j], widest)
    _draw_marks(ax, n, values)
    _label_axes(ax, labels, max((j - i for i, j in pairs), default=0) / 2)
    unit = "" if units is None else f" ({units})"
    n_pairs = n * (n - 1) // 2
    lines = [] if class_name is None else [class_name]
    of_all = count_text(n_pairs, "pair")
    lines.append(
        f"{len(pairs)} strongest of {of_all}; widest: {number(widest)}{unit}"
        if pairs
        else f"no interaction among {of_all}"
    )
    if values is not None:
        lines.append(f"areas: |ESV|, at most {number(float(np.abs(values).max()))}{unit}")
    style.annotate(ax, title or "Interactions of pairs", lines, _MEANINGS)
    if is_new:
        style.fit_height(ax.figure, [ax], _PANEL_INCHES if pairs else _EMPTY_INCHES)
    return ax


def _expect_interactions(matrix: ArrayLike) -> np.ndarray:
    square = expect_square("matrix", matrix, _WAY_OUT)
    gap = float(np.abs(square - square.T).max())
    symmetric = gap <= 1e-3 * reach(square)
    expect(symmetric, "matrix", "a symmetric one", f"one that differs by {gap:.3g}")
    return square


def _numbers(shown: np.ndarray, limit: float) -> list[list[str]]:
    """Text of the cells, with the decimals that give the greatest two digits.

    If these are more than 3, one digit of each cell with its power of ten.
    """
    decimals = int(max(1 - np.floor(np.log10(limit)), 0))
    if decimals > _MOST_DECIMALS:
        return [[_short(x) if np.isfinite(x) else "" for x in row] for row in shown]
    rounded = np.round(shown, decimals) + 0.0  # no -0.000
    return [[f"{x:.{decimals}f}" if np.isfinite(x) else "" for x in row] for row in rounded]


def _short(value: float) -> str:
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}e{int(exponent)}" if value else "0"


def _strongest(matrix: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Pairs i < j with interactions other than zero, the strongest first."""
    i, j = np.triu_indices(len(matrix), 1)
    size = np.abs(matrix[i, j])
    order = [k for k in np.argsort(-size, kind="stable")[:most] if size[k] > 0]
    return [(int(i[k]), int(j[k])) for k in order]


def _draw_arc(ax: Axes, i: int, j: int, value: float, widest: float) -> None:
    """Draw half an ellipse whose height is half the distance of the pair."""
    angle = np.linspace(0, np.pi, 61)
    x = (i + j) / 2 - (j - i) / 2 * np.cos(angle)
    ax.plot(
        x,
        (j - i) / 2 * np.sin(angle),
        color=style.SUPPORTING if value > 0 else style.DISTRACTING,
        linewidth=max(_THINNEST, _WIDEST * abs(value) / widest),
        alpha=0.75,
        solid_capstyle="butt",
        label=f"{i}-{j}",
    )


def _draw_marks(ax: Axes, n: int, values: np.ndarray | None) -> None:
    """Draw a mark for each element on the line below the arcs."""
    ax.hlines(0, 0, n - 1, color=style.QUIET, linewidth=0.8, zorder=1)
    if values is None:
        ax.scatter(np.arange(n), np.zeros(n), s=30, color=style.INK, zorder=4)
        return
    size = _LARGEST * np.abs(values) / reach(values)
    look = {"color": sign_colours(values), "edgecolor": "white", "linewidth": 0.8}
    ax.scatter(np.arange(n), np.zeros(n), s=size, zorder=4, clip_on=False, **look)


def _label_axes(ax: Axes, labels: Sequence[str], highest_arc: float) -> None:
    tallest = max(1.0, highest_arc)
    style.strip_down(ax)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.set_yticks([])
    ax.set_ylim(-0.08 * tallest, 1.06 * tallest)
    style.label_elements(ax, labels)
    ax.tick_params(axis="x", length=0, pad=6)
    ax.set_xlabel("element", **style.TEXT)
