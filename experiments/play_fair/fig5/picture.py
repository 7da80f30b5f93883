"""Picture of figure 5: a heat map of P(phi_i > phi_j) for each set of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from esv_jax.plots.figures import new_figure
from esv_jax.plots.style import INK, QUIET, TEXT_SIZE, TITLE_SIZE, wrap
from experiments.play_fair.fig4.picture import heading

_COLUMNS = 3
_MOST_NUMBERS = 10  # positions whose cells have room for a number
_INCHES = 2.9


def plot_matrices(matrices: Mapping[str, Any], title: str) -> Any:
    """A panel per set; 50 % is white, bold numbers differ from it beyond their 95 % interval."""
    n_rows = -(-len(matrices) // _COLUMNS)
    columns = min(len(matrices), _COLUMNS)
    figure = new_figure(_INCHES * columns + 1.2, (_INCHES + 0.45) * n_rows + 0.5)
    axes = figure.subplots(n_rows, columns, squeeze=False)
    widest = max(np.abs(found.share - 0.5).max() for found in matrices.values())
    half = 5 * np.ceil(20 * max(widest, 0.05))  # per cent
    for k, (ax, (name, found)) in enumerate(zip(axes.flat, matrices.items(), strict=False)):
        image = _panel(ax, name, found, half)
        if k % columns == 0:
            ax.set_ylabel("position i", fontsize=9, color=INK)
        if k + columns >= len(matrices):
            ax.set_xlabel("position j", fontsize=9, color=INK)
    for ax in axes.flat[len(matrices) :]:
        ax.set_axis_off()
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("sequences with ESV of i > ESV of j (%)", fontsize=9, color=INK)
    bar.ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=TEXT_SIZE)
    bar.outline.set_visible(False)
    heading(
        figure, f"{title}: which position is above which; bold: the 95 % interval leaves out 50 %"
    )
    return figure


def _panel(ax: Any, name: str, found: Any, half: float) -> Any:
    n = len(found.share)
    shown = np.where(np.eye(n, dtype=bool), np.nan, 100 * found.share)
    image = ax.imshow(shown, cmap="PuOr_r", vmin=50 - half, vmax=50 + half)
    if n <= _MOST_NUMBERS:
        for i, j in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
            differs = bool(found.differs[i, j])
            depth = abs(shown[i, j] - 50) / half
            on_pale = INK if differs or depth > 0.25 else QUIET
            ax.text(
                j,
                i,
                f"{shown[i, j]:.0f}",
                ha="center",
                va="center",
                fontsize=7.5,
                fontweight="bold" if differs else "normal",
                color="white" if depth > 0.65 else on_pale,
            )
    ticks = np.arange(0, n, 1 if n <= _MOST_NUMBERS else 2)
    ax.set_xticks(ticks, ticks + 1)
    ax.set_yticks(ticks, ticks + 1)
    ax.tick_params(length=0, labelsize=TEXT_SIZE, labelcolor=INK)
    for side in ax.spines.values():
        side.set_visible(False)
    kind = f"{name}, all classes" if name in ("TRN", "TSN") else f"TRN, class {name}"
    text = f"{wrap(kind, _INCHES, TITLE_SIZE)}\n{found.n_sequences} sequences"
    ax.set_title(text, loc="left", fontsize=9, color=INK, parse_math=False)
    return image
