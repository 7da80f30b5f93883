"""Figures of stored values as Plotly's plain dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.display import (
    DISTRACTING,
    GRID,
    INK,
    OTHER_COLOURS,
    QUIET,
    SUPPORTING,
    axis_limits,
    sign_colours,
)

Figure: TypeAlias = dict[str, Any]  # or a part of one

_CLEAR = "rgba(0,0,0,0)"
# Of other methods: symbols in Plotly, the same in text, colours
_SYMBOLS = ("diamond", "square", "circle", "triangle-up", "star")
_SIGNS = ("◆", "■", "●", "▲", "★")
_MARK_COLOURS = (*OTHER_COLOURS, INK)
_ROW = 150  # pixels of height for one class
_TOP, _BOTTOM, _HEADING, _GAP = 6, 46, 24, 6
_BINS = 40
_PANEL_MARGIN = {"l": 60, "r": 10, "t": 24, "b": _BOTTOM}  # of figures of the overview


def plain(text: str) -> str:
    """Text for Plotly with its few tags escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def spaced(name: str) -> str:
    """The name of a method without underscores."""
    return name.replace("_", " ")


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
      attribution: of one video. columns: indices of the shown classes along its last axis.
      names: of the rows, one per column, and one more with a contrast.
      frames: (n,) frame number of each element.
      contrast: columns (a, b); a row of the values of a minus those of b.
      methods: values (n, C) of other methods by name, drawn as marks that are scaled to the largest
        bar of each row, since their units differ. Their own values are shown on hover.
    Returns:
      A figure; error bars are 95 % intervals of sampled values.
    """
    errors = attribution.std_error
    half = None if errors is None else np.asarray(attribution.half_width())
    rows = [np.asarray(attribution.for_class(c)) for c in columns]
    spreads = [None if half is None else half[:, c] for c in columns]
    others = [{name: own[:, c] for name, own in (methods or {}).items()} for c in columns]
    if contrast is not None:
        a, b = contrast
        rows.append(np.asarray(attribution.contrast(a, b)))
        spreads.append(None)  # errors of two classes are not independent
        others.append({name: own[:, a] - own[:, b] for name, own in (methods or {}).items()})
    gaps = np.diff(np.unique(frames))
    width = 0.8 * float(gaps.min()) if len(gaps) else 0.8
    limit = _limit(rows, spreads)
    count = max(len(rows), 1)
    above, under = _HEADING / _ROW / count, _GAP / _ROW / count
    traces, axes, headings = [], {}, []
    for k, (values, spread) in enumerate(zip(rows, spreads, strict=True)):
        number = "" if k == 0 else str(k + 1)
        low, high = 1 - (k + 1) / count, 1 - k / count
        axes[f"yaxis{number}"] = _axis(
            {"text": "ESV", "font": {"size": 11, "color": QUIET}, "standoff": 4},
            domain=[low + under, high - above],
            range=[-limit, limit],
            zeroline=True,
            zerolinecolor=QUIET,
            nticks=5,
        )
        headings.append(_heading(names[k], high))
        own = {"yaxis": f"y{number}"}
        traces.append(_bars(frames, values, spread, width) | own | {"name": plain(names[k])})
        for j, (name, marked) in enumerate(others[k].items()):
            marks = _marks(frames, marked, np.abs(values).max(initial=0), j)
            traces.append(marks | own | {"name": plain(spaced(name))})
    x = _axis("frame", anchor="y" if len(rows) < 2 else f"y{len(rows)}", showgrid=False)
    x["range"] = [float(min(frames, default=0)) - width, float(max(frames, default=0)) + width]
    more = {"annotations": headings, "hovermode": "x", "hoverdistance": -1}
    return _figure(traces, _TOP + _BOTTOM + _ROW * count, xaxis=x, **axes, **more)


def scores(
    values: np.ndarray, prior: np.ndarray, names: Sequence[str], label: int, top: int = 5
) -> Figure:
    """Bars of the highest scores of a video, each with the prior of its class.

    Args:
      values, prior: (C,). names: C names. label: the true class, or -1.
      top: number of classes; the true class is added if it is not among them.
    """
    order = [int(c) for c in np.argsort(-values, kind="stable")[:top]]
    order += [label] if 0 <= label < len(values) and label not in order else []
    order = order[::-1]  # the first is at the top
    ticks = [
        f"{plain(_shorten(names[c], 22))}{' ✓' if c == label else ''}  {values[c]:.3f}"
        for c in order
    ]
    places = list(range(len(order)))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [float(values[c]) for c in order],
        "y": places,
        "customdata": order,
        "marker": {"color": sign_colours(values[order] - prior[order])},
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
    return _figure(
        [bars, before],
        60 + 34 * len(order),
        xaxis=_axis("score", rangemode="tozero"),
        yaxis=_axis(tickvals=places, ticktext=ticks, showgrid=False, automargin=True),
        margin={"l": 10, "r": 10, "t": 8, "b": 44},
    )


def histogram(groups: Mapping[str, np.ndarray], title: str) -> Figure:
    """Counts of numbers in common bins, one series per group that has any."""
    finite = {name: values[np.isfinite(values)] for name, values in groups.items()}
    together = np.concatenate([*finite.values(), np.zeros(0)])
    x = _axis(title, showgrid=False)
    if len(together) and np.all(together == np.round(together)) and np.ptp(together) < _BINS:
        edges = np.arange(together.min() - 0.5, together.max() + 1.5)
        middle, half = (edges[0] + edges[-1]) / 2, max(3.5, np.ptp(edges) / 2 + 0.5)
        x |= {"range": [float(middle - half), float(middle + half)], "tickformat": "d"}
    else:
        edges = np.histogram_bin_edges(together, _BINS)
    traces = [
        {
            "type": "bar",
            "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
            "y": np.histogram(values, edges)[0].tolist(),
            "name": name,
            "marker": {"color": DISTRACTING if name == "wrong" else SUPPORTING},
            "opacity": 0.65 if len(finite) > 1 else 1.0,
        }
        for name, values in finite.items()
        if len(values)
    ]
    more = {"barmode": "overlay", "bargap": 0.05, "showlegend": len(traces) > 1}
    return _figure(traces, 260, xaxis=x, yaxis=_axis("videos"), margin=_PANEL_MARGIN, **more)


def positions(means: np.ndarray, errors: np.ndarray, title: str) -> Figure:
    """Bars of mean ESVs at positions in a video, with their standard errors."""
    bars = _bars(np.arange(1, len(means) + 1), means, errors, 0.8)
    x, y = _axis(title, showgrid=False), _axis("mean ESV", zeroline=True, zerolinecolor=QUIET)
    return _figure([bars], 260, xaxis=x, yaxis=y, margin=_PANEL_MARGIN)


def pairs(shares: np.ndarray, title: str) -> Figure:
    """Heat map of the share of videos with a larger ESV at position i than at j.

    Args:
      shares: (n, n) in 0..1, i down, j to the right. title: name of a position.
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
    x, y = _axis(f"{title} j", showgrid=False), _axis(f"{title} i", autorange="reversed")
    return _figure([heat], 320, xaxis=x, yaxis=y, margin=_PANEL_MARGIN)


