"""A video with the Element Shapley Values of its frames under it, and a cursor that moves along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_int, expect_shape, message
from esv_jax.extras import require
from esv_jax.plots import style
from esv_jax.plots.bars import bar_values, class_text, draw_bars, expect_one
from esv_jax.plots.figures import fit_height, new_figure

_BARS_INCHES = 1.0
_WIDEST_INCHES = 6.4  # beyond, text grows with the picture
_PAD_INCHES = 0.08  # above the heading and below the axis
_DPI = 100.0
_INK = np.array(style.rgb(style.INK), np.uint8)


def render_overlay(
    attribution: Attribution,
    frames: Any,
    c: int,
    *,
    video_frames: Iterable[Any] | None = None,
    index: Sequence[int] | np.ndarray | None = None,
    shown: Sequence[int] | np.ndarray | None = None,
    class_name: str | None = None,
    title: str | None = None,
    min_width: int = 320,
) -> Iterator[np.ndarray]:
    """Frames of a video, each above the bars of the ESVs of one class, with a cursor at its time.

        write_video("out.mp4", render_overlay(att, frames, c), fps=4)              # elements alone
        write_video(
            "out.mp4", render_overlay(att, None, c, video_frames=video, index=index), fps=25
        )                                                            # the video they come from

    The bars stand at the frame numbers of their elements, supporting ones blue, distracting ones
    vermillion, with the whiskers and the heading of `plot_frame_strip`. Videos narrower than
    `min_width` are enlarged by a whole factor, pixels becoming squares; nothing else is done to
    their colours.

    Args:
      attribution: the record of one sequence, (n, C).
      frames: what is shown, (t, h, w, 3) uint8 RGB or an iterator over (h, w, 3), one of which is
        held. Without `index`, these are the n elements. With `video_frames`, the n elements or
        None; they are not drawn.
      c: the class, 0..C-1.
      video_frames: what is shown in place of `frames`, in the same forms.
      index: frame numbers of the n elements, increasing; default 0..n-1.
      shown: frame numbers of the t frames shown, increasing, where these are not 0..t-1. Needed
        where `index` is given and what is shown does not tell its length.
      class_name: how to call the class; default its number.
      title: heading in place of the class name.
      min_width: pixels, >= 160.
    Returns:
      An iterator over t new arrays (h', w', 3) uint8 RGB, h' and w' even, w' >= min_width, as
      `write_video` takes them.
    Raises:
      ValueError: a batch, a class out of range, numbers that do not increase or are not one per
        element or frame; while iterating, frames of another number or shape.
      TypeError: frame numbers or a width that are no integers; while iterating, frames that are
        not uint8.
    Cost: the bars are drawn once, in some 0.2 s; beyond that, each frame is copied into place, in
      some 0.1 ms for 640 x 480 pixels.
    """
    expect_one(attribution)
    n = attribution.n
    heading, lines = class_text(attribution, c, class_name, title)
    min_width = expect_int("min_width", min_width, minimum=160)
    if video_frames is not None:
        if frames is not None:
            expect(len(frames) == n, "frames", f"{n} frames, one per element", len(frames))
        expect(index is not None, "index", f"{n} frame numbers with video_frames", None)
    pictures: Iterable[Any] = frames if video_frames is None else video_frames
    places = np.arange(n) if index is None else _increasing("index", index)
    expect(len(places) == n, "index", f"{n} frame numbers, one per element", len(places))
    if shown is not None:
        numbers = _increasing("shown", shown)
    else:
        numbers = np.arange(_count(pictures, n if index is None else None))
        below = f"frame numbers below {len(numbers)}, the frames shown"
        expect(index is None or places[-1] < len(numbers), "index", below, places[-1])
    if index is None:
        expect(len(numbers) == n, "frames", f"{n} frames, one per element", len(numbers))
    values, half = bar_values(attribution, c)
    drawing = Drawing(heading, lines, places, values, half)
    return compose(pictures, numbers, drawing, min_width)


class Drawing(NamedTuple):
    """Values drawn under a video.

    Attributes:
      heading, lines: above the bars. label: of their axis.
      places, values, half: frame numbers, heights and half-widths of intervals of the bars, (n,).
      meanings: of the two colours.
    """

    heading: str
    lines: list[str]
    places: np.ndarray
    values: np.ndarray
    half: np.ndarray
    label: str = "ESV"
    meanings: tuple[str, str] = ("supporting", "distracting")


class _Panel(NamedTuple):
    """The drawing in pixels (p, w, 3), its rows with bars, the column of each frame shown (t,)."""

    pixels: np.ndarray
    rows: slice
    columns: np.ndarray
    line: int  # width of the cursor


def compose(
    pictures: Iterable[Any], numbers: np.ndarray, drawing: Drawing, min_width: int
) -> Iterator[np.ndarray]:
    """Pictures (h, w, 3), each above the drawing with a cursor at its number."""
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
    figure: Any = new_figure((width + 0.01) / dpi, 2)  # the canvas rounds down
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
    figure.draw_without_rendering()  # settles how wide the panel is
    style.annotate(ax, drawing.heading, drawing.lines, drawing.meanings)
    if ax.get_legend() is None:
        _legend_below(ax, drawing.meanings)
    figure.get_layout_engine().set(h_pad=_PAD_INCHES)
    fit_height(figure, [ax], _BARS_INCHES)
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


def _legend_below(ax: Any, meanings: tuple[str, str]) -> None:
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


def _increasing(name: str, numbers: Any) -> np.ndarray:
    numbers = np.asarray(numbers)
    expect_shape(name, numbers, (None,), "(n,)")
    expect(len(numbers) > 0, name, "at least one frame number", "none")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(message(name, "integers", f"dtype {numbers.dtype}"))
    rises = numbers[0] >= 0 and bool((np.diff(numbers.astype(np.int64)) > 0).all())
    expect(rises, name, "increasing frame numbers from 0", numbers.tolist()[:10])
    return numbers.astype(np.int64)


def _count(pictures: Any, known: int | None) -> int:
    """Number of frames of the overlay."""
    if hasattr(pictures, "__len__"):
        return len(pictures)
    way_out = "Give shown=range(t) for t frames."
    if known is None:
        raise ValueError(message("shown", "frame numbers of what is shown", None, way_out))
    return known
