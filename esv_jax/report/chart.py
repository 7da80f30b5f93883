"""Signed bars of Element Shapley Values as paths of an SVG, and what is written beside them.

The picture is n wide and 100 high, stretched to the room there is; zero is a line within it. The
script of the page draws other classes by the same formulas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from esv_jax.looks import number
from esv_jax.report.cards import ClassValues

MOST_BARS = 40  # more elements are a timeline of steps
_GAP = 0.12  # on each side of a bar, of the room of an element
_CAP = 0.15  # half the cap of a whisker
_NEAR = 14  # of 100: labels of the axis that are closer to zero's are left out
_LABELS, _FEW_LABELS = 16, 8  # below the bars at most, short and long ones
UNKNOWN = "\u2013"


class Chart(NamedTuple):
    """Bars of one class.

    Attributes:
      supporting, distracting: paths of the bars above and below zero.
      whiskers: path of 95 % intervals of bars, "" where there are none.
      band, step: of a timeline: path of the intervals, and of the values. "" of bars.
      zero: height of the zero line, 0 (top) to 100, as it stands in the picture.
      top, bottom: labels of the ends of the axis, "" where they are too near to zero.
      words: of each element, in a sentence.
      rows: of the table: ESV, and standard error ("" of exact values), of each element.
    """

    supporting: str
    distracting: str
    whiskers: str
    band: str
    step: str
    zero: str
    top: str
    bottom: str
    words: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]


def draw(values: ClassValues, elements: np.ndarray) -> Chart:
    """The chart of one class.

    Args:
      values: (n,) and errors. elements: (n,) indices in the original sequence.
    """
    given, errors = values.esv.astype(np.float64), values.std_error
    widths = np.zeros(len(given)) if values.half is None else values.half.astype(np.float64)
    esv, half = np.nan_to_num(given), np.nan_to_num(widths)
    low, high = limits(esv, half)

    def y(value: float) -> float:
        return 100 * (high - value) / (high - low)

    n = len(esv)
    bars, gap = n <= MOST_BARS, _GAP if n <= MOST_BARS else 0.0
    zero, tops = y(0.0), [y(v) for v in esv]
    boxes = [
        f"M{_n(i + gap)} {_n(zero)}V{_n(tops[i])}H{_n(i + 1 - gap)}V{_n(zero)}Z" for i in range(n)
    ]
    ends = [(y(v - h), y(v + h)) for v, h in zip(esv, half, strict=True)]
    sampled = values.half is not None
    return Chart(
        supporting="".join(box for box, v in zip(boxes, esv, strict=True) if v > 0),
        distracting="".join(box for box, v in zip(boxes, esv, strict=True) if v <= 0),
        whiskers="".join(map(_whisker, range(n), ends)) if bars and sampled else "",
        band=_band(ends) if not bars and sampled else "",
        step="" if bars else _steps(tops, "M"),
        zero=_n(zero),
        top=number(high) if zero > _NEAR else "",
        bottom=number(low) if zero < 100 - _NEAR else "",
        words=tuple(
            words(int(index), v, h if sampled else None)
            for index, v, h in zip(elements, given, widths, strict=True)
        ),
        rows=tuple(
            (told(v, sign=True), "" if errors is None else told(errors[i]))
            for i, v in enumerate(given)
        ),
    )


def limits(esv: np.ndarray, half: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that holds zero, the bars and their whiskers."""
    low = min(0.0, float((esv - half).min(initial=0.0)))
    high = max(0.0, float((esv + half).max(initial=0.0)))
    return (low, high) if high > low else (low, low + 1.0)


def told(value: float, sign: bool = False) -> str:
    """A number as people read it; a dash where there is none, and zero without a minus."""
    return UNKNOWN if np.isnan(value) else number(float(value) + 0.0, sign)


def words(index: int, value: float, half: float | None) -> str:
    """`frame 12: ESV +0.123 ± 0.010, supporting`."""
    if np.isnan(value):
        return f"frame {index}: ESV not known"
    error = "" if half is None or np.isnan(half) else f" ± {number(half)}"
    kind = "supporting" if value > 0 else "distracting"
    return f"frame {index}: ESV {told(value, sign=True)}{error}, {kind}"


def slots(elements: np.ndarray, pictures: bool) -> np.ndarray:
    """Elements that have a label, or a picture, below the bars: all, or some spread evenly.

    Picture j of k stands below elements j * n / k to (j + 1) * n / k, and shows the middle one.
    Labels stand below their own element, at equal steps.
    """
    n = len(elements)
    if pictures:
        k = n if n <= MOST_BARS else _LABELS
        return (2 * np.arange(k) + 1) * n // (2 * k)
    long = len(str(int(np.max(elements, initial=0)))) > 3
    step = max(1, -(-n // (_FEW_LABELS if long else _LABELS)))
    return np.arange((step - 1) // 2, n, step)


def _whisker(i: int, ends: tuple[float, float]) -> str:
    left, right = _n(i + 0.5 - _CAP), _n(i + 0.5 + _CAP)
    low, high = (_n(end) for end in ends)
    return f"M{left} {low}H{right}M{_n(i + 0.5)} {low}V{high}M{left} {high}H{right}"


def _steps(heights: list[float], start: str) -> str:
    """A line of steps from left to right."""
    parts = [f"{start}0 {_n(heights[0])}"]
    parts += [f"V{_n(height)}H{i + 1}" for i, height in enumerate(heights)]
    return "".join(parts)


def _band(ends: list[tuple[float, float]]) -> str:
    """The area between the lower and the upper ends."""
    upper = _steps([high for _, high in ends], "M")
    lower = "".join(f"V{_n(ends[i][0])}H{i}" for i in reversed(range(len(ends))))
    return upper + lower + "Z"


def _n(value: float) -> str:
    """A coordinate, two decimals at most."""
    return f"{round(value, 2):g}"
