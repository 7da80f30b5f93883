"""The Dash application: results and videos behind a protected server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esv_jax.dashboard.server import Media, inside_folders, protect
from esv_jax.dashboard.sources import Results, open_sources
from esv_jax.data.video_files import find_videos
from esv_jax.extras import require


def make_app(
    results: Results | Iterable[Results],
    videos: Mapping[str, Path] | str | Path | Iterable[str | Path] | None = None,
    *,
    hosts: Sequence[str] = (),
    token: str = "",
) -> Any:
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
    from esv_jax.dashboard.pages import connect  # which loads Dash
    from esv_jax.dashboard.views import make_layout

    if videos is None or isinstance(videos, Mapping):
        files: Mapping[str, Path] = videos or {}
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
    protect(app, hosts, token)
    app.layout = make_layout(sources)
    connect(app, sources, media)
    return app
