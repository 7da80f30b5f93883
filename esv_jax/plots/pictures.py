"""Frames of videos: what may be drawn, how they fade, and how they stand side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_int, expect_shape, message
from esv_jax.plots import style
from esv_jax.plots.labels import expect_labels, label_pictures

_SLOT_INCHES = 0.8  # of a frame with the gap to the next
_FILLED = 0.95  # share of a slot that a frame takes
_MIN_SLOTS = 4  # fewer frames would be large, and the heading needs as much width
_LETTERS = 12  # of a name beside a row of frames, in one line
_GAP = 4  # pixels between clips side by side
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (BT.601)


def expect_pictures(frames: Any, letters: str, n: int | None = None) -> np.ndarray:
    """Frames as a uint8 array with axes like `letters`, "(n, h, w, 3)"; n of them where given."""
    images = np.asarray(frames)
    if images.dtype != np.uint8:
        raise TypeError(message("frames", "uint8, 0..255", f"dtype {images.dtype}"))
    expect_shape("frames", images, (None, None, None, 3), letters)
    if n is not None:
        expect(len(images) == n, "frames", f"{n} frames, one per element", len(images))
    expect(images.size > 0, "frames", f"shape {letters}, each at least 1", images.shape)
    return images


def expect_index(index: Any, t: int) -> np.ndarray:
    """Frame numbers of t frames, 0..t-1 by default; refuse another number of them."""
    numbers = np.arange(t) if index is None else np.asarray(index)
    expect(len(numbers) == t, "index", f"{t} frame numbers", len(numbers))
    return numbers


def faded(frames: np.ndarray, share: float) -> np.ndarray:
    """Grey frames (t, h, w, 1) float32, that share of the way to white."""
    grey = frames.astype(np.float32) @ _LUMA
    return (grey + (255 - grey) * share)[..., None]


def draw_pictures(ax: Any, images: np.ndarray, places: np.ndarray, width: float) -> None:
    """Frames side by side, centred at some places of the x axis, in its units wide."""
    limits = ax.get_xlim()
    for image, place in zip(images, places, strict=True):
        extent = (place - width / 2, place + width / 2, 0, 1)
        ax.imshow(image, extent=extent, aspect="auto")
    ax.set_xlim(limits)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def beside(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Clips of one shape (t, h, w, 3) side by side, with white gaps, (t, h, w', 3) uint8."""
    gap = np.full((*clips[0].shape[:2], _GAP, 3), 255, np.uint8)
    panels = [clips[0]]
    for clip in clips[1:]:
        panels += [gap, clip]
    return np.concatenate(panels, 2)


def render_clips(clips: Sequence[Any], *, min_height: int = 240) -> Iterator[np.ndarray]:
    """A video of clips beside each other, enlarged by a whole factor.

    Args:
      clips: each (t, h, w, 3) uint8 RGB, of one shape.
      min_height: pixels, >= 1.
    Returns:
      An iterator over t pictures (h', w', 3) uint8 RGB, as `write_video` takes them.
    Raises:
      ValueError: no clips, or shapes that differ. TypeError: clips that are not uint8.
    """
    expect(len(clips) > 0, "clips", "at least one", "none")
    shown = [expect_pictures(clip, "(t, h, w, 3)") for clip in clips]
    shapes = {clip.shape for clip in shown}
    expect(len(shapes) == 1, "clips", "one shape", sorted(shapes))
    factor = -(-expect_int("min_height", min_height, minimum=1) // shown[0].shape[1])
    return (picture.repeat(factor, 0).repeat(factor, 1) for picture in beside(shown))


@dataclass(frozen=True)
class Columns:
    """Frames beside each other, each at its place on an axis of all elements.

    Attributes:
      shown: numbers of the frames that are drawn, evenly thinned out.
      labels: of these. places: their middles on the axis. width: of each.
      slots: how many of them the axis has room for. limits: its ends.
    """

    shown: np.ndarray
    labels: list[str]
    places: np.ndarray
    width: float
    slots: int
    limits: tuple[float, float]

    def draw(self, ax: Any, pictures: np.ndarray, name: str) -> None:
        """A row of pictures, one for each frame that is shown, and its name."""
        draw_pictures(ax, pictures, self.places, self.width)
        ax.set_ylabel(textwrap.fill(name, _LETTERS), **style.TEXT)

    def label(self, ax: Any) -> None:
        """The labels below a row, once the figure has been laid out."""
        label_pictures(ax, self.places, self.labels, self._slot_inches(ax))

    def inches(self) -> float:
        """Width of a figure of the pictures, in inches."""
        return float(np.clip(1.2 + _SLOT_INCHES * self.slots, 5.6, 14))

    def tall(self, ax: Any, frames: np.ndarray) -> float:
        """Inches of a row of frames (t, h, w, 3), once the figure has been laid out."""
        return float(_FILLED * self._slot_inches(ax) * frames.shape[1] / frames.shape[2])

    def _slot_inches(self, ax: Any) -> float:
        return float(ax.get_window_extent().width / ax.figure.dpi / self.slots)


def columns_of(t: int, labels: Sequence[Any] | None, most: int) -> Columns:
    """Columns of t frames, `most` of them at most; labels default to their numbers."""
    most = expect_int("max_columns", most, minimum=1)
    names = expect_labels("frame_labels", labels, t)
    n = min(t, most)
    shown = (2 * np.arange(n) + 1) * t // (2 * n)
    places = (np.arange(n) + 0.5) * t / n - 0.5
    slots = max(n, _MIN_SLOTS)
    limits = (-0.5, slots * t / n - 0.5)
    return Columns(shown, [names[i] for i in shown], places, _FILLED * t / n, slots, limits)
