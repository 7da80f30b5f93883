"""Curves over all elements, exact values of a few, and frames where there are any."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from esv_jax.plots import style
from esv_jax.plots.figures import new_figure
from experiments.play_fair.fig9.curves import Curve
from experiments.play_fair.subjects import Subject

_LEADING, _SECOND, _EXACT = style.SUPPORTING, "#999999", style.DISTRACTING
_INCHES, _PANEL = 10.0, 2.1
_LEFT = 0.85  # inches of labels beside the panels


def draw_curves(subject: Subject, curves: list[Curve], notes: list[str]) -> Any:
    """A panel per sequence; `notes` say why it is shown."""
    frames = subject.draw is not None
    strip = (_INCHES - _LEFT) / len(curves[0].centres)  # square frames
    heights = [_PANEL, strip] if frames else [_PANEL]
    figure = new_figure(_INCHES, len(curves) * (sum(heights) + 0.75) + 0.7)
    shape = (len(curves) * len(heights), 1)
    axes = figure.subplots(*shape, squeeze=False, height_ratios=heights * len(curves))[:, 0]
    for k, (curve, note) in enumerate(zip(curves, notes, strict=True)):
        ax = axes[k * len(heights)]
        _draw_panel(ax, subject, curve, note, n_frames=frames)
        if frames:
            _draw_frames(axes[2 * k + 1], subject, curve)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=style.TEXT_SIZE,
        labelcolor=style.INK,
    )
    style.head(figure, _heading(subject, curves))
    return figure


def _heading(subject: Subject, curves: list[Curve]) -> str:
    n = len(curves[0].centres)
    if "exact" in curves[0].lines:
        return f"{subject.title}: exact ESVs of all {n} elements for the true class"
    return f"{subject.title}: ESVs of all N elements (times N / {n}) and exact ones of {n}"


def _draw_panel(ax: Any, subject: Subject, curve: Curve, note: str, *, n_frames: bool) -> None:
    """Line and band over all elements, a thin line by the other estimator, exact markers."""
    place, n = np.arange(curve.size), len(curve.centres)
    factor = curve.size / n
    ax.axhline(0, color=style.QUIET, linewidth=0.8)
    for order, (name, line) in enumerate(curve.lines.items()):
        values, half = factor * line.values, factor * line.half
        leading = order == 0
        if leading and half.any():
            low, high = values - half, values + half
            label = f"{name}, 95 % band"
            ax.fill_between(place, low, high, color=_LEADING, alpha=0.25, lw=0, label=label)
        ax.plot(
            place,
            values,
            color=_LEADING if leading else _SECOND,
            linewidth=1.6 if leading else 1.0,
            linestyle="-" if leading else "--",
            marker="o" if name == "exact" else None,
            markersize=4,
            label=f"{name}, all elements",
            zorder=3 - order,
        )
    if "exact" not in curve.lines:
        ax.plot(
            curve.centres,
            curve.exact,
            "o",
            color=_EXACT,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=f"exact, {n} elements",
            zorder=4,
        )
    style.strip_down(ax)
    ax.set_xlim(-0.5, curve.size - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if n_frames:
        ax.tick_params(axis="x", labelbottom=False)
    else:
        ax.set_xlabel("element", **style.TEXT)
    per = "ESV (probability)" if factor == 1 else f"ESV per 1/{n}\n(probability)"
    ax.set_ylabel(per, **style.TEXT)
    name = subject.class_names[subject.labels[curve.row]]
    text = f"{subject.uids[curve.row]}, class {name}, score {curve.score:.2f}: {note}"
    heading = {"fontsize": style.TITLE_SIZE, "fontweight": "bold", "color": style.INK}
    ax.set_title(text, loc="left", parse_math=False, **heading)


def _draw_frames(ax: Any, subject: Subject, curve: Curve) -> None:
    """The frames at segment centres, each as wide as its segment."""
    assert subject.draw is not None
    segment = curve.size / len(curve.centres)
    for i, image in enumerate(subject.draw(curve.row, curve.centres)):
        left = i * segment - 0.5
        ax.imshow(image, extent=(left + 0.03 * segment, left + 0.97 * segment, 0, 1), aspect="auto")
    ax.set_xlim(-0.5, curve.size - 0.5)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    ax.tick_params(length=0, labelsize=style.TEXT_SIZE, labelcolor=style.INK)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("element (frames: at segment centres)", **style.TEXT)
