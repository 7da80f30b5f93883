"""Figures of the experiments on labelled sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import esv_jax as ej
from experiments.series_measures import Subject

# Blue and vermillion as in `ej.plots`; random order in grey.
_ORDERS = {
    "ascending": ("most distracting first", "#0072B2", "o"),
    "random": ("in random order", "#6B6B6B", "s"),
    "descending": ("most supporting first", "#D55E00", "v"),
}
_PANELS = {"accuracy": "accuracy (%)", "score": "mean score of the true class (%)"}
_INK, _GRID = "#222222", "#E4E4E4"


def plot_accuracy(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """Accuracy by number of elements; a second line for the same sequences in every row.

    A hollow marker is f^ms from drawn subsequences, the others are exact.
    """
    figure, (ax,) = _new(1, 5.6)
    place = np.arange(len(rows))
    accuracy = [100 * row["accuracy"] for row in rows]
    same = [100 * row["accuracy_same"] for row in rows]
    ax.plot(place, accuracy, "o-", color="#0072B2", label="all that are long enough")
    if any(row["left_out"] for row in rows):
        label = f"the {rows[0]['n_same']} longest, the same at every number"
        ax.plot(place, same, "s--", color="#6B6B6B", markersize=4, label=label)
        ax.legend(loc="lower right", frameon=False, fontsize=8.5, labelcolor=_INK)
    if rows[-1]["method"] != "exact":
        ax.plot(place[-1], accuracy[-1], "o", color="#0072B2", markerfacecolor="white")
    labels = [f"{row['n']}\n({row['n_sequences']})" for row in rows]
    ax.set_xticks(place, labels)
    ax.set_xlabel("elements at segment centres (number of test sequences)")
    ax.set_ylabel("accuracy of f$^{ms}$ (%)")
    lowest = min(accuracy + same)
    ax.set_ylim(lowest - 0.12 * (100 - lowest) - 0.5, 100.5)
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=_INK)
    return ej.plots.save_figure(figure, path)


def plot_discard(summary: Mapping[str, Any], path: Path, title: str) -> Path:
    """Accuracy and score of the true class as elements are dropped, with 95 % intervals."""
    figure, axes = _new(2, 9.2)
    lowest = min(min(curve["low"]) for name in _PANELS for curve in summary[name].values())
    for ax, (name, label) in zip(axes, _PANELS.items(), strict=True):
        for order, (meaning, colour, marker) in _ORDERS.items():
            curve = {key: 100 * np.array(values) for key, values in summary[name][order].items()}
            dropped = summary["dropped"]
            ax.fill_between(dropped, curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
            ax.plot(
                dropped,
                curve["mean"],
                color=colour,
                marker=marker,
                markersize=4,
                label=meaning,
            )
        ax.set_xlabel(f"elements dropped, of {len(summary['dropped'])}")
        ax.set_ylabel(label)
        ax.set_ylim(100 * lowest - 2, 101)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(loc="lower left", frameon=False, fontsize=8.5, labelcolor=_INK)
    figure.get_layout_engine().set(wspace=0.06)
    text = (
        f"{title}: {summary['n_sequences']} test sequences, by exact ESVs of the true class; "
        "shaded: 95 % intervals"
    )
    figure.suptitle(text, x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=_INK)
    return ej.plots.save_figure(figure, path)


def plot_examples(
    subject: Subject,
    elements: Sequence[np.ndarray],
    exact: Sequence[ej.Attribution],
    folder: Path,
) -> list[Path]:
    """ESVs of a typical sequence, of the least sure right one, and of the surest wrong one.

    Taken from the sequences with the most elements explained. Shown are the true class and its
    strongest rival. The third figure is there only where a prediction is wrong; one left by an
    earlier run is removed.
    """
    n = max(record.n for record in exact)
    places = [i for i, record in enumerate(exact) if record.n == n]
    scores = np.stack([exact[i].scores for i in places])
    labels = subject.labels[places]
    true = scores[np.arange(len(places)), labels]
    rivals = scores.copy()
    rivals[np.arange(len(places)), labels] = -1
    margin = true - rivals.max(-1)
    right = np.flatnonzero(margin > 0)
    by_margin = right[np.argsort(margin[right], kind="stable")]
    chosen = {
        "elements_typical.png": by_margin[len(by_margin) // 2 :][:1],
        "elements_least_sure.png": by_margin[:1],
        "elements_incorrect.png": np.flatnonzero(margin <= 0)[np.argsort(margin[margin <= 0])][:1],
    }
    written = []
    for name, which in chosen.items():
        if not len(which):
            (folder / name).unlink(missing_ok=True)
            continue
        i, rival = places[which[0]], int(rivals[which[0]].argmax())
        classes = [int(subject.labels[i]), rival]
        names = _roles(subject, classes, correct=bool(margin[which[0]] > 0))
        figure = ej.plots.plot_sequence(
            exact[i],
            classes,
            features=subject.sequences[i][elements[i]],
            class_names=names,
            element_labels=[str(index) for index in elements[i]],
            units="probability",
            title=f"{subject.uids[i]}, {n} of {len(subject.sequences[i])} elements",
            share_y=True,
        )
        written.append(ej.plots.save_figure(figure, folder / name))
    return written


def _roles(subject: Subject, classes: Sequence[int], *, correct: bool) -> list[str]:
    """Class names with the roles of the true class and its rival."""
    names = list(subject.model.class_names)
    true, rival = classes
    names[true] = f"true class {names[true]}" + (", predicted" if correct else "")
    names[rival] = f"class {names[rival]}, " + ("strongest rival" if correct else "predicted")
    return names


def _new(n_panels: int, width: float) -> tuple[Figure, list[Any]]:
    """A figure without a window, its panels side by side."""
    figure = Figure(figsize=(width, 3.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, n_panels, squeeze=False)[0])
    for ax in axes:
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        ax.tick_params(labelsize=8.5, labelcolor=_INK)
        ax.grid(visible=True, axis="y", color=_GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.xaxis.label.set_fontsize(9)
        ax.yaxis.label.set_fontsize(9)
    return figure, axes
