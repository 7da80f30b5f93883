"""Masks over the frames of a clip, as pictures, a strip or a video.

Masks are 1 on what a prediction needs and 0 elsewhere, see `perturbation.step`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, expect_finite
from esv_jax.plots import style
from esv_jax.plots.curves import shades
from esv_jax.plots.elements import zero_line
from esv_jax.plots.relevance import overlay_relevance
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

_BARS_INCHES = 0.9
_PALE = 0.65  # share of white in the frames outside of a mask
_EDGE = 0.5  # the level of a mask's outline
_PER_LINE = 64  # rows of a frame for each pixel of an outline's width


def overlay_mask(frames: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """Frames as they are under a mask and pale grey elsewhere, with the outline of the mask.

    Args:
      frames: (t, h, w, 3) uint8 RGB.
      mask: (t, h, w) in 0..1.
    Returns:
      (t, h, w, 3) uint8. The outline is where the mask crosses one half.
    Raises:
      ValueError: shapes that do not fit, a mask outside 0..1. TypeError: frames that are not uint8.
    """
    pictures = expect_pictures(frames, "(t, h, w, 3)")
    volume = _expect_mask("mask", mask, pictures)
    pale = faded(pictures, _PALE)
    drawn = np.rint(pale + (pictures - pale) * volume[..., None]).astype(np.uint8)
    return _outlined(drawn, volume)


def plot_perturbation_strip(
    frames: ArrayLike,
    masks: Mapping[str, ArrayLike],
    *,
    frame_labels: Sequence[str] | None = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    max_columns: int = 16,
) -> Figure:
    """Frames in temporal order; below them each mask, their sum, and their means over frames.

    It makes a figure of its own, as high as the frames need to keep their proportions.

    Args:
      frames: input of the network, (t, h, w, 3) uint8 RGB.
      masks: names -> masks (t, h, w) in 0..1, e.g. {"area 0.05": ..., "area 0.1": ...}.
      frame_labels: t labels, e.g. frame numbers; default 0..t-1.
      title, lines: heading and text above the frames.
      max_columns: largest number of frames shown, evenly thinned out; all frames have bars.
    Returns:
      A new figure without a window; `save_figure` writes it.
    Raises:
      ValueError, TypeError: no masks, another number of labels; see `overlay_mask`.
    """
    pictures, volumes = _expect_masks(frames, masks)
    t, h, w = pictures.shape[:3]
    total = _overlay_sum(pictures, volumes)
    panels: list[Panel] = [("frame", lambda shown: pictures[shown])]
    for name, volume in volumes.items():

        def overlaid(shown: np.ndarray, volume: np.ndarray = volume) -> np.ndarray:
            return overlay_mask(pictures[shown], volume[shown])

        panels.append((name, overlaid))
    panels += [("all masks", lambda shown: total[shown]), lambda ax: _draw_shares(ax, volumes)]
    return plot_strip(
        t,
        panels,
        aspect=h / w,
        bars_inches=_BARS_INCHES,
        frame_labels=frame_labels,
        max_columns=max_columns,
        heading=title or "Masks",
        lines=[*lines, "share: mean of a mask over a frame"],
        meanings=("in more masks, the darker", "outline of a mask"),
        name_bars=lambda ax: _name_masks(ax, list(volumes)),
    )


def render_perturbation(
    frames: ArrayLike,
    masks: Mapping[str, ArrayLike],
    perturbed: ArrayLike,
    *,
    shown: str | None = None,
    index: Sequence[int] | np.ndarray | None = None,
    title: str | None = None,
    lines: Sequence[str] = (),
    min_width: int = 640,
) -> Iterator[np.ndarray]:
    """A video: each frame, the sum of all masks over it, and the frame perturbed by one of them.

    Args:
      perturbed: the clip perturbed by the mask `shown`, (t, h, w, 3) uint8 RGB.
      shown: the mask whose outline and mean over each frame are drawn; default the middle one.
      index: frame numbers of the t frames, increasing; default 0..t-1.
      min_width: pixels, >= 160; frames are enlarged by a whole factor.
      frames, masks, title, lines: see `plot_perturbation_strip`.
    Returns:
      An iterator over t pictures (h', w', 3) uint8 RGB, for `write_video`.
    Raises:
      ValueError, TypeError: frame numbers that are not t, no mask of this name, a perturbed clip of
        another shape; see `plot_perturbation_strip`.
    """
    pictures, volumes = _expect_masks(frames, masks)
    names = list(volumes)
    chosen = middle(names) if shown is None else shown
    expect_choice("shown", chosen, names)
    left = expect_pictures(perturbed, "(t, h, w, 3)")
    expect(left.shape == pictures.shape, "perturbed", f"shape {pictures.shape}", left.shape)
    numbers = expect_index(index, len(pictures))
    over = _outlined(_overlay_sum(pictures, volumes), volumes[chosen])
    drawing = Drawing(
        heading=title or "Masks",
        lines=[*lines, "from left: frame, all masks, perturbed frame"],
        places=numbers,
        values=volumes[chosen].mean((1, 2), dtype=np.float64),
        half=np.full(len(pictures), np.nan),
        label="share of\nthe frame",
        meanings=(f"masks; bars: {chosen}", f"outline of {chosen}"),
    )
    return overlay_bars(beside([pictures, over, left]), numbers, drawing, min_width)


def middle(names: Sequence[str]) -> str:
    """The middle name; of two middle ones the first."""
    return names[(len(names) - 1) // 2]


def _overlay_sum(frames: np.ndarray, volumes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Frames under the sum of all masks; the colour is in proportion to the sum."""
    total = np.sum(list(volumes.values()), axis=0)
    return overlay_relevance(frames, total**2, len(volumes) ** 2)  # it takes square roots


