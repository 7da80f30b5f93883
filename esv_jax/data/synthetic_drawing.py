"""Drawing of synthetic clips: actions as moving strokes over textures.

All frames of a clip are drawn at once, as planar pictures (3, t, h, w), 0..255.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

_RIM = 0.55  # relative brightness of the border of a stroke
_RIM_PIXELS = 2.0  # width of the border for pictures of 64 pixels
_GRAIN_SIDE = 64  # margin of the grain pattern beyond a picture, in pixels

Numbers = float | np.ndarray
"""One number, or one per frame, (t,)."""


class Stroke(NamedTuple):
    """A line segment of some thickness that may move, rotate and grow.

    A disc is a stroke of length 0; a square one is as long as it is thick. Coordinates are
    fractions of the picture: x to the right, y down, (0, 0) the upper left corner.

    Attributes:
      start, end: ends of the centre line, (t, 2), or (1, 2) in all frames; x then y.
      radius: half of the thickness.
      colour: (3,), 0..255.
      square: whether the ends are flat, at `start` and `end`; round ends extend `radius` beyond.
      carries: whether its pixels are evidence of the class.
    """

    start: np.ndarray
    end: np.ndarray
    radius: Numbers
    colour: np.ndarray
    square: bool = False
    carries: bool = True


def draw(picture: np.ndarray, stroke: Stroke, evidence: np.ndarray) -> None:
    """Draw one stroke into every frame in place, antialiased, with a darker border.

    Args:
      picture: (3, t, h, w) float32.
      stroke: with t frames.
      evidence: (t, h, w) bool; set where the stroke covers more than half of a pixel, if it
        `carries` the class.
    """
    h, w = picture.shape[2:]
    reach = np.asarray(stroke.radius)[..., None] * (1.5 if stroke.square else 1.0) + 2 / w
    low = (np.minimum(stroke.start, stroke.end) - reach).min(0)  # over frames, (2,)
    high = (np.maximum(stroke.start, stroke.end) + reach).max(0)
    left, top = np.maximum(np.floor(low * (w, h)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high * (w, h)) + 1, (w, h)).astype(int)
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


def _depth(stroke: Stroke, columns: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Distance in pixels of pixel centres from the edge, positive inside, (t, rows, columns)."""
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
    radius = np.asarray(stroke.radius * size, np.float32)[..., None, None]
    forward -= half
    np.abs(forward, out=forward)
    forward -= half  # positive beyond the nearer end
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


def texture(side: int, rng: Generator) -> np.ndarray:
    """A background of smooth noise, plain or with stripes or checks, (3, side, side)."""
    base = rng.uniform(70, 170, (3, 1, 1))
    base = base.mean() + (base - base.mean()) * 0.5  # low saturation, unlike objects
    blotches = rng.normal(size=(3, 6, 6)) * 9 + rng.normal(size=(6, 6)) * 14
    enlarge = _enlarge(6, side)
    picture = base + enlarge @ blotches @ enlarge.T
    kind = rng.integers(3)
    period, angle, strength = rng.uniform(0.1, 0.3), rng.uniform(0, np.pi), rng.uniform(6, 14)
    position = np.arange(side) / side
    first = np.cos(angle) * position + np.sin(angle) * position[:, None]
    wave = triangle_wave(first / period)
    if kind == 1:
        second = np.cos(angle) * position[:, None] - np.sin(angle) * position
        wave = np.sign(wave) * np.sign(triangle_wave(second / period))
    if kind < 2:
        picture = picture + strength * wave
    return picture.astype(np.float32)


def triangle_wave(phase: np.ndarray) -> np.ndarray:
    """A wave between -1 and 1 with period 1."""
    return np.abs(phase % 1 - 0.5) * 4 - 1


@functools.cache
def _enlarge(coarse: int, side: int) -> np.ndarray:
    """Matrix of linear interpolation from `coarse` points to `side`, (side, coarse)."""
    at = np.linspace(0, coarse - 1, side)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(coarse)))


def crops(picture: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """One window of a picture per frame, (3, t, size, size), at `corners` (t, 2), x then y."""
    out = np.empty((len(picture), len(corners), size, size), np.float32)
    for k, (x, y) in enumerate(corners):
        out[:, k] = picture[:, y : y + size, x : x + size]
    return out


def grain(n: int, at: np.ndarray, size: int, rng: Generator) -> np.ndarray:
    """Film grain of standard deviation 1 in frames `at` of n, (t, size, size).

    The offset in a pattern shared by all clips is random in each frame.
    """
    corners = rng.integers(0, _GRAIN_SIDE + 1, (n, 2))[at]
    return crops(_grain_pattern(size + _GRAIN_SIDE), corners, size)[0]


@functools.cache
def _grain_pattern(side: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, side, side)).astype(np.float32)


Action = Callable[[Generator, np.ndarray], list[Stroke]]
"""Random draws and the progress of the change in every frame, 0 before and 1 after, to strokes.

Strokes are listed from back to front.
"""

