"""Videos: frames above the bars of their values, with a cursor, and clips beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_int, expect_shape, message
from esv_jax.display import MEANINGS
from esv_jax.extras import require
from esv_jax.plots import style
from esv_jax.plots.elements import bar_values, class_text, draw_bars
from esv_jax.plots.strips import expect_pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAP = 4  # pixels between clips side by side
_BARS_INCHES = 1.0
_WIDEST_INCHES = 6.4  # beyond, text grows with the picture
_PAD_INCHES = 0.08  # above the heading and below the axis
_DPI = 100.0


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

    The bars are at the frame numbers of their elements, with the colours, the whiskers and the text
    above of `plot_elements`. Videos narrower than `min_width` are enlarged by a whole factor,
    without interpolation.

    Args:
      attribution: the record of one sequence, (n, C).
      frames: the frames shown, (t, h, w, 3) uint8 RGB or an iterator over (h, w, 3). Without
        `index`, these are the n elements. With `video_frames`, the n elements or None; they are
        not drawn.
      video_frames: the frames shown instead of `frames`, in the same forms.
      index: frame numbers of the n elements, increasing; default 0..n-1.
      shown: frame numbers of the t frames shown, increasing; default 0..t-1. Required with `index`
        and an iterator.
      target, class_name, title: see `plot_elements`.
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
    heading, lines = class_text(attribution, target, class_name, title)
    n = attribution.n
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
    else:
        expected, way_out = "frame numbers of what is shown", "Give shown=range(t) for t frames."
        expect(index is None, "shown", expected, None, way_out)
        numbers = np.arange(n)
    if index is None:
        expect(len(numbers) == n, "frames", f"{n} frames, one per element", len(numbers))
    elif shown is None:
        below = f"frame numbers below {len(numbers)}, the frames shown"
        expect(places[-1] < len(numbers), "index", below, places[-1])
    drawing = _Drawing(heading, lines, places, *bar_values(attribution, target), "ESV", MEANINGS)
    return _overlay_bars(pictures, numbers, drawing, min_width)


def render_beside(
    clips: Sequence[np.ndarray],
    values: np.ndarray,
    index: Sequence[int] | np.ndarray | None,
    *,
    heading: str,
    lines: Sequence[str],
    label: str,
    meanings: tuple[str, str],
    min_width: int,
) -> Iterator[np.ndarray]:
    """A video of clips (t, h, w, 3) beside each other, above the bars of t values.

    `index` are frame numbers of the t frames, None for 0..t-1; `label` is that of the y axis.
    """
    t = len(values)
    numbers = np.arange(t) if index is None else np.asarray(index)
    expect(len(numbers) == t, "index", f"{t} frame numbers", len(numbers))
    unknown = np.full(t, np.nan)
    drawing = _Drawing(heading, lines, numbers, values, unknown, label, meanings)
    return _overlay_bars(_beside(clips), numbers, drawing, min_width)


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
    return (picture.repeat(factor, 0).repeat(factor, 1) for picture in _beside(shown))


class _Drawing(NamedTuple):
    """Values drawn under a video: frame numbers, heights and half-widths of intervals, (n,)."""

    heading: str
    lines: Sequence[str]
    places: np.ndarray
    values: np.ndarray
    half: np.ndarray
    label: str
    meanings: tuple[str, str]


class _Panel(NamedTuple):
    """The drawing in pixels (p, w, 3), its rows with bars, the column of each frame shown (t,)."""

    pixels: np.ndarray
    rows: slice
    columns: np.ndarray
    line: int  # width of the cursor


def _beside(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Clips of one shape (t, h, w, 3) side by side, with white gaps, (t, h, w', 3) uint8."""
    gap = np.full((*clips[0].shape[:2], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for clip in clips for part in (gap, clip)][1:], 2)


def _overlay_bars(
    pictures: Iterable[ArrayLike], numbers: np.ndarray, drawing: _Drawing, min_width: int
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
        expect(image.shape == shape, f"frame {k}", f"shape {shape}, as frame 0", image.shape)
        expect(k < len(numbers), "frames", f"{len(numbers)} frames", "more")
        out = np.empty((height + len(panel.pixels), width + width % 2, 3), np.uint8)
        wide = image if factor == 1 else np.repeat(image, factor, axis=1)
        for row in range(factor):
            out[row:height:factor, :width] = wide
        out[:height, width:] = out[:height, width - 1 : width]
        out[height:] = panel.pixels
        left = int(panel.columns[k])
        rows = out[height:][panel.rows]
        rows[:, max(0, left - 1) : left + panel.line + 1] = 255
        rows[:, left : left + panel.line] = style.rgb(style.INK)
        yield out
    expect(k + 1 == len(numbers), "frames", f"{len(numbers)} frames", k + 1)


def _draw(drawing: _Drawing, numbers: np.ndarray, width: int, parity: int) -> _Panel:
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
    shift = require("matplotlib.transforms", "plots").ScaledTranslation
    look = {"loc": "upper right", "bbox_to_anchor": (1, 0), "ncols": 2}
    look |= {"columnspacing": 1.0, "handletextpad": 0.4}
    for points in (15, 28):
        down = shift(0, -points / 72, ax.figure.dpi_scale_trans)
        style.legend(ax, meanings, bbox_transform=ax.transAxes + down, **look)
        if ax.get_legend().get_window_extent().x0 > ax.xaxis.label.get_window_extent().x1:
            return


def _increasing(name: str, given: ArrayLike | Sequence[int]) -> np.ndarray:
    numbers = np.asarray(given)
    expect_shape(name, numbers, (None,), "(n,)")
    expect(len(numbers) > 0, name, "at least one frame number", "none")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(message(name, "integers", f"dtype {numbers.dtype}"))
    numbers = numbers.astype(np.int64)
    rises = numbers[0] >= 0 and bool((np.diff(numbers) > 0).all())
    expect(rises, name, "increasing frame numbers from 0", numbers.tolist()[:10])
    return numbers
