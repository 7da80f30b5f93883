"""Bars of Element Shapley Values over the elements of one sequence, in temporal order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import expect
from esv_jax.plots import style
from esv_jax.plots.bars import (
    bar_values,
    class_text,
    difference_text,
    draw_bars,
    esv_label,
    expect_one,
    how_obtained,
)
from esv_jax.plots.figures import about, fit_height, given_or_new, new_figure
from esv_jax.plots.labels import expect_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_INCHES = 2.1  # height of the bars alone
_FEATURES = 0.35  # height of the features, in panels
_APART_INCHES = 0.09  # above and below each panel of a sequence


def plot_elements(
    attribution: Attribution,
    c: int,
    *,
    ax: Axes | None = None,
    class_name: str | None = None,
    element_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
) -> Axes:
    """Bars of the ESVs of one class: supporting elements blue, distracting ones vermillion.

    Whiskers are 95 % intervals (1.96 standard errors) where the record has standard errors. Above
    the bars: the class, its score, its prior and their difference, and how they were obtained.

    Args:
      attribution: the record of one sequence, (n, C).
      c: the class, 0..C-1.
      ax: axes to draw into; default those of a new figure, `ax.figure`, that no window shows.
      class_name: how to call the class; default its number.
      element_labels: n labels of the elements; default 0..n-1.
      units: units of the scores for the y label, e.g. "probability"; default in words.
      title: heading in place of the class name.
    Returns:
      The axes. The legend is left out of axes narrower than 4.5 inches.
    Raises:
      ValueError: a batch, a class out of range, another number of labels than elements.
    """
    expect_one(attribution)
    heading, lines = class_text(attribution, c, class_name, title)
    values, half = bar_values(attribution, c)
    ax, is_new = given_or_new(ax, _width(attribution.n))
    _bars(ax, values, half, element_labels)
    style.annotate(ax, heading, lines, ("supporting", "distracting"))
    ax.set_ylabel(esv_label(units), **style.TEXT)
    if is_new:
        fit_height(ax.figure, [ax], _PANEL_INCHES)
    return ax


def plot_contrast(
    attribution: Attribution,
    a: int,
    b: int,
    *,
    ax: Axes | None = None,
    class_names: Sequence[str] | None = None,
    element_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
) -> Axes:
    """Bars of class-contrastive ESVs: for class `a` minus for class `b`.

    Blue elements speak for `a` rather than `b`. No whiskers: the errors of two classes depend on
    each other, and the record holds each alone.

    Source: Price & Damen (2020), section 3.3.

    Args:
      attribution: the record of one sequence, (n, C).
      a: a class, 0..C-1, commonly the true one.
      b: another, commonly the predicted one.
      ax: axes to draw into; default those of a new figure, `ax.figure`, that no window shows.
      class_names: C names; default numbers.
      element_labels: n labels of the elements; default 0..n-1.
      units: units of the scores for the y label, e.g. "probability"; default in words.
      title: heading in place of the class names.
    Returns:
      The axes.
    Raises:
      ValueError: a batch, a class out of range, names or labels of the wrong number.
    """
    expect_one(attribution)
    values = np.asarray(attribution.contrast(a, b), np.float64)
    first, second = _names(attribution, (a, b), class_names)
    pair = f"{first} - {second}"
    evidence = [float(attribution.evidential_score(c)) for c in (a, b)]
    numbers = "evidential scores " + difference_text(
        "", evidence[0], "", evidence[1], evidence[0] - evidence[1]
    )
    lines = [numbers, how_obtained(attribution)]
    if title is not None:
        lines.insert(0, pair)
    ax, is_new = given_or_new(ax, _width(attribution.n))
    _bars(ax, values, np.full(len(values), np.nan), element_labels)
    style.annotate(ax, pair if title is None else title, lines, ("for the first", "for the second"))
    ax.set_ylabel(esv_label(units, "ESV difference"), **style.TEXT)
    if is_new:
        fit_height(ax.figure, [ax], _PANEL_INCHES)
    return ax


def plot_sequence(
    attribution: Attribution,
    classes: Sequence[int],
    *,
    features: Any = None,
    class_names: Sequence[str] | None = None,
    element_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
    share_y: bool = False,
) -> Figure:
    """One panel of `plot_elements` per class, above each other, in temporal order.

    It makes a figure of its own, as high as its panels need; `plot_elements` draws one of them
    into axes of yours.

    Args:
      attribution: the record of one sequence, (n, C).
      classes: the classes to show, from the top down.
      features: (n, D) what was explained, drawn on top; each feature scaled to its own range.
      class_names: C names; default numbers.
      element_labels: n labels of the elements; default 0..n-1.
      units: units of the scores for the y label, e.g. "probability"; default in words.
      title: heading of the figure.
      share_y: whether classes share the y axis, to compare sizes between them.
    Returns:
      A new figure that no window shows; `save_figure` writes it.
    Raises:
      ValueError: a batch, no classes, a class out of range, shapes or names that do not fit.
    """
    expect_one(attribution)
    expect(len(classes) > 0, "classes", "at least one class", "none")
    names = _names(attribution, classes, class_names)
    top = [] if features is None else [_FEATURES]
    heights = [*top, *[1.0] * len(classes)]
    figure: Any = new_figure(_width(attribution.n), _PANEL_INCHES * sum(heights))
    figure.get_layout_engine().set(h_pad=_APART_INCHES)
    look = {"height_ratios": heights, **about(figure.get_figwidth())}
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, gridspec_kw=look)[:, 0]
    if features is not None:
        _heat_map(panels[0], np.asarray(features, np.float64), attribution.n)
    bars = panels[len(top) :]
    for ax, c, name in zip(bars, classes, names, strict=True):
        plot_elements(
            attribution, c, ax=ax, class_name=name, element_labels=element_labels, units=units
        )
        if ax is not bars[-1]:
            ax.set_xlabel("")
        if ax is not bars[0] and ax.get_legend() is not None:
            ax.get_legend().remove()
    if share_y:
        limits = np.array([ax.get_ylim() for ax in bars])
        for ax in bars:
            ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    if title is not None:
        style.head(figure, title)
    fit_height(figure, list(panels), _PANEL_INCHES * sum(heights))
    return figure


def _names(
    attribution: Attribution, classes: Sequence[int], class_names: Sequence[str] | None
) -> list[str]:
    n = attribution.n_classes
    for c in classes:
        expect(0 <= c < n, "class", f"an index in 0..{n - 1}", c)
    if class_names is None:
        return [f"class {c}" for c in classes]
    expect(len(class_names) == n, "class_names", f"{n} names", len(class_names))
    return [str(class_names[c]) for c in classes]


def _width(n: int) -> float:
    """Inches for n bars."""
    return float(np.clip(3 + 0.09 * n, 6.4, 12))


def _bars(ax: Axes, values: np.ndarray, half: np.ndarray, labels: Sequence[str] | None) -> None:
    n = len(values)
    texts = expect_labels("element_labels", labels, n)
    draw_bars(ax, np.arange(n), values, half, 0.8)
    style.label_elements(ax, texts)
    ax.set_xlabel("element", **style.TEXT)


def _heat_map(ax: Axes, features: np.ndarray, n: int) -> None:
    fits = features.ndim == 2 and len(features) == n and features.size > 0
    expect(fits, "features", f"shape (n, D) with n = {n}", features.shape)
    low, high = features.min(0), features.max(0)
    scaled = (features - low) / np.where(high > low, high - low, 1)
    ax.imshow(
        scaled.T,
        cmap="Greys",
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        extent=(-0.5, n - 0.5, 0, features.shape[1]),
    )
    for spine in ax.spines.values():
        spine.set_color(style.GRID)
    ax.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)
    ax.set_ylabel(f"{features.shape[1]} features", **style.TEXT)
