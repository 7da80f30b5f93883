"""Callbacks of the page: controls to address, address to page.

The address says everything. `navigate` alone writes it, and sets the controls by it; the others
read it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from esv_jax.dashboard import overview_view, views
from esv_jax.dashboard.media import Media
from esv_jax.dashboard.overview import Overview, summarise
from esv_jax.dashboard.sources import Source, pick
from esv_jax.dashboard.state import MAX_CLASSES, State, format_query, parse
from esv_jax.extras import require

CONTROLS = (
    *(("search", "value"), ("true", "value"), ("predicted", "value"), ("outcome", "value")),
    *(("sort", "value"), ("order", "value"), ("frames", "value"), ("classes", "value")),
    *(("methods", "value"), ("contrast-a", "value"), ("contrast-b", "value")),
)
VIDEO = (  # what is filled in of one video
    *(("head", "children"), ("stage-video", "children")),
    *(("scores", "figure"), ("scores", "style"), ("scores-panel", "hidden")),
    *(("timeline", "figure"), ("timeline", "style"), ("bars", "hidden")),
    *(("notes", "children"), ("timeline-panel", "hidden")),
)


class Pages:
    """The answers to the page's questions, as plain methods of a query and of controls."""

    def __init__(self, sources: Sequence[Source], media: Media) -> None:
        """Keep what is looked at."""
        self.sources, self.media = sources, media
        self._numbers = functools.lru_cache(maxsize=8)(self._summary)

    def navigate(self, triggered: str, query: str, *values: Any) -> tuple[Any, ...]:
        """The query after a control was touched, the controls by it, and their options.

        Args:
          triggered: id of the component that was touched; "url" for the address itself.
          query: the address's part after the path. values: of `CONTROLS`, in their order.
        Returns:
          Query, values of `CONTROLS`, options of true, predicted, classes and both contrasts,
          addresses of the two pages, whether each page is hidden.
        """
        state = parse(query)
        if triggered and triggered != "url":
            given = {name: value for (name, _), value in zip(CONTROLS, values, strict=True)}
            state = self.changed(state, triggered, given)
            query = format_query(state)
        source = pick(self.sources, state)
        options = [{"label": name, "value": c} for c, name in enumerate(source.browser.class_names)]
        kept = options
        shown: tuple[int, ...] = ()
        uid = views.uid_of(source, state)
        if uid in source.browser:
            own = set(source.browser.classes_of(uid))
            kept = [option for option in options if option["value"] in own]
            shown = views.shown_classes(source, state, source.browser.row(uid))
        a, b = state.contrast or self._half(triggered, values)
        addresses = [
            format_query(dataclasses.replace(state, page=page)) or "?"
            for page in ("video", "overview")
        ]
        return (
            query,
            *(state.search, state.true, state.predicted, state.outcome, state.sort),
            ["descending"] if state.descending else [],
            self.sources.index(source),
            list(shown),
            [name for name in state.methods if name in source.browser.methods],
            *(a, b),
            *(options, options, kept, kept, kept),
            *addresses,
            *(state.page != "video", state.page != "overview"),
        )

    def changed(self, state: State, control: str, given: dict[str, Any]) -> State:
        """A state after one control was touched; nonsense in it becomes the default."""
        value = given.get(control)
        if control in ("contrast-a", "contrast-b"):
            a, b = given["contrast-a"], given["contrast-b"]
            both = a is not None and b is not None and a != b
            after = dataclasses.replace(state, contrast=(a, b) if both else None)
        elif control == "classes":
            chosen = value if isinstance(value, list) else []
            after = dataclasses.replace(state, classes=tuple(chosen[:MAX_CLASSES]))
        elif control == "methods":
            names = value if isinstance(value, list) else []
            after = dataclasses.replace(state, methods=tuple(map(str, names)))
        elif control == "frames":
            source = pick(self.sources, State())
            if isinstance(value, int) and 0 <= value < len(self.sources):
                source = self.sources[value]
            after = dataclasses.replace(state, frames="" if source.is_first else source.label)
        elif control == "order":
            after = dataclasses.replace(state, descending=bool(value), uid="")
        else:
            empty = None if control in ("true", "predicted") else ""
            filters: dict[str, Any] = {control: empty if value is None else value}
            after = dataclasses.replace(state, **filters, uid="")
        return parse(format_query(after))

    def matches(self, query: str) -> Any:
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

    def video(self, query: str) -> tuple[Any, ...]:
        """Return the content of `VIDEO`; unchanged while the other page is shown."""
        keep = require("dash", "dashboard").no_update
        state = parse(query)
        if state.page != "video":
            return (keep,) * len(VIDEO)
        view = views.video(pick(self.sources, state), self.media, state)

        def graph(figure: Any) -> tuple[Any, Any, bool]:
            none = (keep, keep, True)
            return none if figure is None else (figure, views.height_of(figure), False)

        hidden = view.timeline is None and not view.notes
        notes = [part for note in view.notes for part in (note, " ")]
        filled = (*graph(view.scores), *graph(view.timeline), notes, hidden)
        return (view.head, view.player, *filled)

    def overview(self, query: str) -> Any:
        """The numbers of the set; nothing on the other page."""
        state = parse(query)
        if state.page != "overview":
            return None
        source = pick(self.sources, state)
        try:
            numbers = self._numbers(self.sources.index(source))
        except (OSError, ValueError) as error:
            html = require("dash", "dashboard").html
            return html.P(f"The results cannot be read: {error}", className="note")
        return overview_view.overview(source, state, numbers)

    def _summary(self, index: int) -> Overview:
        return summarise(self.sources[index])

    def _half(self, triggered: str, values: tuple[Any, ...]) -> tuple[Any, Any]:
        """A contrast of which one class is chosen so far stays in the controls."""
        return values[-2:] if triggered in ("contrast-a", "contrast-b") else (None, None)


