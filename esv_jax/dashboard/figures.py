"""Pictures of stored values, as Plotly takes them: pure functions from arrays to plain dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.display import DISTRACTING, GRID, INK, QUIET, SUPPORTING

PAPER = "rgba(0,0,0,0)"
_MARKS = (  # of other methods: as Plotly calls and as a page writes them, colours of Okabe & Ito
    *(("diamond", "◆", "#009E73"), ("square", "■", "#CC79A7"), ("circle", "●", "#E69F00")),
    *(("triangle-up", "▲", "#56B4E9"), ("star", "★", INK)),
)
_ROW = 150  # pixels of height for one class
_TOP, _BOTTOM, _HEADING, _GAP = 6, 46, 24, 6
_PANEL_MARGIN = {"l": 60, "r": 10, "t": 24, "b": _BOTTOM}  # of figures of the overview

Figure = dict[str, Any]


def plain(text: str) -> str:
    """Text that Plotly shows as it is: its few tags are taken for what they look like."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def words(name: str) -> str:
    """The name of a method as people write it: without underscores."""
    return name.replace("_", " ")


def shorten(text: str, letters: int) -> str:
    """The beginning of a text that is longer than that."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def timeline(
    attribution: Attribution,
    columns: Sequence[int],
    names: Sequence[str],
    frames: np.ndarray,
    contrast: tuple[int, int] | None = None,
    methods: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Bars of ESVs over frames, one row per class, and one for the contrast of two.

    Args:
      attribution: of one video. columns: places of the shown classes in its last axis.
      names: what the rows are called, one for each column, and one more with a contrast.
      frames: (n,) where each element lies in the video, in frames.
      contrast: columns (a, b); a row of the values of a minus those of b.
      methods: values (n, C) of other methods by name, drawn as marks: in each row scaled to the
        largest bar, for their units differ. Pointed at, a mark says its own value.
    Returns:
      A figure; error bars are 95 % intervals, where values were sampled.
    """
    errors = attribution.std_error
    half = None if errors is None else np.asarray(attribution.half_width())
    rows = [np.asarray(attribution.for_class(c)) for c in columns]
    spreads = [None if half is None else half[:, c] for c in columns]
    if contrast is not None:
        rows.append(np.asarray(attribution.contrast(*contrast)))
        spreads.append(None)  # errors of two classes are not independent
    width = _bar_width(frames)
    limit = _limit(rows, spreads)
    traces: list[Figure] = []
    axes: Figure = {}
    count = max(len(rows), 1)
    notes = []
    for k, (values, spread) in enumerate(zip(rows, spreads, strict=True)):
        axis = "y" if k == 0 else f"y{k + 1}"
        low, high = 1 - (k + 1) / count, 1 - k / count
        above, under = _HEADING / _ROW / count, _GAP / _ROW / count
        axes[axis.replace("y", "yaxis")] = {
            **_axis(),
            "domain": [low + under, high - above],
            "range": [-limit, limit],
            "zeroline": True,
            "zerolinecolor": QUIET,
            "nticks": 5,
            "title": {"text": "ESV", "font": {"size": 11, "color": QUIET}, "standoff": 4},
        }
        notes.append(_heading(names[k], high))
        bar = _bars(frames, values, spread, width) | {"yaxis": axis, "name": plain(names[k])}
        traces.append(bar)
        for j, (name, other) in enumerate((methods or {}).items()):
            own = other[:, columns[k]] if k < len(columns) else difference(other, contrast)
            marks = _marks(frames, own, np.abs(values).max(initial=0), j)
            traces.append(marks | {"yaxis": axis, "name": plain(words(name))})
    below = "y" if len(rows) < 2 else f"y{len(rows)}"
    x = {**_axis(), "title": {"text": "frame"}, "anchor": below, "showgrid": False}
    x["range"] = [float(min(frames, default=0)) - width, float(max(frames, default=0)) + width]
    layout = _layout(_TOP + _BOTTOM + _ROW * count) | axes
    layout |= {"xaxis": x, "annotations": notes, "hovermode": "x", "hoverdistance": -1}
    return {"data": traces, "layout": layout}


