"""From decoded frames to what a network was trained on: resize, crop, scale, normalise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_choice, expect_int, message
from esv_jax.extras import require


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of the frames of a network.

    Attributes:
      short_side: pixels of the shorter side after resizing.
      crop: side of the square cut from the centre, <= short_side.
      scale: what white is before normalising: 255, or 1.
      channels: "RGB" or "BGR", the order in which channels come out.
      mean, std: per channel, in that order and in units of `scale`; the result is
        (value - mean) / std.
    """

    short_side: int = 256
    crop: int = 224
    scale: float = 1.0
    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        expect_int("short_side", self.short_side, minimum=1)
        expect_int("crop", self.crop, minimum=1)
        expected = f"at most short_side = {self.short_side}"
        expect(self.crop <= self.short_side, "crop", expected, self.crop)
        expect(np.isfinite(self.scale) and self.scale > 0, "scale", "a number > 0", self.scale)
        expect_choice("channels", self.channels, ("RGB", "BGR"))
        for name, values in (("mean", self.mean), ("std", self.std)):
            fits = len(values) == 3 and bool(np.isfinite(values).all())
            expect(fits, name, "three finite numbers", values)
        expect(min(self.std) > 0, "std", "numbers > 0", self.std)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value that comes out, (3,) float32 each, by channel."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return -mean / std, (np.float32(self.scale) - mean) / std


# Zhou et al. (2018), TRN on BNInception: weights that came from Caffe. 256 = int(224 / 0.875).
TRN_BNINCEPTION = Preprocessing(256, 224, 255.0, "BGR", (104.0, 117.0, 128.0), (1.0, 1.0, 1.0))
# Wang et al. (2016), TSN on a ResNet-50 trained on ImageNet: its usual mean and deviation.
TSN_RESNET50 = Preprocessing(256, 224, 1.0, "RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def preprocess(frames: Any, preprocessing: Preprocessing) -> np.ndarray:
    """Frames as a network wants them.

    Resized so that the short side is `short_side` (see `resize_frames`), cut at the centre (an odd
    margin splits as `round` does: to the even pixel), brought to 0..scale, normalised per channel.

    Args:
      frames: (n, h, w, 3) uint8, RGB, n >= 1.
      preprocessing: what the network was trained on, e.g. TRN_BNINCEPTION.
    Returns:
      (n, crop, crop, 3) float32.
    Raises:
      TypeError: frames that are not uint8.
      ValueError: frames of another shape.
      ImportError: Pillow is not installed, and the frames have to be resized.
    Cost: that of `resize_frames`; none where the short side is already as wanted.
    """
    frames = _expect_frames(frames)
    side = preprocessing.crop
    h, w = _resized(frames.shape[1], frames.shape[2], preprocessing.short_side)
    top, left = round((h - side) / 2), round((w - side) / 2)
    out = np.empty((len(frames), side, side, 3), np.float32)
    step = 1 if preprocessing.channels == "RGB" else -1
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    for k, frame in enumerate(frames):
        resized = resize_frame(frame, preprocessing.short_side)
        values = resized[top : top + side, left : left + side, ::step].astype(np.float32)
        if preprocessing.scale != 255:
            values = values / np.float32(255) * np.float32(preprocessing.scale)
        out[k] = (values - mean) / std
    return out


def resize_frames(frames: Any, short_side: int) -> np.ndarray:
    """Frames with a short side of so many pixels, the other in proportion, rounded down.

    Bilinear with a filter as wide as the reduction, so that nothing is skipped: Pillow's
    `BILINEAR`, with which TSN and TRN were trained. Needs the `video` extra.

    Args:
      frames: (n, h, w, 3) uint8, n >= 1.
      short_side: pixels, >= 1.
    Returns:
      (n, h', w', 3) uint8, min(h', w') = short_side; the input itself where that is so already.
    Raises:
      TypeError, ValueError: another dtype or shape, a size below 1.
      ImportError: Pillow is not installed.
    """
    frames = _expect_frames(frames)
    short_side = expect_int("short_side", short_side, minimum=1)
    if min(frames.shape[1:3]) == short_side:
        return frames
    h, w = _resized(frames.shape[1], frames.shape[2], short_side)
    out = np.empty((len(frames), h, w, 3), np.uint8)
    for k, frame in enumerate(frames):
        out[k] = resize_frame(frame, short_side)
    return out


def resize_frame(frame: np.ndarray, short_side: int) -> np.ndarray:
    """One frame (h, w, 3) uint8, resized as `resize_frames` does."""
    h, w = frame.shape[:2]
    if min(h, w) == short_side:
        return frame
    new_h, new_w = _resized(h, w, short_side)
    images = require("PIL.Image", "video")
    return np.asarray(images.fromarray(frame).resize((new_w, new_h), images.Resampling.BILINEAR))


def _expect_frames(frames: Any) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8:
        raise TypeError(message("frames", "uint8, 0..255", f"dtype {frames.dtype}"))
    fits = frames.ndim == 4 and frames.shape[-1] == 3 and min(frames.shape) >= 1
    expect(fits, "frames", "shape (n, h, w, 3)", frames.shape)
    return frames


def _resized(h: int, w: int, short_side: int) -> tuple[int, int]:
    """Height and width once the shorter of them is `short_side`."""
    if h <= w:
        return short_side, int(short_side * w / h)
    return int(short_side * h / w), short_side
