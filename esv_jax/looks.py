"""Colours and number formats shared by all figures, reports and pages."""

from __future__ import annotations

# Blue and vermillion of Okabe & Ito (2008): told apart with every common colour vision.
SUPPORTING = "#0072B2"
DISTRACTING = "#D55E00"
INK = "#222222"
QUIET = "#6B6B6B"
GRID = "#E4E4E4"


def number(value: float, sign: bool = False) -> str:
    """Three decimals, or two significant digits where these would show nothing.

    Args:
      value: any number. sign: whether a plus stands before numbers >= 0.
    """
    value += 0.0  # no minus before a zero
    plus = "+" if sign and value >= 0 else ""
    if value == 0 or not abs(value) < 0.001:
        return f"{plus}{value:.3f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{plus}{digits}e{int(exponent)}"
