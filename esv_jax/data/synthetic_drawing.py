"""Drawing of synthetic clips: actions as moving strokes over textures.

All frames of a clip are drawn at once, as planar pictures (3, t, h, w), 0..255.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_RIM = 0.55  # relative brightness of the border of a stroke
_RIM_PIXELS = 2.0  # width of the border for pictures of 64 pixels
_GRAIN_SIDE = 64  # margin of the grain pattern beyond a picture, in pixels


class Stroke(NamedTuple):
    """A line segment of some thickness that may move, rotate and grow.

    A disc is a stroke of length 0; a square one is as long as it is thick. Coordinates are
    fractions of the picture: x to the right, y down, (0, 0) the upper left corner.

    Attributes:
      start, end: ends of the centre line, (t, 2), x then y.
      radius: half of the thickness, (t,).
      colour: (3,), 0..255.
      square: whether the ends are flat, at `start` and `end`; round ends extend `radius` beyond.
      carries: whether its pixels are evidence of the class.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
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
    """Start and stop of the pixels of one axis that a stroke may touch in any frame."""
    first = int(np.floor(low.min() * size))
    last = int(np.ceil(high.max() * size)) + 1
    return max(first, 0), min(last, size)


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
    radius = (stroke.radius * size).astype(np.float32)[:, None, None]
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


def texture(side: int, rng: np.random.Generator) -> np.ndarray:
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
    wave = np.abs((first / period) % 1 - 0.5) * 4 - 1  # a triangle wave, -1..1
    if kind == 1:
        second = np.cos(angle) * position[:, None] - np.sin(angle) * position
        wave = np.sign(wave) * np.sign(np.abs((second / period) % 1 - 0.5) * 4 - 1)
    if kind < 2:
        picture = picture + strength * wave
    return picture.astype(np.float32)


@functools.cache
def _enlarge(coarse: int, side: int) -> np.ndarray:
    """Matrix of linear interpolation from `coarse` points to `side`, (side, coarse)."""
    at = np.linspace(0, coarse - 1, side)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(coarse)))


def crops(picture: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """One window of a picture per frame, (3, t, size, size), at `corners` (t, 2), x then y."""
    out = np.empty((len(picture), len(corners), size, size), np.float32)
    for k, (x, y) in enumerate(corners.tolist()):
        out[:, k] = picture[:, y : y + size, x : x + size]
    return out


def grain(corners: np.ndarray, size: int) -> np.ndarray:
    """Film grain of standard deviation 1, (t, size, size), from a pattern shared by all clips."""
    return crops(_grain_pattern(size + _GRAIN_SIDE), corners, size)[0]


def grain_corners(n: int, rng: np.random.Generator) -> np.ndarray:
    """Offset of the grain of each of n frames, (n, 2)."""
    return rng.integers(0, _GRAIN_SIDE + 1, (n, 2))


@functools.cache
def _grain_pattern(side: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, side, side)).astype(np.float32)


Action = Callable[[np.random.Generator, np.ndarray], list[Stroke]]
"""Random draws and the progress of the change in every frame, 0 before and 1 after, to strokes.

Strokes are listed from back to front.
"""

_COLOURS = np.array(
    [
        (225, 45, 45),
        (40, 110, 230),
        (45, 180, 70),
        (245, 200, 30),
        (240, 125, 25),
        (165, 60, 200),
        (30, 190, 200),
        (235, 90, 160),
    ]
)
_SKIN = np.array([(240, 200, 170), (215, 160, 120), (150, 100, 70)])
_SLEEVES = np.array([(60, 60, 90), (90, 50, 50), (50, 80, 60)])
_WOOD = np.array((120, 80, 45))
_PALM = 0.07  # radius of the palm
_TOUCH = 0.12  # distance from the centre of the palm to the touched point


class Pair(NamedTuple):
    """Two classes that differ only in the direction of time; the action is that of the first."""

    forward: str
    backward: str
    action: Action


