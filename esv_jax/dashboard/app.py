"""From results to a Dash application, and from that to a server on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esv_jax.data.video_lists import find_videos
from esv_jax.extras import require


def make_app(
    results: Any,
    videos: Mapping[str, Path] | str | Path | Iterable[str | Path] | None = None,
    *,
    hosts: Sequence[str] = (),
) -> Any:
    """A Dash application that shows results; `.server` is its Flask application.

    Args:
      results: a path of results (of `esv-jax sweep` or `explain`), a `results.Browser`, or several
        of these, of the same videos with other numbers of frames.
      videos: files by uid, or what `data.video_lists.find_videos` searches: files, folders, lists.
        Only these are handed to the browser.
      hosts: names under which it may be called, beside those of this machine.
    Returns:
      `dash.Dash`, not yet serving.
    Raises:
      ImportError: without the `dashboard` extra.
      ValueError, OSError: results or videos that are missing or malformed.
    Cost: opens the results; about a second for 25,000 videos.
    """
    dash = require("dash", "dashboard")
    from esv_jax.dashboard.callbacks import Pages, connect
    from esv_jax.dashboard.layout import make_layout
    from esv_jax.dashboard.media import Media
    from esv_jax.dashboard.security import protect
    from esv_jax.dashboard.sources import open_sources

    if videos is None:
        files: Mapping[str, Path] = {}
    elif isinstance(videos, Mapping):
        files = videos
    else:
        several = [videos] if isinstance(videos, str | Path) else videos
        files = find_videos([Path(path) for path in several])
    sources, media = open_sources(results), Media(files)
    app = dash.Dash(
        "esv_jax.dashboard",
        title="Element Shapley Values",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
    )
    media.add_routes(app.server)
    protect(app.server, hosts, app.csp_hashes, lambda: app.callback_map)
    app.layout = make_layout(sources)
    connect(app, Pages(sources, media))
    return app


def serve(app: Any, *, host: str = "127.0.0.1", port: int = 8050) -> None:
    """Serve an application until interrupted, several requests at a time, without a log.

    Args:
      app: what `make_app` gave. host, port: where it listens.
    Raises:
      OSError: a port that is taken.
    """
    serving = require("werkzeug.serving", "dashboard")

    class Quiet(serving.WSGIRequestHandler):  # type: ignore[name-defined]
        protocol_version = "HTTP/1.1"  # connections are kept

        def log(self, *_: Any) -> None:
            """Say nothing of requests."""

        def version_string(self) -> str:
            """Say nothing of versions."""
            return "esv-jax"

    server = serving.make_server(host, port, app.server, threaded=True, request_handler=Quiet)
    try:
        server.serve_forever()
    finally:
        server.server_close()