def _outlined(pictures: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pictures with the outline of a mask: its pixels with a neighbour outside of it."""
    inside = mask >= _EDGE
    inner = inside
    for _ in range(max(1, mask.shape[1] // _PER_LINE)):
        padded = np.pad(inner, ((0, 0), (1, 1), (1, 1)), mode="edge")
        inner = inner & padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1]
        inner = inner & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    out = pictures.copy()
    out[inside & ~inner] = style.rgb(style.DISTRACTING)
    return out


def _expect_masks(
    frames: ArrayLike, masks: Mapping[str, ArrayLike]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames, and masks (t, h, w) float32 in 0..1 that fit them; refuse others, and none."""
    pictures = expect_pictures(frames, "(t, h, w, 3)")
    expect(len(masks) > 0, "masks", "at least one", "none")
    return pictures, {name: _expect_mask(name, mask, pictures) for name, mask in masks.items()}


def _expect_mask(name: str, mask: ArrayLike, frames: np.ndarray) -> np.ndarray:
    volume = np.asarray(mask, np.float32)
    fits = volume.shape == frames.shape[:3]
    expect(fits, name, f"shape {frames.shape[:3]}, as the frames", volume.shape)
    expect_finite(name, volume)
    low, high = float(volume.min()), float(volume.max())
    expect(low >= 0 and high <= 1, name, "numbers in 0..1", f"{low:.4g}..{high:.4g}")
    return volume


def _draw_shares(ax: Axes, volumes: Mapping[str, np.ndarray]) -> None:
    """Draw the means of the masks over each frame as bars side by side."""
    style.strip_down(ax)
    shares = [volume.mean((1, 2), dtype=np.float64) for volume in volumes.values()]
    count, t = len(shares), len(shares[0])
    width = 0.8 / count
    for k, (name, share) in enumerate(zip(volumes, shares, strict=True)):
        at = np.arange(t) + (k - (count - 1) / 2) * width
        ax.bar(at, share, width, color=shades(count)[k], label=name)
    zero_line(ax)
    ax.set_ylim(0, 1.07 * np.max(shares) or 0.05)
    ax.locator_params(axis="y", nbins=3)
    ax.set_ylabel("share of\nthe frame", **style.TEXT)


def _name_masks(ax: Axes, names: Sequence[str]) -> None:
    """Draw the legend of the bars' shades above them, in as many columns as fit."""
    columns = style.width_of(ax) / (0.4 + style.text_inches(max(map(len, names))))
    drawn = ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=int(np.clip(columns, 1, len(names))),
        handlelength=0.9,
        handleheight=0.9,
        borderaxespad=0.2,
        columnspacing=1.2,
        **style.LEGEND,
    )
    style.plain_text(drawn)
