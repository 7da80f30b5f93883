"""Pictures of the experiments on labelled sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import esv_jax as ej
from esv_jax.plots import style
from esv_jax.plots.style import new_figure
from experiments.series_measures import Trained

# Blue and vermillion as in `ej.plots`; random order in grey.
_ORDERS = {
    "ascending": ("most distracting first", "#0072B2", "o"),
    "random": ("in random order", "#6B6B6B", "s"),
    "descending": ("most supporting first", "#D55E00", "v"),
}
_PANELS = {"accuracy": "accuracy (%)", "score": "mean score of the true class (%)"}


def plot_accuracy(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """Accuracy by number of elements; the second line is over the same sequences at every number.

    A hollow marker is f^ms from drawn subsequences, the others are exact.
    """
    figure, (ax,) = _new(1, 5.6)
    x = np.arange(len(rows))
    accuracy = [100 * row["accuracy"] for row in rows]
    same = [100 * row["accuracy_same"] for row in rows]
    ax.plot(x, accuracy, "o-", color="#0072B2", label="all that are long enough")
    if any(row["left_out"] for row in rows):
        label = f"the {rows[0]['n_same']} longest, the same at every number"
        ax.plot(x, same, "s--", color="#6B6B6B", markersize=4, label=label)
        ax.legend(loc="lower right", **style.LEGEND)
    if rows[-1]["method"] != "exact":
        ax.plot(x[-1], accuracy[-1], "o", color="#0072B2", markerfacecolor="white")
    labels = [f"{row['n']}\n({row['n_sequences']})" for row in rows]
    ax.set_xticks(x, labels)
    ax.set_xlabel("elements at segment centres (number of test sequences)")
    ax.set_ylabel("accuracy of f$^{ms}$ (%)")
    lowest = min(accuracy + same)
    ax.set_ylim(lowest - 0.12 * (100 - lowest) - 0.5, 100.5)
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=style.INK)
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
    axes[0].legend(loc="lower left", **style.LEGEND)
    figure.get_layout_engine().set(wspace=0.06)
    text = (
        f"{title}: {summary['n_sequences']} test sequences, by exact ESVs of the true class; "
        "shaded: 95 % intervals"
    )
    style.head(figure, text)
    return ej.plots.save_figure(figure, path)


def plot_examples(
    subject: Trained,
    elements: Sequence[np.ndarray],
    exact: Sequence[ej.Attribution],
    folder: Path,
) -> list[Path]:
    """ESVs of a typical, of the least confident right and of the most confident wrong sequence.

    Of the sequences with the most elements explained; the true class and its strongest rival. The
    third figure exists only where a prediction is wrong; that of an earlier run is removed.
    """
    n = max(record.n for record in exact)
    members = [i for i, record in enumerate(exact) if record.n == n]
    scores = np.stack([exact[i].scores for i in members])
    labels = subject.labels[members]
    true = scores[np.arange(len(members)), labels]
    rivals = scores.copy()
    rivals[np.arange(len(members)), labels] = -1
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
        i, rival = members[which[0]], int(rivals[which[0]].argmax())
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


def _roles(subject: Trained, classes: Sequence[int], *, correct: bool) -> list[str]:
    """Class names with the roles of the true class and its rival."""
    names = list(subject.model.class_names)
    true, rival = classes
    names[true] = f"true class {names[true]}" + (", predicted" if correct else "")
    names[rival] = f"class {names[rival]}, " + ("strongest rival" if correct else "predicted")
    return names


def _new(n_panels: int, width: float) -> tuple[Any, list[Any]]:
    """A figure and its panels, side by side."""
    figure = new_figure(width, 3.6)
    axes = list(figure.subplots(1, n_panels, squeeze=False)[0])
    for ax in axes:
        style.strip_down(ax)
        for axis in (ax.xaxis, ax.yaxis):
            axis.label.set(fontsize=9, color=style.INK)
    return figure, axes
