"""Masks laid over the frames of a clip: within them as it is, faded elsewhere, outlined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_finite
from esv_jax.plots import style
from esv_jax.plots.pictures import expect_pictures, faded
from esv_jax.plots.relevance import overlay_relevance

_PALE = 0.65  # how far frames outside of a mask are faded to white
_EDGE = 0.5  # where a mask has its outline
_PER_LINE = 64  # rows of a frame for each pixel of an outline's width


def overlay_mask(frames: Any, mask: Any) -> np.ndarray:
    """Frames as they are under a mask, pale grey elsewhere, with the outline of the mask.

    Args:
      frames: (t, h, w, 3) uint8 RGB.
      mask: (t, h, w) in 0..1.
    Returns:
      (t, h, w, 3) uint8. The outline is where the mask crosses one half.
    Raises:
      ValueError: shapes that do not fit, a mask outside 0..1. TypeError: frames that are not uint8.
    """
    frames = expect_pictures(frames, "(t, h, w, 3)")
    mask = _expect_mask("mask", mask, frames)
    pale = faded(frames, _PALE)
    drawn = np.rint(pale + (frames - pale) * mask[..., None]).astype(np.uint8)
    return outlined(drawn, mask)


def all_over(frames: np.ndarray, volumes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Frames under the sum of all masks, which the depth of the colour is in proportion to."""
    total = np.sum(list(volumes.values()), axis=0)
    return overlay_relevance(frames, total**2, len(volumes) ** 2)  # it takes roots


def outlined(pictures: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pictures with the outline of a mask over them."""
    out = pictures.copy()
    out[_outline(mask)] = style.rgb(style.DISTRACTING)
    return out


def _outline(mask: np.ndarray) -> np.ndarray:
    """Places just within a mask (t, h, w) whose neighbours in the frame are not, bool."""
    inside = mask >= _EDGE
    inner = inside
    for _ in range(max(1, mask.shape[1] // _PER_LINE)):
        padded = np.pad(inner, ((0, 0), (1, 1), (1, 1)), mode="edge")
        inner = inner & padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1]
        inner = inner & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return inside & ~inner


def expect_masks(frames: Any, masks: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frames, and masks (t, h, w) float32 in 0..1 that fit them; refuse others, and none."""
    frames = expect_pictures(frames, "(t, h, w, 3)")
    expect(len(masks) > 0, "masks", "at least one", "none")
    return frames, {name: _expect_mask(name, mask, frames) for name, mask in masks.items()}


def _expect_mask(name: str, mask: Any, frames: np.ndarray) -> np.ndarray:
    volume = np.asarray(mask, np.float32)
    fits = volume.shape == frames.shape[:3]
    expect(fits, name, f"shape {frames.shape[:3]}, as the frames", volume.shape)
    expect_finite(name, volume)
    low, high = float(volume.min()), float(volume.max())
    expect(low >= 0 and high <= 1, name, "numbers in 0..1", f"{low:.4g}..{high:.4g}")
    return volume