def connect(app: Any, pages: Pages) -> None:
    """Register the callbacks with a Dash application."""
    dash = require("dash", "dashboard")
    i, o = dash.Input, dash.Output
    options = ("true", "predicted", "classes", "contrast-a", "contrast-b")

    def navigate(*given: Any) -> Any:
        *values, had = given
        triggered = str(dash.ctx.triggered_id or "")
        answer = pages.navigate(triggered, values[0] or "", *values[1:])
        now = pages.menus(answer[0])
        if now != had:
            return (*answer, now)
        first = 1 + len(CONTROLS)
        kept = (dash.no_update,) * len(options)
        return (*answer[:first], *kept, *answer[first + len(options) :], now)

    def matches(query: str | None, listed: str | None) -> Any:
        now = pages.listed(query or "")
        return (
            (dash.no_update, dash.no_update) if now == listed else (pages.matches(query or ""), now)
        )

    app.callback(
        [
            o("url", "search"),
            *(o(*control) for control in CONTROLS),
            *(o(name, "options") for name in options),
            *(o("to-video", "href"), o("to-overview", "href")),
            *(o("video-page", "hidden"), o("overview-page", "hidden")),
            o("menus", "data"),
        ],
        [
            i("url", "search"),
            *(i(*control) for control in CONTROLS),
            dash.State("menus", "data"),
        ],
    )(navigate)
    app.callback(
        [o("matches", "children"), o("listed", "data")],
        [i("url", "search"), dash.State("listed", "data")],
    )(matches)
    app.callback([o(*place) for place in VIDEO], i("url", "search"))(_of_query(pages.video))
    app.callback(o("overview", "children"), i("url", "search"))(_of_query(pages.overview))
    seek = dash.ClientsideFunction(namespace="esv", function_name="seek")
    app.clientside_callback(seek, o("timeline", "clickData"), i("timeline", "clickData"))


def _of_query(answer: Any) -> Any:
    def callback(query: str | None) -> Any:
        return answer(query or "")

    return callback
