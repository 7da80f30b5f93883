"""Content of the page: its fixed frame with the controls, and the page of one video."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from esv_jax.checks import nearest
from esv_jax.dashboard import figures
from esv_jax.dashboard.server import Clip, Media
from esv_jax.dashboard.sources import MAX_CLASSES, Explained, Source, State, format_query
from esv_jax.extras import require
from esv_jax.results.browser import VideoRow

Component: TypeAlias = Any  # of Dash

html, dcc = (require(f"dash.{part}", "dashboard") for part in ("html", "dcc"))

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
SHOWN = 50  # videos in the list; the cost of an update grows with the content of the page
_STRIP = 32  # frames in a strip


def note(text: str | Sequence[Component]) -> Component:
    """A paragraph in place of content."""
    return html.P(text, className="note")


def panel(title: str, figure: figures.Figure, text: str = "") -> Component:
    """A figure with a heading, and small text below it."""
    parts = [html.H3(title), dcc.Graph(figure=figure, config=CONFIG, style=height_of(figure))]
    return html.Div(parts + ([html.P(text, className="small")] if text else []), className="panel")


def height_of(figure: figures.Figure) -> dict[str, str]:
    """The style of a figure's graph, with the height of its layout."""
    return {"height": f"{figure['layout']['height']}px"}


# The frame


def make_layout(sources: Sequence[Source]) -> Component:
    """All components that never change; callbacks fill them."""
    links = [
        dcc.Link("Videos", id="to-video", href="?"),
        dcc.Link("Overview", id="to-overview", href="?page=overview"),
    ]
    side = html.Div([_filters(), html.Div(id="matches")], className="side")
    stage = html.Div([_choices(sources), *_video()], className="stage")
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="listed"),  # the state of the list
            dcc.Store(id="menus"),  # and of the menus of classes
            html.Header([html.H1("Element Shapley Values"), html.Nav(links)]),
            html.Main([side, stage], id="video-page", className="page"),
            html.Div(html.Div(id="overview"), id="overview-page", className="page", hidden=True),
        ]
    )


def _video() -> list[Component]:
    """Components of one video. Graphs stay and only their figures change, which is faster."""
    scores = [
        html.H3("Highest scores"),
        dcc.Graph(id="scores", config=CONFIG),
        html.P("| is the prior; ✓ the true class.", className="small"),
    ]
    highest = html.Div(scores, id="scores-panel", className="panel", hidden=True)
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
        html.Div([html.Div(id="stage-video"), highest], className="top"),
        html.Div(under, id="timeline-panel", className="panel", hidden=True),
    ]


def _filters() -> Component:
    """Controls of the list of videos."""
    largest_first = [{"label": "largest first", "value": "descending"}]
    search = {"placeholder": "part of the name", "debounce": 0.4, "maxLength": 500}
    fields = [
        _labelled("Name", dcc.Input(id="search", type="text", **search)),
        _labelled("True class", dcc.Dropdown(id="true")),
        _labelled("Predicted class", dcc.Dropdown(id="predicted")),
        _labelled("Prediction", _fixed("outcome", OUTCOME_NAMES)),
        _labelled("Order", _fixed("sort", SORT_NAMES)),
        dcc.Checklist(id="order", options=largest_first, value=[]),
    ]
    return html.Div(fields, className="filters")


def _choices(sources: Sequence[Source]) -> Component:
    """Controls of the values shown."""
    last = len(sources) - 1
    marks = {k: source.label for k, source in enumerate(sources)}
    ends = {"min": 0, "max": max(last, 1), "step": 1, "value": 0}
    slider = dcc.Slider(id="frames", allow_direct_input=False, marks=marks, **ends)
    classes = dcc.Dropdown(id="classes", multi=True, placeholder=f"at most {MAX_CLASSES}")
    stored = dict.fromkeys(name for source in sources for name in source.browser.methods)
    named = [{"label": figures.spaced(name), "value": name} for name in stored]
    methods = dcc.Dropdown(named, id="methods", multi=True, placeholder="none")
    first = dcc.Dropdown(id="contrast-a", placeholder="class a")
    second = dcc.Dropdown(id="contrast-b", placeholder="class b")
    pair = html.Div([first, html.Span("minus"), second], className="contrast")
    fields = [
        html.Div(_labelled("Number of frames", slider), hidden=last == 0),
        _labelled("Classes", classes),
        _labelled("Contrast", pair, "contrast-a"),
        html.Div(_labelled("Other methods beside ESVs", methods), hidden=not stored),
    ]
    return html.Div(fields, className="choices")