_COLOURS = np.array([
    *((225, 45, 45), (40, 110, 230), (45, 180, 70), (245, 200, 30)),
    *((240, 125, 25), (165, 60, 200), (30, 190, 200), (235, 90, 160)),
])  # fmt: skip
_SKIN = np.array([(240, 200, 170), (215, 160, 120), (150, 100, 70)])
_SLEEVES = np.array([(60, 60, 90), (90, 50, 50), (50, 80, 60)])
_WOOD = np.array((120, 80, 45))
_PALM = 0.07  # radius of the palm
_TOUCH = 0.12  # distance from the centre of the palm to the touched point


def _points(x: Numbers, y: Numbers) -> np.ndarray:
    """Points (t, 2), or (1, 2) where both coordinates are one number."""
    return np.stack(np.broadcast_arrays(*np.atleast_1d(x, y)), axis=1)


def _between(first: float, last: float, progress: np.ndarray) -> np.ndarray:
    return first + (last - first) * progress


def _direction(angle: Numbers) -> np.ndarray:
    """Unit vectors, (2,) or (t, 2)."""
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _colours(rng: Generator, n: int = 1) -> np.ndarray:
    """n distinct colours, (n, 3)."""
    return _COLOURS[rng.permutation(len(_COLOURS))[:n]]


def _disc(centre: np.ndarray, radius: Numbers, colour: np.ndarray) -> Stroke:
    return Stroke(centre, centre, radius, colour)


def _object(rng: Generator, centre: np.ndarray, radius: Numbers, colour: np.ndarray) -> Stroke:
    """A disc, square or diamond around `centre` (t, 2)."""
    kind = rng.integers(3)
    if kind == 0:
        return _disc(centre, radius, colour)
    arm = np.multiply.outer(0.9 * radius, _direction(0.0 if kind == 1 else np.pi / 4))
    return Stroke(centre - arm, centre + arm, 0.9 * radius, colour, square=True)


def _hand(rng: Generator, tips: np.ndarray, direction: tuple[float, float]) -> list[Stroke]:
    """A hand reaching into the picture in `direction`; fingers end at `tips` (t, 2)."""
    skin, sleeve = _SKIN[rng.integers(3)], _SLEEVES[rng.integers(3)]
    ahead = np.array(direction) / np.hypot(*direction)
    aside = np.array([-ahead[1], ahead[0]])
    palm = tips - _TOUCH * ahead
    lean = rng.uniform(-0.15, 0.15) * aside
    arm = Stroke(palm - 0.07 * ahead, palm - 1.5 * ahead + lean, 0.05, sleeve)
    fingers = [
        Stroke(palm + side * aside, tips - 0.02 * ahead + 0.9 * side * aside, 0.021, skin)
        for side in (-0.05, 0.0, 0.05)
    ]
    return [arm, _disc(palm, _PALM, skin), *fingers]


def _mirrored(strokes: list[Stroke]) -> list[Stroke]:
    """The scene with left and right exchanged."""
    return [
        stroke._replace(start=stroke.start * (-1, 1) + (1, 0), end=stroke.end * (-1, 1) + (1, 0))
        for stroke in strokes
    ]


def _maybe_mirrored(rng: Generator, strokes: list[Stroke]) -> list[Stroke]:
    return _mirrored(strokes) if rng.random() < 0.5 else strokes


