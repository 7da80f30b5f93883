"""Element Shapley Values of one sequence in temporal order, as bars or as a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_finite
from esv_jax.display import MEANINGS, axis_limits, difference_text, evaluations_text, sign_colours
from esv_jax.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 16  # of `plot`; more elements are a line
_PANEL_INCHES = 2.1  # height of the bars alone
_FEATURES = 0.35  # height of the features, in panels
_APART_INCHES = 0.09  # above and below each panel of a sequence
_BAND = "#D0D0D0"


def plot(attribution: Attribution, target: int | None = None, **options: Any) -> Axes:
    """ESVs of one class: bars of up to 16 elements, a line of more.

    Args:
      attribution: the record of one sequence, (n, C).
      target: the class, 0..C-1; default that of the highest score.
      options: of `plot_elements`, or of `plot_timeline` for more than 16 elements.
    Raises:
      ValueError, TypeError: see there.
    """
    _expect_one(attribution)
    target = int(np.argmax(np.asarray(attribution.scores))) if target is None else target
    draw = plot_elements if attribution.n <= _MOST_BARS else plot_timeline
    return draw(attribution, target, **options)


def plot_elements(
    attribution: Attribution,
    target: int,
    *,
    ax: Axes | None = None,
    class_name: str | None = None,
    element_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
) -> Axes:
    """Bars of the ESVs of one class: supporting elements blue, distracting ones vermillion.

    Whiskers are 95 % intervals (1.96 standard errors) if the record has standard errors. Above the
    bars: the class, its score, its prior and their difference, the number of evaluations.

    Args:
      attribution: the record of one sequence, (n, C).
      target: the class, 0..C-1.
      ax: axes to draw into; default those of a new figure, `ax.figure`, without a window.
      class_name: name of the class; default its number.
      element_labels: n labels of the elements; default 0..n-1.
      units: units of the scores for the y label, e.g. "probability".
      title: heading in place of the class name.
    Returns:
      The axes. Axes narrower than 4.5 inches have no legend.
    Raises:
      ValueError: a batch, a class out of range, another number of labels than elements.
    """
    heading, lines = class_text(attribution, target, class_name, title)
    values, half = bar_values(attribution, target)
    labels = MEANINGS, esv_label(units)
    return _plot_bars(ax, values, half, element_labels, heading, lines, *labels)


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
    """Bars of class-contrastive ESVs: ESVs for class `a` minus ESVs for class `b`.

    Blue elements support `a` rather than `b`. There are no whiskers: the errors of two classes are
    dependent, and the record has only those of each class.

    Source: Price & Damen (2020), section 3.3.

    Args:
      attribution: the record of one sequence, (n, C).
      a, b: classes, 0..C-1, commonly the true and the predicted one.
      class_names: C names; default numbers.
      ax, element_labels, units, title: see `plot_elements`.
    Raises:
      ValueError: a batch, a class out of range, names or labels of the wrong number.
    """
    pair = " - ".join(_names(attribution, (a, b), class_names))
    values = np.asarray(attribution.contrast(a, b), np.float64)
    of_a, of_b = (float(attribution.evidential_score(c)) for c in (a, b))
    numbers = f"evidential scores {difference_text('', of_a, '', of_b)}"
    lines = [*([] if title is None else [pair]), numbers, _evaluations(attribution)]
    heading, unknown = pair if title is None else title, np.full(len(values), np.nan)
    labels = ("for the first", "for the second"), esv_label(units, "ESV difference")
    return _plot_bars(ax, values, unknown, element_labels, heading, lines, *labels)


def plot_sequence(
    attribution: Attribution,
    classes: Sequence[int],
    *,
    features: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    element_labels: Sequence[str] | None = None,
    units: str | None = None,
    title: str | None = None,
    share_y: bool = False,
) -> Figure:
    """One panel of `plot_elements` per class, stacked, in a figure as high as they need.

    Args:
      attribution: the record of one sequence, (n, C).
      classes: the classes, from the top down.
      features: the sequence explained, (n, D), drawn on top; each feature is scaled to its range.
      class_names: C names; default numbers.
      title: heading of the figure.
      share_y: gives all classes the same y axis.
      element_labels, units: see `plot_elements`.
    Raises:
      ValueError: a batch, no classes, a class out of range, shapes or names that do not fit.
    """
    names = _names(attribution, classes, class_names)
    expect(len(classes) > 0, "classes", "at least one class", "none")
    heights = [*([] if features is None else [_FEATURES]), *[1.0] * len(classes)]
    figure = style.new_figure(_width(attribution.n), _PANEL_INCHES * sum(heights))
    figure.get_layout_engine().set(h_pad=_APART_INCHES)
    look = {"height_ratios": heights, **style.margins(figure.get_figwidth())}
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, gridspec_kw=look)[:, 0]
    if features is not None:
        _heat_map(panels[0], np.asarray(features, np.float64), attribution.n)
    bars = panels[-len(classes) :]
    own: dict[str, Any] = {"element_labels": element_labels, "units": units}
    for ax, c, name in zip(bars, classes, names, strict=True):
        plot_elements(attribution, c, ax=ax, class_name=name, **own)
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
    style.fit_height(figure, list(panels), _PANEL_INCHES * sum(heights))
    return figure


def plot_timeline(
    attribution: Attribution,
    target: int,
    *,
    element_index: Sequence[int] | None = None,
    exact: Attribution | None = None,
    class_name: str | None = None,
    confidence: float = 0.95,
    units: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """ESVs of one class along a long video, as a line: supporting blue, distracting vermillion.

    A grey band shows the intervals where the record has standard errors. Dots are exact values of
    the same elements.

    Args:
      attribution: the record of one sequence, (n, C).
      target: the class, 0..C-1.
      element_index: (n,) frame numbers of the elements, increasing; default 0..n-1.
      exact: an exact record of the same elements and classes, for the dots.
      confidence: probability that an interval covers the exact value, in (0, 1).
      class_name, units, title, ax: see `plot_elements`.
    Raises:
      ValueError: a batch, a class or confidence out of range, frame numbers that are not n or do
        not increase, exact values of other elements or that are sampled.
    """
    bare = dataclasses.replace(attribution, std_error=None)
    heading, lines = class_text(bare, target, class_name, title)
    expect(0 < confidence < 1, "confidence", "a share in (0, 1)", confidence)
    n = attribution.n
    places = np.asarray(range(n) if element_index is None else element_index, np.float64)
    expect(places.shape == (n,), "element_index", f"{n} frame numbers", places.shape)
    expect_finite("element_index", places)
    expect(bool((np.diff(places) > 0).all()), "element_index", "increasing numbers", "others")
    values, half = bar_values(attribution, target, confidence)
    if attribution.std_error is not None:
        lines[-1] += f"; band: {100 * confidence:g} % interval"
    dots = None
    if exact is not None:
        shape, way_out = attribution.values.shape, "Explain with Exact()."
        expect(exact.values.shape == shape, "exact", f"values {shape}", exact.values.shape)
        expect(exact.exact, "exact", "an exact record", "a sampled one", way_out)
        dots = np.asarray(exact.for_class(target), np.float64)
        lines[-1] += "; dots: exact values"

    ax, height = style.given_or_new(ax, float(np.clip(6 + 0.01 * n, 6.4, 12)), _PANEL_INCHES)
    _draw_line(ax, places, values, half, dots)
    labels = "element" if element_index is None else "frame number", esv_label(units)
    return style.finish(ax, heading, lines, MEANINGS, labels=labels, height=height)


def class_text(
    attribution: Attribution, target: int, class_name: str | None, title: str | None
) -> tuple[str, list[str]]:
    """Heading and lines above the values of a class; refuses a batch and a class out of range."""
    _expect_one(attribution)
    attribution.for_class(target)
    name = f"class {target}" if class_name is None else class_name
    errors = "" if attribution.std_error is None else "; whiskers: 95 % interval"
    score, prior = float(attribution.scores[target]), float(attribution.prior[target])
    numbers = difference_text("score", score, "prior", prior)
    lines = [numbers, _evaluations(attribution) + errors]
    return (name, lines) if title is None else (title, [name, *lines])


def esv_label(units: str | None, name: str = "ESV") -> str:
    """Label of a y axis of ESVs."""
    share = "share of\nscore - prior"
    return f"{name} ({share if units is None else units})"


def bar_values(
    attribution: Attribution, target: int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """ESVs (n,) of a class and half-widths (n,) of their intervals, NaN if unknown."""
    values = np.asarray(attribution.for_class(target), np.float64)
    if attribution.std_error is None:
        return values, np.full(len(values), np.nan)
    return values, np.asarray(attribution.half_width(confidence), np.float64)[:, target]


def bar_limits(values: np.ndarray, half: np.ndarray | None = None) -> tuple[float, float]:
    """Ends of a y axis with zero, the bars and their whiskers, and a margin."""
    low, high = axis_limits(values, np.zeros(1) if half is None else half)
    margin = 0.07 * (high - low) or 0.05
    return low - margin, high + margin


def draw_bars(
    ax: Axes, places: np.ndarray, values: np.ndarray, half: np.ndarray, width: float
) -> None:
    """Draw n bars coloured by sign, with whiskers where `half` is finite, and the zero line."""
    style.strip_down(ax)
    ax.bar(places, values, width=width, color=sign_colours(values))
    if np.isfinite(half).any():
        caps = 2 if len(values) <= 50 else 0
        line = {"fmt": "none", "ecolor": style.INK, "elinewidth": 0.9, "capsize": caps}
        ax.errorbar(places, values, yerr=half, **line)
    zero_line(ax)
    ax.set_ylim(*bar_limits(values, half))


def zero_line(ax: Axes) -> None:
    """Draw the line at zero."""
    ax.axhline(0, color=style.INK, linewidth=0.8)


def _expect_one(attribution: Attribution) -> None:
    one = attribution.lengths is None and attribution.values.ndim == 2
    expect(one, "attribution", "one sequence", "a batch", "Index it first.")


def _evaluations(attribution: Attribution) -> str:
    return evaluations_text(bool(attribution.exact), int(attribution.n_evaluations))


def _names(
    attribution: Attribution, classes: Sequence[int], class_names: Sequence[str] | None
) -> list[str]:
    _expect_one(attribution)
    n = attribution.n_classes
    for c in classes:
        expect(0 <= c < n, "class", f"an index in 0..{n - 1}", c)
    if class_names is None:
        return [f"class {c}" for c in classes]
    expect(len(class_names) == n, "class_names", f"{n} names", len(class_names))
    return [str(class_names[c]) for c in classes]


def _width(n: int) -> float:
    """Width of a figure of n bars, in inches."""
    return float(np.clip(3 + 0.09 * n, 6.4, 12))


def _plot_bars(
    ax: Axes | None,
    values: np.ndarray,
    half: np.ndarray,
    element_labels: Sequence[str] | None,
    heading: str,
    lines: Sequence[str],
    meanings: tuple[str, str],
    y_label: str,
) -> Axes:
    ax, height = style.given_or_new(ax, _width(len(values)), _PANEL_INCHES)
    texts = style.expect_labels("element_labels", element_labels, len(values))
    draw_bars(ax, np.arange(len(values)), values, half, 0.8)
    style.label_elements(ax, texts)
    labels = "element", y_label
    return style.finish(ax, heading, lines, meanings, labels=labels, height=height)


def _heat_map(ax: Axes, features: np.ndarray, n: int) -> None:
    fits = features.ndim == 2 and len(features) == n and features.size > 0
    expect(fits, "features", f"shape (n, D) with n = {n}", features.shape)
    low, high = features.min(0), features.max(0)
    scaled = (features - low) / np.where(high > low, high - low, 1)
    extent = (-0.5, n - 0.5, 0, features.shape[1])
    look = {"interpolation": "nearest", "origin": "lower", "extent": extent}
    ax.imshow(scaled.T, cmap="Greys", vmin=0, vmax=1, aspect="auto", **look)
    for spine in ax.spines.values():
        spine.set_color(style.GRID)
    ax.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)
    ax.set_ylabel(f"{features.shape[1]} features", **style.TEXT)


def _draw_line(
    ax: Axes, places: np.ndarray, values: np.ndarray, half: np.ndarray, dots: np.ndarray | None
) -> None:
    style.strip_down(ax)
    if np.isfinite(half).any():  # behind the colours, so that these stay themselves
        band = {"color": _BAND, "linewidth": 0, "label": "interval"}
        ax.fill_between(places, values - half, values + half, **band)
    fill = {"interpolate": True, "alpha": 0.55, "linewidth": 0}
    ax.fill_between(places, values, where=values > 0, color=style.SUPPORTING, **fill)
    ax.fill_between(places, values, where=values <= 0, color=style.DISTRACTING, **fill)
    marker = "." if len(values) == 1 else None
    ax.plot(places, values, color=style.INK, linewidth=1, marker=marker, label="value")
    limits = [bar_limits(values, half)]
    if dots is not None:
        size = float(np.clip(600 / len(dots), 2.2, 4.5))
        look = {"color": "white", "mec": style.INK, "mew": 0.7, "clip_on": False}
        ax.plot(places, dots, "o", markersize=size, zorder=3, label="exact", **look)
        limits.append(bar_limits(dots))
    zero_line(ax)
    ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    if len(places) > 1:
        ax.set_xlim(places[0], places[-1])
    style.count_ticks(ax, places, 9)
