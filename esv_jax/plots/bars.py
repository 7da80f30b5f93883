"""Parts shared by figures of Element Shapley Values: bars, their limits, and headings."""

from __future__ import annotations

from typing import Any

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect
from esv_jax.display import number
from esv_jax.plots import style


def esv_label(units: str | None, what: str = "ESV") -> str:
    """Label of a y axis of Element Shapley Values or of values derived from them."""
    share = "share of\nscore - prior"
    return f"{what} ({share if units is None else units})"


def expect_one(attribution: Attribution) -> None:
    """Raise ValueError for a batch."""
    one = attribution.lengths is None and attribution.values.ndim == 2
    expect(one, "attribution", "one sequence", "a batch", "Index it first.")


def how_obtained(attribution: Attribution) -> str:
    """`exact, 255 evaluations`."""
    way = "exact" if attribution.exact else "sampled"
    n = int(attribution.n_evaluations)
    return f"{way}, {n:,} evaluation{'' if n == 1 else 's'}"


def difference_text(left: str, a: float, right: str, b: float, result: float) -> str:
    """`score 0.870 - prior 0.110 = 0.760`, a negative number on the right in brackets."""
    subtrahend = number(b) if b >= 0 else f"({number(b)})"
    terms = f"{left} {number(a)} - {right} {subtrahend} = {number(result)}"
    return " ".join(terms.split())


def class_text(
    attribution: Attribution, c: int, class_name: str | None, title: str | None
) -> tuple[str, list[str]]:
    """Heading and lines above the bars of a class, as `plot_elements` has them."""
    attribution.for_class(c)  # refuses a class out of range
    name = f"class {c}" if class_name is None else class_name
    score, prior = float(attribution.scores[c]), float(attribution.prior[c])
    errors = "" if attribution.std_error is None else "; whiskers: 95 % interval"
    numbers = difference_text("score", score, "prior", prior, score - prior)
    lines = [numbers, how_obtained(attribution) + errors]
    return (name, lines) if title is None else (title, [name, *lines])


def bar_values(attribution: Attribution, c: int) -> tuple[np.ndarray, np.ndarray]:
    """ESVs (n,) of a class and half-widths (n,) of their intervals, NaN where not known."""
    values = np.asarray(attribution.for_class(c), np.float64)
    if attribution.std_error is None:
        return values, np.full(len(values), np.nan)
    return values, np.asarray(attribution.half_width(), np.float64)[:, c]


def bar_limits(values: np.ndarray, half: np.ndarray) -> tuple[float, float]:
    """Ends of a y axis that holds zero, the bars and their whiskers."""
    reach = np.nan_to_num(half)
    low, high = min(0.0, float((values - reach).min())), max(0.0, float((values + reach).max()))
    margin = 0.07 * (high - low) or 0.05
    return low - margin, high + margin


def draw_bars(
    ax: Any, places: np.ndarray, values: np.ndarray, half: np.ndarray, width: float
) -> None:
    """Bars coloured by sign at some places of the x axis, with whiskers and the zero line.

    The y axis holds all of them.
    """
    style.strip_down(ax)
    ax.bar(places, values, width=width, color=style.sign_colours(values))
    if np.isfinite(half).any():
        caps = 2 if len(values) <= 50 else 0
        line = {"fmt": "none", "ecolor": style.INK, "elinewidth": 0.9, "capsize": caps}
        ax.errorbar(places, values, yerr=half, **line)
    ax.axhline(0, color=style.INK, linewidth=0.8)
    ax.set_ylim(*bar_limits(values, half))
