"""Curves of several methods over the elements dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from esv_jax.checks import expect, expect_choice, expect_finite
from esv_jax.metrics.discard import DiscardCurve
from esv_jax.plots import style
from esv_jax.plots.figures import fit_height, given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

What = Literal["accuracy", "class_score"]
_Y_LABELS: dict[What, str] = {"accuracy": "accuracy (share)", "class_score": "score of the class"}

# Okabe & Ito (2008). Colours, lines and markers repeat at different lengths: 7, 4 and 9.
_COLOURS = (
    *(style.SUPPORTING, style.DISTRACTING, "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    style.INK,
)
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_MOST_MARKERS = 16  # along one curve
_PANEL_INCHES = 2.6


class _Curve(NamedTuple):
    """Places and values of a curve, and the ends of its interval or None."""

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def plot_discard_curves(
    curves: Mapping[str, Any],
    *,
    what: What = "accuracy",
    x_label: str = "elements dropped",
    y_label: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Curves of several methods, each of its own colour, line and marker; intervals are shaded.

    Methods are named to the right of the axes, in the order of the curves' ends.

    Args:
      curves: names -> (steps, values) or (steps, values, low, high), each (k,) and finite; or
        the `DiscardCurve` of `metrics.discard_curve`, without interval: give four arrays with
        that of its `interval` for one.
      what: "accuracy" or "class_score", what is taken of a `DiscardCurve`.
      x_label: label of the x axis.
      y_label: label of the y axis; default by `what`.
      title: heading.
      ax: axes to draw into; default those of a new figure, `ax.figure`, that no window shows.
    Returns:
      The axes, one line for each method in the order of `curves`.
    Raises:
      ValueError: no curves, curves of other parts or lengths, values that are not finite, another
        `what`.
    """
    expect(len(curves) > 0, "curves", "at least one", "none")
    expect_choice("what", what, _Y_LABELS)
    checked = {name: _curve_of(name, curve, what) for name, curve in curves.items()}
    ax, is_new = given_or_new(ax, 7.6)
    style.strip_down(ax)
    lines = [_draw(ax, k, name, curve) for k, (name, curve) in enumerate(checked.items())]
    ax.margins(x=0.03)
    style.count_ticks(
        ax, np.unique([step for curve in checked.values() for step in curve.steps]), 10
    )
    style.name_lines(ax, sorted(lines, key=lambda line: -line.get_ydata()[-1]))
    shaded = any(curve.low is not None for curve in checked.values())
    style.annotate(ax, title or "As elements are dropped", ["shaded: intervals"] if shaded else [])
    ax.set_xlabel(x_label, **style.TEXT)
    ax.set_ylabel(_Y_LABELS[what] if y_label is None else y_label, **style.TEXT)
    if is_new:
        fit_height(ax.figure, [ax], _PANEL_INCHES)
    return ax


def _curve_of(name: str, curve: Any, what: What) -> _Curve:
    if isinstance(curve, DiscardCurve):
        values = np.asarray(getattr(curve, what), np.float64)
        return _Curve(np.arange(len(values)), values, None, None)
    label = f"curves[{name!r}]"
    fits = isinstance(curve, tuple | list) and len(curve) in (2, 4)
    got = f"{len(curve)} parts" if isinstance(curve, tuple | list) else type(curve).__name__
    expect(fits, label, "(steps, values) or (steps, values, low, high)", got)
    parts = [np.asarray(part, np.float64) for part in curve]
    shapes = [part.shape for part in parts]
    one = len(set(shapes)) == 1 and parts[0].ndim == 1 and parts[0].size > 0
    expect(one, label, "arrays of one shape (k,)", shapes)
    for part in parts:
        expect_finite(label, part)
    low, high = (parts[2], parts[3]) if len(parts) == 4 else (None, None)
    return _Curve(parts[0], parts[1], low, high)


def _draw(ax: Any, k: int, name: str, curve: _Curve) -> Any:
    colour = _COLOURS[k % len(_COLOURS)]
    if curve.low is not None:
        ax.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    (line,) = ax.plot(
        curve.steps,
        curve.values,
        color=colour,
        linestyle=_LINES[k % len(_LINES)],
        marker=_MARKERS[k % len(_MARKERS)],
        markevery=-(-len(curve.steps) // _MOST_MARKERS),
        markersize=4,
        linewidth=1.4,
        label=str(name),
    )
    return line
