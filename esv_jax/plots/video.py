"""Frames of a video with the Element Shapley Values under them, as a strip or as a video."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_int, expect_shape, message
from esv_jax.display import MEANINGS
from esv_jax.extras import require
from esv_jax.plots import style
from esv_jax.plots.elements import (
    bar_limits,
    bar_values,
    class_text,
    draw_bars,
    esv_label,
    expect_one,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel: TypeAlias = "tuple[str, Callable[[np.ndarray], np.ndarray]] | Callable[[Axes], None]"

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (BT.601)
_GAP = 4  # pixels between clips side by side

# A strip, in inches
_MAX_ROWS = 4  # more elements are thinned out to one row of frames over one of all bars
_MIN_SLOTS = 4  # fewer frames would be large, and the heading needs as much width
_SLOT_INCHES = 1.05  # of a frame with the gap to the next
_FILLED = 0.94  # share of a slot that a frame takes
_TALLEST_INCHES = 1.9  # of a frame; an upright one gets narrower instead
_STRIP_INCHES = 1.15  # height of the bars

# Columns of a strip of several rows
_COLUMN_INCHES = 0.8
_COLUMN_FILLED = 0.95
_LETTERS = 12  # of a name beside a row, in one line

# A video
_BARS_INCHES = 1.0
_WIDEST_INCHES = 6.4  # beyond, text grows with the picture
_PAD_INCHES = 0.08  # above the heading and below the axis
_DPI = 100.0
_INK = np.array(style.rgb(style.INK), np.uint8)


# Strips


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

    All bars have one scale; supporting ones are blue, distracting ones vermillion. Whiskers are
    95 % intervals (1.96 standard errors) if the record has standard errors. Above: the class, its
    score, its prior and their difference, the number of evaluations. Elements wrap into rows of
    equal length. In place of more than 4 rows, `max_columns` evenly spread frames are above one
    row with the bars of all elements, each within half a bar of its own.

    It makes a figure of its own, as high as the frames need to keep their proportions.

    Args:
      attribution: the record of one sequence, (n, C).
      frames: the elements explained, (n, h, w, 3) uint8 RGB.
      target: the class, 0..C-1.
      class_name: name of the class; default its number.
      frame_labels: n labels, e.g. frame numbers in the video; default 0..n-1. Labels wider than
        their frame are cut.
      units: units of the scores for the y label, e.g. "probability".
      title: heading in place of the class name.
      max_columns: largest number of frames in a row, >= 1.
    Returns:
      A new figure without a window; `save_figure` writes it.
    Raises:
      ValueError: a batch, a class out of range, another number of frames or labels than elements,
        frames of another shape.
      TypeError: frames that are not uint8, `max_columns` that is not an integer.
    Cost: about 0.1 s and 0.1 s per row, and the time to shrink the frames shown.
    """
    expect_one(attribution)
    n = attribution.n
    images = expect_pictures(frames, "(n, h, w, 3)", n)
    max_columns = expect_int("max_columns", max_columns, minimum=1)
    heading, lines = class_text(attribution, target, class_name, title)
    values, half = bar_values(attribution, target)
    labels = style.expect_labels("frame_labels", frame_labels, n)

    spans, slots, shown = _rows(n, max_columns)
    thinned = len(shown) < n
    inches = float(np.clip(0.75 + _SLOT_INCHES * slots, 5.6, 12))
    figure = style.new_figure(inches, 2 * _STRIP_INCHES * len(spans))
    axes = figure.subplots(2 * len(spans), squeeze=False)[:, 0]
    limits = bar_limits(values, half)
    per_slot = n / slots if thinned else 1.0  # elements
    for k, span in enumerate(spans):
        for ax in axes[2 * k : 2 * k + 2]:
            ax.set_xlim(span[0] - 0.5, span[0] - 0.5 + slots * per_slot)
        bars = axes[2 * k + 1]
        draw_bars(bars, np.array(span), values[span], half[span], 0.8 if thinned else 0.6)
        bars.set_ylim(*limits)
        bars.set_xticks([])
        bars.locator_params(axis="y", nbins=4)
        if span is not spans[-1]:
            bars.set_xlabel(" ", **style.TEXT)  # keeps rows apart
        bars.set_ylabel(esv_label(units), **style.TEXT)

    figure.draw_without_rendering()  # settles the width of the panels
    slot_inches = style.width_of(axes[0]) / slots
    aspect = images.shape[1] / images.shape[2]
    thumb_inches = min(_FILLED * slot_inches, _TALLEST_INCHES / aspect)
    kind = "element" if frame_labels is None else "frame"
    for ax, span in zip(axes[::2], spans, strict=True):
        here = [i for i in shown if i in span]
        places = span[0] - 0.5 + (np.arange(len(here)) + 0.5) * per_slot
        _draw_pictures(ax, images[here], places, thumb_inches / slot_inches * per_slot)
        style.label_pictures(ax, places, [labels[i] for i in here], slot_inches)
        _name_labels(ax, kind)
    style.annotate(axes[0], heading, lines, MEANINGS)
    heights = [thumb_inches * aspect, _STRIP_INCHES] * len(spans)
    axes[0].get_gridspec().set_height_ratios(heights)
    style.fit_height(figure, list(axes), sum(heights))
    return figure