def _fixed(name: str, options: Mapping[str, str]) -> Component:
    pairs = [{"label": text, "value": value} for value, text in options.items()]
    return dcc.Dropdown(id=name, options=pairs, clearable=False, searchable=False)


def _labelled(text: str, component: Component, name: str = "") -> Component:
    """A component below its label; `name` is the id of the control, by default its own."""
    label = html.Label(text, htmlFor=name or component.id)
    return html.Div([label, component], className="field")


# The list of videos


def uid_of(source: Source, state: State) -> str:
    """The video of a state, else the first explained one of its list; "" if there is none."""
    if state.uid:
        return state.uid
    uids, failures = source.matches(state), source.browser.failures
    return next((uid for uid in uids if uid not in failures), next(iter(uids), ""))


def list_start(source: Source, state: State) -> int:
    """Return the start of the part of the list that holds the shown video."""
    uids, here = source.matches(state), uid_of(source, state)
    return (uids.index(here) if here in uids else 0) // SHOWN * SHOWN


def matches(source: Source, state: State) -> Component:
    """The part of the list that holds the shown video, and the number of videos."""
    uids, total = source.matches(state), len(source.browser)
    if not total:
        return html.Div([note("These results hold no videos.")])
    if not uids:
        cleared = format_query(State(page=state.page, frames=state.frames)) or "?"
        link = dcc.Link("Show all videos", href=cleared)
        return html.Div([note("No video meets these filters."), link])
    start = list_start(source, state)
    shown = uids[start : start + SHOWN]
    parts = [html.P(f"{len(uids):,} of {total:,} videos", className="count")]
    if len(shown) < len(uids):
        last = (len(uids) - 1) // SHOWN * SHOWN
        steps = {"first": 0, "earlier": start - SHOWN, "later": start + SHOWN, "last": last}
        links = [
            _step(state, "", text, uids[at] if 0 <= at <= last and at != start else "")
            for text, at in steps.items()
        ]
        here = html.Span(f"{start + 1:,} to {start + len(shown):,}", className="part")
        parts.append(html.Div([*links[:2], here, *links[2:]], className="around"))
    items = [_item(source, state, uid) for uid in shown]
    return html.Div([*parts, html.Ol(items, className="uids")])


def _step(state: State, name: str, text: str, uid: str) -> Component:
    """A link to another video, with an id if it has a name; plain text without a video."""
    if not uid:
        return html.Span(text)
    named = {"id": name} if name else {}
    return dcc.Link(text, href=format_query(dataclasses.replace(state, uid=uid)), **named)


def _item(source: Source, state: State, uid: str) -> Component:
    row = source.browser.row(uid)
    mark = "!" if row.failed else {True: "✓", False: "✗", None: "·"}[row.correct]
    result = "failed" if row.failed else source.class_name(row.prediction)
    text = [html.Span(mark, className="mark"), html.Span(uid), html.Small(result)]
    address = format_query(dataclasses.replace(state, page="video", uid=uid))
    return html.Li(dcc.Link(text, href=address))


# One video


class VideoView(NamedTuple):
    """Content of the page of one video.

    Attributes:
      head: its name, facts and neighbours; or the reason why there is nothing.
      player: the video. scores, timeline: figures, or None if there is nothing to show.
      notes: about the bars, texts and components.
    """

    head: Component
    player: Component = None
    scores: figures.Figure | None = None
    timeline: figures.Figure | None = None
    notes: Sequence[Component] = ()


def video(source: Source, media: Media, state: State) -> VideoView:
    """One video: its facts, the video itself, its bars and scores; or the reason for none."""
    uid, browser = uid_of(source, state), source.browser
    if not uid:
        return VideoView(note("Nothing to show."))
    uids = source.matches(state)
    place = uids.index(uid) if uid in uids else -1
    before = uids[place - 1] if place > 0 else ""
    after = uids[place + 1] if place + 1 < len(uids) else ""
    previous = _step(state, "previous-video", "← previous", before)
    following = _step(state, "next-video", "next →", after)
    around = html.Div([previous, following], className="around")  # for keys as well
    if uid not in browser:
        near = nearest(uid, uids[:2000])
        text = f"There is no video called {uid!r} in these results. {near}"
        return VideoView(html.Div([around, note(text)]))
    row = browser.row(uid)
    head = [around, html.H2(uid, id="shown-uid"), _facts(source, row)]
    clip = media.clip(uid)
    if row.failed:
        reason = note(["It could not be explained: ", html.B(row.failed)])
        return VideoView(html.Div([*head, reason]), _player(clip, np.zeros(0, int)))
    try:
        explained = source.explained(uid)
    except (OSError, ValueError) as error:
        return VideoView(html.Div([*head, note(f"Its values cannot be read: {error}")]))
    figure, notes = _timeline(source, state, row, explained)
    scores = figures.scores(explained.scores, explained.prior, browser.class_names, row.label)
    return VideoView(html.Div(head), _player(clip, explained.frames), scores, figure, notes)


