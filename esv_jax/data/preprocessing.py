"""Preprocessing of frames: sampling, resizing, cropping, normalisation."""

from __future__ import annotations

import dataclasses

import numpy as np
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, expect_int
from esv_jax.extras import require


def segment_centres(length: int, n: int) -> np.ndarray:
    """Indices of the elements in the middle of n equal segments.

        index[i] = floor(i * L / n + L / (2 n)),    L = length

    Computed in double precision as i * (L/n) + (L/n)/2, as in play-fair, to give the same frames.
    If the exact value is an integer, rounding may lower the index by one: L = 16, n = 12, i = 7
    gives 9, not 10. Up to n = 6 the index is exact for every L below 2000.
    Source: Wang et al. (2016), temporal segments; Price & Damen (2020) sample so at test time.

    Args:
      length: number of elements, >= n.
      n: number of indices, >= 1.
    Returns:
      (n,) int64, strictly increasing, within 0..length - 1; n = length gives every element.
    Raises:
      TypeError: a size is not an integer.
      ValueError: n < 1, or length < n.
    """
    n = expect_int("n", n, minimum=1)
    length = expect_int("length", length, minimum=1)
    way_out = "Skip sequences shorter than n, or take all elements."
    expect(length >= n, "length", f"at least n = {n} elements", length, way_out)
    segment = length / n
    return np.floor(np.arange(n) * segment + segment / 2).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of the frames of a network.

    Attributes:
      short_side: shorter side after resizing, in pixels.
      crop: side of the square cut from the centre, <= short_side.
      scale: value of white before normalisation: 255, or 1.
      channels: "RGB" or "BGR", the order of the output channels.
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
        fits = self.crop <= self.short_side
        expect(fits, "crop", f"at most short_side = {self.short_side}", self.crop)
        expect(0 < self.scale < np.inf, "scale", "a number > 0", self.scale)
        expect_choice("channels", self.channels, ("RGB", "BGR"))
        for name, values in (("mean", self.mean), ("std", self.std)):
            fits = len(values) == 3 and bool(np.isfinite(values).all())
            expect(fits, name, "three finite numbers", values)
        expect(min(self.std) > 0, "std", "numbers > 0", self.std)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest possible output, (3,) float32 each, by channel."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return -mean / std, (np.float32(self.scale) - mean) / std


# Zhou et al. (2018), TRN on BNInception: weights from Caffe. 256 = int(224 / 0.875).
TRN_BNINCEPTION = Preprocessing(256, 224, 255.0, "BGR", (104.0, 117.0, 128.0), (1.0, 1.0, 1.0))
# Wang et al. (2016), TSN on a ResNet-50 trained on ImageNet, with its mean and deviation.
TSN_RESNET50 = Preprocessing(256, 224, 1.0, "RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def preprocess(frames: ArrayLike, preprocessing: Preprocessing) -> np.ndarray:
    """Frames as the input of a network.

    Resized to the short side `short_side` (see `resize_frame`), cropped at the centre (odd margins
    are halved with `round`, to even), scaled to 0..scale, normalised per channel.

    Args:
      frames: (n, h, w, 3) uint8, RGB, n >= 1.
      preprocessing: that of the network's training, e.g. TRN_BNINCEPTION.
    Returns:
      (n, crop, crop, 3) float32.
    Raises:
      TypeError: frames that are not uint8.
      ValueError: frames of another shape.
      ImportError: Pillow is not installed, and the frames have to be resized.
    """
    clip = expect_pixels("frames", frames, "(n, h, w, 3)")
    side = preprocessing.crop
    h, w = _resized(clip.shape[1], clip.shape[2], preprocessing.short_side)
    top, left = round((h - side) / 2), round((w - side) / 2)
    out = np.empty((len(clip), side, side, 3), np.float32)
    step = 1 if preprocessing.channels == "RGB" else -1
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    for k, frame in enumerate(clip):
        resized = resize_frame(frame, preprocessing.short_side)
        values = resized[top : top + side, left : left + side, ::step].astype(np.float32)
        if preprocessing.scale != 255:
            values = values / np.float32(255) * np.float32(preprocessing.scale)
        out[k] = (values - mean) / std
    return out


def resize_frame(frame: np.ndarray, short_side: int) -> np.ndarray:
    """Resize a frame (h, w, 3) uint8 to a short side, the other in proportion, rounded down.

    Bilinear, antialiased: Pillow's `BILINEAR`, with which TSN and TRN were trained. A frame of this
    size is returned unchanged.
    """
    h, w = frame.shape[:2]
    if min(h, w) == short_side:
        return frame
    new_h, new_w = _resized(h, w, short_side)
    images = require("PIL.Image", "video")
    return np.asarray(images.fromarray(frame).resize((new_w, new_h), images.Resampling.BILINEAR))


def expect_pixels(name: str, pixels: ArrayLike, letters: str) -> np.ndarray:
    """RGB frames as an array; refuses other dtypes, and shapes other than e.g. "(n, h, w, 3)"."""
    array = np.asarray(pixels)
    is_uint8 = array.dtype == np.uint8
    expect(is_uint8, name, "uint8, 0..255", f"dtype {array.dtype}", kind=TypeError)
    fits = array.ndim == letters.count(",") + 1 and array.shape[-1] == 3 and array.size > 0
    expect(fits, name, f"shape {letters}", array.shape)
    return array


def _resized(h: int, w: int, short_side: int) -> tuple[int, int]:
    """Height and width after resizing the shorter one to `short_side`."""
    if h <= w:
        return short_side, int(short_side * w / h)
    return int(short_side * h / w), short_side
