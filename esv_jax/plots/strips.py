"""Frames of a clip in temporal order, in rows above bars of values of the frames."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_int, expect_shape, message
from esv_jax.display import MEANINGS
from esv_jax.plots import style
from esv_jax.plots.elements import bar_limits, bar_values, class_text, draw_bars, esv_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel: TypeAlias = "tuple[str, np.ndarray] | Callable[[Axes], None]"

_MIN_SLOTS = 4  # fewer frames would be large, and the heading needs as much width

# Rows of frames, each above its bars; in inches
_MAX_ROWS = 4  # more elements are thinned out to one row of frames over one of all bars
_SLOT_INCHES = 1.05  # of a frame with the gap to the next
_FILLED = 0.94  # share of a slot that a frame takes
_TALLEST_INCHES = 1.9  # of a frame; an upright one gets narrower instead
_STRIP_INCHES = 1.15  # height of the bars

# Rows of several pictures of each frame
_COLUMN_INCHES = 0.8
_COLUMN_FILLED = 0.95
_LETTERS = 12  # of a name beside a row, in one line


def plot_frame_strip(
    attribution: Attribution,
    frames: ArrayLike,
    target: int,
    *,
    class_name: str | None = None,
    frame_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
    max_columns: int = 8,
) -> Figure:
    """Frames in temporal order, each above the bar of its ESV for one class.

    All bars have one scale, with the colours, the whiskers and the text above of `plot_elements`.
    Elements wrap into rows of equal length. In place of more than 4 rows, `max_columns` evenly
    spread frames are above one row with the bars of all elements, each within half a bar of its
    own. The figure is as high as the frames need to keep their proportions.

    Args:
      attribution: the record of one sequence, (n, C).
      frames: the elements explained, (n, h, w, 3) uint8 RGB.
      frame_labels: n labels, e.g. frame numbers in the video; default 0..n-1. Labels wider than
        their frame are cut.
      max_columns: largest number of frames in a row, >= 1.
      target, class_name, units, title: see `plot_elements`.
    Raises:
      ValueError: a batch, a class out of range, another number of frames or labels than elements,
        frames of another shape.
      TypeError: frames that are not uint8, `max_columns` that is not an integer.
    Cost: about 0.1 s and 0.1 s per row, and the time to shrink the frames shown.
    """
    heading, lines = class_text(attribution, target, class_name, title)
    n = attribution.n
    images = expect_pictures(frames, "(n, h, w, 3)", n)
    columns = expect_int("max_columns", max_columns, minimum=1)
    values, half = bar_values(attribution, target)
    labels = style.expect_labels("frame_labels", frame_labels, n)

    n_rows = -(-n // columns)
    thinned = n_rows > _MAX_ROWS
    if thinned:
        rows, slots, shown = [range(n)], columns, _spread(n, columns)
    else:
        length = -(-n // n_rows)
        rows = [range(start, min(start + length, n)) for start in range(0, n, length)]
        slots, shown = max(length, _MIN_SLOTS), np.arange(n)
    per_slot = n / slots if thinned else 1.0  # elements
    width = float(np.clip(0.75 + _SLOT_INCHES * slots, 5.6, 12))
    figure = style.new_figure(width, 2 * _STRIP_INCHES * len(rows))
    axes = figure.subplots(2 * len(rows), squeeze=False)[:, 0]
    for row, above, bars in zip(rows, axes[::2], axes[1::2], strict=True):
        for ax in (above, bars):
            ax.set_xlim(row[0] - 0.5, row[0] - 0.5 + slots * per_slot)
        draw_bars(bars, np.array(row), values[row], half[row], 0.8 if thinned else 0.6)
        bars.set_ylim(*bar_limits(values, half))
        bars.set_xticks([])
        bars.locator_params(axis="y", nbins=4)
        if row is not rows[-1]:
            bars.set_xlabel(" ", **style.TEXT)  # keeps rows apart
        bars.set_ylabel(esv_label(units), **style.TEXT)

    figure.draw_without_rendering()  # settles the width of the panels
    slot_inches = style.width_of(axes[0]) / slots
    aspect = images.shape[1] / images.shape[2]
    inches = min(_FILLED * slot_inches, _TALLEST_INCHES / aspect)  # width of a frame
    for ax, row in zip(axes[::2], rows, strict=True):
        here = [i for i in shown if i in row]
        places = row[0] - 0.5 + (np.arange(len(here)) + 0.5) * per_slot
        _draw_pictures(ax, images[here], places, inches / slot_inches * per_slot)
        style.label_pictures(ax, places, [labels[i] for i in here], slot_inches)
        _name_labels(ax, "element" if frame_labels is None else "frame")
    style.annotate(axes[0], heading, lines, MEANINGS)
    _set_heights(figure, axes, [inches * aspect, _STRIP_INCHES] * len(rows))
    return figure


def frames_shown(t: int, max_columns: int) -> np.ndarray:
    """Indices of at most `max_columns` frames, evenly spread over t."""
    return _spread(t, min(t, expect_int("max_columns", max_columns, minimum=1)))


def plot_panels(
    t: int,
    shown: np.ndarray,
    panels: Sequence[Panel],
    *,
    bars_inches: float,
    frame_labels: Sequence[str] | None,
    heading: str,
    lines: Sequence[str],
    meanings: tuple[str, str],
    name_bars: Callable[[Axes], None] = lambda ax: None,
) -> Figure:
    """Rows of pictures and of bars over the t frames of a clip, in a figure as high as they need.

    A row of pictures is its name and the frames `shown` (k,), as (k, h, w, 3); a row of bars is a
    function that draws it. `name_bars` draws a legend on the last row, once its width is settled.
    """
    names = style.expect_labels("frame_labels", frame_labels, t)
    n, slots = len(shown), max(len(shown), _MIN_SLOTS)
    places = (np.arange(n) + 0.5) * t / n - 0.5
    width = float(np.clip(1.2 + _COLUMN_INCHES * slots, 5.6, 14))
    figure = style.new_figure(width, 1.5 * len(panels))
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        ax.set_xlim(-0.5, slots * t / n - 0.5)
        if isinstance(panel, tuple):
            name, pictures = panel
            _draw_pictures(ax, pictures, places, _COLUMN_FILLED * t / n)
            ax.set_ylabel(textwrap.fill(name, _LETTERS), **style.TEXT)
        else:
            panel(ax)
        ax.set_xticks([])
    figure.draw_without_rendering()  # settles the width of the panels
    slot_inches = style.width_of(axes[0]) / slots
    style.label_pictures(axes[0], places, [names[i] for i in shown], slot_inches)
    name_bars(axes[-1])
    style.annotate(axes[0], heading, lines, meanings)
    aspects = [p[1].shape[1] / p[1].shape[2] if isinstance(p, tuple) else 0.0 for p in panels]
    tall = _COLUMN_FILLED * slot_inches
    _set_heights(figure, axes, [tall * aspect or bars_inches for aspect in aspects])
    return figure


def expect_pictures(frames: ArrayLike, letters: str, n: int | None = None) -> np.ndarray:
    """Frames as a uint8 array with axes like `letters`, "(n, h, w, 3)"; n of them if given."""
    images = np.asarray(frames)
    if images.dtype != np.uint8:
        raise TypeError(message("frames", "uint8, 0..255", f"dtype {images.dtype}"))
    expect_shape("frames", images, (None, None, None, 3), letters)
    if n is not None:
        expect(len(images) == n, "frames", f"{n} frames, one per element", len(images))
    expect(images.size > 0, "frames", f"shape {letters}, each at least 1", images.shape)
    return images


def _spread(n: int, k: int) -> np.ndarray:
    """The centres of k equal parts of 0..n-1."""
    return (2 * np.arange(k) + 1) * n // (2 * k)


def _draw_pictures(ax: Axes, images: np.ndarray, places: np.ndarray, width: float) -> None:
    """Draw frames side by side, centred at `places` on the x axis, `width` in its units."""
    limits = ax.get_xlim()
    for image, place in zip(images, places, strict=True):
        extent = (place - width / 2, place + width / 2, 0, 1)
        ax.imshow(image, extent=extent, aspect="auto")
    ax.set_xlim(limits)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _name_labels(ax: Axes, name: str) -> None:
    """Write what the labels below the frames are, to their left."""
    where = {"xytext": (-6, -4), "xycoords": "axes fraction", "textcoords": "offset points"}
    look = {"ha": "right", "va": "top", "color": style.QUIET, "fontsize": style.TEXT_SIZE}
    ax.annotate(name, (0, 0), **where, **look)


def _set_heights(figure: Figure, axes: np.ndarray, heights: Sequence[float]) -> None:
    """Set the heights of stacked panels, in inches, and that of their figure."""
    axes[0].get_gridspec().set_height_ratios(heights)
    style.fit_height(figure, list(axes), sum(heights))
