"""Several methods on one sequence, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.checks import expect, expect_finite
from esv_jax.display import number
from esv_jax.plots import style
from esv_jax.plots.figures import fit_height, given_or_new
from esv_jax.plots.heat import colour_bar, draw_signed, names_inches, reach
from esv_jax.plots.labels import expect_labels, label_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW_INCHES = 0.42


def plot_method_grid(
    values: Mapping[str, Any],
    *,
    element_labels: Sequence[str] | None = None,
    class_name: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A row of coloured cells for each method, a column for each element.

    Methods have different units, so every row has its own scale: full colour is its greatest
    |value|, which stands beside its name.

    Args:
      values: names -> (n,) values of one class, finite.
      element_labels: n labels of the elements; default 0..n-1.
      class_name: the class that the values are of, said above.
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, that no window shows.
    Returns:
      The axes; `ax.images[0]` are the rows, each divided by its greatest |value|.
    Raises:
      ValueError: no methods, rows of different lengths or of several classes, values that are not
        finite, another number of labels.
    """
    expect(len(values) > 0, "values", "at least one method", "none")
    rows = {str(name): np.asarray(row, np.float64) for name, row in values.items()}
    n = next(iter(rows.values())).size
    for name, row in rows.items():
        fits = row.ndim == 1 and len(row) == n > 0
        expect(fits, f"values[{name!r}]", f"shape (n,) with n = {n}", row.shape)
        expect_finite(f"values[{name!r}]", row)
    labels = expect_labels("element_labels", element_labels, n)
    names = [_row_label(name, row) for name, row in rows.items()]
    width = float(np.clip(4 + 0.25 * n, 6.4, 12))
    ax, is_new = given_or_new(ax, width, left=names_inches(names))
    cells = np.stack([row / reach(row) for row in rows.values()])
    image = draw_signed(ax, cells, 1.0, aspect="auto")
    ax.set_yticks(range(len(rows)), names, parse_math=False)
    for edge in np.arange(1, len(rows)) - 0.5:
        ax.axhline(edge, color="white", linewidth=2.5)
    label_columns(ax, labels)
    bar = colour_bar(ax, image, "share of the row's\ngreatest |value|", aspect=12)
    bar.set_ticks([-1, 0, 1])
    lines = [] if class_name is None else [class_name]
    style.annotate(ax, title or "Methods side by side", [*lines, "each row has its own scale"])
    ax.set_xlabel("element", **style.TEXT)
    if is_new:
        fit_height(ax.figure, [ax], max(1.2, _ROW_INCHES * len(rows)))
    return ax


def _row_label(name: str, row: np.ndarray) -> str:
    greatest = number(float(np.abs(row).max()))
    return f"{style.wrap(name, 1.8, style.TEXT_SIZE)}\n(max {greatest})"
