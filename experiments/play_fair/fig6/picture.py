"""Picture of figure 6: contributions by scale, supporting elements by length, smoothness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from esv_jax.plots.figures import new_figure
from esv_jax.plots.style import INK, QUIET, TEXT_SIZE
from experiments.play_fair.fig4.picture import dress, heading

# Of Okabe & Ito (2008), a marker for each as well.
_FIRST, _SECOND = ("#0072B2", "o"), ("#D55E00", "s")
_METHODS = {
    "ESV": ("ESV", *_FIRST),
    "Integrated Gradients": ("Integrated\nGradients", *_SECOND),
    "Grad-CAM": ("Grad-CAM", "#009E73", "D"),
}
_MEASURES = {"pearson": "Pearson r", "change": "relative change"}


def plot_all(numbers: Mapping[str, Any], title: str) -> Any:
    """(a), (b) and, where it was measured, (c), side by side; 95 % intervals over sequences."""
    smooth = numbers["smoothness"]
    widths = (3.4, 3.4) if smooth is None else (3.4, 3.4, 1.7, 1.7)
    figure = new_figure(sum(widths) + 0.6, 3.7)
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    figure.get_layout_engine().set(wspace=0.05)
    _scales(axes[0], numbers)
    _lengths(axes[1], numbers["lengths"])
    if smooth is not None:
        for ax, (name, label) in zip(axes[2:], _MEASURES.items(), strict=True):
            _smoothness(ax, smooth["methods"], name, label)
        text = f"(c) moved by one element: {smooth['n_sequences']} sequences"
        _title(axes[2], text)
    heading(figure, f"{title}: ESVs of the true class by scale, length and shift, 95 % intervals")
    return figure


def _scales(ax: Any, numbers: Mapping[str, Any]) -> None:
    marginals, n = numbers["marginals"], numbers["n_elements"]
    ax.axhline(0, color=QUIET, lw=0.8)
    for name, (colour, marker) in (("absolute", _SECOND), ("signed", _FIRST)):
        label = {"signed": "with its sign", "absolute": "absolute value"}[name]
        _line(ax, np.arange(1, n + 1), marginals[name], 1, colour, marker, label)
    ax.set_xticks(range(1, n + 1, 1 if n <= 10 else 2))
    ax.set_xlabel("scale at which an element joins")
    ax.set_ylabel("marginal contribution (probability)")
    _legend(ax)
    dress(ax)
    _title(ax, f"(a) {n} elements: {marginals['signed']['n_sequences'][0]} sequences")


def _lengths(ax: Any, lengths: Mapping[str, Any]) -> None:
    n, counts = lengths["n"], lengths["all"]["n_sequences"]
    place = np.arange(len(n))
    if min(counts) < max(counts):
        _line(ax, place, lengths["all"], 100, *_FIRST, "all that are long enough")
        label = f"the {min(counts)} that have {n[-1]}"
        _line(ax, place, lengths["same"], 100, "#6B6B6B", "s", label, lw=1, ls="--", ms=4)
        _legend(ax)
    else:
        _line(ax, place, lengths["all"], 100, *_FIRST, "")
    ax.axhline(50, color=QUIET, lw=1, ls=(0, (4, 3)))
    ax.set_xticks(place, n)
    ax.set_xlabel("elements of the sequence")
    ax.set_ylabel("elements with an ESV > 0 (%)")
    lowest = min(value for value in lengths["all"]["mean"] + lengths["same"]["mean"])
    ax.set_ylim(min(45, 100 * lowest - 8), 101)
    dress(ax)
    few, many = min(counts), max(counts)
    _title(ax, f"(b) {many if few == many else f'{few} to {many}'} sequences")


def _smoothness(ax: Any, methods: Mapping[str, Any], name: str, label: str) -> None:
    for k, (method, found) in enumerate(methods.items()):
        _, colour, marker = _METHODS[method]
        one = {key: [found[name][key]] for key in ("mean", "low", "high")}
        if one["mean"][0] is not None:
            _line(ax, np.array([k]), one, 1, colour, marker, "", ms=7)
    ax.set_xticks(
        range(len(methods)), [_METHODS[method][0] for method in methods], rotation=45, ha="right"
    )
    ax.set_xlim(-0.5, len(methods) - 0.5)
    low, high = ax.get_ylim()
    ax.set_ylim(min(0, low), max(1, high) if name == "pearson" else high * 1.05)
    ax.set_ylabel(label)
    ax.yaxis.get_major_locator().set_params(nbins=6)
    dress(ax)


def _line(
    ax: Any,
    x: np.ndarray,
    found: Mapping[str, Any],
    scale: float,
    colour: str,
    marker: str,
    label: str,
    **style: Any,
) -> None:
    """Means with their intervals, where there are any."""
    mean, low, high = (
        scale * np.array(found[key], float) for key in ("mean", "low", "high")
    )  # None becomes NaN
    drawn = {"lw": 1.4, "ms": 5.5, "elinewidth": 1.4, "capsize": 2.5} | style
    ends = np.nan_to_num([mean - low, high - mean])
    ax.errorbar(x, mean, ends, color=colour, marker=marker, label=label, **drawn)


def _legend(ax: Any) -> None:
    ax.legend(frameon=False, fontsize=TEXT_SIZE, labelcolor=INK, loc="best")


def _title(ax: Any, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=9, color=INK)
