"""The pictures of figure 7: a few sequences, and means by position."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from esv_jax.plots import style
from esv_jax.plots.figures import new_figure
from experiments.play_fair.fig2.examples import Standing
from experiments.play_fair.fig2.panels import Row, called, common_limits, draw_panels, panel_of
from experiments.play_fair.subjects import Elements, Subject

_LINES = {
    "contrast": ("contrast, true class - rival", style.SUPPORTING, "o", "-"),
    "true": ("ESV of the true class", style.INK, "s", "--"),
    "rival": ("ESV of the rival", style.DISTRACTING, "v", "--"),
    "alone": ("part of the contrast that\nsingle elements bring", style.QUIET, "d", ":"),
}


class Contrasts(NamedTuple):
    """Class-contrastive ESVs of V sequences.

    Attributes:
      of_true, of_rival: (V, n) ESVs of the true class and of its rival. contrast: their difference.
      evidence_true, evidence_rival: (V,) evidential scores.
    """

    of_true: np.ndarray
    of_rival: np.ndarray
    contrast: np.ndarray
    evidence_true: np.ndarray
    evidence_rival: np.ndarray


def plot_examples(
    subject: Subject, elements: Elements, contrasts: Contrasts, found: Standing, rows: list[int]
) -> Any:
    """Each sequence's frames, over the ESVs of both classes and the contrast on one axis."""
    names, panels = subject.class_names, []
    for row in rows:
        right = bool(found.right[row])
        true = called(names[elements.labels[row]])
        rival = called(names[found.rivals[row]])
        other = "runner-up" if right else "predicted"
        kind = "Right" if right else "Wrong"
        evidence = float(contrasts.evidence_true[row]), float(contrasts.evidence_rival[row])
        minus = f"{evidence[1]:.3f}" if evidence[1] >= 0 else f"({evidence[1]:.3f})"
        share = (contrasts.contrast[row] > 0).sum()
        lines = [
            f"{other} {rival}; {subject.uids[int(elements.rows[row])]}",
            f"evidential scores {evidence[0]:.3f} - {minus} = {evidence[0] - evidence[1]:.3f};"
            f" {share} of {len(elements.index[row])} for the true class",
        ]
        values = {
            "ESV of the\ntrue class": contrasts.of_true[row],
            f"ESV of the\n{other}{'' if right else ' class'}": contrasts.of_rival[row],
            "contrast": contrasts.contrast[row],
        }
        limits = common_limits(list(values.values()))
        bars = [Row(name, x, limits) for name, x in values.items()]
        panels.append(panel_of(subject, elements, row, f"{kind}: {true}", lines, bars))
    title = f"{subject.title}: {said_of(found, rows)}; values are probabilities"
    meanings = ("supporting; in the contrast, for the true class", "distracting; for the other")
    return draw_panels(panels, title, meanings)


def said_of(found: Standing, rows: list[int]) -> str:
    """How many of what are shown."""
    n_right, n_wrong = int(found.right[rows].sum()), int((~found.right).sum())
    shown = len(rows) - n_right
    parts = [f"the surest wrong predictions ({shown} of {n_wrong})"] if shown else []
    parts += [f"the least sure right ones ({n_right})"] if n_right else []
    return ", ".join(parts)


def plot_positions(title: str, positions: dict[str, dict[str, list[float]]]) -> Any:
    """Means over all sequences at each position, with their intervals."""
    figure = new_figure(6.4, 3.4)
    ax = figure.subplots()
    n = len(positions["contrast"]["mean"])
    x = np.arange(n)
    for name, (label, colour, marker, line) in _LINES.items():
        at = positions[name]
        ax.fill_between(x, at["low"], at["high"], color=colour, alpha=0.15, lw=0)
        ax.plot(x, at["mean"], line, color=colour, marker=marker, markersize=4, label=label)
    style.strip_down(ax)
    ax.axhline(0, color=style.INK, linewidth=0.8)
    ax.set_xticks(x if n <= 20 else x[:: -(-n // 20)])
    ax.set_xlabel(f"element at a segment centre, of {n}", **style.TEXT)
    ax.set_ylabel("mean over sequences (probability)", **style.TEXT)
    ax.set_title(
        f"{title}: one class against its rival; shaded: 95 % intervals",
        loc="left",
        fontsize=style.TITLE_SIZE,
        color=style.INK,
    )
    figure.legend(
        loc="outside right center", frameon=False, fontsize=style.TEXT_SIZE, labelcolor=style.INK
    )
    return figure