def _points(t: int, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    return np.stack(np.broadcast_arrays(np.zeros(t), x, y)[1:], axis=1).astype(float)


def _between(first: float, last: float, progress: np.ndarray) -> np.ndarray:
    return first + (last - first) * progress


def _full(t: int, value: float) -> np.ndarray:
    return np.full(t, value)


def _colours(rng: np.random.Generator, n: int = 1) -> np.ndarray:
    """n distinct colours, (n, 3)."""
    return _COLOURS[rng.permutation(len(_COLOURS))[:n]]


def _object(
    rng: np.random.Generator, centre: np.ndarray, radius: np.ndarray, colour: np.ndarray
) -> Stroke:
    """A disc, square or diamond around `centre` (t, 2)."""
    kind = rng.integers(3)
    if kind == 0:
        return Stroke(centre, centre, radius, colour)
    angle = 0.0 if kind == 1 else np.pi / 4
    half = 0.9 * radius
    arm = half[:, None] * np.array([np.cos(angle), np.sin(angle)])
    return Stroke(centre - arm, centre + arm, half, colour, square=True)


def _hand(
    rng: np.random.Generator, tips: np.ndarray, direction: tuple[float, float]
) -> list[Stroke]:
    """A hand reaching into the picture in `direction`; fingers end at `tips` (t, 2)."""
    t = len(tips)
    skin, sleeve = _SKIN[rng.integers(3)], _SLEEVES[rng.integers(3)]
    ahead = np.array(direction) / np.hypot(*direction)
    aside = np.array([-ahead[1], ahead[0]])
    palm = tips - _TOUCH * ahead
    lean = rng.uniform(-0.15, 0.15) * aside
    strokes = [
        Stroke(palm - 0.07 * ahead, palm - 1.5 * ahead + lean, _full(t, 0.05), sleeve),
        Stroke(palm, palm, _full(t, _PALM), skin),
    ]
    for side in (-0.05, 0.0, 0.05):
        tip = tips - 0.02 * ahead + 0.9 * side * aside
        strokes.append(Stroke(palm + side * aside, tip, _full(t, 0.021), skin))
    return strokes


def _mirrored(strokes: list[Stroke]) -> list[Stroke]:
    """The scene with left and right exchanged."""

    def flip(points: np.ndarray) -> np.ndarray:
        return np.stack([1 - points[:, 0], points[:, 1]], axis=1)

    return [stroke._replace(start=flip(stroke.start), end=flip(stroke.end)) for stroke in strokes]


def _maybe_mirrored(rng: np.random.Generator, strokes: list[Stroke]) -> list[Stroke]:
    return _mirrored(strokes) if rng.random() < 0.5 else strokes


def _push(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.085, 0.12)
    x = _between(rng.uniform(0.3, 0.4), rng.uniform(0.72, 0.85), progress)
    y = rng.uniform(0.3, 0.7)
    hand = _hand(rng, _points(t, x - radius, y), (1, rng.uniform(-0.2, 0.2)))
    item = _object(rng, _points(t, x, y), _full(t, radius), _colours(rng)[0])
    return [*hand, item]


def _push_left(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    return _mirrored(_push(rng, progress))


def _apart(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.08, 0.11)
    angle = rng.uniform(-0.7, 0.7)
    away = np.array([np.cos(angle), np.sin(angle)])
    gap = _between(radius * 1.25, rng.uniform(0.3, 0.36), progress)[:, None]
    middle = _points(t, rng.uniform(0.45, 0.55), rng.uniform(0.42, 0.58))
    first, second = _colours(rng, 2)
    return [
        _object(rng, middle + gap * away, _full(t, radius), first),
        _object(rng, middle - gap * away, _full(t, radius), second),
    ]


def _put_down(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.085, 0.115)
    x, table = rng.uniform(0.35, 0.65), rng.uniform(0.76, 0.84)
    released = rng.uniform(0.5, 0.65)
    down = np.minimum(progress / released, 1)
    up = np.maximum((progress - released) / (1 - released), 0)
    rest = table - radius
    y = _between(rng.uniform(0.2, 0.26), rest, down)
    hand = _hand(rng, _points(t, x, y - 0.6 * radius - (rest - 0.1) * up), (0, 1))
    board = Stroke(
        _points(t, -0.2, table + 0.3),
        _points(t, 1.2, table + 0.3),
        _full(t, 0.3),
        _WOOD,
        square=True,
        carries=False,
    )
    item = _object(rng, _points(t, x, y), _full(t, radius), _colours(rng)[0])
    return [board, item, *hand]


def _cover(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.09, 0.115)
    x, y, half = rng.uniform(0.35, 0.5), rng.uniform(0.38, 0.62), 0.165
    cloth = _between(x + rng.uniform(0.36, 0.42), x, progress)
    object_colour, cloth_colour = _colours(rng, 2)
    item = _object(rng, _points(t, x, y), _full(t, radius), object_colour)
    left, right = _points(t, cloth - half, y), _points(t, cloth + half, y)
    sheet = Stroke(left, right, _full(t, half), 0.6 * cloth_colour + 95, square=True)
    stripe = Stroke(left, right, _full(t, 0.035), np.array((250, 250, 245)), square=True)
    hand = _hand(rng, _points(t, cloth + half - 0.03, y), (-1, rng.uniform(-0.2, 0.2)))
    return _maybe_mirrored(rng, [item, sheet, stripe, *hand])


def _pretend(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.09, 0.12)
    x, y = rng.uniform(0.45, 0.55), rng.uniform(0.3, 0.45)
    item = _object(rng, _points(t, x, y), _full(t, radius), _colours(rng)[0])
    tip = _between(rng.uniform(0.12, 0.18), rng.uniform(0.82, 0.88), progress)
    hand = _hand(rng, _points(t, tip, y + rng.uniform(0.0, 0.06)), (0, -1))
    return [item, *hand]


def _turn(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, half, radius = len(progress), rng.uniform(0.2, 0.26), rng.uniform(0.055, 0.075)
    angle = (
        rng.uniform(0, 2 * np.pi) + rng.uniform(2.4, 2.9) * progress
    )  # clockwise, as y points down
    arm = half * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    middle = _points(t, rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55))
    tail = Stroke(middle, middle - arm, _full(t, radius), np.array((245, 245, 240)))
    head = Stroke(middle, middle + arm, _full(t, radius), _colours(rng)[0])
    return [tail, head]


def _open(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, half, depth = len(progress), rng.uniform(0.2, 0.25), rng.uniform(0.1, 0.13)
    x, y = rng.uniform(0.48, 0.56), rng.uniform(0.66, 0.72)  # centre of the box
    colour, inside = _colours(rng, 2)
    body = Stroke(
        _points(t, x - half, y), _points(t, x + half, y), _full(t, depth), colour, square=True
    )
    angle = rng.uniform(1.7, 2.0) * progress
    hinge = _points(t, x - half, y - depth)
    swing = 2 * half * np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    lid = Stroke(hinge, hinge + swing, _full(t, 0.035), 0.75 * colour)
    height = 0.09 * np.minimum(2 * progress, 1)  # the content rises out of the open box
    ball = _points(t, x, y - depth + 0.04 - height)
    return _maybe_mirrored(rng, [Stroke(ball, ball, _full(t, 0.08), inside), body, lid])


def _approach(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t = len(progress)
    radius = _between(rng.uniform(0.05, 0.07), rng.uniform(0.26, 0.32), progress)
    middle = _points(t, rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58))
    return [_object(rng, middle, radius, _colours(rng)[0])]


def bystander(rng: np.random.Generator) -> list[Stroke]:
    """A static grey bar or cross, (1, 2) points, part of the scene in clips of every class."""
    grey, angle = np.full(3, rng.choice((40, 215))), rng.uniform(0, np.pi)
    middle = rng.uniform(0.15, 0.85, (1, 2))
    strokes = []
    for turned in (angle, angle + np.pi / 2)[: rng.integers(1, 3)]:
        arm = 0.13 * np.array([[np.cos(turned), np.sin(turned)]])
        strokes.append(Stroke(middle - arm, middle + arm, _full(1, 0.035), grey, carries=False))
    return strokes


def decoys(rng: np.random.Generator) -> list[Stroke]:
    """The static strokes of another shot: a bystander, and an idle object or hand."""
    if rng.random() < 0.5:
        centre, radius = rng.uniform(0.25, 0.75, (1, 2)), rng.uniform(0.08, 0.18, 1)
        shown = [_object(rng, centre, radius, _colours(rng)[0])]
    else:
        direction = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))[rng.integers(4)]
        shown = _hand(rng, rng.uniform(0.35, 0.65, (1, 2)), direction)
    return [*bystander(rng), *(stroke._replace(carries=False) for stroke in shown)]


PAIRS = (
    Pair("pushing to the right", "pulling to the left", _push),
    Pair("pushing to the left", "pulling to the right", _push_left),
    Pair("moving apart", "moving together", _apart),
    Pair("putting down", "picking up", _put_down),
    Pair("covering", "uncovering", _cover),
    Pair("pretending to push right", "pretending to push left", _pretend),
    Pair("turning clockwise", "turning counter-clockwise", _turn),
    Pair("opening", "closing", _open),
    Pair("coming closer", "going away", _approach),
)
CLASS_NAMES = tuple(name for pair in PAIRS for name in (pair.forward, pair.backward))