def _push(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    radius = rng.uniform(0.085, 0.12)
    x = _between(rng.uniform(0.3, 0.4), rng.uniform(0.72, 0.85), progress)
    y = rng.uniform(0.3, 0.7)
    hand = _hand(rng, _points(x - radius, y), (1, rng.uniform(-0.2, 0.2)))
    return [*hand, _object(rng, _points(x, y), radius, _colours(rng)[0])]


def _push_left(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    return _mirrored(_push(rng, progress))


def _apart(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    radius, away = rng.uniform(0.08, 0.11), _direction(rng.uniform(-0.7, 0.7))
    gap = _between(radius * 1.25, rng.uniform(0.3, 0.36), progress)[:, None]
    middle = _points(rng.uniform(0.45, 0.55), rng.uniform(0.42, 0.58))
    first, second = _colours(rng, 2)
    return [
        _object(rng, middle + gap * away, radius, first),
        _object(rng, middle - gap * away, radius, second),
    ]


def _put_down(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    radius = rng.uniform(0.085, 0.115)
    x, table = rng.uniform(0.35, 0.65), rng.uniform(0.76, 0.84)
    released = rng.uniform(0.5, 0.65)
    down = np.minimum(progress / released, 1)
    up = np.maximum((progress - released) / (1 - released), 0)
    rest = table - radius
    y = _between(rng.uniform(0.2, 0.26), rest, down)
    hand = _hand(rng, _points(x, y - 0.6 * radius - (rest - 0.1) * up), (0, 1))
    left, right = _points(-0.2, table + 0.3), _points(1.2, table + 0.3)
    board = Stroke(left, right, 0.3, _WOOD, square=True, carries=False)
    return [board, _object(rng, _points(x, y), radius, _colours(rng)[0]), *hand]


def _cover(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    radius = rng.uniform(0.09, 0.115)
    x, y, half = rng.uniform(0.35, 0.5), rng.uniform(0.38, 0.62), 0.165
    cloth = _between(x + rng.uniform(0.36, 0.42), x, progress)
    object_colour, cloth_colour = _colours(rng, 2)
    item = _object(rng, _points(x, y), radius, object_colour)
    left, right = _points(cloth - half, y), _points(cloth + half, y)
    sheet = Stroke(left, right, half, 0.6 * cloth_colour + 95, square=True)
    stripe = Stroke(left, right, 0.035, np.array((250, 250, 245)), square=True)
    hand = _hand(rng, _points(cloth + half - 0.03, y), (-1, rng.uniform(-0.2, 0.2)))
    return _maybe_mirrored(rng, [item, sheet, stripe, *hand])


def _pretend(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    radius = rng.uniform(0.09, 0.12)
    x, y = rng.uniform(0.45, 0.55), rng.uniform(0.3, 0.45)
    item = _object(rng, _points(x, y), radius, _colours(rng)[0])
    tip = _between(rng.uniform(0.12, 0.18), rng.uniform(0.82, 0.88), progress)
    return [item, *_hand(rng, _points(tip, y + rng.uniform(0.0, 0.06)), (0, -1))]


def _turn(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    half, radius = rng.uniform(0.2, 0.26), rng.uniform(0.055, 0.075)
    # Clockwise, as y points down.
    arm = half * _direction(rng.uniform(0, 2 * np.pi) + rng.uniform(2.4, 2.9) * progress)
    middle = _points(rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55))
    tail = Stroke(middle, middle - arm, radius, np.array((245, 245, 240)))
    return [tail, Stroke(middle, middle + arm, radius, _colours(rng)[0])]


def _open(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    half, depth = rng.uniform(0.2, 0.25), rng.uniform(0.1, 0.13)
    x, y = rng.uniform(0.48, 0.56), rng.uniform(0.66, 0.72)  # centre of the box
    colour, inside = _colours(rng, 2)
    body = Stroke(_points(x - half, y), _points(x + half, y), depth, colour, square=True)
    hinge = _points(x - half, y - depth)
    swing = 2 * half * (_direction(rng.uniform(1.7, 2.0) * progress) * (1, -1))
    lid = Stroke(hinge, hinge + swing, 0.035, 0.75 * colour)
    height = 0.09 * np.minimum(2 * progress, 1)  # the content rises out of the open box
    ball = _disc(_points(x, y - depth + 0.04 - height), 0.08, inside)
    return _maybe_mirrored(rng, [ball, body, lid])


def _approach(rng: Generator, progress: np.ndarray) -> list[Stroke]:
    radius = _between(rng.uniform(0.05, 0.07), rng.uniform(0.26, 0.32), progress)
    middle = _points(rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58))
    return [_object(rng, middle, radius, _colours(rng)[0])]


def bystander(rng: Generator) -> list[Stroke]:
    """A static grey bar or cross, part of the scene in clips of every class."""
    grey, angle = np.full(3, rng.choice((40, 215))), rng.uniform(0, np.pi)
    middle = rng.uniform(0.15, 0.85, (1, 2))
    arms = [0.13 * _direction(angle + turn) for turn in (0, np.pi / 2)][: rng.integers(1, 3)]
    return [Stroke(middle - arm, middle + arm, 0.035, grey, carries=False) for arm in arms]


def decoys(rng: Generator) -> list[Stroke]:
    """The static strokes of another shot: a bystander, and an idle object or hand."""
    if rng.random() < 0.5:
        centre, radius = rng.uniform(0.25, 0.75, (1, 2)), rng.uniform(0.08, 0.18, 1)
        shown = [_object(rng, centre, radius, _colours(rng)[0])]
    else:
        direction = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))[rng.integers(4)]
        shown = _hand(rng, rng.uniform(0.35, 0.65, (1, 2)), direction)
    return [*bystander(rng), *(stroke._replace(carries=False) for stroke in shown)]


_PAIRS: dict[tuple[str, str], Action] = {
    ("pushing to the right", "pulling to the left"): _push,
    ("pushing to the left", "pulling to the right"): _push_left,
    ("moving apart", "moving together"): _apart,
    ("putting down", "picking up"): _put_down,
    ("covering", "uncovering"): _cover,
    ("pretending to push right", "pretending to push left"): _pretend,
    ("turning clockwise", "turning counter-clockwise"): _turn,
    ("opening", "closing"): _open,
    ("coming closer", "going away"): _approach,
}
ACTIONS = tuple(_PAIRS.values())
"""The action of each class 2p."""
CLASS_NAMES = tuple(itertools.chain(*_PAIRS))
"""All classes; 2p + 1 is 2p run backwards."""
