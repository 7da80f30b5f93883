"""Relevance of pixels over the frames of a clip, as pictures, a strip or a video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect, expect_finite
from esv_jax.plots import style
from esv_jax.plots.elements import bar_limits, draw_bars
from esv_jax.plots.video import (
    Drawing,
    Panel,
    beside,
    expect_index,
    expect_pictures,
    faded,
    overlay_bars,
    plot_strip,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEANINGS = ("for the class", "against it")
_BARS_INCHES = 0.8
_PALE = 0.55  # share of white in the frames under relevance
_FULL = 99.5  # percentile of |relevance| that has the full colour


def overlay_relevance(
    frames: ArrayLike, relevance: ArrayLike, limit: float | None = None
) -> np.ndarray:
    """Frames in pale grey with relevance over them: positive blue, negative vermillion.

    Args:
      frames: (t, h, w, 3) uint8 RGB.
      relevance: (t, h, w), or (t, h, w, c), summed over channels.
      limit: |relevance| of the full colour; default the 99.5th percentile of the pixels with any,
        so that a few strong pixels do not hide the others.
    Returns:
      (t, h, w, 3) uint8.
    Raises:
      ValueError: shapes that do not fit, relevance that is not finite, a limit that is not > 0.
      TypeError: frames that are not uint8.
    """
    frames, volume = _expect_pair(frames, relevance)
    limit = full_colour(volume) if limit is None else float(limit)
    expect(limit > 0, "limit", "a number > 0", limit)
    pale = faded(frames, _PALE)
    strength = np.sqrt(np.minimum(np.abs(volume) / limit, 1))[..., None]
    ends = np.array([style.rgb(style.SUPPORTING), style.rgb(style.DISTRACTING)], np.float32)
    colour = ends[(volume < 0).astype(int)]
    return np.rint(pale + (colour - pale) * strength).astype(np.uint8)


def full_colour(relevance: ArrayLike) -> float:
    """The default |relevance| of the full colour; 1 if all are zero."""
    volume = np.asarray(relevance, np.float32)
    size = np.abs(volume if volume.ndim == 3 else volume.sum(-1))
    some = size[size > 0]
    return float(np.percentile(some, _FULL)) if some.size else 1.0


def plot_relevance_strip(
    frames: ArrayLike,
    parts: Mapping[str, ArrayLike],
    *,
    frame_labels: Sequence[str] | None = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    max_columns: int = 16,
) -> Figure:
    """Frames in temporal order; below them each part of relevance, with its sums over frames.

    All parts have one colour scale and their bars one axis. It makes a figure of its own, as high
    as the frames need to keep their proportions.

    Args:
      frames: input of the network, (t, h, w, 3) uint8 RGB.
      parts: names -> relevance (t, h, w) or (t, h, w, c), e.g. {"spatial": ..., "temporal": ...}.
      frame_labels: t labels, e.g. frame numbers; default 0..t-1.
      title, lines: heading and text above the frames.
      max_columns: largest number of frames shown, evenly thinned out; all frames have bars.
    Returns:
      A new figure without a window; `save_figure` writes it.
    Raises:
      ValueError, TypeError: no parts, another number of labels; see `overlay_relevance`.
    """
    pictures, volumes, limit = _expect_parts(frames, parts)
    t, h, w = pictures.shape[:3]
    sums = {name: volume.sum((1, 2), dtype=np.float64) for name, volume in volumes.items()}
    limits = bar_limits(np.concatenate(list(sums.values())))
    panels: list[Panel] = [("frame", lambda shown: pictures[shown])]
    for name, volume in volumes.items():

        def overlaid(shown: np.ndarray, volume: np.ndarray = volume) -> np.ndarray:
            return overlay_relevance(pictures[shown], volume[shown], limit)

        def bars(ax: Axes, values: np.ndarray = sums[name]) -> None:
            draw_bars(ax, np.arange(t), values, np.full(t, np.nan), 0.7)
            ax.set_ylim(*limits)
            ax.locator_params(axis="y", nbins=3)
            ax.set_ylabel("sum", **style.TEXT)

        panels += [(name, overlaid), bars]
    return plot_strip(
        t,
        panels,
        aspect=h / w,
        bars_inches=_BARS_INCHES,
        frame_labels=frame_labels,
        max_columns=max_columns,
        heading=title or "Relevance",
        lines=[*lines, "sum: relevance of a frame, of one scale in all rows"],
        meanings=MEANINGS,
    )


def render_relevance(
    frames: ArrayLike,
    parts: Mapping[str, ArrayLike],
    *,
    index: Sequence[int] | np.ndarray | None = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    min_width: int = 640,
) -> Iterator[np.ndarray]:
    """A video: each frame beside every part of its relevance, above the sums of the last part.

    Args:
      index: frame numbers of the t frames, increasing; default 0..t-1.
      min_width: pixels, >= 160; frames are enlarged by a whole factor.
      frames, parts, title, lines: see `plot_relevance_strip`.
    Returns:
      An iterator over t pictures (h', w', 3) uint8 RGB, for `write_video`.
    Raises:
      ValueError, TypeError: frame numbers that are not t; see `plot_relevance_strip`.
    """
    pictures, volumes, limit = _expect_parts(frames, parts)
    numbers = expect_index(index, len(pictures))
    name, last = list(volumes.items())[-1]
    panels = [pictures, *(overlay_relevance(pictures, v, limit) for v in volumes.values())]
    drawing = Drawing(
        heading=title or "Relevance",
        lines=[*lines, f"from left: {', '.join(['frame', *volumes])}; bars: {name}"],
        places=numbers,
        values=last.sum((1, 2), dtype=np.float64),
        half=np.full(len(pictures), np.nan),
        label="sum",
        meanings=MEANINGS,
    )
    return overlay_bars(beside(panels), numbers, drawing, min_width)


def _expect_parts(
    frames: ArrayLike, parts: Mapping[str, ArrayLike]
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Frames, volumes (t, h, w), and the limit of their common colour scale."""
    expect(len(parts) > 0, "parts", "at least one volume of relevance", "none")
    volumes = {}
    for name, relevance in parts.items():
        pictures, volumes[name] = _expect_pair(frames, relevance, name)
    return pictures, volumes, max(full_colour(volume) for volume in volumes.values())


def _expect_pair(
    frames: ArrayLike, relevance: ArrayLike, name: str = "relevance"
) -> tuple[np.ndarray, np.ndarray]:
    pictures = expect_pictures(frames, "(t, h, w, 3)")
    volume = np.asarray(relevance, np.float32)
    fits = volume.ndim in (3, 4) and volume.shape[:3] == pictures.shape[:3]
    expect(fits, name, f"shape {pictures.shape[:3]}, as the frames", volume.shape)
    expect_finite(name, volume)
    return pictures, volume if volume.ndim == 3 else volume.sum(-1)
