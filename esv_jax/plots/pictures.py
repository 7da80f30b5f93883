"""Frames of videos within figures: what may be drawn, and drawing them side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_shape, message


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