def scores(
    values: np.ndarray, prior: np.ndarray, names: Sequence[str], label: int, top: int = 5
) -> Figure:
    """The highest scores of the whole video, each with the score that the class has before it.

    Args:
      values, prior: (C,). names: C names. label: the true class, or -1.
      top: how many classes; the true one is added where it is not among them.
    """
    order = [int(c) for c in np.argsort(-values, kind="stable")[:top]]
    order += [label] if 0 <= label < len(values) and label not in order else []
    order = order[::-1]  # the first is at the top
    ticks = [
        f"{plain(shorten(names[c], 22))}{' ✓' if c == label else ''}  {values[c]:.3f}"
        for c in order
    ]
    places = list(range(len(order)))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [float(values[c]) for c in order],
        "y": places,
        "customdata": order,
        "marker": {"color": [SUPPORTING if values[c] > prior[c] else DISTRACTING for c in order]},
        "name": "score",
        "hovertemplate": "%{x:.4f}<extra></extra>",
    }
    before = {
        "type": "scatter",
        "mode": "markers",
        "x": [float(prior[c]) for c in order],
        "y": places,
        "marker": {"symbol": "line-ns-open", "size": 16, "color": INK, "line": {"width": 2}},
        "name": "prior",
        "hovertemplate": "prior %{x:.4f}<extra></extra>",
    }
    layout = _layout(60 + 34 * len(order)) | {
        "xaxis": {**_axis(), "title": {"text": "score"}, "rangemode": "tozero"},
        "yaxis": {**_axis(), "tickvals": places, "ticktext": ticks, "showgrid": False}
        | {"automargin": True},
    }
    layout["margin"] = {"l": 10, "r": 10, "t": 8, "b": 44}
    return {"data": [bars, before], "layout": layout}


def histogram(groups: dict[str, np.ndarray], title: str, bins: int = 40) -> Figure:
    """Counts of numbers in common bins, one line of steps for each group that has any."""
    finite = {name: values[np.isfinite(values)] for name, values in groups.items()}
    together = np.concatenate([*finite.values(), np.zeros(0)])
    x = {**_axis(), "title": {"text": title}, "showgrid": False}
    if len(together) and np.all(together == np.round(together)) and np.ptp(together) < bins:
        edges = np.arange(together.min() - 0.5, together.max() + 1.5)
        middle, half = (edges[0] + edges[-1]) / 2, max(3.5, np.ptp(edges) / 2 + 0.5)
        x |= {"range": [float(middle - half), float(middle + half)], "tickformat": "d"}
    else:
        edges = np.histogram_bin_edges(together, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    colours = {"wrong": DISTRACTING}
    traces = [
        {
            "type": "bar",
            "x": centres.tolist(),
            "y": np.histogram(values, edges)[0].tolist(),
            "name": name,
            "marker": {"color": colours.get(name, SUPPORTING)},
            "opacity": 0.65 if len(finite) > 1 else 1.0,
        }
        for name, values in finite.items()
        if len(values)
    ]
    layout = _layout(260) | {
        "xaxis": x,
        "yaxis": {**_axis(), "title": {"text": "videos"}},
        "barmode": "overlay",
        "bargap": 0.05,
        "showlegend": len(traces) > 1,
    }
    layout["margin"] = _PANEL_MARGIN
    return {"data": traces, "layout": layout}


def positions(means: np.ndarray, errors: np.ndarray, title: str) -> Figure:
    """Mean ESVs at places of a video, with their standard errors."""
    places = np.arange(1, len(means) + 1)
    bars = _bars(places, means, errors, 0.8)
    layout = _layout(260) | {
        "xaxis": {**_axis(), "title": {"text": title}, "showgrid": False},
        "yaxis": {**_axis(), "title": {"text": "mean ESV"}, "zeroline": True}
        | {"zerolinecolor": QUIET},
    }
    layout["margin"] = _PANEL_MARGIN
    return {"data": [bars], "layout": layout}


def pairs(shares: np.ndarray, title: str) -> Figure:
    """Share of videos in which one position has a larger ESV than another: (n, n) in 0..1.

    Args:
      shares: those of i, down, against j, to the right. title: what places are called.
    """
    places = list(range(1, len(shares) + 1))
    heat = {
        "type": "heatmap",
        "z": [_numbers(row) for row in shares],
        "x": places,
        "y": places,
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, DISTRACTING], [0.5, "#F7F7F7"], [1, SUPPORTING]],
        "hovertemplate": "%{y} above %{x}: %{z:.1%}<extra></extra>",
        "colorbar": {"thickness": 12, "tickformat": ".0%"},
    }
    layout = _layout(320) | {
        "xaxis": {**_axis(), "title": {"text": f"{title} j"}, "showgrid": False},
        "yaxis": {**_axis(), "title": {"text": f"{title} i"}, "autorange": "reversed"},
    }
    layout["margin"] = _PANEL_MARGIN
    return {"data": [heat], "layout": layout}


