"""The Dash application: from controls to the address, from the address to the page.

The address holds the whole state. `navigate` alone writes it and sets the controls by it; all other
callbacks read it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from esv_jax.dashboard import views
from esv_jax.dashboard.figures import Figure
from esv_jax.dashboard.overview import Overview, overview, summarise
from esv_jax.dashboard.server import Media, inside_folders, protect
from esv_jax.dashboard.sources import (
    MAX_CLASSES,
    Results,
    Source,
    State,
    format_query,
    open_sources,
    parse,
    pick,
)
from esv_jax.data.video_files import find_videos
from esv_jax.extras import require

Dash: TypeAlias = Any  # which is imported when it is needed
Update: TypeAlias = Any  # a value of a component's property

CONTROLS = (
    *(("search", "value"), ("true", "value"), ("predicted", "value"), ("outcome", "value")),
    *(("sort", "value"), ("order", "value"), ("frames", "value"), ("classes", "value")),
    *(("methods", "value"), ("contrast-a", "value"), ("contrast-b", "value")),
)
VIDEO = (  # properties of the page of one video
    *(("head", "children"), ("stage-video", "children")),
    *(("scores", "figure"), ("scores", "style"), ("scores-panel", "hidden")),
    *(("timeline", "figure"), ("timeline", "style"), ("bars", "hidden")),
    *(("notes", "children"), ("timeline-panel", "hidden")),
)
_MENUS = ("true", "predicted", "classes", "contrast-a", "contrast-b")


def make_app(
    results: Results | Iterable[Results],
    videos: Mapping[str, Path] | str | Path | Iterable[str | Path] | None = None,
    *,
    hosts: Sequence[str] = (),
    token: str = "",
) -> Dash:
    """A Dash application that shows results; `.server` is its Flask application.

    Args:
      results: a path of results (of `esv-jax sweep` or `explain`), a `Browser`, or several of
        these, of the same videos with other numbers of frames.
      videos: files by uid, or files, folders and lists for `data.video_files.find_videos`. Only
        these are sent to the browser; links that lead out of a folder are refused.
      hosts: host names beside those of this machine.
      token: secret that the first address has to hold, as `?token=...`; default none.
    Returns:
      `dash.Dash`, not yet serving.
    Raises:
      ImportError: without the `dashboard` extra.
      ValueError, OSError: results or videos that are missing or malformed.
    Cost: opens the results; about a second for 25,000 videos.
    """
    dash = require("dash", "dashboard")
    if videos is None:
        files: Mapping[str, Path] = {}
    elif isinstance(videos, Mapping):
        files = videos
    else:
        several = [videos] if isinstance(videos, str | Path) else list(videos)
        files = inside_folders(find_videos([Path(path) for path in several]), several)
    sources, media = open_sources(results), Media(files)
    app = dash.Dash(
        "esv_jax.dashboard",
        title="Element Shapley Values",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
    )
    media.add_routes(app.server)
    protect(app.server, hosts, app.csp_hashes, lambda: app.callback_map, token)
    app.layout = views.make_layout(sources)
    _connect(app, Pages(sources, media))
    return app


class Pages:
    """The callbacks, as functions of a query string and of the values of controls."""

    def __init__(self, sources: Sequence[Source], media: Media) -> None:
        """Keep the results and the videos."""
        self.sources, self.media = sources, media
        self._numbers = functools.lru_cache(maxsize=8)(self._summary)

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
        # A contrast of which only one class is chosen so far stays in the controls.
        half = values[-2:] if triggered in ("contrast-a", "contrast-b") else (None, None)
        a, b = state.contrast or half
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

    def changed(self, state: State, control: str, given: Mapping[str, Update]) -> State:
        """The state after one control has changed; malformed values become the default."""
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
            filters: dict[str, Update] = {control: empty if value is None else value}
            after = dataclasses.replace(state, **filters, uid="")
        return parse(format_query(after))

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
        keep = require("dash", "dashboard").no_update
        state = parse(query)
        if state.page != "video":
            return (keep,) * len(VIDEO)
        view = views.video(pick(self.sources, state), self.media, state)

        def graph(figure: Figure | None) -> tuple[Update, Update, bool]:
            if figure is None:
                return keep, keep, True
            return figure, views.height_of(figure), False

        hidden = view.timeline is None and not view.notes
        notes = [part for each in view.notes for part in (each, " ")]
        filled = (*graph(view.scores), *graph(view.timeline), notes, hidden)
        return (view.head, view.player, *filled)

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

    def _summary(self, index: int) -> Overview:
        return summarise(self.sources[index])


def _connect(app: Dash, pages: Pages) -> None:
    """Register the callbacks with a Dash application."""
    dash = require("dash", "dashboard")
    i, o = dash.Input, dash.Output
    address = i("url", "search")

    def navigate(*given: Update) -> tuple[Update, ...]:
        *values, had = given
        triggered = str(dash.ctx.triggered_id or "")
        answer = pages.navigate(triggered, values[0] or "", *values[1:])
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
    app.callback([o(*each) for each in VIDEO], address)(_of_query(pages.video))
    app.callback(o("overview", "children"), address)(_of_query(pages.overview))
    seek = dash.ClientsideFunction(namespace="esv", function_name="seek")
    app.clientside_callback(seek, o("timeline", "clickData"), i("timeline", "clickData"))


def _of_query(answer: Callable[[str], Update]) -> Callable[[str | None], Update]:
    def callback(query: str | None) -> Update:
        return answer(query or "")

    return callback
