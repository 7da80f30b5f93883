"""Drawing of synthetic clips: thick strokes over textures, all frames of a clip at once.

Everything that moves is a stroke, a segment of some thickness: a disc is one without length, a
square one as long as it is thick. Coordinates are shares of the picture: x to the right, y down,
(0, 0) the upper left corner. Colours are 0..255; pictures are planar, (3, t, h, w), while drawn.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

_RIM = 0.55  # brightness of a stroke's border, which sets it off from what is behind
_RIM_PIXELS = 2.0  # width of the border at 64 pixels
_GRAIN_SIDE = 64  # rows and columns by which the sheet of grain is larger than a picture


class Stroke(NamedTuple):
    """A thick segment that may move, turn and grow.

    Attributes:
      start, end: where the middle line runs, (t, 2), x then y.
      radius: half of the thickness, (t,).
      colour: (3,), 0..255.
      square: whether the ends are cut off at `start` and `end`; round ends reach `radius` beyond.
      carries: whether it carries the class, or is only part of the scenery.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    colour: np.ndarray
    square: bool = False
    carries: bool = True


def draw(picture: np.ndarray, stroke: Stroke, evidence: np.ndarray) -> None:
    """Draw one stroke into every frame, in place, with a soft edge and a darker border.

    Args:
      picture: (3, t, h, w) float32.
      stroke: with t frames.
      evidence: (t, h, w) bool; pixels more than half covered are set if the stroke carries the
        class.
    """
    h, w = picture.shape[2:]
    reach = stroke.radius[:, None] * (1.5 if stroke.square else 1.0) + 2 / w
    low = np.minimum(stroke.start, stroke.end) - reach  # (t, 2)
    high = np.maximum(stroke.start, stroke.end) + reach
    left, right = _span(low[:, 0], high[:, 0], w)
    top, bottom = _span(low[:, 1], high[:, 1], h)
    if left >= right or top >= bottom:
        return
    inside = _depth(stroke, np.arange(left, right), np.arange(top, bottom), w)  # in pixels
    cover = np.clip(inside + np.float32(0.5), 0, 1)
    slope = np.float32((1 - _RIM) / (_RIM_PIXELS * w / 64))
    rim = np.clip(inside * slope + np.float32(_RIM), np.float32(_RIM), 1)
    for plane, colour in zip(picture[:, :, top:bottom, left:right], stroke.colour, strict=True):
        step = rim * np.float32(colour)
        step -= plane
        step *= cover
        plane += step
    if stroke.carries:
        evidence[:, top:bottom, left:right] |= cover > 0.5


def _span(low: np.ndarray, high: np.ndarray, size: int) -> tuple[int, int]:
    """The pixels of one axis that a stroke may touch in any frame, first and one past the last."""
    first = int(np.floor(low.min() * size))
    last = int(np.ceil(high.max() * size)) + 1
    return max(first, 0), min(last, size)


def _depth(stroke: Stroke, columns: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Return the depth of pixel centres inside the stroke's edge, (t, rows, columns), pixels."""
    start = (stroke.start * size).astype(np.float32)
    along = ((stroke.end - stroke.start) * size).astype(np.float32)
    length = np.sqrt((along**2).sum(1))  # (t,)
    unit = along / np.maximum(length, np.float32(1e-6))[:, None]
    unit[length < 1e-6] = (1, 0)
    x = columns.astype(np.float32) + np.float32(0.5) - start[:, :1]  # (t, columns)
    y = rows.astype(np.float32) + np.float32(0.5) - start[:, 1:]  # (t, rows)
    ux, uy = unit[:, :1], unit[:, 1:]
    forward = (x * ux)[:, None, :] + (y * uy)[:, :, None]
    aside = (x * uy)[:, None, :] - (y * ux)[:, :, None]
    half = (length / 2)[:, None, None]
    radius = (stroke.radius * size).astype(np.float32)[:, None, None]
    forward -= half
    np.abs(forward, out=forward)
    forward -= half  # past the nearer end where positive
    if stroke.square:
        np.abs(aside, out=aside)
        aside -= radius
        return -np.maximum(forward, aside)
    np.maximum(forward, 0, out=forward)
    forward *= forward
    aside *= aside
    aside += forward
    np.sqrt(aside, out=aside)
    return radius - aside


def texture(side: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of soft blotches with stripes, checks or nothing over it, (3, side, side)."""
    base = rng.uniform(70, 170, (3, 1, 1))
    base = base.mean() + (base - base.mean()) * 0.5  # greyish: objects are colourful
    blotches = rng.normal(size=(3, 6, 6)) * 9 + rng.normal(size=(6, 6)) * 14
    enlarge = _enlarge(6, side)
    picture = base + enlarge @ blotches @ enlarge.T
    kind = rng.integers(3)
    period, angle, strength = rng.uniform(0.1, 0.3), rng.uniform(0, np.pi), rng.uniform(6, 14)
    at = np.arange(side) / side
    first = np.cos(angle) * at + np.sin(angle) * at[:, None]
    wave = np.abs((first / period) % 1 - 0.5) * 4 - 1  # a triangle, -1..1
    if kind == 1:
        second = np.cos(angle) * at[:, None] - np.sin(angle) * at
        wave = np.sign(wave) * np.sign(np.abs((second / period) % 1 - 0.5) * 4 - 1)
    if kind < 2:
        picture = picture + strength * wave
    return picture.astype(np.float32)


@functools.cache
def _enlarge(coarse: int, side: int) -> np.ndarray:
    """Linear interpolation from `coarse` points to `side`, as a matrix (side, coarse)."""
    at = np.linspace(0, coarse - 1, side)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(coarse)))


def crops(picture: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """A window of a larger picture per frame, (3, t, size, size), at `corners` (t, 2), x then y."""
    out = np.empty((len(picture), len(corners), size, size), np.float32)
    for k, (x, y) in enumerate(corners.tolist()):
        out[:, k] = picture[:, y : y + size, x : x + size]
    return out


def grain(corners: np.ndarray, size: int) -> np.ndarray:
    """Film grain of standard deviation 1, (t, size, size), from one sheet that all clips share."""
    sheet = _grain_sheet(size + _GRAIN_SIDE)
    return crops(sheet, corners, size)[0]


def grain_corners(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the offset of the grain of each of n frames, (n, 2)."""
    return rng.integers(0, _GRAIN_SIDE + 1, (n, 2))


@functools.cache
def _grain_sheet(side: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, side, side)).astype(np.float32)
