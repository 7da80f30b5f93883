"""The frame of the page: controls and the places that callbacks fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from esv_jax.dashboard.figures import words
from esv_jax.dashboard.sources import Source
from esv_jax.dashboard.state import MAX_CLASSES
from esv_jax.extras import require

CONFIG = {"displayModeBar": False, "responsive": True}
OUTCOME_NAMES = {"all": "all", "correct": "right", "wrong": "wrong", "failed": "failed"}
SORT_NAMES = {
    "file": "order of the file",
    "uid": "name",
    "evidence": "evidence",
    "score": "score",
    "gap": "gap of efficiency",
    "length": "length",
}


def make_layout(sources: Sequence[Source]) -> Any:
    """All components that never change; what they show comes with the first callbacks."""
    dash = require("dash", "dashboard")
    html, dcc = dash.html, dash.dcc
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="listed"),  # what the list was made for
            dcc.Store(id="menus"),  # and the menus of classes
            html.Header(
                [
                    html.H1("Element Shapley Values"),
                    html.Nav(
                        [
                            dcc.Link("Videos", id="to-video", href="?"),
                            dcc.Link("Overview", id="to-overview", href="?page=overview"),
                        ]
                    ),
                ]
            ),
            html.Main(
                [
                    html.Div([_filters(), html.Div(id="matches")], className="side"),
                    html.Div([_choices(sources), *_video()], className="stage"),
                ],
                id="video-page",
                className="page",
            ),
            html.Div(html.Div(id="overview"), id="overview-page", className="page", hidden=True),
        ]
    )


def _video() -> list[Any]:
    """The places of one video. Graphs stay, and only their figures change: drawn anew they would
    take several times as long."""
    dcc, html = _parts()
    scores = html.Div(
        [
            html.H3("Highest scores"),
            dcc.Graph(id="scores", config=CONFIG),
            html.P("| is the prior; ✓ the true class.", className="small"),
        ],
        id="scores-panel",
        className="panel",
        hidden=True,
    )
    key = [
        html.Span("supports the class", className="supporting"),
        html.Span("speaks against it", className="distracting"),
        html.Span("click a bar to go there; ← → elements, ↑ ↓ or j k videos"),
    ]
    graph = [dcc.Graph(id="timeline", config=CONFIG), html.Div(id="cursor")]
    bars = [html.P(key, className="key"), html.Div(graph, className="timeline")]
    under = [html.Div(bars, id="bars", hidden=True), html.P(id="notes", className="small")]
    return [
        html.Div(id="head"),
        html.Div([html.Div(id="stage-video"), scores], className="top"),
        html.Div(under, id="timeline-panel", className="panel", hidden=True),
    ]


def _filters() -> Any:
    """Controls that choose the listed videos."""
    dcc, html = _parts()
    text = dcc.Input(
        id="search", type="text", placeholder="part of the name", debounce=0.4, maxLength=500
    )
    return html.Div(
        [
            _labelled("Name", text, "search"),
            _labelled("True class", dcc.Dropdown(id="true"), "true"),
            _labelled("Predicted class", dcc.Dropdown(id="predicted"), "predicted"),
            _labelled("Prediction", _fixed("outcome", OUTCOME_NAMES), "outcome"),
            _labelled("Order", _fixed("sort", SORT_NAMES), "sort"),
            dcc.Checklist(
                id="order", options=[{"label": "largest first", "value": "descending"}], value=[]
            ),
        ],
        className="filters",
    )


def _choices(sources: Sequence[Source]) -> Any:
    """Controls that choose the shown values of a video."""
    dcc, html = _parts()
    last = len(sources) - 1
    slider = dcc.Slider(
        id="frames",
        min=0,
        max=max(last, 1),
        step=1,
        allow_direct_input=False,
        value=0,
        marks={k: source.label for k, source in enumerate(sources)},
    )
    several = html.Div(_labelled("Number of frames", slider, "frames"), hidden=last == 0)
    classes = dcc.Dropdown(id="classes", multi=True, placeholder=f"at most {MAX_CLASSES}")
    stored = dict.fromkeys(name for source in sources for name in source.browser.methods)
    named = [{"label": words(name), "value": name} for name in stored]
    methods = dcc.Dropdown(named, id="methods", multi=True, placeholder="none")
    contrast = html.Div(
        [
            dcc.Dropdown(id="contrast-a", placeholder="class a"),
            html.Span("minus"),
            dcc.Dropdown(id="contrast-b", placeholder="class b"),
        ],
        className="contrast",
    )
    return html.Div(
        [
            several,
            _labelled("Classes", classes, "classes"),
            _labelled("Contrast", contrast, "contrast-a"),
            html.Div(_labelled("Other methods beside ESVs", methods, "methods"), hidden=not stored),
        ],
        className="choices",
    )


def _fixed(name: str, options: dict[str, str]) -> Any:
    dcc, _ = _parts()
    pairs = [{"label": text, "value": value} for value, text in options.items()]
    return dcc.Dropdown(id=name, options=pairs, clearable=False, searchable=False)


def _labelled(text: str, component: Any, name: str) -> Any:
    _, html = _parts()
    return html.Div([html.Label(text, htmlFor=name), component], className="field")


def _parts() -> tuple[Any, Any]:
    dash = require("dash", "dashboard")
    return dash.dcc, dash.html
