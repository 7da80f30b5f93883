"""Callbacks of the pages: from controls to the address, from the address to the page.

The address holds the whole state. `navigate` alone writes it and sets the controls by it; all other
callbacks read it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from esv_jax.dashboard import views
from esv_jax.dashboard.figures import Figure
from esv_jax.dashboard.overview import overview, summarise
from esv_jax.dashboard.server import Media
from esv_jax.dashboard.sources import MAX_CLASSES, Source, State, format_query, parse, pick
from esv_jax.extras import require

Dash: TypeAlias = Any
Update: TypeAlias = Any  # a value of a component's property

dash = require("dash", "dashboard")

CONTROLS = tuple(
    (name, "value")
    for name in (
        *("search", "true", "predicted", "outcome", "sort", "order", "frames", "classes"),
        *("methods", "contrast-a", "contrast-b"),
    )
)
VIDEO = (  # properties of the page of one video
    *(("head", "children"), ("stage-video", "children")),
    *(("scores", "figure"), ("scores", "style"), ("scores-panel", "hidden")),
    *(("timeline", "figure"), ("timeline", "style"), ("bars", "hidden")),
    *(("notes", "children"), ("timeline-panel", "hidden")),
)
_MENUS = ("true", "predicted", "classes", "contrast-a", "contrast-b")


class Pages:
    """The callbacks, as functions of a query string and of the values of controls."""

    def __init__(self, sources: Sequence[Source], media: Media) -> None:
        """Keep the results and the videos."""
        self.sources, self.media = sources, media
        self._numbers = functools.lru_cache(maxsize=8)(lambda k: summarise(sources[k]))

    def navigate(self, triggered: str, query: str, *values: Update) -> tuple[Update, ...]:
        """The query after a control has changed, the controls by it, and their options.

        Args:
          triggered: id of the control; "url" for the address itself.
          query: of the address. values: of `CONTROLS`, in their order.
        Returns:
          Query, values of `CONTROLS`, options of true, predicted, classes and both contrasts,
          addresses of the two pages, and for each page if it is hidden.
        """
        state = parse(query)
        if triggered and triggered != "url":
            given = {name: value for (name, _), value in zip(CONTROLS, values, strict=True)}
            state = self._changed(state, triggered, given)
            query = format_query(state)
        source = pick(self.sources, state)
        options = [{"label": name, "value": c} for c, name in enumerate(source.browser.class_names)]
        kept = options
        shown: list[int] = []
        uid = views.uid_of(source, state)
        if uid in source.browser:
            own = set(source.browser.classes_of(uid))
            kept = [option for option in options if option["value"] in own]
            shown = list(views.shown_classes(source, state, source.browser.row(uid)))
        # A contrast of which only one class is chosen so far stays in the controls.
        half = values[-2:] if triggered in ("contrast-a", "contrast-b") else (None, None)
        pages = [dataclasses.replace(state, page=page) for page in ("video", "overview")]
        return (
            query,
            *(state.search, state.true, state.predicted, state.outcome, state.sort),
            ["descending"] if state.descending else [],
            self.sources.index(source),
            shown,
            [name for name in state.methods if name in source.browser.methods],
            *(state.contrast or half),
            *(options, options, kept, kept, kept),
            *(format_query(page) or "?" for page in pages),
            *(state.page != page.page for page in pages),
        )

    def _changed(self, state: State, control: str, given: Mapping[str, Update]) -> State:
        """The state after one control has changed; malformed values become the default."""
        value = given.get(control)
        changes: dict[str, Update]
        if control in ("contrast-a", "contrast-b"):
            pair = (given["contrast-a"], given["contrast-b"])
            changes = {"contrast": None if None in pair or pair[0] == pair[1] else pair}
        elif control in ("classes", "methods"):
            chosen = value if isinstance(value, list) else []
            names = chosen[:MAX_CLASSES] if control == "classes" else map(str, chosen)
            changes = {control: tuple(names)}
        elif control == "frames":
            source = pick(self.sources, State())
            if isinstance(value, int) and 0 <= value < len(self.sources):
                source = self.sources[value]
            changes = {"frames": "" if source.is_first else source.label}
        elif control == "order":
            changes = {"descending": bool(value), "uid": ""}
        else:
            empty = None if control in ("true", "predicted") else ""
            changes = {control: empty if value is None else value, "uid": ""}
        return parse(format_query(dataclasses.replace(state, **changes)))

    def matches(self, query: str) -> views.Component:
        """The list of videos."""
        state = parse(query)
        return views.matches(pick(self.sources, state), state)

    def listed(self, query: str) -> str:
        """Return the state that the list depends on, equal for all videos of one part of it."""
        state = parse(query)
        start = views.list_start(pick(self.sources, state), state)
        return f"{start} {format_query(dataclasses.replace(state, uid=''))}"

    def menus(self, query: str) -> str:
        """Return the state of the menus of classes: results, and the video if classes differ."""
        state = parse(query)
        source = pick(self.sources, state)
        chosen = source.browser.choices is not None
        return f"{source.label} {views.uid_of(source, state)}" if chosen else source.label

    def video(self, query: str) -> tuple[Update, ...]:
        """Return the values of `VIDEO`; unchanged while the other page is shown."""
        keep = dash.no_update
        state = parse(query)
        if state.page != "video":
            return (keep,) * len(VIDEO)
        view = views.video(pick(self.sources, state), self.media, state)

        def graph(figure: Figure | None) -> tuple[Update, Update, bool]:
            if figure is None:
                return keep, keep, True
            return figure, views.height_of(figure), False

        notes = [part for each in view.notes for part in (each, " ")]
        hidden = view.timeline is None and not notes
        return (view.head, view.player, *graph(view.scores), *graph(view.timeline), notes, hidden)

    def overview(self, query: str) -> views.Component:
        """The numbers of all videos; None on the other page."""
        state = parse(query)
        if state.page != "overview":
            return None
        source = pick(self.sources, state)
        try:
            numbers = self._numbers(self.sources.index(source))
        except (OSError, ValueError) as error:
            return views.note(f"The results cannot be read: {error}")
        return overview(source, state, numbers)


def connect(app: Dash, sources: Sequence[Source], media: Media) -> None:
    """Register the callbacks with a Dash application."""
    pages = Pages(sources, media)
    i, o = dash.Input, dash.Output
    address = i("url", "search")

    def navigate(query: str | None, *given: Update) -> tuple[Update, ...]:
        *values, had = given
        answer = pages.navigate(str(dash.ctx.triggered_id or ""), query or "", *values)
        now = pages.menus(answer[0])
        if now != had:
            return (*answer, now)
        first = 1 + len(CONTROLS)
        kept = (dash.no_update,) * len(_MENUS)
        return (*answer[:first], *kept, *answer[first + len(_MENUS) :], now)

    def matches(query: str | None, listed: str | None) -> tuple[Update, Update]:
        now = pages.listed(query or "")
        if now == listed:
            return dash.no_update, dash.no_update
        return pages.matches(query or ""), now

    app.callback(
        [
            o("url", "search"),
            *(o(*control) for control in CONTROLS),
            *(o(name, "options") for name in _MENUS),
            *(o("to-video", "href"), o("to-overview", "href")),
            *(o("video-page", "hidden"), o("overview-page", "hidden")),
            o("menus", "data"),
        ],
        [address, *(i(*control) for control in CONTROLS), dash.State("menus", "data")],
    )(navigate)
    app.callback(
        [o("matches", "children"), o("listed", "data")], [address, dash.State("listed", "data")]
    )(matches)
    app.callback([o(*each) for each in VIDEO], address)(lambda query: pages.video(query or ""))
    app.callback(o("overview", "children"), address)(lambda query: pages.overview(query or ""))
    seek = dash.ClientsideFunction(namespace="esv", function_name="seek")
    app.clientside_callback(seek, o("timeline", "clickData"), i("timeline", "clickData"))
