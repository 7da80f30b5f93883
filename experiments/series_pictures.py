"""Pictures of the experiments on labelled sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import esv_jax as ej
from esv_jax.plots import style
from experiments.drawing import BLUE, GREY, HEADING, VERMILLION, band, name_axes
from experiments.sequences import Labelled

_ORDERS = {
    "ascending": ("most distracting first", BLUE, "o"),
    "random": ("in random order", GREY, "s"),
    "descending": ("most supporting first", VERMILLION, "v"),
}
_PANELS = {"accuracy": "accuracy (%)", "score": "mean score of the true class (%)"}


def plot_accuracy(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Accuracy by number of elements; the second line is over the same sequences at every number.

    A hollow marker is f^ms from drawn subsequences, the others are exact.
    """
    figure = style.new_figure(5.6, 3.6)
    ax = figure.subplots()
    x = np.arange(len(rows))
    accuracy, same = ([100 * row[k] for row in rows] for k in ("accuracy", "accuracy_same"))
    ax.plot(x, accuracy, "o-", color=BLUE, label="all that are long enough")
    if any(row["left_out"] for row in rows):
        label = f"the {rows[0]['n_same']} longest, the same at every number"
        ax.plot(x, same, "s--", color=GREY, markersize=4, label=label)
        ax.legend(loc="lower right", **style.LEGEND)
    if rows[-1]["method"] != "exact":
        ax.plot(x[-1], accuracy[-1], "o", color=BLUE, markerfacecolor="white")
    ax.set_xticks(x, [f"{row['n']}\n({row['n_sequences']})" for row in rows])
    lowest = min(accuracy + same)
    ax.set_ylim(lowest - 0.12 * (100 - lowest) - 0.5, 100.5)
    elements = "elements at segment centres (number of test sequences)"
    name_axes(ax, elements, "accuracy of f$^{ms}$ (%)")
    ax.set_title(title, **HEADING)
    ej.plots.save_figure(figure, path)


def plot_discard(summary: Mapping[str, Any], path: Path, title: str) -> None:
    """Accuracy and score of the true class as elements are dropped, with 95 % intervals."""
    figure = style.new_figure(9.2, 3.6)
    axes = figure.subplots(1, 2)
    lowest = min(min(curve["low"]) for name in _PANELS for curve in summary[name].values())
    for ax, (name, label) in zip(axes, _PANELS.items(), strict=True):
        for order, (meaning, colour, marker) in _ORDERS.items():
            band(ax, summary[name][order], colour, marker, label=meaning)
        name_axes(ax, f"elements dropped, of {len(summary['dropped'])}", label)
        ax.set_ylim(100 * lowest - 2, 101)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(loc="lower left", **style.LEGEND)
    figure.get_layout_engine().set(wspace=0.06)
    count = f"{summary['n_sequences']} test sequences, by exact ESVs of the true class"
    style.head(figure, f"{title}: {count}; shaded: 95 % intervals")
    ej.plots.save_figure(figure, path)


def plot_examples(
    subject: Labelled,
    elements: Sequence[np.ndarray],
    exact: Sequence[ej.Attribution],
    folder: Path,
) -> None:
    """ESVs of a typical, of the least confident right and of the most confident wrong sequence.

    Of the sequences with the most elements explained; the true class and its strongest rival. The
    third figure exists only where a prediction is wrong; that of an earlier run is removed.
    """
    n = max(record.n for record in exact)
    members = [i for i, record in enumerate(exact) if record.n == n]
    labels, rows = subject.labels[members], np.arange(len(members))
    rivals = np.stack([exact[i].scores for i in members])
    true = rivals[rows, labels]
    rivals[rows, labels] = -1
    margin = true - rivals.max(-1)
    order = np.argsort(margin, kind="stable")
    right, wrong = order[margin[order] > 0], order[margin[order] <= 0]
    for name, which in {
        "elements_typical.png": right[len(right) // 2 :][:1],
        "elements_least_sure.png": right[:1],
        "elements_incorrect.png": wrong[:1],
    }.items():
        if not len(which):
            (folder / name).unlink(missing_ok=True)
            continue
        i, label, rival = members[which[0]], int(labels[which[0]]), int(rivals[which[0]].argmax())
        correct, names = margin[which[0]] > 0, list(subject.class_names)
        names[label] = f"true class {names[label]}" + (", predicted" if correct else "")
        names[rival] = f"class {names[rival]}, {'strongest rival' if correct else 'predicted'}"
        figure = ej.plots.plot_sequence(
            exact[i],
            [label, rival],
            features=subject.sequences[i][elements[i]],
            class_names=names,
            element_labels=[str(index) for index in elements[i]],
            units="probability",
            title=f"{subject.uids[i]}, {n} of {len(subject.sequences[i])} elements",
            share_y=True,
        )
        ej.plots.save_figure(figure, folder / name)
