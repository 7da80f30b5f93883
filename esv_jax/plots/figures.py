"""Figures without a window: made on their own canvas, written to a file at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esv_jax.checks import expect
from esv_jax.extras import require
from esv_jax.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SUFFIXES = (".png", ".svg", ".pdf")
_SLACK_INCHES = 0.08
_LEFT_INCHES, _RIGHT_INCHES = 0.8, 0.1  # beside axes, for their labels
_FONTS = {  # a vector file looks alike everywhere; a PDF's text can be searched and edited
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that no window, backend or global list knows of."""
    figure = require("matplotlib.figure", "plots").Figure(
        figsize=(width, height), layout="constrained", facecolor="white"
    )
    require("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg(figure)
    return figure


def given_or_new(
    ax: Any, width: float, height: float = 3.4, *, left: float = _LEFT_INCHES
) -> tuple[Any, bool]:
    """The caller's axes, or those of a new figure in inches; whether they are new.

    Only new figures may be made as high as they need. About `left` inches hold the labels.
    """
    if ax is not None:
        return ax, False
    return new_figure(width, height).subplots(gridspec_kw=about(width, left)), True


def about(width: float, left: float = _LEFT_INCHES) -> dict[str, float]:
    """About where axes will end in a figure of some width, by which texts above them are wrapped.

    The layout, which comes last, moves them.
    """
    return {"left": left / width, "right": 1 - _RIGHT_INCHES / width}


def fit_height(fig: Any, axes: Sequence[Any], inches: float) -> None:
    """Make `fig` as high as the panels stacked in it, `inches` together, and their texts need."""
    around = [ax.get_tightbbox().height - ax.get_window_extent().height for ax in axes]
    around += [text.get_window_extent().height for text in fig.texts]
    gaps = 2 * fig.get_layout_engine().get()["h_pad"] * len(axes) + _SLACK_INCHES
    fig.set_figheight(inches + sum(around) / fig.dpi + gaps)


def save_figure(fig: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure as PNG, SVG or PDF, complete or not at all; an existing file is replaced.

    Letters are outlines in an SVG, which needs no fonts to look the same, and text in a PDF.

    Args:
      fig: the figure; of axes from `plot_elements`, `ax.figure`.
      path: the file; its suffix (.png, .svg, .pdf) chooses the format. Its folder exists.
      dpi: pixels per inch of a PNG.
    Returns:
      The path.
    Raises:
      ValueError: another suffix, a folder in the place of a file.
      FileNotFoundError, OSError: a folder that is missing, a file that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    expect(suffix in _SUFFIXES, "path", f"a name ending in {', '.join(_SUFFIXES)}", f"{path}")
    with atomic_path(path) as temporary, require("matplotlib", "plots").rc_context(_FONTS):
        fig.savefig(temporary, format=suffix[1:], dpi=dpi, bbox_inches="tight", pad_inches=0.1)
    return path
