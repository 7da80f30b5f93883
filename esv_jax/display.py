"""Colours, number formats and texts of attribution values, shared by all renderers.

Bars are drawn with matplotlib in files, with Plotly on the dashboard and as an SVG in the report
and in notebooks. All three take their numbers and words from here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# Okabe & Ito (2008): distinguishable with every common colour vision.
SUPPORTING = "#0072B2"  # blue
DISTRACTING = "#D55E00"  # vermillion
INK = "#222222"
QUIET = "#6B6B6B"
GRID = "#E4E4E4"
OTHER_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of the same palette

MEANINGS = ("supporting", "distracting")
UNKNOWN = "\u2013"  # in place of NaN
MOST_BARS = 40  # more elements are drawn as a line of steps


def number(value: float, sign: bool = False) -> str:
    """A number with three decimals, or two significant digits where these would all be zero.

    Args:
      value: any number; NaN is a dash.
      sign: writes a plus before numbers >= 0.
    """
    value = float(value) + 0.0  # no minus before a zero
    if np.isnan(value):
        return UNKNOWN
    plus = "+" if sign and value >= 0 else ""
    if value == 0 or abs(value) >= 0.001:
        return f"{plus}{value:.3f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{plus}{digits}e{int(exponent)}"


def sign_colours(values: ArrayLike) -> list[str]:
    """One colour per value: `SUPPORTING` if positive, else `DISTRACTING`."""
    return [SUPPORTING if value > 0 else DISTRACTING for value in np.asarray(values)]


def axis_limits(values: np.ndarray, half: np.ndarray) -> tuple[float, float]:
    """Smallest range that holds zero, the values (n,) and values +- half; NaN counts as zero."""
    values, half = np.nan_to_num(values), np.nan_to_num(half)
    low = min(0.0, float((values - half).min(initial=0.0)))
    return low, max(0.0, float((values + half).max(initial=0.0)))


def count_text(n: int, one: str, many: str = "") -> str:
    """`1 element`, `2,000 elements`; `many` is the plural where it is not `one` + s."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def evaluations_text(exact: bool, n: int) -> str:
    """`exact, 255 evaluations`, of the model."""
    return f"{'exact' if exact else 'sampled'}, {count_text(n, 'evaluation')}"


def element_text(index: int, value: float, half: float | None = None, kind: str = "frame") -> str:
    """`frame 12: ESV +0.123 ± 0.010, supporting`.

    Args:
      index: of the element. kind: name of an element. value: its ESV.
      half: half-width of the interval of the value, or None.
    """
    if np.isnan(value):
        return f"{kind} {index}: ESV not known"
    error = "" if half is None or np.isnan(half) else f" ± {number(half)}"
    return f"{kind} {index}: ESV {number(value, sign=True)}{error}, {MEANINGS[not value > 0]}"


def difference_text(left: str, a: float, right: str, b: float) -> str:
    """`score 0.870 - prior 0.110 = 0.760`; a negative number on the right is in brackets."""
    subtrahend = number(b) if b >= 0 else f"({number(b)})"
    return " ".join(f"{left} {number(a)} - {right} {subtrahend} = {number(a - b)}".split())


def label_steps(n: int, most: int) -> Sequence[int]:
    """Indices of at most `most` labels of n elements, at equal steps and centred."""
    step = max(1, -(-n // most))
    return range((step - 1) // 2, n, step)
