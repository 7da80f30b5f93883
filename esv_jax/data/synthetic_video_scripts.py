"""Actions of synthetic clips: scripts that turn progress into strokes.

A script belongs to a pair of classes. It is written for the first; the second is the same film
run backwards. Each takes the pair's random draws and the progress of the change in every frame,
0 before and 1 after, and gives the strokes of those frames from back to front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from esv_jax.data.synthetic_video_strokes import Stroke

Script = Callable[[np.random.Generator, np.ndarray], list[Stroke]]

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
_TOUCH = 0.12  # from the middle of the palm to what the fingers touch


class Pair(NamedTuple):
    """Two classes that differ by the direction of time alone."""

    forward: str
    backward: str
    script: Script


def _points(t: int, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    return np.stack(np.broadcast_arrays(np.zeros(t), x, y)[1:], axis=1).astype(float)


def _between(first: float, last: float, progress: np.ndarray) -> np.ndarray:
    return first + (last - first) * progress


def _full(t: int, value: float) -> np.ndarray:
    return np.full(t, value)


def _colours(rng: np.random.Generator, n: int = 1) -> np.ndarray:
    """n colours that differ, (n, 3)."""
    return _COLOURS[rng.permutation(len(_COLOURS))[:n]]


def _object(
    rng: np.random.Generator, centre: np.ndarray, radius: np.ndarray, colour: np.ndarray
) -> Stroke:
    """A disc, a square or a diamond around `centre` (t, 2)."""
    kind = rng.integers(3)
    if kind == 0:
        return Stroke(centre, centre, radius, colour)
    angle = 0.0 if kind == 1 else np.pi / 4
    half = 0.9 * radius
    arm = half[:, None] * np.array([np.cos(angle), np.sin(angle)])
    return Stroke(centre - arm, centre + arm, half, colour, square=True)


def _hand(rng: np.random.Generator, tips: np.ndarray, direction: tuple[float, float]) -> list:
    """A hand from outside the picture, reaching in `direction`; fingers end at `tips` (t, 2)."""
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
    """The same scene with left and right exchanged."""

    def flip(points: np.ndarray) -> np.ndarray:
        return np.stack([1 - points[:, 0], points[:, 1]], axis=1)

    return [stroke._replace(start=flip(stroke.start), end=flip(stroke.end)) for stroke in strokes]


def _either_way(rng: np.random.Generator, strokes: list[Stroke]) -> list[Stroke]:
    return _mirrored(strokes) if rng.random() < 0.5 else strokes


def _push(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.085, 0.12)
    x = _between(rng.uniform(0.3, 0.4), rng.uniform(0.72, 0.85), progress)
    y = rng.uniform(0.3, 0.7)
    hand = _hand(rng, _points(t, x - radius, y), (1, rng.uniform(-0.2, 0.2)))
    thing = _object(rng, _points(t, x, y), _full(t, radius), _colours(rng)[0])
    return [*hand, thing]


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
    thing = _object(rng, _points(t, x, y), _full(t, radius), _colours(rng)[0])
    return [board, thing, *hand]


def _cover(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.09, 0.115)
    x, y, half = rng.uniform(0.35, 0.5), rng.uniform(0.38, 0.62), 0.165
    cloth = _between(x + rng.uniform(0.36, 0.42), x, progress)
    thing_colour, cloth_colour = _colours(rng, 2)
    thing = _object(rng, _points(t, x, y), _full(t, radius), thing_colour)
    left, right = _points(t, cloth - half, y), _points(t, cloth + half, y)
    sheet = Stroke(left, right, _full(t, half), 0.6 * cloth_colour + 95, square=True)
    stripe = Stroke(left, right, _full(t, 0.035), np.array((250, 250, 245)), square=True)
    hand = _hand(rng, _points(t, cloth + half - 0.03, y), (-1, rng.uniform(-0.2, 0.2)))
    return _either_way(rng, [thing, sheet, stripe, *hand])


def _pretend(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, radius = len(progress), rng.uniform(0.09, 0.12)
    x, y = rng.uniform(0.45, 0.55), rng.uniform(0.3, 0.45)
    thing = _object(rng, _points(t, x, y), _full(t, radius), _colours(rng)[0])
    tip = _between(rng.uniform(0.12, 0.18), rng.uniform(0.82, 0.88), progress)
    hand = _hand(rng, _points(t, tip, y + rng.uniform(0.0, 0.06)), (0, -1))
    return [thing, *hand]


def _turn(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, half, radius = len(progress), rng.uniform(0.2, 0.26), rng.uniform(0.055, 0.075)
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(2.4, 2.9) * progress  # y is down: clockwise
    arm = half * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    middle = _points(t, rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55))
    tail = Stroke(middle, middle - arm, _full(t, radius), np.array((245, 245, 240)))
    head = Stroke(middle, middle + arm, _full(t, radius), _colours(rng)[0])
    return [tail, head]


def _open(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t, half, depth = len(progress), rng.uniform(0.2, 0.25), rng.uniform(0.1, 0.13)
    x, y = rng.uniform(0.48, 0.56), rng.uniform(0.66, 0.72)  # the middle of the box
    colour, inside = _colours(rng, 2)
    body = Stroke(
        _points(t, x - half, y), _points(t, x + half, y), _full(t, depth), colour, square=True
    )
    angle = rng.uniform(1.7, 2.0) * progress
    hinge = _points(t, x - half, y - depth)
    swing = 2 * half * np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    lid = Stroke(hinge, hinge + swing, _full(t, 0.035), 0.75 * colour)
    height = 0.09 * np.minimum(2 * progress, 1)  # what is in the box looks out when it is open
    ball = _points(t, x, y - depth + 0.04 - height)
    return _either_way(rng, [Stroke(ball, ball, _full(t, 0.08), inside), body, lid])


def _approach(rng: np.random.Generator, progress: np.ndarray) -> list[Stroke]:
    t = len(progress)
    radius = _between(rng.uniform(0.05, 0.07), rng.uniform(0.26, 0.32), progress)
    middle = _points(t, rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58))
    return [_object(rng, middle, radius, _colours(rng)[0])]


def bystander(rng: np.random.Generator) -> list[Stroke]:
    """A grey bar or cross at rest, (1, 2) points: a part of the scene in clips of every class."""
    grey, angle = np.full(3, rng.choice((40, 215))), rng.uniform(0, np.pi)
    middle = rng.uniform(0.15, 0.85, (1, 2))
    strokes = []
    for turned in (angle, angle + np.pi / 2)[: rng.integers(1, 3)]:
        arm = 0.13 * np.array([[np.cos(turned), np.sin(turned)]])
        strokes.append(Stroke(middle - arm, middle + arm, _full(1, 0.035), grey, carries=False))
    return strokes


def decoys(rng: np.random.Generator) -> list[Stroke]:
    """Return the strokes of another shot, at rest: a bystander, and an idle object or hand."""
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