def _rows(n: int, max_columns: int) -> tuple[list[range], int, list[int]]:
    """The elements of each row, the frames that fit into a row, the elements with a frame."""
    rows = -(-n // max_columns)
    if rows > _MAX_ROWS:
        centres = (2 * np.arange(max_columns) + 1) * n // (2 * max_columns)
        return [range(n)], max_columns, centres.tolist()
    columns = -(-n // rows)
    spans = [range(start, min(start + columns, n)) for start in range(0, n, columns)]
    return spans, max(columns, _MIN_SLOTS), list(range(n))


def _name_labels(ax: Axes, kind: str) -> None:
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


# Pictures


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


def expect_index(index: Sequence[int] | np.ndarray | None, t: int) -> np.ndarray:
    """Frame numbers of t frames, 0..t-1 by default; refuse another number of them."""
    numbers = np.arange(t) if index is None else np.asarray(index)
    expect(len(numbers) == t, "index", f"{t} frame numbers", len(numbers))
    return numbers


def faded(frames: np.ndarray, share: float) -> np.ndarray:
    """Grey frames (t, h, w, 1) float32 with a share of white in 0..1."""
    grey = frames.astype(np.float32) @ _LUMA
    return (grey + (255 - grey) * share)[..., None]


def beside(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Clips of one shape (t, h, w, 3) side by side, with white gaps, (t, h, w', 3) uint8."""
    gap = np.full((*clips[0].shape[:2], _GAP, 3), 255, np.uint8)
    panels = [clips[0]]
    for clip in clips[1:]:
        panels += [gap, clip]
    return np.concatenate(panels, 2)


def render_clips(clips: Sequence[ArrayLike], *, min_height: int = 240) -> Iterator[np.ndarray]:
    """A video of clips beside each other, enlarged by a whole factor.

    Args:
      clips: each (t, h, w, 3) uint8 RGB, of one shape.
      min_height: pixels, >= 1.
    Returns:
      An iterator over t pictures (h', w', 3) uint8 RGB, for `write_video`.
    Raises:
      ValueError: no clips, or shapes that differ. TypeError: clips that are not uint8.
    """
    expect(len(clips) > 0, "clips", "at least one", "none")
    shown = [expect_pictures(clip, "(t, h, w, 3)") for clip in clips]
    shapes = {clip.shape for clip in shown}
    expect(len(shapes) == 1, "clips", "one shape", sorted(shapes))
    factor = -(-expect_int("min_height", min_height, minimum=1) // shown[0].shape[1])
    return (picture.repeat(factor, 0).repeat(factor, 1) for picture in beside(shown))


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


def plot_strip(
    t: int,
    panels: Sequence[Panel],
    *,
    aspect: float,
    bars_inches: float,
    frame_labels: Sequence[str] | None,
    max_columns: int,
    heading: str,
    lines: Sequence[str],
    meanings: tuple[str, str],
    name_bars: Callable[[Axes], None] = lambda ax: None,
) -> Figure:
    """Rows of pictures and of bars over the t frames of a clip, in a figure as high as they need.

    Args:
      panels: from the top down. A row of pictures is its name and a function of the indices of the
        frames shown (k,) to pictures (k, h, w, 3); a row of bars is a function that draws it.
      aspect: height of a frame, in widths.
      bars_inches: height of a row of bars.
      frame_labels, max_columns: see `plots.plot_relevance_strip`.
      heading, lines, meanings: see `style.annotate`.
      name_bars: draws a legend on the last row, once its width is settled.
    """
    n = min(t, expect_int("max_columns", max_columns, minimum=1))
    names = style.expect_labels("frame_labels", frame_labels, t)
    slots = max(n, _MIN_SLOTS)
    shown = (2 * np.arange(n) + 1) * t // (2 * n)
    places = (np.arange(n) + 0.5) * t / n - 0.5
    width = float(np.clip(1.2 + _COLUMN_INCHES * slots, 5.6, 14))
    figure = style.new_figure(width, 1.5 * len(panels))
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        ax.set_xlim(-0.5, slots * t / n - 0.5)
        if isinstance(panel, tuple):
            name, pictures = panel
            _draw_pictures(ax, pictures(shown), places, _COLUMN_FILLED * t / n)
            ax.set_ylabel(textwrap.fill(name, _LETTERS), **style.TEXT)
        else:
            panel(ax)
        ax.set_xticks([])
    figure.draw_without_rendering()  # settles the width of the panels
    slot_inches = style.width_of(axes[0]) / slots
    style.label_pictures(axes[0], places, [names[i] for i in shown], slot_inches)
    name_bars(axes[-1])
    style.annotate(axes[0], heading, lines, meanings)
    tall = _COLUMN_FILLED * slot_inches * aspect
    heights = [tall if isinstance(panel, tuple) else bars_inches for panel in panels]
    axes[0].get_gridspec().set_height_ratios(heights)
    style.fit_height(figure, list(axes), sum(heights))
    return figure


# Videos


def render_overlay(
    attribution: Attribution,
    frames: Iterable[ArrayLike] | None,
    target: int,
    *,
    video_frames: Iterable[ArrayLike] | None = None,
    index: Sequence[int] | np.ndarray | None = None,
    shown: Sequence[int] | np.ndarray | None = None,
    class_name: str | None = None,
    title: str | None = None,
    min_width: int = 320,
) -> Iterator[np.ndarray]:
    """Frames of a video, each above the bars of the ESVs of one class, with a moving cursor.

        write_video("out.mp4", render_overlay(att, frames, c), fps=4)              # elements alone
        write_video(
            "out.mp4", render_overlay(att, None, c, video_frames=video, index=index), fps=25
        )                                                            # the video they come from

    The bars are at the frame numbers of their elements, supporting ones blue, distracting ones
    vermillion, with the whiskers and the heading of `plot_frame_strip`. Videos narrower than
    `min_width` are enlarged by a whole factor, without interpolation.

    Args:
      attribution: the record of one sequence, (n, C).
      frames: the frames shown, (t, h, w, 3) uint8 RGB or an iterator over (h, w, 3). Without
        `index`, these are the n elements. With `video_frames`, the n elements or None; they are
        not drawn.
      target: the class, 0..C-1.
      video_frames: the frames shown instead of `frames`, in the same forms.
      index: frame numbers of the n elements, increasing; default 0..n-1.
      shown: frame numbers of the t frames shown, increasing; default 0..t-1. Required with `index`
        and an iterator.
      class_name: name of the class; default its number.
      title: heading in place of the class name.
      min_width: pixels, >= 160.
    Returns:
      An iterator over t new arrays (h', w', 3) uint8 RGB, h' and w' even, w' >= min_width, for
      `write_video`.
    Raises:
      ValueError: a batch, a class out of range, numbers that do not increase or are not one per
        element or frame; while iterating, frames of another number or shape.
      TypeError: frame numbers or a width that are not integers; while iterating, frames that are
        not uint8.
    Cost: the bars are drawn once, in about 0.2 s; then each frame is copied, in about 0.1 ms for
      640 x 480 pixels.
    """
    expect_one(attribution)
    n = attribution.n
    heading, lines = class_text(attribution, target, class_name, title)
    min_width = expect_int("min_width", min_width, minimum=160)
    pictures = frames if video_frames is None else video_frames
    if pictures is None:
        raise ValueError(message("frames", "frames to show, here or as video_frames", None))
    if video_frames is not None:
        if isinstance(frames, Sized):
            expect(len(frames) == n, "frames", f"{n} frames, one per element", len(frames))
        expect(index is not None, "index", f"{n} frame numbers with video_frames", None)
    places = np.arange(n) if index is None else _increasing("index", index)
    expect(len(places) == n, "index", f"{n} frame numbers, one per element", len(places))
    if shown is not None:
        numbers = _increasing("shown", shown)
    elif isinstance(pictures, Sized):
        numbers = np.arange(len(pictures))
    elif index is None:
        numbers = np.arange(n)
    else:
        way_out = "Give shown=range(t) for t frames."
        raise ValueError(message("shown", "frame numbers of what is shown", None, way_out))
    if index is None:
        expect(len(numbers) == n, "frames", f"{n} frames, one per element", len(numbers))
    elif shown is None:
        below = f"frame numbers below {len(numbers)}, the frames shown"
        expect(places[-1] < len(numbers), "index", below, places[-1])
    drawing = Drawing(heading, lines, places, *bar_values(attribution, target))
    return overlay_bars(pictures, numbers, drawing, min_width)


class Drawing(NamedTuple):
    """Values drawn under a video.

    Attributes:
      heading, lines: above the bars.
      places, values, half: frame numbers, heights and half-widths of intervals of the bars, (n,).
      label: of the y axis. meanings: of the two colours.
    """

    heading: str
    lines: list[str]
    places: np.ndarray
    values: np.ndarray
    half: np.ndarray
    label: str = "ESV"
    meanings: tuple[str, str] = MEANINGS


class _Panel(NamedTuple):
    """The drawing in pixels (p, w, 3), its rows with bars, the column of each frame shown (t,)."""

    pixels: np.ndarray
    rows: slice
    columns: np.ndarray
    line: int  # width of the cursor


def overlay_bars(
    pictures: Iterable[ArrayLike], numbers: np.ndarray, drawing: Drawing, min_width: int
) -> Iterator[np.ndarray]:
    """Pictures (h, w, 3), each above the drawing with a cursor at its frame number."""
    shape: tuple[int, ...] | None = None
    k = -1
    for k, picture in enumerate(pictures):
        image = np.asarray(picture)
        if image.dtype != np.uint8:
            raise TypeError(message(f"frame {k}", "uint8, 0..255", f"dtype {image.dtype}"))
        if shape is None:
            expect_shape(f"frame {k}", image, (None, None, 3), "(h, w, 3)")
            expect(image.size > 0, f"frame {k}", "shape (h, w, 3), each at least 1", image.shape)
            shape = image.shape
            factor = -(-min_width // shape[1])
            height, width = shape[0] * factor, shape[1] * factor
            panel = _draw(drawing, numbers, width + width % 2, height % 2)
        if image.shape != shape:
            raise ValueError(message(f"frame {k}", f"shape {shape}, as frame 0", image.shape))
        expect(k < len(numbers), "frames", f"{len(numbers)} frames", "more")
        out = np.empty((height + len(panel.pixels), width + width % 2, 3), np.uint8)
        _enlarge(image, factor, out[:height, :width])
        out[:height, width:] = out[:height, width - 1 : width]
        out[height:] = panel.pixels
        left = int(panel.columns[k])
        rows = out[height:][panel.rows]
        rows[:, max(0, left - 1) : left + panel.line + 1] = 255
        rows[:, left : left + panel.line] = _INK
        yield out
    expect(k + 1 == len(numbers), "frames", f"{len(numbers)} frames", k + 1)


def _enlarge(image: np.ndarray, factor: int, out: np.ndarray) -> None:
    """Write `image` into `out`, every pixel as a square of factor x factor."""
    wide = image if factor == 1 else np.repeat(image, factor, axis=1)
    for row in range(factor):
        out[row::factor] = wide


def _draw(drawing: Drawing, numbers: np.ndarray, width: int, parity: int) -> _Panel:
    """Draw the bars `width` pixels wide, in a number of rows that is odd where parity is 1."""
    dpi = _DPI * max(1.0, width / (_DPI * _WIDEST_INCHES))
    figure = style.new_figure((width + 0.01) / dpi, 2)  # the canvas rounds down
    figure.set_dpi(dpi)
    ax = figure.subplots()
    places = drawing.places
    first, last = min(numbers[0], places[0]), max(numbers[-1], places[-1])
    span = last - first + 1
    apart = np.diff(places).min() if len(places) > 1 else max(1, span / 20)
    bar = max(0.8 * apart, 2 * span / width)
    draw_bars(ax, places, drawing.values, drawing.half, bar)
    ax.set_xlim(first - max(0.5, bar / 2), last + max(0.5, bar / 2))
    ax.locator_params(axis="y", nbins=4)
    ax.locator_params(axis="x", nbins=7, integer=True, min_n_ticks=1)
    ax.set_xlabel("frame", loc="left", **style.TEXT)
    ax.set_ylabel(drawing.label, **style.TEXT)
    figure.draw_without_rendering()  # settles the width of the panel
    style.annotate(ax, drawing.heading, drawing.lines, drawing.meanings)
    if ax.get_legend() is None:
        _legend_below(ax, drawing.meanings)
    figure.get_layout_engine().set(h_pad=_PAD_INCHES)
    style.fit_height(figure, [ax], _BARS_INCHES)
    rows = int(np.ceil(figure.get_figheight() * dpi))
    rows += (rows + parity) % 2
    figure.set_figheight((rows + 0.01) / dpi)
    figure.canvas.draw()
    pixels = np.array(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    box = ax.get_window_extent()
    line = max(2, round(dpi / 50))
    across = ax.transData.transform(np.stack([numbers, np.zeros(len(numbers))], 1))[:, 0]
    top, bottom = round(rows - box.y1), round(rows - box.y0)
    return _Panel(pixels, slice(top, bottom), np.rint(across - line / 2).astype(int), line)


def _legend_below(ax: Axes, meanings: tuple[str, str]) -> None:
    """Draw the legend of the colours to the right of the label of the x axis, or below it."""
    transforms = require("matplotlib.transforms", "plots")
    for points in (15, 28):
        down = transforms.ScaledTranslation(0, -points / 72, ax.figure.dpi_scale_trans)
        style.legend(
            ax,
            meanings,
            loc="upper right",
            bbox_to_anchor=(1, 0),
            bbox_transform=ax.transAxes + down,
            ncols=2,
            columnspacing=1.0,
            handletextpad=0.4,
        )
        if ax.get_legend().get_window_extent().x0 > ax.xaxis.label.get_window_extent().x1:
            return


def _increasing(name: str, given: ArrayLike | Sequence[int]) -> np.ndarray:
    numbers = np.asarray(given)
    expect_shape(name, numbers, (None,), "(n,)")
    expect(len(numbers) > 0, name, "at least one frame number", "none")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(message(name, "integers", f"dtype {numbers.dtype}"))
    rises = numbers[0] >= 0 and bool((np.diff(numbers.astype(np.int64)) > 0).all())
    expect(rises, name, "increasing frame numbers from 0", numbers.tolist()[:10])
    return numbers.astype(np.int64)
