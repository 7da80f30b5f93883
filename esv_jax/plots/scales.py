"""Marginal contribution of each element by scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect
from esv_jax.plots import style
from esv_jax.plots.bars import class_text, expect_one
from esv_jax.plots.figures import fit_height, given_or_new
from esv_jax.plots.heat import colour_bar, draw_signed, reach
from esv_jax.plots.labels import expect_labels, label_columns, label_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_scale_profile(
    attribution: Attribution,
    c: int,
    *,
    class_name: str | None = None,
    element_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of mean marginal contributions: elements to the right, scales upwards.

    Of an exact record the mean of a column is the element's ESV. Grey cells had no subsequence.

    Args:
      attribution: the record of one sequence, (n, C), with marginals.
      c: the class, 0..C-1.
      class_name: how to call the class; default its number.
      element_labels: n labels of the elements; default 0..n-1.
      units: units of the scores for the colour bar, e.g. "probability".
      title: heading in place of the class name.
      ax: axes to draw into; default those of a new figure, `ax.figure`, that no window shows.
    Returns:
      The axes; `ax.images[0]` are the cells.
    Raises:
      ValueError: a batch, a class out of range, no marginals, another number of labels.
    """
    expect_one(attribution)
    heading, lines = class_text(attribution, c, class_name, title)
    marginals = attribution.marginals
    way_out = "Explain with marginals=True."
    expect(marginals is not None, "attribution", "marginals", "none", way_out)
    n = attribution.n
    labels = expect_labels("element_labels", element_labels, n)
    cells = np.asarray(marginals, np.float64)[:, :, c].copy()
    if attribution.coverage is not None:
        cells[np.asarray(attribution.coverage) == 0] = np.nan
    if attribution.std_error is not None:
        lines[-1] = lines[-1].removesuffix("; whiskers: 95 % interval")
    notes = ["the mean of a column is its ESV"] if attribution.exact else []
    notes += ["grey: no subsequence there"] if np.isnan(cells).any() else []
    lines += ["; ".join(notes)] if notes else []

    ax, is_new = given_or_new(ax, float(np.clip(3 + 0.3 * n, 5.6, 10)), 4)
    image = draw_signed(ax, cells, reach(cells), origin="lower", aspect="auto")
    colour_bar(ax, image, f"mean marginal contribution\n{style.in_units(units)}")
    label_columns(ax, labels)
    label_rows(ax, [str(s) for s in range(1, n + 1)])
    style.annotate(ax, heading, lines)
    ax.set_xlabel("element", **style.TEXT)
    ax.set_ylabel("scale (elements)", **style.TEXT)
    if is_new:
        fit_height(ax.figure, [ax], float(np.clip(0.3 * n, 2.1, 5)))
    return ax
