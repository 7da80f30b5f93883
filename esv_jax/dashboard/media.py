"""Videos for the browser: a route that hands out the files of a list made at the start, no other.

An address holds a number in that list, never a path.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from esv_jax import data
from esv_jax.extras import require

_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
_CODECS = ("h264", "vp8", "vp9", "av1", "libdav1d", "gif")  # that browsers decode
_STILL_SIZE = 160  # short side of a frame, in pixels


class Clip(NamedTuple):
    """Presentation of one video.

    Attributes:
      address: where the browser gets it. frame_address: where it gets single frames, by number.
      kind: "video" or "image" where the browser plays it, "frames" where it cannot, "" for none.
      fps: frames per second, or None where there is no clock. frames: how many, 0 if unknown.
      note: what a reader should know; "" where it simply plays.
    """

    address: str = ""
    frame_address: str = ""
    kind: str = ""
    fps: float | None = None
    frames: int = 0
    note: str = ""


class Media:
    """The videos that may be handed out.

    Attributes:
      paths: files, or folders of images, by uid.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Number the files."""
        self.paths = dict(paths)
        self._tokens = {uid: str(k) for k, uid in enumerate(self.paths)}
        self._by_token = {token: self.paths[uid] for uid, token in self._tokens.items()}
        self.clip = functools.lru_cache(maxsize=512)(self._clip)
        self._still = functools.lru_cache(maxsize=512)(_still)

    def _clip(self, uid: str) -> Clip:
        if uid not in self.paths:
            note = "No video of this name was given with --videos." if self.paths else ""
            return Clip(note=note or "Give the videos with --videos to see them here.")
        path, token = self.paths[uid], self._tokens[uid]
        stills = f"/frame/{token}/"
        try:
            info = data.probe_video(path)
        except (OSError, ValueError, ImportError) as error:
            return Clip(note=f"The video cannot be read: {error}")
        kind = _TYPES.get(path.suffix.lower(), "")
        if not kind or info.codec not in _CODECS:
            note = f"Browsers do not play {path.suffix or 'folders of images'} ({info.codec}): "
            return Clip("", stills, "frames", info.fps, info.frames, note + "frames are shown.")
        note = "" if info.fps else "The video says no pace: bars cannot find their moment."
        if kind == "image/gif":
            note = "An animated image plays by itself: bars cannot find their moment."
        is_image = kind.startswith("image")
        address = f"/video/{token}"
        return Clip(address, stills, "image" if is_image else "video", info.fps, info.frames, note)

    def add_routes(self, server: Any) -> None:
        """Serve `/video/<number>`, with ranges, and `/frame/<number>/<frame>`; others are 404."""
        flask = require("flask", "dashboard")

        def video(token: str) -> Any:
            path = self._by_token.get(token)
            kind = None if path is None else _TYPES.get(path.suffix.lower())
            if path is None or kind is None or not path.is_file():
                return flask.abort(404)
            return flask.send_file(path.absolute(), mimetype=kind, conditional=True, max_age=60)

        def frame(token: str, index: int) -> Any:
            path = self._by_token.get(token)
            try:
                image = None if path is None else self._still(path, index)
            except (OSError, ValueError, ImportError):
                image = None
            if image is None:
                return flask.abort(404)
            return flask.send_file(io.BytesIO(image), mimetype="image/jpeg", max_age=60)

        def missing(token: str) -> Any:
            flask.abort(404)

        server.add_url_rule("/video/<path:token>", "video", video)
        server.add_url_rule("/frame/<token>/<int:index>", "frame", frame)
        server.add_url_rule("/frame/<path:token>", "no_frame", missing)


def _still(path: Path, index: int) -> bytes:
    """One frame as a JPEG; decodes the video up to it."""
    return data.images.jpeg_still(data.decode_frames(path, indices=[index], size=_STILL_SIZE)[0])
