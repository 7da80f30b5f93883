"""Example sequences: selection by rule, and their picture of frames above rows of bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patches import Patch

from esv_jax.plots import style
from esv_jax.plots.elements import draw_bars
from esv_jax.plots.style import new_figure
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
    rules = [
        ("Right, surest", right, 1.0),
        ("Right, median", right, 0.5),
        ("Right, least sure", right, 0.0),
        ("Wrong, surest", wrong, 0.0),
    ]
    if not len(wrong):
        rules[3] = ("Right, lower quartile", right, 0.25)
    shown: list[tuple[str, int]] = []
    for rule, rows, quantile in rules:
        rows = np.setdiff1d(rows, [row for _, row in shown])
        if not len(rows):
            continue
        among = found.margins[right if rows[0] in right else wrong]
        distance = np.abs(found.margins[rows] - np.quantile(among, quantile))
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
      heading: in bold. lines: below it.
      frames: (n, h, w, 3) uint8, or None.
      features: (L, D) of the whole sequence, drawn in the absence of frames.
      index: (n,) elements of the bars.
      rows: rows of bars, as many in each panel of a picture.
    """

    heading: str
    lines: list[str]
    frames: np.ndarray | None
    features: np.ndarray
    index: np.ndarray
    rows: list[Row]


def panel_of(
    subject: Subject,
    elements: Elements,
    row: int,
    heading: str,
    lines: list[str],
    rows: list[Row],
) -> Panel:
    """The panel of a sequence, with its frames where the subject has them."""
    which, index = int(elements.rows[row]), elements.index[row]
    frames = None if subject.draw is None else subject.draw(which, index)
    return Panel(heading, lines, frames, subject.sequences[which], index, rows)


def called(class_name: str) -> str:
    """A class name, preceded by "class" where it is a number."""
    return f"class {class_name}" if class_name.isdigit() else class_name


def common_limits(rows: Sequence[np.ndarray]) -> tuple[float, float]:
    """Ends of a y axis that contains zero and all bars."""
    low = min(0.0, *(float(row.min()) for row in rows))
    high = max(0.0, *(float(row.max()) for row in rows))
    margin = 0.08 * (high - low) or 0.05
    return low - margin, high + margin


def draw_panels(panels: Sequence[Panel], title: str, meanings: tuple[str, str]) -> Any:
    """The panels in two columns, with a title and a legend of the two colours."""
    n_rows, columns = -(-len(panels) // _COLUMNS), min(_COLUMNS, len(panels))
    heights = [_SOURCE, *[_BARS] * len(panels[0].rows)]
    inches = n_rows * (sum(heights) + _TEXT) + 0.7
    figure = new_figure(_WIDTH * columns / _COLUMNS, inches)
    grid = figure.subplots(
        n_rows * len(heights), columns, squeeze=False, height_ratios=heights * n_rows
    )
    blocks = grid.reshape(n_rows, len(heights), columns).swapaxes(1, 2).reshape(-1, len(heights))
    for ax in blocks[len(panels) :].ravel():
        ax.set_axis_off()
    for axes, panel in zip(blocks, panels, strict=False):
        _source(axes[0], panel)
        for ax, row in zip(axes[1:], panel.rows, strict=True):
            _bars(ax, row)
        style.label_elements(axes[-1], [str(i) for i in panel.index])
        axes[-1].set_xlim(axes[0].get_xlim())
        axes[-1].set_xlabel("element" if panel.frames is None else "frame", **style.TEXT)
        _heading(axes[0], panel)
    figure.suptitle(title, x=0.01, ha="left", fontsize=style.TITLE_SIZE + 1, color=style.INK)
    colours = (style.SUPPORTING, style.DISTRACTING)
    figure.legend(
        handles=[Patch(color=colour) for colour in colours],
        labels=meanings,
        loc="outside lower left",
        ncols=2,
        frameon=False,
        fontsize=style.TEXT_SIZE + 0.5,
        labelcolor=style.INK,
        handlelength=0.9,
        handleheight=0.9,
    )
    figure.draw_without_rendering()  # fixes the width of the panels
    for axes, panel in zip(blocks, panels, strict=False):
        if panel.frames is not None:
            _frames(axes[0], panel.frames)
    return figure


def _heading(ax: Any, panel: Panel) -> None:
    inches = 0.74 * _WIDTH / _COLUMNS  # the rest is for the names of the rows
    lines = [style.wrap(line, inches, style.TEXT_SIZE) for line in panel.lines]
    text = "\n".join(lines)
    style.write_above(ax, text)
    ax.set_title(
        style.wrap(panel.heading, inches, style.TITLE_SIZE, "bold"),
        loc="left",
        pad=9 + 1.3 * style.TEXT_SIZE * (text.count("\n") + 1),
        color=style.INK,
        fontsize=style.TITLE_SIZE,
        fontweight="bold",
        parse_math=False,
    )


def _source(ax: Any, panel: Panel) -> None:
    """Axes for the frames, or every feature over the whole sequence, each in its own range."""
    n = len(panel.index)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_yticks([])
    if panel.frames is not None:
        _name(ax, "frames")
        ax.set_xticks([])
    else:
        x = np.asarray(panel.features, float)
        low, high = x.min(0), x.max(0)
        scaled = (x - low) / np.where(high > low, high - low, 1)
        extent = (-0.5, n - 0.5, 0, 1)
        style_of = {"cmap": "Greys", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        ax.imshow(scaled.T, aspect="auto", origin="lower", extent=extent, **style_of)
        # an element i of L lies at (i + 1/2) / L of the width, within the slot of its bar
        ax.set_xticks((panel.index + 0.5) / len(x) * n - 0.5, [""] * n)
        ax.tick_params(axis="x", length=4, color=style.INK)
        _name(ax, f"{x.shape[1]} features\nof {len(x)} elements")
    half = max(n / 2, 2) + 0.05
    ax.set_xlim((n - 1) / 2 - half, (n - 1) / 2 + half)


def _frames(ax: Any, frames: np.ndarray) -> None:
    """Frames side by side, each as large as its slot and the row allow."""
    box, limits = ax.get_window_extent(), ax.get_xlim()
    slot = box.width / (limits[1] - limits[0])
    aspect = frames.shape[1] / frames.shape[2]
    width = min(_FILLED * slot, box.height / aspect)
    x, y = width / slot / 2, width * aspect / box.height / 2
    for i, frame in enumerate(frames):
        ax.imshow(frame, extent=(i - x, i + x, 0.5 - y, 0.5 + y), aspect="auto")
    ax.set_xlim(limits)
    ax.set_ylim(0, 1)


def _bars(ax: Any, row: Row) -> None:
    n = len(row.values)
    draw_bars(ax, np.arange(n), row.values, np.full(n, np.nan), 0.6)
    half = max(n / 2, 2) + 0.05
    ax.set_xlim((n - 1) / 2 - half, (n - 1) / 2 + half)
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