def shown_classes(source: Source, state: State, row: VideoRow) -> tuple[int, ...]:
    """Classes whose values are shown: those of the state that are stored, or true and predicted."""
    kept = set(source.browser.classes_of(row.uid))
    chosen = state.classes or tuple(dict.fromkeys((row.label, row.prediction)))
    return tuple(c for c in chosen if c in kept and c >= 0)[:MAX_CLASSES]


def _facts(source: Source, row: VideoRow) -> Component:
    facts = [f"true: {source.class_name(row.label)}"]
    if not row.failed:
        prior = row.score - row.evidence
        facts += [
            f"predicted: {source.class_name(row.prediction)}",
            f"score {row.score:.3f} = prior {prior:.3f} + evidence {row.evidence:+.3f}",
            f"{row.n} elements",
            "exact values" if row.exact else "sampled values",
        ]
    return html.P(" · ".join(facts), className="facts")


def _player(clip: Clip, frames: np.ndarray) -> Component:
    """The video, an animated image or a strip of frames; and its note."""
    parts: list[Component] = []
    if clip.kind == "video":
        look = {"controls": True, "muted": True, "loop": True, "preload": "auto"}
        parts.append(html.Video(src=clip.address, id="player", **look))
    elif clip.kind == "image":
        parts.append(html.Img(src=clip.address, alt="the video", className="moving"))
    elif clip.kind == "frames":
        within = [int(k) for k in frames if 0 <= k < clip.frames]
        stills = [
            html.Figure(
                [
                    html.Img(src=f"{clip.frame_address}{k}", alt=f"frame {k}"),
                    html.Figcaption(f"{k}"),
                ]
            )
            for k in within[:: -(-len(within) // _STRIP) or 1]
        ]
        parts.append(html.Div(stills, className="strip"))
    if clip.note:
        parts.append(note(clip.note))
    marks = {"data-fps": str(clip.fps or ""), "data-frames": json.dumps(frames.tolist())}
    return html.Div(parts, id="player-box", className="player", **marks)


def _timeline(
    source: Source, state: State, row: VideoRow, explained: Explained
) -> tuple[figures.Figure | None, list[Component]]:
    """The bars, or None if no class is chosen; and notes about them."""
    shown = shown_classes(source, state, row)
    roles = {row.label: "true", row.prediction: "predicted"}
    if row.label == row.prediction:
        roles = {row.label: "true and predicted"}
    names = [source.class_name(c) + (f" ({roles[c]})" if c in roles else "") for c in shown]
    notes: list[Component] = []
    missing = [source.class_name(c) for c in state.classes if c not in shown]
    if missing:
        notes.append(f"No values are kept of {', '.join(missing)}.")
    pair = None
    if state.contrast is not None and not {*state.contrast} <= {*explained.classes}:
        notes.append("The contrast is of a class whose values are not kept.")
    elif state.contrast is not None:
        a, b = state.contrast
        pair = (explained.classes.index(a), explained.classes.index(b))
        names.append(f"{source.class_name(a)} minus {source.class_name(b)}")
    if not names:
        return None, [*notes, "Choose a class to see its values."]
    methods = {name: explained.methods[name] for name in state.methods if name in explained.methods}
    for j, name in enumerate(methods):
        sign, colour = figures.mark_of(j)
        mark = html.Span(sign, style={"color": colour})
        notes.append(html.Span([mark, f" {figures.spaced(name)}"], className="marked"))
    if methods:
        notes.append("Marks are scaled to the largest bar of each row.")
    absent = [figures.spaced(name) for name in state.methods if name not in methods]
    if absent:
        notes.append(f"These results hold no values by {', '.join(absent)}.")
    if explained.attribution.std_error is not None:
        notes.append("Error bars are 95 % intervals.")
    columns = [explained.classes.index(c) for c in shown]
    bars = figures.timeline(explained.attribution, columns, names, explained.frames, pair, methods)
    return bars, notes
