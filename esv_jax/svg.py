"""Bars of attribution values as an SVG, drawn alike by the report and the notebook view.

The picture is n wide and 100 high and is stretched to its box. More than 40 elements are a line of
steps. The script of the report draws other classes with the same formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from esv_jax.display import DISTRACTING, MOST_BARS, SUPPORTING, axis_limits, number

GAP = 0.12  # on each side of a bar, as a share of the width of an element
CAP = 0.15  # half the cap of a whisker, in the same unit
NEAR = 14  # labels of the axis that are closer to zero than this are left out, of 100
_STROKE = 'fill="none" stroke="currentColor"'
_LOOK = {  # from back to front
    "supporting": f'fill="{SUPPORTING}"',
    "distracting": f'fill="{DISTRACTING}"',
    "band": 'fill="#444" fill-opacity=".3"',
    "step": f'{_STROKE} stroke-width=".6" stroke-opacity=".6"',
    "whiskers": _STROKE,
    "zero": _STROKE,
}


class BarPaths(NamedTuple):
    """Paths of a bar chart, n wide and 100 high; "" where there is nothing to draw.

    Attributes:
      supporting, distracting: bars above and below zero.
      whiskers: intervals of bars. band, step: intervals and values of a line of steps.
      zero: the zero line. zero_height: its distance from the top, 0..100.
      top, bottom: labels of the ends of the axis, "" if too near to zero.
    """

    supporting: str
    distracting: str
    whiskers: str
    band: str
    step: str
    zero: str
    zero_height: str
    top: str
    bottom: str


def bar_paths(values: np.ndarray, half: np.ndarray | None = None) -> BarPaths:
    """Paths of the bars of values (n,), with intervals values +- half (n,) if given.

    NaN is drawn as zero.
    """
    esv = np.nan_to_num(values.astype(np.float64))
    errors = np.zeros(len(esv)) if half is None else np.nan_to_num(half).astype(np.float64)
    low, high = axis_limits(esv, errors)
    high = high if high > low else low + 1

    def y(value: float) -> float:
        return 100 * (high - value) / (high - low)

    n, bars = len(esv), len(esv) <= MOST_BARS
    gap = GAP if bars else 0.0
    zero, tops = y(0.0), [y(v) for v in esv]
    boxes = [
        f"M{_n(i + gap)} {_n(zero)}V{_n(tops[i])}H{_n(i + 1 - gap)}V{_n(zero)}Z" for i in range(n)
    ]
    ends = [(y(v - h), y(v + h)) for v, h in zip(esv, errors, strict=True)]
    return BarPaths(
        supporting="".join(box for box, v in zip(boxes, esv, strict=True) if v > 0),
        distracting="".join(box for box, v in zip(boxes, esv, strict=True) if v <= 0),
        whiskers="".join(map(_whisker, range(n), ends)) if bars and half is not None else "",
        band=_band(ends) if not bars and half is not None else "",
        step="" if bars else _steps(tops),
        zero=f"M0 {_n(zero)}H{n}",
        zero_height=_n(zero),
        top=number(high) if zero > NEAR else "",
        bottom=number(low) if zero < 100 - NEAR else "",
    )


def bars_svg(
    paths: BarPaths, texts: Sequence[str], label: str, *, attributes: str = "", focus: bool = False
) -> str:
    """The SVG element of a bar chart.

    Args:
      paths: of n elements.
      texts: n descriptions of the elements.
      label: description of the picture.
      attributes: further attributes of the element, as they are written.
      focus: whether elements take the focus, for a page whose script shows their descriptions;
        without, a description is shown where a pointer rests.
    """
    rects = []
    for i, name in enumerate(map(escape, texts)):
        hit = f'fill="transparent"><title>{name}</title></rect>'
        if focus:
            hit = f'role="img" tabindex="{-1 if i else 0}" aria-label="{name}"/>'
        rects.append(f'<rect class="hit" x="{i}" width="1" height="100" {hit}')
    drawn = [
        f'<path class="{name}" {look} vector-effect="non-scaling-stroke" '
        f'd="{getattr(paths, name)}"/>'
        for name, look in _LOOK.items()
    ]
    return (
        f'<svg viewBox="0 0 {len(texts)} 100" preserveAspectRatio="none" '
        f'role="{"group" if focus else "img"}" aria-label="{escape(label)}"'
        f"{attributes and ' ' + attributes}>{''.join(rects)}"
        f'<g pointer-events="none">{"".join(drawn)}</g></svg>'
    )


def _whisker(i: int, ends: tuple[float, float]) -> str:
    left, right = _n(i + 0.5 - CAP), _n(i + 0.5 + CAP)
    low, high = (_n(end) for end in ends)
    return f"M{left} {low}H{right}M{_n(i + 0.5)} {low}V{high}M{left} {high}H{right}"


def _steps(heights: Sequence[float]) -> str:
    parts = [f"V{_n(height)}H{i + 1}" for i, height in enumerate(heights)]
    return "".join([f"M0 {_n(heights[0])}", *parts])


def _band(ends: Sequence[tuple[float, float]]) -> str:
    """The area between the lower and the upper ends."""
    lower = "".join(f"V{_n(ends[i][0])}H{i}" for i in reversed(range(len(ends))))
    return f"{_steps([high for _, high in ends])}{lower}Z"


def _n(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{round(value, 2):g}"
