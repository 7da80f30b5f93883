"""Relevance of pixels: laid over frames, as a strip, and as a video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.checks import expect, expect_finite
from esv_jax.plots import style
from esv_jax.plots.bars import bar_limits, draw_bars
from esv_jax.plots.figures import fit_height, new_figure
from esv_jax.plots.overlay import Drawing, compose
from esv_jax.plots.pictures import beside, columns_of, expect_index, expect_pictures, faded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEANINGS = ("for the class", "against it")
_BARS_INCHES = 0.8
_PALE = 0.55  # how far frames under relevance are faded to white
_FULL = 99.5  # percentile of |relevance| that has the full colour


def overlay_relevance(frames: Any, relevance: Any, limit: float | None = None) -> np.ndarray:
    """Frames in pale grey, with relevance over them: blue where positive, vermillion where not.

    Args:
      frames: (t, h, w, 3) uint8 RGB.
      relevance: (t, h, w), or (t, h, w, c), whose channels are summed.
      limit: |relevance| of the full colour; default the 99.5th percentile of the places that have
        any, so that a few strong pixels do not hide the others.
    Returns:
      (t, h, w, 3) uint8.
    Raises:
      ValueError: shapes that do not fit, relevance that is not finite, a limit that is not > 0.
      TypeError: frames that are not uint8.
    """
    frames, volume = _expect_pair(frames, relevance)
    limit = strongest(volume) if limit is None else float(limit)
    expect(limit > 0, "limit", "a number > 0", limit)
    pale = faded(frames, _PALE)
    strength = np.sqrt(np.minimum(np.abs(volume) / limit, 1))[..., None]
    ends = np.array([style.rgb(style.SUPPORTING), style.rgb(style.DISTRACTING)], np.float32)
    colour = ends[(volume < 0).astype(int)]
    return np.rint(pale + (colour - pale) * strength).astype(np.uint8)


def strongest(relevance: Any) -> float:
    """|Relevance| that has the full colour by default; 1 of a volume of zeros."""
    volume = np.asarray(relevance, np.float32)
    size = np.abs(volume if volume.ndim == 3 else volume.sum(-1))
    some = size[size > 0]
    return float(np.percentile(some, _FULL)) if some.size else 1.0


def plot_relevance_strip(
    frames: Any,
    parts: Mapping[str, Any],
    *,
    frame_labels: Sequence[str] | None = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    max_columns: int = 16,
) -> Figure:
    """Frames in temporal order; below them each part of relevance over them, with its sums.

    All parts have one colour scale and their bars one axis, so that they can be compared. It makes
    a figure of its own, since frames keep their proportions only in one as high as they need.

    Args:
      frames: what the network saw, (t, h, w, 3) uint8 RGB.
      parts: names -> relevance (t, h, w) or (t, h, w, c), e.g. {"spatial": ..., "temporal": ...}.
      frame_labels: t labels, e.g. frame numbers; default 0..t-1.
      title, lines: heading and text above the frames.
      max_columns: frames beside each other at most; more are thinned out evenly, the bars are not.
    Returns:
      A new figure that no window shows; `save_figure` writes it.
    Raises:
      ValueError, TypeError: no parts, or as `overlay_relevance`; another number of labels.
    """
    frames, volumes, limit = _expect_parts(frames, parts)
    t = len(frames)
    columns = columns_of(t, frame_labels, max_columns)
    sums = {name: volume.sum((1, 2), dtype=np.float64) for name, volume in volumes.items()}
    every = np.concatenate(list(sums.values()))
    low, high = bar_limits(every, np.full_like(every, np.nan))

    figure = new_figure(columns.inches(), 2.0 * (1 + len(parts)))
    axes = figure.subplots(1 + 2 * len(parts), squeeze=False)[:, 0]
    for ax in axes:
        ax.set_xlim(columns.limits)
    for (name, volume), ax, bars in zip(volumes.items(), axes[1::2], axes[2::2], strict=True):
        ax.set_xticks([])
        shown = columns.shown
        columns.draw(ax, overlay_relevance(frames[shown], volume[shown], limit), name)
        draw_bars(bars, np.arange(t), sums[name], np.full(t, np.nan), 0.7)
        bars.set_ylim(low, high)
        bars.set_xticks([])
        bars.locator_params(axis="y", nbins=3)
        bars.set_ylabel("sum", **style.TEXT)
    columns.draw(axes[0], frames[columns.shown], "frame")
    figure.draw_without_rendering()  # settles how wide the panels are
    columns.label(axes[0])
    text = [*lines, "sum: relevance of a frame, of one scale in all rows"]
    style.annotate(axes[0], title or "Relevance", text, MEANINGS)
    tall = columns.tall(axes[0], frames)
    heights = [tall] + [tall, _BARS_INCHES] * len(parts)
    axes[0].get_gridspec().set_height_ratios(heights)
    fit_height(figure, list(axes), sum(heights))
    return figure


def render_relevance(
    frames: Any,
    parts: Mapping[str, Any],
    *,
    index: Any = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    min_width: int = 640,
) -> Iterator[np.ndarray]:
    """A video: each frame beside every part of its relevance, above the sums of the last part.

    Args:
      frames, parts, title, lines: as of `plot_relevance_strip`.
      index: frame numbers of the t frames, increasing; default 0..t-1.
      min_width: pixels, >= 160; frames are enlarged by a whole factor.
    Returns:
      An iterator over t pictures (h', w', 3) uint8 RGB, as `write_video` takes them.
    Raises:
      ValueError, TypeError: as `plot_relevance_strip`; numbers that are not one per frame.
    """
    frames, volumes, limit = _expect_parts(frames, parts)
    numbers = expect_index(index, len(frames))
    name, last = list(volumes.items())[-1]
    panels = [frames, *(overlay_relevance(frames, v, limit) for v in volumes.values())]
    drawing = Drawing(
        heading=title or "Relevance",
        lines=[*lines, f"from left: {', '.join(['frame', *volumes])}; bars: {name}"],
        places=numbers,
        values=last.sum((1, 2), dtype=np.float64),
        half=np.full(len(frames), np.nan),
        label="sum",
        meanings=MEANINGS,
    )
    return compose(beside(panels), numbers, drawing, min_width)


def _expect_parts(
    frames: Any, parts: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Frames, volumes (t, h, w), and the limit of their one colour scale."""
    expect(len(parts) > 0, "parts", "at least one volume of relevance", "none")
    volumes = {}
    for name, relevance in parts.items():
        pictures, volumes[name] = _expect_pair(frames, relevance, name)
    return pictures, volumes, max(strongest(volume) for volume in volumes.values())


def _expect_pair(
    frames: Any, relevance: Any, name: str = "relevance"
) -> tuple[np.ndarray, np.ndarray]:
    frames = expect_pictures(frames, "(t, h, w, 3)")
    volume = np.asarray(relevance, np.float32)
    fits = volume.ndim in (3, 4) and volume.shape[:3] == frames.shape[:3]
    expect(fits, name, f"shape {frames.shape[:3]}, as the frames", volume.shape)
    expect_finite(name, volume)
    return frames, volume if volume.ndim == 3 else volume.sum(-1)