def mark_of(j: int) -> tuple[str, str]:
    """The sign of method j in text, and its colour."""
    return _SIGNS[j % len(_SIGNS)], _MARK_COLOURS[j % len(_SIGNS)]


def _bars(
    frames: np.ndarray, values: np.ndarray, spread: np.ndarray | None, width: float
) -> Figure:
    bar: Figure = {
        "type": "bar",
        "x": [float(frame) for frame in frames],
        "y": _numbers(values),
        "width": width,
        "marker": {"color": sign_colours(values)},
        "hovertemplate": "%{x}: %{y:+.4f}<extra></extra>",
    }
    if spread is not None:
        look = {"color": INK, "thickness": 1.2}
        bar["error_y"] = {"type": "data", "array": _numbers(spread)} | look
    return bar


def _marks(frames: np.ndarray, values: np.ndarray, reach: float, j: int) -> Figure:
    """Marks of method j, scaled so that the largest is as high as the largest bar."""
    largest = float(np.nanmax(np.abs(values), initial=0))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [float(frame) for frame in frames],
        "y": _numbers(values * (reach / largest if largest > 0 else 1.0)),
        "customdata": _numbers(values),
        "hovertemplate": "%{customdata:+.4g}",
        "marker": {
            "symbol": _SYMBOLS[j % len(_SYMBOLS)],
            "size": 9,
            "color": mark_of(j)[1],
            "line": {"color": "white", "width": 1},
        },
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON: None for NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def _limit(rows: Sequence[np.ndarray], spreads: Sequence[np.ndarray | None]) -> float:
    """The common limit of all rows: their largest |value| with its error, and a margin."""
    ends = [
        axis_limits(values, np.zeros(1) if spread is None else spread)
        for values, spread in zip(rows, spreads, strict=True)
    ]
    largest = max((max(-low, high) for low, high in ends), default=0.0)
    return 1.08 * largest if largest > 0 else 1.0


def _shorten(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _heading(name: str, y: float) -> Figure:
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": y, "yref": "paper", "yanchor": "top"}
    look = {"showarrow": False, "font": {"size": 12, "color": INK}}
    return {"text": f"<b>{plain(_shorten(name, 60))}</b>"} | place | look


def _axis(title: str | Figure = "", **more: Any) -> Figure:
    look = {"gridcolor": GRID, "tickcolor": QUIET, "fixedrange": True, "zeroline": False}
    titled = {"title": {"text": title} if isinstance(title, str) else title} if title else {}
    return look | titled | more


def _figure(traces: Sequence[Figure], height: int, **layout: Any) -> Figure:
    common = {
        "height": height,
        "margin": {"l": 62, "r": 10, "t": _TOP, "b": _BOTTOM},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "font": {"color": INK, "size": 12, "family": "system-ui, sans-serif"},
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
    }
    return {"data": list(traces), "layout": common | layout}
