"""Labels of elements and frames: one each, thinned out or cut short where they would touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from esv_jax.checks import expect
from esv_jax.plots import style

_MOST_ROWS = 20


def expect_labels(name: str, labels: Sequence[Any] | None, n: int) -> list[str]:
    """Return n labels as text, 0..n-1 by default; refuse another number of them."""
    texts = [str(label) for label in (range(n) if labels is None else labels)]
    expect(len(texts) == n, name, f"{n} labels", len(texts))
    return texts


def label_rows(ax: Any, labels: Sequence[str]) -> None:
    """Label every k-th row, with k such that there are 20 labels at most."""
    step = style.round_step(len(labels) / _MOST_ROWS)
    ax.set_yticks(range(0, len(labels), step), labels[::step], parse_math=False)


def label_columns(ax: Any, labels: Sequence[str]) -> None:
    """Label columns as bars are; the cells reach to the ends of the axis."""
    style.label_elements(ax, labels)
    ax.set_xlim(-0.5, len(labels) - 0.5)


def label_pictures(ax: Any, places: np.ndarray, labels: Sequence[str], inches: float) -> None:
    """Labels below pictures that are so far apart, cut short where they are longer."""
    room = style.n_letters(0.85 * inches, style.TEXT_SIZE)  # digits are wider than most letters
    texts = [label if len(label) <= room else label[: max(1, room - 3)] + "..." for label in labels]
    ax.set_xticks(places, texts, parse_math=False)
    ax.tick_params(axis="x", length=0, pad=4, labelcolor=style.INK, labelsize=style.TEXT_SIZE)
