"""Curves of several methods or masks over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, expect_finite
from esv_jax.display import OTHER_COLOURS
from esv_jax.metrics.discard import DiscardCurve
from esv_jax.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

What = Literal["accuracy", "class_score"]
Curve: TypeAlias = DiscardCurve | Sequence[ArrayLike]
_Y_LABELS: dict[What, str] = {"accuracy": "accuracy (share)", "class_score": "score of the class"}
WANTED = {"preserve": "p kept", "delete": "1 - p left", "dual": "p kept x (1 - p left)"}
"""Meaning of exp(-reward), by mode."""

# Colours, lines and markers repeat at different lengths: 7, 4 and 9.
_COLOURS = (style.SUPPORTING, style.DISTRACTING, *OTHER_COLOURS, style.INK)
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_MOST_MARKERS = 16  # along one curve
_PANEL_INCHES = 2.6
_PALEST = 0.65  # share of white in the last of several shades


def plot_discard_curves(
    curves: Mapping[str, Curve],
    *,
    what: What = "accuracy",
    x_label: str = "elements dropped",
    y_label: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Curves of several methods, each of its own colour, line and marker; intervals are shaded.

    The names of the methods are to the right of the axes, in the order of the curves' ends.

    Args:
      curves: names -> (steps, values) or (steps, values, low, high), each (k,) and finite; or a
        `DiscardCurve` of `metrics.discard_curve`, which has no interval.
      what: "accuracy" or "class_score", read from a `DiscardCurve`.
      x_label, y_label: labels of the axes; y by default by `what`. title: heading.
      ax: see `plot_elements`.
    Returns:
      The axes, with one line per method in the order of `curves`.
    Raises:
      ValueError: no curves, curves of other parts or lengths, values that are not finite, another
        `what`.
    """
    expect(len(curves) > 0, "curves", "at least one", "none")
    expect_choice("what", what, _Y_LABELS)
    parts = {name: _parts_of(name, curve, what) for name, curve in curves.items()}
    ax, height = style.given_or_new(ax, 7.6, _PANEL_INCHES)
    style.strip_down(ax)
    lines = []
    for k, (name, (steps, values, *ends)) in enumerate(parts.items()):
        colour = _COLOURS[k % len(_COLOURS)]
        if ends:
            ax.fill_between(steps, *ends, color=colour, alpha=0.15, linewidth=0)
        look = {"color": colour, "linestyle": _LINES[k % len(_LINES)], "linewidth": 1.4}
        look |= {"marker": _MARKERS[k % len(_MARKERS)], "markersize": 4}
        every = -(-len(steps) // _MOST_MARKERS)
        lines += ax.plot(steps, values, markevery=every, label=str(name), **look)
    ax.margins(x=0.03)
    style.count_ticks(ax, np.unique(np.concatenate([steps for steps, *_ in parts.values()])), 10)
    style.name_lines(ax, sorted(lines, key=lambda line: -line.get_ydata()[-1]))
    shaded = ["shaded: intervals"] if any(len(each) > 2 for each in parts.values()) else []
    labels = (x_label, _Y_LABELS[what] if y_label is None else y_label)
    heading = title or "As elements are dropped"
    return style.finish(ax, heading, shaded, labels=labels, height=height)


def plot_descent(
    energy: ArrayLike,
    reward: ArrayLike,
    names: Sequence[str],
    *,
    mode: str = "preserve",
    title: str | None = None,
) -> Figure:
    """Energy of masks and the probability in it by iteration, one line per mask, in a new figure.

    Args:
      energy: the objective, (A, iterations).
      reward: its term for the prediction, (A, iterations), drawn as exp(-reward), a probability.
        NaN are gaps in both.
      names: A names of masks. title: heading.
      mode: "preserve", "delete" or "dual".
    Raises:
      ValueError: shapes that do not fit, another number of names, an unknown mode.
    """
    energy, reward = np.asarray(energy, np.float64), np.asarray(reward, np.float64)
    fits = energy.ndim == 2 and energy.size > 0 and reward.shape == energy.shape
    expect(fits, "energy, reward", "one shape (A, iterations)", (energy.shape, reward.shape))
    expect(len(names) == len(energy), "names", f"{len(energy)} names", len(names))
    count, iterations = energy.shape
    expect_choice("mode", mode, WANTED)
    figure = style.new_figure(9, 3)
    left, right = figure.subplots(1, 2)
    look = {"linewidth": 1.5, "marker": "." if iterations == 1 else None}
    for ax, rows in ((left, energy), (right, np.exp(-reward))):
        style.strip_down(ax)
        for k, (row, name, shade) in enumerate(zip(rows, names, shades(count), strict=True)):
            ax.plot(row, label=str(name), zorder=3 - k / count, color=shade, **look)
        style.count_ticks(ax, np.arange(iterations), 6)
        ax.set_xlabel("iteration", **style.TEXT)
    finite = energy[np.isfinite(energy)]
    if finite.size and finite.min() > 0:
        left.set_yscale("log")
        style.log_ticks(left.yaxis)
    right.set_ylim(-0.02, 1.02)
    left.set_ylabel("energy", **style.TEXT)
    right.set_ylabel(WANTED[mode], **style.TEXT)
    style.name_lines(left, left.lines)
    style.head(figure, title or "Descent")
    return figure


def shades(n: int) -> list[tuple[float, ...]]:
    """n shades of one colour, from full to pale."""
    full = np.array(style.rgb(style.SUPPORTING)) / 255
    return [tuple(full + (1 - full) * _PALEST * k / max(n - 1, 1)) for k in range(n)]


def _parts_of(name: str, curve: Curve, what: What) -> list[np.ndarray]:
    """Steps and values, and the ends of the interval if there is one, each (k,)."""
    if isinstance(curve, DiscardCurve):
        values = np.asarray(getattr(curve, what), np.float64)
        return [np.arange(len(values)), values]
    label = f"curves[{name!r}]"
    is_sequence = isinstance(curve, tuple | list)
    got = f"{len(curve)} parts" if is_sequence else type(curve).__name__
    fits = is_sequence and len(curve) in (2, 4)
    expect(fits, label, "(steps, values) or (steps, values, low, high)", got)
    parts = [np.asarray(part, np.float64) for part in curve]
    shapes = [part.shape for part in parts]
    one = len(set(shapes)) == 1 and parts[0].ndim == 1 and parts[0].size > 0
    expect(one, label, "arrays of one shape (k,)", shapes)
    expect_finite(label, np.stack(parts))
    return parts