def _bars(frames: np.ndarray, values: np.ndarray, spread: Any, width: float) -> Figure:
    bar: Figure = {
        "type": "bar",
        "x": [float(frame) for frame in frames],
        "y": _numbers(values),
        "width": width,
        "marker": {"color": [SUPPORTING if value > 0 else DISTRACTING for value in values]},
        "hovertemplate": "%{x}: %{y:+.4f}<extra></extra>",
    }
    if spread is not None:
        look = {"color": INK, "thickness": 1.2}
        bar["error_y"] = {"type": "data", "array": _numbers(spread)} | look
    return bar


def mark_of(j: int) -> tuple[str, str]:
    """The sign of method j in a text, and its colour."""
    _, sign, colour = _MARKS[j % len(_MARKS)]
    return sign, colour


def difference(values: np.ndarray, pair: tuple[int, int] | None) -> np.ndarray:
    """Values of class a minus those of class b, (n,)."""
    assert pair is not None
    return values[:, pair[0]] - values[:, pair[1]]


def _marks(frames: np.ndarray, values: np.ndarray, reach: float, j: int) -> Figure:
    """Marks of method j, scaled so that the largest is as high as the largest bar."""
    largest = float(np.nanmax(np.abs(values), initial=0))
    symbol, _, colour = _MARKS[j % len(_MARKS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [float(frame) for frame in frames],
        "y": _numbers(values * (reach / largest if largest > 0 else 1.0)),
        "customdata": _numbers(values),
        "hovertemplate": "%{customdata:+.4g}",
        "marker": {
            "symbol": symbol,
            "size": 9,
            "color": colour,
            "line": {"color": "white", "width": 1},
        },
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them: None where there is none."""
    return [None if np.isnan(value) else float(value) for value in values]


def _bar_width(frames: np.ndarray) -> float:
    """Most of the smallest distance between elements."""
    gaps = np.diff(np.unique(frames))
    return 0.8 * float(gaps.min()) if len(gaps) else 0.8


def _limit(rows: Sequence[np.ndarray], spreads: Sequence[Any]) -> float:
    """The largest height of all rows, a little more, so that rows can be compared."""
    heights = [
        np.abs(values) + (0 if spread is None else np.nan_to_num(np.abs(spread)))
        for values, spread in zip(rows, spreads, strict=True)
    ]
    largest = max((float(np.nanmax(height)) for height in heights if len(height)), default=0.0)
    return 1.08 * largest if largest > 0 else 1.0


def _heading(name: str, y: float) -> Figure:
    return {
        "text": f"<b>{plain(shorten(name, 60))}</b>",
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": y,
        "yref": "paper",
        "yanchor": "top",
        "showarrow": False,
        "font": {"size": 12, "color": INK},
    }


def _axis() -> Figure:
    return {"gridcolor": GRID, "tickcolor": QUIET, "fixedrange": True, "zeroline": False}


def _layout(height: int) -> Figure:
    return {
        "height": height,
        "margin": {"l": 62, "r": 10, "t": _TOP, "b": _BOTTOM},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "font": {"color": INK, "size": 12, "family": "system-ui, sans-serif"},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
    }
