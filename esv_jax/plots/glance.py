"""The figure of a record that suits its length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.plots.bars import expect_one
from esv_jax.plots.elements import plot_elements
from esv_jax.plots.timeline import plot_timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BARS = 16


def plot(attribution: Attribution, c: int | None = None, **options: Any) -> Axes:
    """ESVs of one class: bars of 16 elements at most, else a line.

    Args:
      attribution: the record of one sequence, (n, C).
      c: the class, 0..C-1; default that of the highest score.
      options: as `plot_elements`, or `plot_timeline` of more elements, takes them.
    Returns:
      The axes.
    Raises:
      ValueError, TypeError: as the two.
    """
    expect_one(attribution)
    c = int(np.argmax(np.asarray(attribution.scores))) if c is None else c
    draw = plot_elements if attribution.n <= _MOST_BARS else plot_timeline
    return draw(attribution, c, **options)
