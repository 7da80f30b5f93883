"""The server of the dashboard: refused requests, response headers, files of videos, connections.

The dashboard reads one person's results on that person's machine. Other pages open in the same
browser must not read them: hence the check of the Host header, against names that are made to
point to this machine, and a policy that forbids foreign content.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlencode

from esv_jax import data
from esv_jax.checks import message
from esv_jax.extras import require

Dash: TypeAlias = Any  # types of libraries that are imported when they are needed
Flask: TypeAlias = Any
Request: TypeAlias = Any
Response: TypeAlias = Any

_LOG = logging.getLogger(__name__)

LOCAL = ("localhost", "127.0.0.1", "[::1]")
ANY_HOST = ("0.0.0.0", "::", "[::]")
MAX_REQUEST = 2**20  # bytes
UPDATE = "/_dash-update-component"
_LONGEST = 10_000  # characters of a text, and entries of a list
_NEEDS_TOKEN = "Open the address that esv-jax dashboard printed: it has the token.\n"
_FILES = ("/video/", "/frame/", "/assets/", "/_dash-component-suites/")
_EVERYTHING_ELSE = "/<path:path>"  # Dash would answer with the page
_CONNECTIONS = 64
_WAITING = 1024  # connections in the queue; the system may allow fewer
_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
_CODECS = ("h264", "vp8", "vp9", "av1", "libdav1d", "gif")  # that browsers decode
_STILL_SIZE = 160  # short side of a frame, in pixels
_POLICY = (  # own scripts and given inline ones, inline styles of Plotly
    "default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self'; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


# Requests


def protect(app: Dash, hosts: Sequence[str], token: str = "") -> None:
    """Refuse foreign hosts, unknown paths and methods; set the headers of every response.

    Args:
      app: the Dash application.
      hosts: host names beside `LOCAL`; one of `ANY_HOST` allows all.
      token: secret that the first address has to hold (`?token=...`) and a cookie holds from then
        on. "" for none.
    """
    flask = require("flask", "dashboard")
    exceptions = require("werkzeug.exceptions", "dashboard")
    app.server.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
    allowed = {*LOCAL, *(name.lower() for name in hosts)}
    open_to_all = bool(allowed & set(ANY_HOST))
    policy: list[str] = []
    cookie = f"esv_jax_{hashlib.sha256(token.encode()).hexdigest()[:8]}"  # browsers mix ports

    def check() -> Response | None:
        request = flask.request
        if not open_to_all and host_name(request.headers.get("Host", "")) not in allowed:
            flask.abort(403)
        is_update = request.path == UPDATE
        if request.method not in (("POST",) if is_update else ("GET", "HEAD")):
            flask.abort(405)
        if token and not _equal(request.cookies.get(cookie, ""), token):
            if is_update or not _equal(request.args.get("token", ""), token):
                return flask.Response(_NEEDS_TOKEN, 403, mimetype="text/plain")
            rest = [pair for pair in request.args.items(multi=True) if pair[0] != "token"]
            path = "/" + request.path.lstrip("/")  # "//" would begin another host's address
            answer = flask.redirect(path + ("?" + urlencode(rest) if rest else ""))
            answer.set_cookie(cookie, token, httponly=True, samesite="Strict")
            return answer
        if is_update and not request.is_json:
            flask.abort(415)
        try:
            body = request.get_json() if is_update else None
        except RecursionError:
            flask.abort(400)
        if is_update and not is_callback(body, app.callback_map):
            flask.abort(400)
        if request.url_rule is None or request.url_rule.rule == _EVERYTHING_ELSE:
            flask.abort(404)
        return None

    def failed(error: Exception) -> Exception:
        if isinstance(error, exceptions.HTTPException):
            return error
        if flask.request.path.startswith(_FILES):
            return exceptions.NotFound()  # an address without a file, such as one with NUL
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _LOG.error("esv-jax: the dashboard could not answer: %s", text)
        return exceptions.InternalServerError()

    def guard(response: Response) -> Response:
        if not policy:
            policy.append(_POLICY.format(scripts=" ".join(["'self'", *app.csp_hashes()])))
        response.headers["Content-Security-Policy"] = policy[0]
        response.headers.update(_HEADERS)
        return response

    app.server.before_request(check)
    app.server.after_request(guard)
    app.server.register_error_handler(Exception, failed)


def host_name(header: str) -> str:
    """The name in a Host header, without the port, in lower case."""
    name, colon, port = header.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else header.strip().lower()


def is_callback(body: object, callbacks: Mapping[str, Any]) -> bool:
    """Return whether the body of a request is a well-formed call of one of the page's callbacks.

    It has to name the callback's outputs, inputs and states in their order, with values that a
    control can have: text, numbers, and lists of these.
    """
    if not (isinstance(body, dict) and isinstance(body.get("output"), str)):
        return False
    callback = callbacks.get(body["output"], {})
    if "callback" not in callback:  # those without run in the browser
        return False
    outputs, changed = body.get("outputs"), body.get("changedPropIds")
    outputs = [outputs] if isinstance(outputs, dict) else outputs
    inputs, states = (_property_names(callback[part]) for part in ("inputs", "state"))
    return (
        _property_names(outputs) == body["output"].strip(".").split("...")
        and _property_names(body.get("inputs")) == inputs
        and _property_names(body.get("state", [])) == states
        and isinstance(changed, list)
        and all(isinstance(name, str) and name in (inputs or ()) for name in changed)
        and all(map(_has_value, [*body["inputs"], *body.get("state", [])]))
    )


def _equal(given: str, token: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode(), token.encode())


def _property_names(properties: object) -> list[str] | None:
    """Properties of components as "id.property"; None for anything malformed."""
    if not (isinstance(properties, list) and all(isinstance(each, dict) for each in properties)):
        return None
    pairs = [(each.get("id"), each.get("property")) for each in properties]
    if not all(isinstance(word, str) for pair in pairs for word in pair):
        return None
    return [f"{name}.{prop}" for name, prop in pairs]


def _has_value(each: Mapping[str, object]) -> bool:
    """Return whether a property has a value that its control can have; an address is text."""
    value = each.get("value")
    if each["property"] == "search":
        return value is None or (isinstance(value, str) and _is_single(value))
    if isinstance(value, list):
        return len(value) <= _LONGEST and all(map(_is_single, value))
    return _is_single(value)


def _is_single(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return value is None or (isinstance(value, int | float) and abs(value) < 2**53)


# Videos


class Clip(NamedTuple):
    """Presentation of one video.

    Attributes:
      address: of the file. frame_address: of single frames, before their numbers.
      kind: "video" or "image" if browsers play it, "frames" if not, "" for no video.
      fps: frames per second, or None if unknown. frames: number of frames, 0 if unknown.
      note: a limitation; "" for none.
    """

    address: str = ""
    frame_address: str = ""
    kind: str = ""
    fps: float | None = None
    frames: int = 0
    note: str = ""


class Media:
    """The videos that the server sends: `paths` of files, or of folders of images, by uid."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Number the files; addresses hold these numbers, never a path."""
        self.paths = dict(paths)
        self._numbers = {uid: k for k, uid in enumerate(self.paths)}
        self._files = dict(enumerate(self.paths.values()))
        self.clip = functools.lru_cache(maxsize=512)(self._clip)
        self._still = functools.lru_cache(maxsize=512)(_still)

    def _clip(self, uid: str) -> Clip:
        if uid not in self.paths:
            note = "No video of this name was given with --videos." if self.paths else ""
            return Clip(note=note or "Give the videos with --videos to see them here.")
        path, number = self.paths[uid], self._numbers[uid]
        stills = f"/frame/{number}/"
        try:
            info = data.probe_video(path)
        except (OSError, ValueError, ImportError) as error:
            return Clip(note=f"The video cannot be read: {error}")
        kind = _TYPES.get(path.suffix.lower(), "")
        if not kind or info.codec not in _CODECS:
            note = f"Browsers do not play {path.suffix or 'folders of images'} ({info.codec}): "
            return Clip("", stills, "frames", info.fps, info.frames, note + "frames are shown.")
        note = "" if info.fps else "The frame rate is unknown: bars cannot follow the video."
        if kind == "image/gif":
            note = "An animated image plays by itself: bars cannot follow it."
        shown = "image" if kind.startswith("image") else "video"
        return Clip(f"/video/{number}", stills, shown, info.fps, info.frames, note)

    def add_routes(self, server: Flask) -> None:
        """Serve `/video/<number>`, with ranges, and `/frame/<number>/<frame>`; others are 404."""
        flask = require("flask", "dashboard")

        def video(number: int) -> Response:
            path = self._files.get(number, Path())
            kind = _TYPES.get(path.suffix.lower())
            if kind is None or not path.is_file():
                return flask.abort(404)
            return flask.send_file(path.absolute(), mimetype=kind, conditional=True, max_age=60)

        def frame(number: int, index: int) -> Response:
            try:
                image = self._still(self._files[number], index)
            except (KeyError, OSError, ValueError, ImportError):
                return flask.abort(404)
            return flask.send_file(io.BytesIO(image), mimetype="image/jpeg", max_age=60)

        server.add_url_rule("/video/<int:number>", "video", video)
        server.add_url_rule("/frame/<int:number>/<int:index>", "frame", frame)


