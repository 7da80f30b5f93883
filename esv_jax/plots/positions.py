"""Positions of supporting and distracting elements over a set of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect
from esv_jax.display import sign_colours
from esv_jax.metrics.statistics import Positions, PositionStatistics
from esv_jax.plots import style
from esv_jax.plots.elements import esv_label, zero_line
from esv_jax.plots.heat_maps import (
    MOST_NUMBERS,
    colour_bar,
    draw_signed,
    expect_square,
    fit_square,
    names_inches,
    square_inches,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values: TypeAlias = ArrayLike | Positions | PositionStatistics
_PANEL_INCHES = 2.3
_MOST_BOXES = 24  # positions; more are drawn as bands
_PERCENTILES = (5, 25, 50, 75, 95)


def plot_positions(
    values: Values,
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
        element. Or the result of `metrics.position_statistics`, whose overall statistics are
        drawn, or the statistics of one set.
      position_labels: n labels; default 0..n-1.
      units: units of the values for the y label, e.g. "probability".
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, without a window.
    Returns:
      The axes.
    Raises:
      ValueError: another shape, infinite values, a position without any value, statistics of
        several classes, another number of labels.
    """
    statistics = _statistics_of(values)
    table = _expect_table(values) if statistics is None else statistics.above
    n = table.shape[1]
    labels = style.expect_labels("position_labels", position_labels, n)
    ax, is_new = style.given_or_new(ax, float(np.clip(3 + 0.2 * n, 6.4, 12)))
    style.strip_down(ax)
    if statistics is not None:
        lines = _draw_extremes(ax, statistics)
        heading, meanings = "Where the extremes lie", ("most supporting", "most distracting")
        y_label = "share of sequences (%)"
    else:
        lines = _draw_distribution(ax, table)
        heading, meanings = "ESVs by position", ("median > 0", "median <= 0")
        y_label = esv_label(units)
    zero_line(ax)
    style.label_elements(ax, labels)
    boxes = statistics is not None or n <= _MOST_BOXES
    style.annotate(ax, title or heading, lines, meanings if boxes else None)
    ax.set_xlabel("position", **style.TEXT)
    ax.set_ylabel(y_label, **style.TEXT)
    if is_new:
        style.fit_height(ax.figure, [ax], _PANEL_INCHES)
    return ax


def plot_pairwise_matrix(
    matrix: Values,
    *,
    position_labels: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of the share of sequences with a higher value at position i than at j.

    50 % is white. With up to 12 positions the cells hold their per cent.
    Source: Price & Damen (2020), figure 5.

    Args:
      matrix: (n, n) probabilities, `above` of `metrics.position_statistics`; or its result, whose
        overall statistics are drawn, or the statistics of one set. NaN is grey.
      position_labels: n labels; default 0..n-1.
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, without a window.
    Returns:
      The axes; `ax.images[0]` are the cells in per cent minus 50, the diagonal grey.
    Raises:
      ValueError: another shape, numbers outside 0..1, another number of labels.
    """
    statistics = _statistics_of(matrix)
    given_matrix = np.asarray(matrix if statistics is None else statistics.above, np.float64)
    known = np.isfinite(given_matrix)
    above = expect_square("matrix", np.where(np.isnan(given_matrix), 0.5, given_matrix))
    inside = bool(((above >= 0) & (above <= 1)).all())
    expect(inside, "matrix", "probabilities in 0..1", f"{above.min():.4g}..{above.max():.4g}")
    n = len(above)
    labels = style.expect_labels("position_labels", position_labels, n)
    off = ~np.eye(n, dtype=bool) & known
    shown = np.where(off, 100 * above - 50, np.nan)
    half = 10 * max(1.0, float(np.ceil(np.abs(shown[off]).max(initial=0) / 10)))
    texts = None
    if n <= MOST_NUMBERS:
        texts = [[f"{x + 50:.0f}" if np.isfinite(x) else "" for x in row] for row in shown]
    ax, is_new = style.given_or_new(ax, square_inches(labels), left=names_inches(labels))
    image = draw_signed(ax, shown, half, texts=texts, aspect="equal")
    bar = colour_bar(ax, image, "sequences with ESV of i > ESV of j (%)")
    ticks = np.linspace(-half, half, 5)
    bar.set_ticks(ticks, labels=[f"{50 + tick:g}" for tick in ticks])
    style.label_columns(ax, labels)
    style.label_rows(ax, labels)
    style.annotate(ax, title or "Which position is above which", ["row i, column j; white: 50 %"])
    ax.set_xlabel("position j", **style.TEXT)
    ax.set_ylabel("position i", **style.TEXT)
    if is_new:
        fit_square(ax)
    return ax


def _statistics_of(values: Values) -> PositionStatistics | None:
    """The statistics given, of all sequences; None for an array."""
    found = values.overall if isinstance(values, Positions) else values
    if not isinstance(found, PositionStatistics):
        return None
    one = np.ndim(found.n_sequences) == 1
    shape = np.shape(found.n_sequences)
    expect(one, "statistics", "those of one set, (K,)", shape, "Take one class of each field.")
    return found


def _expect_table(values: Values) -> np.ndarray:
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


def _draw_distribution(ax: Axes, table: np.ndarray) -> list[str]:
    """Draw boxes or bands of the values (V, n) at each position; return their legend."""
    n = table.shape[1]
    low, first, median, third, high = np.nanpercentile(table, _PERCENTILES, axis=0)
    x = np.arange(n)
    if n > _MOST_BOXES:
        ax.fill_between(x, low, high, color=style.SUPPORTING, alpha=0.2, lw=0, label="5..95 %")
        ax.fill_between(x, first, third, color=style.SUPPORTING, alpha=0.4, lw=0, label="25..75 %")
        ax.plot(x, median, color=style.INK, linewidth=1.2, label="median")
        return [f"{len(table):,} sequences; line: median; bands: 25..75 % and 5..95 % of them"]
    fields = ("whislo", "q1", "med", "q3", "whishi")
    numbers = np.stack([low, first, median, third, high], 1).tolist()
    drawn = ax.bxp(
        [dict(zip(fields, row, strict=True)) for row in numbers],
        positions=x,
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        medianprops={"color": style.INK, "linewidth": 1.5},
        whiskerprops={"color": style.INK, "linewidth": 0.9},
        capprops={"color": style.INK, "linewidth": 0.9},
        boxprops={"linewidth": 0},
    )
    for box, colour in zip(drawn["boxes"], sign_colours(median), strict=True):
        box.set_facecolor(colour)
        box.set_alpha(0.7)
    return [f"{len(table):,} sequences; box: quartiles; whiskers: 5th to 95th percentile"]


def _draw_extremes(ax: Axes, statistics: PositionStatistics) -> list[str]:
    """Draw the shares of the sequences, highest upwards, lowest downwards; return their legend.

    Every sequence has one highest and one lowest value, so each side adds up to 100 %.
    """
    total = float(statistics.most_supporting.sum())
    x = np.arange(len(statistics.n_sequences))
    up = 100 * statistics.most_supporting / total
    down = -100 * statistics.most_distracting / total
    ax.bar(x, up, width=0.8, color=style.SUPPORTING)
    ax.bar(x, down, width=0.8, color=style.DISTRACTING)
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    lines = [f"{total:,.0f} sequences; upwards: highest ESV there; downwards: lowest"]
    if len(set(statistics.n_sequences.tolist())) > 1:
        lines.append("not all sequences have every position")
    return lines
