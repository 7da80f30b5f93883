"""The frames that were explained, each above the bar of its Element Shapley Value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect_int
from esv_jax.plots import style
from esv_jax.plots.bars import (
    bar_limits,
    bar_values,
    class_text,
    draw_bars,
    esv_label,
    expect_one,
)
from esv_jax.plots.figures import fit_height, new_figure
from esv_jax.plots.labels import expect_labels, label_pictures
from esv_jax.plots.pictures import draw_pictures, expect_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_ROWS = 4  # more elements are thinned out to one row of frames over one of all bars
_MIN_SLOTS = 4  # the heading needs as much width
_SLOT_INCHES = 1.05  # of a frame with the gap to the next
_FILLED = 0.94  # share of a slot that a frame takes
_TALLEST_INCHES = 1.9  # of a frame; an upright one gets narrower instead
_BARS_INCHES = 1.15


def plot_frame_strip(
    attribution: Attribution,
    frames: Any,
    c: int,
    *,
    class_name: str | None = None,
    frame_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
    max_columns: int = 8,
) -> Figure:
    """Frames in temporal order, each with the bar of its ESV for one class below it.

    All bars have one scale; supporting ones are blue, distracting ones vermillion. Whiskers are
    95 % intervals (1.96 standard errors) where the record has standard errors. Above: the class,
    its score, its prior and their difference, and how they were obtained. Elements wrap into rows
    of equal length; where these would be more than 4, `max_columns` frames, spread evenly, stand
    above one row with the bars of all elements, each within half a bar of its own.

    It makes a figure of its own, since frames keep their proportions only where the figure is made
    as high as they need.

    Args:
      attribution: the record of one sequence, (n, C).
      frames: the elements explained, (n, h, w, 3) uint8 RGB, of any size and aspect ratio.
      c: the class, 0..C-1.
      class_name: how to call the class; default its number.
      frame_labels: n labels, e.g. numbers of the frames in the video; default 0..n-1. Those longer
        than their frame is wide are cut short.
      units: units of the scores for the y label, e.g. "probability"; default in words.
      title: heading in place of the class name.
      max_columns: frames beside each other at most, >= 1.
    Returns:
      A new figure that no window shows; `save_figure` writes it.
    Raises:
      ValueError: a batch, a class out of range, another number of frames or labels than elements,
        frames of another shape.
      TypeError: frames that are not uint8, columns that are no integer.
    Cost: drawn once, some 0.1 s and 0.1 s for each row, and the time to shrink the frames shown.
    """
    expect_one(attribution)
    n = attribution.n
    images = expect_pictures(frames, "(n, h, w, 3)", n)
    max_columns = expect_int("max_columns", max_columns, minimum=1)
    heading, lines = class_text(attribution, c, class_name, title)
    values, half = bar_values(attribution, c)
    labels = expect_labels("frame_labels", frame_labels, n)

    spans, slots, shown = _rows(n, max_columns)
    thinned = len(shown) < n
    inches = float(np.clip(0.75 + _SLOT_INCHES * slots, 5.6, 12))
    figure = new_figure(inches, 2 * _BARS_INCHES * len(spans))
    axes = figure.subplots(2 * len(spans), squeeze=False)[:, 0]
    low, high = bar_limits(values, half)
    per_slot = n / slots if thinned else 1.0  # elements
    for k, span in enumerate(spans):
        for ax in axes[2 * k : 2 * k + 2]:
            ax.set_xlim(span[0] - 0.5, span[0] - 0.5 + slots * per_slot)
        bars = axes[2 * k + 1]
        draw_bars(bars, np.array(span), values[span], half[span], 0.8 if thinned else 0.6)
        bars.set_ylim(low, high)
        bars.set_xticks([])
        bars.locator_params(axis="y", nbins=4)
        if span is not spans[-1]:
            bars.set_xlabel(" ", **style.TEXT)  # keeps rows apart
        bars.set_ylabel(esv_label(units), **style.TEXT)

    figure.draw_without_rendering()  # settles how wide the panels are
    slot_inches = axes[0].get_window_extent().width / figure.dpi / slots
    aspect = images.shape[1] / images.shape[2]
    thumb_inches = min(_FILLED * slot_inches, _TALLEST_INCHES / aspect)
    kind = "element" if frame_labels is None else "frame"
    for ax, span in zip(axes[::2], spans, strict=True):
        here = [i for i in shown if i in span]
        places = span[0] - 0.5 + (np.arange(len(here)) + 0.5) * per_slot
        draw_pictures(ax, images[here], places, thumb_inches / slot_inches * per_slot)
        label_pictures(ax, places, [labels[i] for i in here], slot_inches)
        _name_labels(ax, kind)
    style.annotate(axes[0], heading, lines, ("supporting", "distracting"))
    heights = [thumb_inches * aspect, _BARS_INCHES] * len(spans)
    axes[0].get_gridspec().set_height_ratios(heights)
    fit_height(figure, list(axes), sum(heights))
    return figure


def _rows(n: int, max_columns: int) -> tuple[list[range], int, list[int]]:
    """The elements of each row, the frames that a row has room for, the elements shown by one."""
    rows = -(-n // max_columns)
    if rows > _MAX_ROWS:
        centres = (2 * np.arange(max_columns) + 1) * n // (2 * max_columns)
        return [range(n)], max_columns, centres.tolist()
    columns = -(-n // rows)
    spans = [range(start, min(start + columns, n)) for start in range(0, n, columns)]
    return spans, max(columns, _MIN_SLOTS), list(range(n))


def _name_labels(ax: Any, kind: str) -> None:
    """Write the meaning of the labels under the frames to their left."""
    ax.annotate(
        kind,
        (0, 0),
        xytext=(-6, -4),
        xycoords="axes fraction",
        textcoords="offset points",
        horizontalalignment="right",
        verticalalignment="top",
        color=style.QUIET,
        fontsize=style.TEXT_SIZE,
    )
