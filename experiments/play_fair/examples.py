"""Example sequences: selection by rule, and their picture of frames above rows of bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patches import Patch

from esv_jax.plots import style
from esv_jax.plots.elements import draw_bars
from experiments.play_fair.subjects import Elements, Subject

_WIDTH, _COLUMNS = 12.0, 2  # inches
_SOURCE, _BARS, _TEXT = 0.62, 0.6, 0.85  # inches: frames or features, a row of bars, texts
_FILLED = 0.94  # share of its slot that a frame takes


class Standing(NamedTuple):
    """Margin of the true class over the others, (V,) each.

    Attributes:
      rivals: the strongest other class: the predicted one where the prediction is wrong, else
        the runner-up.
      margins: score of the true class minus that of its rival; negative where wrong.
      right: bool, the model predicts the true class.
    """

    rivals: np.ndarray
    margins: np.ndarray
    right: np.ndarray


def standing(scores: np.ndarray, labels: np.ndarray) -> Standing:
    """Rivals and margins of V sequences from scores (V, C)."""
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    rivals = others.argmax(-1)
    margins = scores[rows, labels] - others[rows, rivals]
    return Standing(rivals, margins, scores.argmax(-1) == labels)


def typical(found: Standing, labels: np.ndarray) -> list[tuple[str, int]]:
    """Up to four sequences, each with the rule that selects it.

    Right predictions of the greatest, the median and the least margin, and the wrong prediction of
    the least margin; without a wrong one, the right one at the lower quartile. Each is the nearest
    to its rule among classes not shown yet, or, where all classes are shown, among sequences not
    shown yet.
    """
    right, wrong = np.flatnonzero(found.right), np.flatnonzero(~found.right)
    last = ("Wrong, surest", wrong, 0.0) if len(wrong) else ("Right, lower quartile", right, 0.25)
    shown: list[tuple[str, int]] = []
    for rule, group, quantile in (
        ("Right, surest", right, 1.0),
        ("Right, median", right, 0.5),
        ("Right, least sure", right, 0.0),
        last,
    ):
        rows = np.setdiff1d(group, [row for _, row in shown])
        if len(rows):
            wanted = np.quantile(found.margins[group], quantile)
            distance = np.abs(found.margins[rows] - wanted)
            seen = np.isin(labels[rows], [labels[row] for _, row in shown])
            shown.append((rule, int(rows[np.lexsort((distance, seen))[0]])))
    return shown


def contested(found: Standing, labels: np.ndarray, n: int) -> list[int]:
    """The n sequences of least margin, one of each pair of classes before a second of any.

    Margins of wrong predictions are negative, so these come first.
    """
    order = np.argsort(found.margins, kind="stable")
    pairs = [frozenset((int(labels[row]), int(found.rivals[row]))) for row in order]
    again = [pair in pairs[:k] for k, pair in enumerate(pairs)]
    return order[np.argsort(again, kind="stable")][:n].tolist()


class Row(NamedTuple):
    """One row of bars.

    Attributes:
      name: left of it. values: (n,).
      limits: ends of its y axis. ticks: positions and labels; None for round numbers.
    """

    name: str
    values: np.ndarray
    limits: tuple[float, float]
    ticks: tuple[Sequence[float], Sequence[str]] | None = None


class Panel(NamedTuple):
    """One sequence.

    Attributes:
      row: its row of the elements. heading: in bold. lines: below it.
      bars: rows of bars, as many in each panel of a picture.
    """

    row: int
    heading: str
    lines: list[str]
    bars: list[Row]


def called(class_name: str) -> str:
    """A class name, preceded by "class" where it is a number."""
    return f"class {class_name}" if class_name.isdigit() else class_name


def common_limits(rows: Sequence[np.ndarray]) -> tuple[float, float]:
    """Ends of a y axis that contains zero and all bars."""
    low, high = min(0.0, np.min(rows)), max(0.0, np.max(rows))
    margin = 0.08 * (high - low) or 0.05
    return low - margin, high + margin


def draw_panels(
    subject: Subject,
    elements: Elements,
    panels: Sequence[Panel],
    title: str,
    meanings: tuple[str, str],
) -> Any:
    """The panels in two columns: frames or features above the bars, and a legend of the colours."""
    n_rows, columns = -(-len(panels) // _COLUMNS), min(_COLUMNS, len(panels))
    heights = [_SOURCE, *[_BARS] * len(panels[0].bars)]
    inches = n_rows * (sum(heights) + _TEXT) + 0.7
    figure = style.new_figure(_WIDTH * columns / _COLUMNS, inches)
    grid = figure.subplots(
        n_rows * len(heights), columns, squeeze=False, height_ratios=heights * n_rows
    )
    blocks = grid.reshape(n_rows, len(heights), columns).swapaxes(1, 2).reshape(-1, len(heights))
    for ax in blocks[len(panels) :].ravel():
        ax.set_axis_off()
    drawn = []
    for axes, panel in zip(blocks, panels, strict=False):
        which, index = int(elements.rows[panel.row]), elements.index[panel.row]
        if subject.draw is None:
            _features(axes[0], subject.sequences[which], index)
        else:
            _name(axes[0], "frames")
            axes[0].set_xticks([])
            drawn.append((axes[0], subject.draw(which, index)))
        axes[0].set_yticks([])
        axes[0].spines[:].set_visible(False)
        for ax, row in zip(axes[1:], panel.bars, strict=True):
            _bars(ax, row)
        style.label_elements(axes[-1], [str(i) for i in index])
        half = max(len(index) / 2, 2) + 0.05
        for ax in axes:
            ax.set_xlim((len(index) - 1) / 2 - half, (len(index) - 1) / 2 + half)
        axes[-1].set_xlabel("element" if subject.draw is None else "frame", **style.TEXT)
        style.annotate(axes[0], panel.heading, panel.lines)
    style.head(figure, title)
    figure.legend(
        handles=[Patch(color=colour) for colour in (style.SUPPORTING, style.DISTRACTING)],
        labels=meanings,
        loc="outside lower left",
        ncols=2,
        handlelength=0.9,
        handleheight=0.9,
        **style.LEGEND,
    )
    figure.draw_without_rendering()  # fixes the width of the panels
    for ax, frames in drawn:
        _frames(ax, frames)
    return figure


def _features(ax: Any, features: np.ndarray, index: np.ndarray) -> None:
    """Every feature over the whole sequence, each in its own range."""
    x, n = np.asarray(features, float), len(index)
    low, high = x.min(0), x.max(0)
    scaled = (x - low) / np.where(high > low, high - low, 1)
    extent = (-0.5, n - 0.5, 0, 1)
    look = {"cmap": "Greys", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    ax.imshow(scaled.T, aspect="auto", origin="lower", extent=extent, **look)
    # an element i of L lies at (i + 1/2) / L of the width, within the slot of its bar
    ax.set_xticks((index + 0.5) / len(x) * n - 0.5, [""] * n)
    ax.tick_params(axis="x", length=4, color=style.INK)
    _name(ax, f"{x.shape[1]} features\nof {len(x)} elements")


def _frames(ax: Any, frames: np.ndarray) -> None:
    """Frames side by side, each as large as its slot and the row allow."""
    box, limits = ax.get_window_extent(), ax.get_xlim()
    slot = box.width / (limits[1] - limits[0])
    aspect = frames.shape[1] / frames.shape[2]
    width = min(_FILLED * slot, box.height / aspect)
    x, y = width / slot / 2, width * aspect / box.height / 2
    for i, frame in enumerate(frames):
        ax.imshow(frame, extent=(i - x, i + x, 0.5 - y, 0.5 + y), aspect="auto")
    ax.set(xlim=limits, ylim=(0, 1))


def _bars(ax: Any, row: Row) -> None:
    n = len(row.values)
    draw_bars(ax, np.arange(n), row.values, np.full(n, np.nan), 0.6)
    ax.set_ylim(*row.limits)
    ax.set_xticks([])
    if row.ticks is None:
        ax.locator_params(axis="y", nbins=4)
    else:
        ax.set_yticks(*row.ticks)
    _name(ax, row.name)


def _name(ax: Any, text: str) -> None:
    """The name of a row, left of it at the same distance in all rows."""
    ax.annotate(
        text,
        (0, 0.5),
        xytext=(-44, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="center",
        parse_math=False,
        **style.TEXT,
    )
