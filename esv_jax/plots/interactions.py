"""Pairwise interactions as arcs over the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect_finite, expect_int, expect_shape
from esv_jax.display import count_text, number, sign_colours
from esv_jax.plots import style
from esv_jax.plots.heat_maps import INTERACTION_MEANINGS, expect_interactions, reach

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDEST, _THINNEST = 5.0, 0.3  # points, of an arc
_LARGEST = 130.0  # square points, of the mark of an element
_PANEL_INCHES, _EMPTY_INCHES = 2.4, 0.6  # height with arcs, and without


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
    square = expect_interactions(matrix)
    n = len(square)
    strongest = expect_int("strongest", strongest, minimum=1)
    labels = style.expect_labels("element_labels", element_labels, n)
    values = None if esv is None else np.asarray(esv, np.float64)
    if values is not None:
        letters = f"({n},), one value per element"
        expect_shape("esv", values, (n,), letters, "Index the class.")
        expect_finite("esv", values)
    first, second = np.triu_indices(n, 1)
    sizes = np.abs(square[first, second])
    order = [k for k in np.argsort(-sizes, kind="stable")[:strongest] if sizes[k] > 0]
    pairs = [(int(first[k]), int(second[k])) for k in order]
    widest = float(sizes.max(initial=0))

    width, tall = float(np.clip(3 + 0.2 * n, 6.8, 12)), _PANEL_INCHES if pairs else _EMPTY_INCHES
    ax, height = style.given_or_new(ax, width, tall)
    angle = np.linspace(0, np.pi, 61)
    for i, j in reversed(pairs):  # half an ellipse, half as high as it is wide
        ax.plot(
            (i + j) / 2 - (j - i) / 2 * np.cos(angle),
            (j - i) / 2 * np.sin(angle),
            color=style.SUPPORTING if square[i, j] > 0 else style.DISTRACTING,
            linewidth=max(_THINNEST, _WIDEST * abs(square[i, j]) / widest),
            alpha=0.75,
            solid_capstyle="butt",
            label=f"{i}-{j}",
        )
    ax.hlines(0, 0, n - 1, color=style.QUIET, linewidth=0.8, zorder=1)
    look = {"s": 30, "color": style.INK}
    if values is not None:
        look = {"s": _LARGEST * np.abs(values) / reach(values), "color": sign_colours(values)}
        look |= {"edgecolor": "white", "linewidth": 0.8, "clip_on": False}
    ax.scatter(np.arange(n), np.zeros(n), zorder=4, **look)
    style.strip_down(ax)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.set_yticks([])
    tallest = max([1.0, *((j - i) / 2 for i, j in pairs)])
    ax.set_ylim(-0.08 * tallest, 1.06 * tallest)
    style.label_elements(ax, labels)
    ax.tick_params(axis="x", length=0, pad=6)

    unit = "" if units is None else f" ({units})"
    lines = [] if class_name is None else [class_name]
    of_all = count_text(len(sizes), "pair")
    lines.append(
        f"{len(pairs)} strongest of {of_all}; widest: {number(widest)}{unit}"
        if pairs
        else f"no interaction among {of_all}"
    )
    if values is not None:
        lines.append(f"areas: |ESV|, at most {number(float(np.abs(values).max()))}{unit}")
    heading, meanings = title or "Interactions of pairs", INTERACTION_MEANINGS
    return style.finish(ax, heading, lines, meanings, labels=("element", ""), height=height)
