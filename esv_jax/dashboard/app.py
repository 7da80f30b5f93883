"""From results to a Dash application, and from that to a server on this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esv_jax.checks import message
from esv_jax.data.video_files import find_videos
from esv_jax.extras import require

_CONNECTIONS = 64
_WAITING = 1024  # connections in the queue; the system may allow fewer


def make_app(
    results: Any,
    videos: Mapping[str, Path] | str | Path | Iterable[str | Path] | None = None,
    *,
    hosts: Sequence[str] = (),
    token: str = "",
) -> Any:
    """A Dash application that shows results; `.server` is its Flask application.

    Args:
      results: a path of results (of `esv-jax sweep` or `explain`), a `Browser`, or several
        of these, of the same videos with other numbers of frames.
      videos: files by uid, or what `data.video_files.find_videos` searches: files, folders, lists.
        Only these are handed to the browser; of a folder no links that lead out of it.
      hosts: names under which it may be called, beside those of this machine.
      token: secret that the first address has to hold, as `?token=...`; default none.
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
        several = [videos] if isinstance(videos, str | Path) else list(videos)
        files = _inside_folders(find_videos([Path(path) for path in several]), several)
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
    app.layout = make_layout(sources)
    connect(app, Pages(sources, media))
    return app


def _inside_folders(files: Mapping[str, Path], given: Iterable[str | Path]) -> dict[str, Path]:
    """Files without those that symbolic links in the given folders take from elsewhere."""
    folders = [Path(path).absolute() for path in given if Path(path).is_dir()]

    def stays(path: Path) -> bool:
        inside = [folder for folder in folders if path.absolute().is_relative_to(folder)]
        return not inside or any(path.resolve().is_relative_to(each.resolve()) for each in inside)

    return {uid: path for uid, path in files.items() if stays(path)}


def serve(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve an application until interrupted, at most 64 connections at a time, without a log.

    Args:
      app: what `make_app` gave. host, port: where it listens.
      on_ready: called once connections are accepted.
    Raises:
      OSError: a port that is taken.
    """
    serving = require("werkzeug.serving", "dashboard")

    class Quiet(serving.WSGIRequestHandler):  # type: ignore[name-defined]
        protocol_version = "HTTP/1.1"  # connections are kept
        timeout = 30  # seconds that an idle connection has a thread

        def log(self, *_: Any) -> None:
            """Say nothing of requests."""

        def version_string(self) -> str:
            """Say nothing of versions."""
            return "esv-jax"

    class Bounded(serving.ThreadedWSGIServer):  # type: ignore[name-defined]
        free = threading.BoundedSemaphore(_CONNECTIONS)

        def process_request(self, request: Any, address: Any) -> None:
            """Start a thread, once fewer than the maximum are running."""
            self.free.acquire()
            try:
                super().process_request(request, address)
            except BaseException:
                self.free.release()
                raise

        def process_request_thread(self, request: Any, address: Any) -> None:
            """Serve one connection."""
            try:
                super().process_request_thread(request, address)
            finally:
                self.free.release()

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_WAITING)
    except OSError as error:
        taken = message("port", f"one that is free at {host}", f"{port} ({error.strerror})")
        raise OSError(taken) from error
    with listening:
        server = Bounded(host, port, app.server, handler=Quiet, fd=listening.fileno())
        on_ready()
        try:
            server.serve_forever()
        finally:
            server.server_close()
