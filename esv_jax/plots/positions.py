"""Positions of supporting and distracting elements over a set of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect
from esv_jax.display import sign_colours
from esv_jax.metrics.statistics import PositionStatistics
from esv_jax.plots import style
from esv_jax.plots.elements import esv_label, zero_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES = 2.3
_MOST_BOXES = 24  # positions; more are drawn as bands
_PERCENTILES = {"whislo": 5, "q1": 25, "med": 50, "q3": 75, "whishi": 95}  # by Axes.bxp's names


def plot_positions(
    values: ArrayLike | PositionStatistics,
    *,
    position_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """ESVs at each position over a set of sequences, or the positions of their extremes.

    For values: boxes of the quartiles with whiskers from the 5th to the 95th percentile, coloured
    by the sign of the median; bands for more than 24 positions. For statistics: the share of
    sequences with their highest value at a position, upwards, and with their lowest, downwards.

    Args:
      values: (V, n) of one class per sequence, commonly the true one; NaN where a sequence has no
        element. Or the result of `metrics.position_statistics`.
      position_labels: n labels; default 0..n-1. title: heading.
      units, ax: see `plot_elements`.
    Raises:
      ValueError: another shape, infinite values, a position without any value, another number of
        labels.
    """
    statistics = values if isinstance(values, PositionStatistics) else None
    table = _expect_table(values) if statistics is None else np.asarray(statistics.above)
    n = table.shape[1]
    names = style.expect_labels("position_labels", position_labels, n)
    ax, height = style.given_or_new(ax, float(np.clip(3 + 0.2 * n, 6.4, 12)), _PANEL_INCHES)
    style.strip_down(ax)
    meanings: tuple[str, str] | None
    if statistics is not None:
        lines, heading = _draw_extremes(ax, statistics), "Where the extremes lie"
        meanings, y_label = ("most supporting", "most distracting"), "share of sequences (%)"
    else:
        lines, heading = [_draw_distribution(ax, table)], "ESVs by position"
        meanings = ("median > 0", "median <= 0") if n <= _MOST_BOXES else None
        y_label = esv_label(units)
    zero_line(ax)
    style.label_elements(ax, names)
    labels = "position", y_label
    return style.finish(ax, title or heading, lines, meanings, labels=labels, height=height)


def _expect_table(values: ArrayLike) -> np.ndarray:
    ragged = isinstance(values, list | tuple) and len({np.shape(row) for row in values}) > 1
    way_out = "Fill shorter sequences with NaN at their ends."
    expect(not ragged, "values", "shape (V, n)", "rows of several lengths", way_out)
    table = np.asarray(values, np.float64)
    fits = table.ndim == 2 and table.size > 0
    expect(fits, "values", "shape (V, n)", table.shape, "Index the class: values[..., c].")
    expect(not np.isinf(table).any(), "values", "finite values", "infinite ones")
    empty = np.flatnonzero(np.isnan(table).all(0)).tolist()
    expect(not empty, "values", "a value at every position", f"none at {empty}")
    return table


def _draw_distribution(ax: Axes, table: np.ndarray) -> str:
    """Draw boxes or bands of the values (V, n) at each position; return the text about them."""
    percentiles = np.nanpercentile(table, [*_PERCENTILES.values()], axis=0)
    low, first, median, third, high = percentiles
    x, sequences = np.arange(len(median)), f"{len(table):,} sequences"
    if len(x) > _MOST_BOXES:
        look = {"color": style.SUPPORTING, "linewidth": 0}
        ax.fill_between(x, low, high, alpha=0.2, label="5..95 %", **look)
        ax.fill_between(x, first, third, alpha=0.4, label="25..75 %", **look)
        ax.plot(x, median, color=style.INK, linewidth=1.2, label="median")
        return f"{sequences}; line: median; bands: 25..75 % and 5..95 % of them"
    thin = {"color": style.INK, "linewidth": 0.9}
    drawn = ax.bxp(
        [dict(zip(_PERCENTILES, column, strict=True)) for column in percentiles.T.tolist()],
        positions=x,
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        medianprops={"color": style.INK, "linewidth": 1.5},
        whiskerprops=thin,
        capprops=thin,
        boxprops={"linewidth": 0},
    )
    for box, colour in zip(drawn["boxes"], sign_colours(median), strict=True):
        box.set(facecolor=colour, alpha=0.7)
    return f"{sequences}; box: quartiles; whiskers: 5th to 95th percentile"


def _draw_extremes(ax: Axes, statistics: PositionStatistics) -> list[str]:
    """Draw the shares of the sequences, highest upwards, lowest downwards; return their legend.

    Every sequence has one highest and one lowest value, so each side adds up to 100 %.
    """
    total = float(statistics.most_supporting.sum())
    x = np.arange(len(statistics.n_sequences))
    ax.bar(x, 100 * statistics.most_supporting / total, width=0.8, color=style.SUPPORTING)
    ax.bar(x, -100 * statistics.most_distracting / total, width=0.8, color=style.DISTRACTING)
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    lines = [f"{total:,.0f} sequences; upwards: highest ESV there; downwards: lowest"]
    if len(set(statistics.n_sequences.tolist())) > 1:
        lines.append("not all sequences have every position")
    return lines
