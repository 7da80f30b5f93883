"""Element Shapley Values along a video of many frames, as a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_finite
from esv_jax.plots import style
from esv_jax.plots.bars import bar_limits, class_text, esv_label, expect_one
from esv_jax.plots.figures import fit_height, given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES = 2.1
_BAND = "#D0D0D0"


def plot_timeline(
    attribution: Attribution,
    c: int,
    *,
    element_index: Sequence[int] | None = None,
    exact: Attribution | None = None,
    class_name: str | None = None,
    confidence: float = 0.95,
    units: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """ESVs of one class along a long video: supporting stretches blue, distracting ones vermillion.

    A grey band holds the intervals where the record has standard errors; it is drawn where they
    are known. Dots are exact values of the same elements.

    Args:
      attribution: the record of one sequence, (n, C).
      c: the class, 0..C-1.
      element_index: (n,) frame numbers of the elements, increasing; default 0..n-1.
      exact: an exact record of the same elements and classes, drawn over the line.
      class_name: how to call the class; default its number.
      confidence: share of intervals that should cover the exact value, in (0, 1).
      units: units of the scores for the y label, e.g. "probability"; default in words.
      title: heading in place of the class name.
      ax: axes to draw into; default those of a new figure, `ax.figure`, that no window shows.
    Returns:
      The axes. The legend is left out of axes narrower than 4.5 inches.
    Raises:
      ValueError: a batch, a class or confidence out of range, frame numbers that are not n or do
        not increase, exact values of other elements or that are sampled.
    """
    expect_one(attribution)
    expect(0 < confidence < 1, "confidence", "a share in (0, 1)", confidence)
    bare = dataclasses.replace(attribution, std_error=None)
    heading, lines = class_text(bare, c, class_name, title)
    places = _places(element_index, attribution.n)
    values = np.asarray(attribution.for_class(c), np.float64)
    half = np.full(len(values), np.nan)
    if attribution.std_error is not None:
        half = np.asarray(attribution.half_width(confidence)[:, c], np.float64)
        lines[-1] += f"; band: {100 * confidence:g} % interval"
    dots = None if exact is None else _exact_values(exact, attribution, c)
    if dots is not None:
        lines[-1] += "; dots: exact values"

    ax, is_new = given_or_new(ax, float(np.clip(6 + 0.01 * len(values), 6.4, 12)))
    _draw(ax, places, values, half, dots)
    style.annotate(ax, heading, lines, ("supporting", "distracting"))
    ax.set_xlabel("element" if element_index is None else "frame number", **style.TEXT)
    ax.set_ylabel(esv_label(units), **style.TEXT)
    if is_new:
        fit_height(ax.figure, [ax], _PANEL_INCHES)
    return ax


def _draw(
    ax: Any, places: np.ndarray, values: np.ndarray, half: np.ndarray, dots: np.ndarray | None
) -> None:
    style.strip_down(ax)
    if np.isfinite(half).any():  # behind the colours, so that these stay themselves
        band = {"color": _BAND, "linewidth": 0, "label": "interval"}
        ax.fill_between(places, values - half, values + half, **band)
    fill = {"interpolate": True, "alpha": 0.55, "linewidth": 0}
    ax.fill_between(places, values, where=values > 0, color=style.SUPPORTING, **fill)
    ax.fill_between(places, values, where=values <= 0, color=style.DISTRACTING, **fill)
    marker = "." if len(values) == 1 else None
    ax.plot(places, values, color=style.INK, linewidth=1, marker=marker, label="value")
    low, high = bar_limits(values, half)
    if dots is not None:
        size = float(np.clip(600 / len(dots), 2.2, 4.5))
        look = {"color": "white", "mec": style.INK, "mew": 0.7, "clip_on": False}
        ax.plot(places, dots, "o", markersize=size, zorder=3, label="exact", **look)
        below, above = bar_limits(dots, np.full(len(dots), np.nan))
        low, high = min(low, below), max(high, above)
    ax.axhline(0, color=style.INK, linewidth=0.8)
    ax.set_ylim(low, high)
    if len(places) > 1:
        ax.set_xlim(places[0], places[-1])
    style.count_ticks(ax, places, 9)


def _places(index: Sequence[int] | None, n: int) -> np.ndarray:
    if index is None:
        return np.arange(n, dtype=np.float64)
    places = np.asarray(index, np.float64)
    expect(places.shape == (n,), "element_index", f"{n} frame numbers", places.shape)
    expect_finite("element_index", places)
    expect(bool((np.diff(places) > 0).all()), "element_index", "increasing numbers", "others")
    return places


def _exact_values(exact: Attribution, attribution: Attribution, c: int) -> np.ndarray:
    shape = attribution.values.shape
    expect(exact.values.shape == shape, "exact", f"values {shape}", exact.values.shape)
    expect(exact.exact, "exact", "an exact record", "a sampled one", "Explain with Exact().")
    return np.asarray(exact.for_class(c), np.float64)