def _still(path: Path, index: int) -> bytes:
    """One frame as a JPEG; decodes the video up to it."""
    return data.images.jpeg_still(data.decode_frames(path, indices=[index], size=_STILL_SIZE)[0])


def inside_folders(files: Mapping[str, Path], given: Iterable[str | Path]) -> dict[str, Path]:
    """Files without those outside of the given folders, to which symbolic links lead."""
    folders = [Path(path).absolute() for path in given if Path(path).is_dir()]

    def stays(path: Path) -> bool:
        inside = [folder for folder in folders if path.absolute().is_relative_to(folder)]
        return not inside or any(path.resolve().is_relative_to(each.resolve()) for each in inside)

    return {uid: path for uid, path in files.items() if stays(path)}


# Connections


def serve(
    app: Dash,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve an application until interrupted, with at most 64 connections and without a log.

    Args:
      app: the result of `make_app`. host, port: the address to listen at.
      on_ready: called once connections are accepted.
    Raises:
      OSError: a port that is taken.
    """
    serving = require("werkzeug.serving", "dashboard")

    class Quiet(serving.WSGIRequestHandler):  # type: ignore[name-defined]
        protocol_version = "HTTP/1.1"  # keeps connections
        timeout = 30  # seconds that an idle connection has a thread

        def log(self, *_: object) -> None:
            """Log nothing."""

        def version_string(self) -> str:
            """A name without versions."""
            return "esv-jax"

    class Bounded(serving.ThreadedWSGIServer):  # type: ignore[name-defined]
        free = threading.BoundedSemaphore(_CONNECTIONS)

        def process_request(self, request: Request, address: object) -> None:
            """Start a thread, once fewer than the maximum are running."""
            self.free.acquire()
            try:
                super().process_request(request, address)
            except BaseException:
                self.free.release()
                raise

        def process_request_thread(self, request: Request, address: object) -> None:
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
