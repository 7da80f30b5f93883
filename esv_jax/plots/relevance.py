"""Relevance of pixels over the frames of a clip, as pictures, a strip or a video."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect, expect_finite
from esv_jax.plots import style
from esv_jax.plots.elements import bar_limits, draw_bars
from esv_jax.plots.strips import Panel, expect_pictures, frames_shown, plot_panels
from esv_jax.plots.video import render_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEANINGS = ("for the class", "against it")
_BARS_INCHES = 0.8
_PALE = 0.55  # share of white in the frames under relevance
_FULL = 99.5  # percentile of |relevance| that has the full colour
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (BT.601)


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
    pictures = expect_pictures(frames, "(t, h, w, 3)")
    volume = expect_volume("relevance", relevance, pictures, (3, 4))
    limit = full_colour(volume) if limit is None else float(limit)
    expect(limit > 0, "limit", "a number > 0", limit)
    pale = faded(pictures, _PALE)
    strength = np.sqrt(np.minimum(np.abs(volume) / limit, 1))[..., None]
    ends = np.array([style.rgb(style.SUPPORTING), style.rgb(style.DISTRACTING)], np.float32)
    colour = ends[(volume < 0).astype(int)]
    return np.rint(pale + (colour - pale) * strength).astype(np.uint8)


def full_colour(relevance: np.ndarray) -> float:
    """The default |relevance| (t, h, w) of the full colour; 1 if all are zero."""
    size = np.abs(relevance)
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

    All parts have one colour scale and their bars one axis. The figure is as high as the frames
    need to keep their proportions.

    Args:
      frames: input of the network, (t, h, w, 3) uint8 RGB.
      parts: names -> relevance (t, h, w) or (t, h, w, c), e.g. {"spatial": ..., "temporal": ...}.
      frame_labels: t labels, e.g. frame numbers; default 0..t-1.
      title, lines: heading and text above the frames.
      max_columns: largest number of frames shown, evenly thinned out; all frames have bars.
    Raises:
      ValueError, TypeError: no parts, another number of labels; see `overlay_relevance`.
    """
    pictures, volumes, limit = _expect_parts(frames, parts)
    sums = [volume.sum((1, 2), dtype=np.float64) for volume in volumes.values()]
    limits = bar_limits(np.concatenate(sums))
    shown = frames_shown(len(pictures), max_columns)
    panels: list[Panel] = [("frame", pictures[shown])]
    for (name, volume), values in zip(volumes.items(), sums, strict=True):
        panels.append((name, overlay_relevance(pictures[shown], volume[shown], limit)))
        panels.append(functools.partial(_draw_sums, values=values, limits=limits))
    return plot_panels(
        len(pictures),
        shown,
        panels,
        bars_inches=_BARS_INCHES,
        frame_labels=frame_labels,
        heading=title or "Relevance",
        lines=[*lines, "sum: relevance of a frame, of one scale in all rows"],
        meanings=_MEANINGS,
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
    name, last = list(volumes.items())[-1]
    return render_beside(
        [pictures, *(overlay_relevance(pictures, v, limit) for v in volumes.values())],
        last.sum((1, 2), dtype=np.float64),
        index,
        heading=title or "Relevance",
        lines=[*lines, f"from left: {', '.join(['frame', *volumes])}; bars: {name}"],
        label="sum",
        meanings=_MEANINGS,
        min_width=min_width,
    )


def faded(frames: np.ndarray, share: float) -> np.ndarray:
    """Grey frames (t, h, w, 1) float32 with a share of white in 0..1."""
    grey = frames.astype(np.float32) @ _LUMA
    return (grey + (255 - grey) * share)[..., None]


def expect_volume(
    name: str, volume: ArrayLike, frames: np.ndarray, n_axes: tuple[int, ...]
) -> np.ndarray:
    """Numbers over frames as float32 (t, h, w), of 4 axes summed over the last; refuse others."""
    numbers = np.asarray(volume, np.float32)
    fits = numbers.ndim in n_axes and numbers.shape[:3] == frames.shape[:3]
    expect(fits, name, f"shape {frames.shape[:3]}, as the frames", numbers.shape)
    expect_finite(name, numbers)
    return numbers if numbers.ndim == 3 else numbers.sum(-1)


def _expect_parts(
    frames: ArrayLike, parts: Mapping[str, ArrayLike]
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Frames, volumes (t, h, w), and the limit of their common colour scale."""
    expect(len(parts) > 0, "parts", "at least one volume of relevance", "none")
    pictures = expect_pictures(frames, "(t, h, w, 3)")
    volumes = {name: expect_volume(name, part, pictures, (3, 4)) for name, part in parts.items()}
    return pictures, volumes, max(map(full_colour, volumes.values()))


def _draw_sums(ax: Axes, values: np.ndarray, limits: tuple[float, float]) -> None:
    t = len(values)
    draw_bars(ax, np.arange(t), values, np.full(t, np.nan), 0.7)
    ax.set_ylim(*limits)
    ax.locator_params(axis="y", nbins=3)
    ax.set_ylabel("sum", **style.TEXT)
