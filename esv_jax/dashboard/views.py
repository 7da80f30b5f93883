"""Content of the page for a state: components, no callbacks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from esv_jax.checks import nearest
from esv_jax.dashboard import figures
from esv_jax.dashboard.layout import CONFIG
from esv_jax.dashboard.media import Clip, Media
from esv_jax.dashboard.sources import Explained, Source
from esv_jax.dashboard.state import MAX_CLASSES, State, format_query
from esv_jax.extras import require
from esv_jax.results.tables import VideoRow

SHOWN = 50  # videos in the list: what Dash takes for a change grows with what is on the page
_STRIP = 32  # frames in a strip


def uid_of(source: Source, state: State) -> str:
    """The video that a state names, else the first explained of its list; "" where none is."""
    if state.uid:
        return state.uid
    uids, failures = source.matches(state), source.browser.failures
    return next((uid for uid in uids if uid not in failures), next(iter(uids), ""))


def shown_classes(source: Source, state: State, row: VideoRow) -> tuple[int, ...]:
    """Classes whose values are shown: those asked for that were kept, or true and predicted."""
    kept = set(source.browser.classes_of(row.uid))
    asked = state.classes or tuple(dict.fromkeys((row.label, row.prediction)))
    return tuple(c for c in asked if c in kept and c >= 0)[:MAX_CLASSES]


def list_start(source: Source, state: State) -> int:
    """Return the start of the part of the list that holds the shown video."""
    uids, here = source.matches(state), uid_of(source, state)
    place = uids.index(here) if here in uids else 0
    return place // SHOWN * SHOWN


def matches(source: Source, state: State) -> Any:
    """The part of the list that holds the video looked at, and how many there are."""
    html, dcc = parts_of_dash()
    uids = source.matches(state)
    total = len(source.browser)
    if not uids:
        say = "These results hold no videos." if not total else "No video meets these filters."
        none = [html.P(say, className="note")]
        if total:
            cleared = State(page=state.page, frames=state.frames)
            none.append(dcc.Link("Show all videos", href=format_query(cleared) or "?"))
        return html.Div(none)
    start = list_start(source, state)
    shown = uids[start : start + SHOWN]
    count = [html.P(f"{len(uids):,} of {total:,} videos", className="count")]
    if len(shown) < len(uids):
        count.append(_parts_of_list(state, uids, start, len(shown)))
    items = [_item(source, state, uid) for uid in shown]
    return html.Div([*count, html.Ol(items, className="uids")])


class VideoView(NamedTuple):
    """Content of the page of one video.

    Attributes:
      head: its name, facts and neighbours; or why there is nothing.
      player: the video. scores, timeline: figures, or None where there is none to show.
      notes: what a reader should know about the bars, texts and components.
    """

    head: Any
    player: Any = None
    scores: figures.Figure | None = None
    timeline: figures.Figure | None = None
    notes: Sequence[Any] = ()


def video(source: Source, media: Media, state: State) -> VideoView:
    """One video: what it is, the video itself, its bars and scores; or why there are none."""
    html, _ = parts_of_dash()
    uid = uid_of(source, state)
    browser = source.browser
    if not uid:
        return VideoView(html.P("Nothing to show.", className="note"))
    around = _around(source, state, uid)
    if uid not in browser:
        near = nearest(uid, source.matches(state)[:2000])
        text = f"There is no video called {uid!r} in these results. {near}"
        return VideoView(html.Div([around, html.P(text, className="note")]))
    row = browser.row(uid)
    head = [around, html.H2(uid, id="shown-uid"), _facts(source, row)]
    clip = media.clip(uid)
    if row.failed:
        reason = html.P(["It could not be explained: ", html.B(row.failed)], className="note")
        return VideoView(html.Div([*head, reason]), _player(clip, np.zeros(0, int)))
    try:
        explained = source.explained(uid)
    except (OSError, ValueError) as error:
        unread = html.P(f"Its values cannot be read: {error}", className="note")
        return VideoView(html.Div([*head, unread]))
    names = browser.class_names
    figure, notes = _timeline(source, state, row, explained)
    return VideoView(
        html.Div(head),
        _player(clip, explained.frames),
        figures.scores(explained.scores, explained.prior, names, row.label),
        figure,
        notes,
    )


def _parts_of_list(state: State, uids: Sequence[str], start: int, n: int) -> Any:
    """Which part of the list is shown, with links to those around it."""
    html, _ = parts_of_dash()
    last = (len(uids) - 1) // SHOWN * SHOWN
    links = [
        _step(state, "", text, uids[at] if 0 <= at <= last and at != start else "")
        for text, at in (("first", 0), ("earlier", start - SHOWN))
    ]
    links.append(html.Span(f"{start + 1:,} to {start + n:,}", className="part"))
    links += [
        _step(state, "", text, uids[at] if at <= last and at != start else "")
        for text, at in (("later", start + SHOWN), ("last", last))
    ]
    return html.Div(links, className="around")


def _step(state: State, name: str, text: str, uid: str) -> Any:
    """A link to another video, with an id where it has a name; plain text where there is none."""
    html, dcc = parts_of_dash()
    if not uid:
        return html.Span(text)
    said = {"id": name} if name else {}
    return dcc.Link(text, href=format_query(dataclasses.replace(state, uid=uid)), **said)


def _item(source: Source, state: State, uid: str) -> Any:
    html, dcc = parts_of_dash()
    row = source.browser.row(uid)
    mark = "!" if row.failed else {True: "✓", False: "✗", None: "·"}[row.correct]
    said = "failed" if row.failed else source.class_name(row.prediction)
    text = [html.Span(mark, className="mark"), html.Span(uid), html.Small(said)]
    address = format_query(dataclasses.replace(state, page="video", uid=uid))
    return html.Li(dcc.Link(text, href=address))


def _around(source: Source, state: State, uid: str) -> Any:
    """Links to the neighbours in the list, which keys follow, too."""
    html, _ = parts_of_dash()
    uids = source.matches(state)
    place = uids.index(uid) if uid in uids else -1
    before = uids[place - 1] if place > 0 else ""
    after = uids[place + 1] if place + 1 < len(uids) else ""
    previous = _step(state, "previous-video", "← previous", before)
    return html.Div([previous, _step(state, "next-video", "next →", after)], className="around")


def _facts(source: Source, row: VideoRow) -> Any:
    html, _ = parts_of_dash()
    facts = [f"true: {source.class_name(row.label)}"]
    if not row.failed:
        facts += [
            f"predicted: {source.class_name(row.prediction)}",
            f"score {row.score:.3f} = prior {row.score - row.evidence:.3f} "
            f"+ evidence {row.evidence:+.3f}",
            f"{row.n} elements",
            "exact values" if row.exact else "sampled values",
        ]
    return html.P(" · ".join(facts), className="facts")


def _player(clip: Clip, frames: np.ndarray) -> Any:
    """The video, an image that moves, or a strip of frames; and a note where there is one."""
    html, _ = parts_of_dash()
    marks = {"data-fps": str(clip.fps or ""), "data-frames": json.dumps(frames.tolist())}
    parts: list[Any] = []
    if clip.kind == "video":
        look = {"controls": True, "muted": True, "loop": True, "preload": "auto"}
        parts.append(html.Video(src=clip.address, id="player", **look))
    elif clip.kind == "image":
        parts.append(html.Img(src=clip.address, alt="the video", className="moving"))
    elif clip.kind == "frames":
        within = [int(k) for k in frames if 0 <= k < clip.frames]
        step = -(-len(within) // _STRIP) or 1
        stills = [
            html.Figure(
                [
                    html.Img(src=f"{clip.frame_address}{k}", alt=f"frame {k}"),
                    html.Figcaption(str(k)),
                ]
            )
            for k in within[::step]
        ]
        parts.append(html.Div(stills, className="strip"))
    if clip.note:
        parts.append(html.P(clip.note, className="note"))
    return html.Div(parts, id="player-box", className="player", **marks)


def _timeline(
    source: Source, state: State, row: VideoRow, explained: Explained
) -> tuple[figures.Figure | None, list[Any]]:
    """The bars, or None where no class is chosen; and what a reader should know about them."""
    html, _ = parts_of_dash()
    shown = shown_classes(source, state, row)
    columns = [explained.classes.index(c) for c in shown]
    roles = {row.label: "true", row.prediction: "predicted"}
    if row.label == row.prediction:
        roles = {row.label: "true and predicted"}
    names = [source.class_name(c) + (f" ({roles[c]})" if c in roles else "") for c in shown]
    notes: list[Any] = []
    pair = None
    missing = [source.class_name(c) for c in state.classes if c not in shown]
    if missing:
        notes.append(f"No values are kept of {', '.join(missing)}.")
    if state.contrast is not None:
        a, b = (explained.column(c) for c in state.contrast)
        if a is None or b is None:
            notes.append("The contrast is of a class whose values are not kept.")
        else:
            pair = (a, b)
            names.append(" minus ".join(source.class_name(c) for c in state.contrast))
    if not names:
        return None, [*notes, "Choose a class to see its values."]
    methods = {name: explained.methods[name] for name in state.methods if name in explained.methods}
    for j, name in enumerate(methods):
        sign, colour = figures.mark_of(j)
        mark = html.Span(sign, style={"color": colour})
        notes.append(html.Span([mark, f" {figures.words(name)}"], className="marked"))
    if methods:
        notes.append("Marks are scaled to the largest bar of each row.")
    absent = [figures.words(name) for name in state.methods if name not in methods]
    if absent:
        notes.append(f"These results hold no values by {', '.join(absent)}.")
    if explained.attribution.std_error is not None:
        notes.append("Error bars are 95 % intervals.")
    attribution, frames = explained.attribution, explained.frames
    return figures.timeline(attribution, columns, names, frames, pair, methods), notes


def panel(title: str, figure: figures.Figure, text: str = "") -> Any:
    """A figure with a heading, and small text below it."""
    html, dcc = parts_of_dash()
    parts = [html.H3(title), dcc.Graph(figure=figure, config=CONFIG, style=height_of(figure))]
    return html.Div(parts + ([html.P(text, className="small")] if text else []), className="panel")


def height_of(figure: figures.Figure) -> dict[str, str]:
    """The style of the graph of a figure: as high as its layout asks."""
    return {"height": f"{figure['layout']['height']}px"}


def parts_of_dash() -> tuple[Any, Any]:
    """Dash's components: html and dcc."""
    dash = require("dash", "dashboard")
    return dash.html, dash.dcc
