"""Masks over the frames of a clip, as pictures, a strip or a video.

Masks are 1 on what a prediction needs and 0 elsewhere, see `perturbation.step`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect, expect_choice
from esv_jax.plots import style
from esv_jax.plots.curves import shades
from esv_jax.plots.elements import zero_line
from esv_jax.plots.relevance import expect_volume, faded, overlay_relevance
from esv_jax.plots.strips import Panel, expect_pictures, frames_shown, plot_panels
from esv_jax.plots.video import render_beside

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

    The figure is as high as the frames need to keep their proportions.

    Args:
      frames: input of the network, (t, h, w, 3) uint8 RGB.
      masks: names -> masks (t, h, w) in 0..1, e.g. {"area 0.05": ..., "area 0.1": ...}.
      frame_labels, title, lines, max_columns: see `plots.plot_relevance_strip`.
    Raises:
      ValueError, TypeError: no masks, another number of labels; see `overlay_mask`.
    """
    pictures, volumes = _expect_masks(frames, masks)
    shown = frames_shown(len(pictures), max_columns)
    some, parts = pictures[shown], {name: volume[shown] for name, volume in volumes.items()}
    panels: list[Panel] = [("frame", some)]
    panels += [(name, overlay_mask(some, part)) for name, part in parts.items()]
    panels += [("all masks", _overlay_sum(some, parts))]
    return plot_panels(
        len(pictures),
        shown,
        [*panels, functools.partial(_draw_shares, volumes=volumes)],
        bars_inches=_BARS_INCHES,
        frame_labels=frame_labels,
        heading=title or "Masks",
        lines=[*lines, "share: mean of a mask over a frame"],
        meanings=("in more masks, the darker", "outline of a mask"),
        name_bars=_name_masks,
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
    chosen = middle(list(volumes)) if shown is None else shown
    expect_choice("shown", chosen, volumes)
    left = expect_pictures(perturbed, "(t, h, w, 3)")
    expect(left.shape == pictures.shape, "perturbed", f"shape {pictures.shape}", left.shape)
    over = _outlined(_overlay_sum(pictures, volumes), volumes[chosen])
    return render_beside(
        [pictures, over, left],
        volumes[chosen].mean((1, 2), dtype=np.float64),
        index,
        heading=title or "Masks",
        lines=[*lines, "from left: frame, all masks, perturbed frame"],
        label="share of\nthe frame",
        meanings=(f"masks; bars: {chosen}", f"outline of {chosen}"),
        min_width=min_width,
    )


def middle(names: Sequence[str]) -> str:
    """The middle name; of two middle ones the first."""
    return names[(len(names) - 1) // 2]


def _overlay_sum(frames: np.ndarray, volumes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Frames under the sum of all masks; the colour is in proportion to the sum."""
    total = np.sum(list(volumes.values()), axis=0)
    return overlay_relevance(frames, total**2, len(volumes) ** 2)  # it takes square roots


def _outlined(pictures: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pictures with the outline of a mask: its pixels with a neighbour outside of it."""
    inner = inside = mask >= _EDGE
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
    expect(len(masks) > 0, "masks", "at least one", "none")
    pictures = expect_pictures(frames, "(t, h, w, 3)")
    return pictures, {name: _expect_mask(name, mask, pictures) for name, mask in masks.items()}


def _expect_mask(name: str, mask: ArrayLike, frames: np.ndarray) -> np.ndarray:
    volume = expect_volume(name, mask, frames, (3,))
    low, high = float(volume.min()), float(volume.max())
    expect(low >= 0 and high <= 1, name, "numbers in 0..1", f"{low:.4g}..{high:.4g}")
    return volume


def _draw_shares(ax: Axes, volumes: Mapping[str, np.ndarray]) -> None:
    """Draw the means of the masks over each frame as bars side by side."""
    style.strip_down(ax)
    shares = [volume.mean((1, 2), dtype=np.float64) for volume in volumes.values()]
    count = len(shares)
    width = 0.8 / count
    for k, (name, share) in enumerate(zip(volumes, shares, strict=True)):
        at = np.arange(len(share)) + (k - (count - 1) / 2) * width
        ax.bar(at, share, width, color=shades(count)[k], label=name)
    zero_line(ax)
    ax.set_ylim(0, 1.07 * np.max(shares) or 0.05)
    ax.locator_params(axis="y", nbins=3)
    ax.set_ylabel("share of\nthe frame", **style.TEXT)


def _name_masks(ax: Axes) -> None:
    """Draw the legend of the bars' shades above them, in as many columns as fit."""
    names = ax.get_legend_handles_labels()[1]
    fitting = style.width_of(ax) / (0.4 + style.text_inches(max(map(len, names))))
    where = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    where["ncols"] = int(np.clip(fitting, 1, len(names)))
    look = {"handlelength": 0.9, "handleheight": 0.9, "columnspacing": 1.2, **style.LEGEND}
    style.plain_text(ax.legend(**where, **look))
