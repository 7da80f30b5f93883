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

Flask: TypeAlias = Any  # types of libraries that are imported when they are needed
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


# Requests


def protect(
    server: Flask,
    hosts: Sequence[str],
    script_hashes: Callable[[], list[str]],
    callbacks: Callable[[], Mapping[str, Any]],
    token: str = "",
) -> None:
    """Refuse foreign hosts, unknown paths and methods; set the headers of every response.

    Args:
      server: the Flask application.
      hosts: host names beside `LOCAL`; one of `ANY_HOST` allows all.
      script_hashes: returns the hashes of the inline scripts of the page.
      callbacks: returns the callbacks of the page by their output, as Dash keeps them.
      token: secret that the first address has to hold (`?token=...`) and a cookie holds from then
        on. "" for none.
    """
    flask = require("flask", "dashboard")
    exceptions = require("werkzeug.exceptions", "dashboard")
    server.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
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
        if is_update and not is_callback(_json(request), callbacks()):
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
            policy.append(content_policy(script_hashes()))
        response.headers["Content-Security-Policy"] = policy[0]
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    server.before_request(check)
    server.after_request(guard)
    server.register_error_handler(Exception, failed)


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
    callback = callbacks.get(body["output"])
    if callback is None or "callback" not in callback:  # those without run in the browser
        return False
    outputs = body.get("outputs")
    outputs = [outputs] if isinstance(outputs, dict) else outputs
    changed = body.get("changedPropIds")
    inputs, states = (_property_names(callback[part]) for part in ("inputs", "state"))
    return (
        _property_names(outputs) == body["output"].strip(".").split("...")
        and _property_names(body.get("inputs")) == inputs
        and _property_names(body.get("state", [])) == states
        and isinstance(changed, list)
        and all(isinstance(name, str) and name in (inputs or ()) for name in changed)
        and all(map(_has_value, [*body["inputs"], *body.get("state", [])]))
    )


def content_policy(script_hashes: Sequence[str]) -> str:
    """The Content-Security-Policy: own scripts and these inline ones, inline styles of Plotly."""
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *script_hashes]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "media-src": "'self'",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "object-src": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _equal(given: str, token: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode(), token.encode())


def _json(request: Request) -> object:
    """The body of a request; None if it is not JSON, or nested too deeply."""
    try:
        return request.get_json(silent=True)
    except RecursionError:
        return None


def _property_names(properties: object) -> list[str] | None:
    """Properties of components as "id.property"; None for anything malformed."""
    if not isinstance(properties, list):
        return None
    names = []
    for each in properties:
        if not isinstance(each, dict):
            return None
        name, prop = each.get("id"), each.get("property")
        if not (isinstance(name, str) and isinstance(prop, str)):
            return None
        names.append(f"{name}.{prop}")
    return names


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
    """The videos that the server sends, by their number in a list made at the start.

    Attributes:
      paths: files, or folders of images, by uid.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Number the files; addresses hold these numbers, never a path."""
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
        note = "" if info.fps else "The frame rate is unknown: bars cannot follow the video."
        if kind == "image/gif":
            note = "An animated image plays by itself: bars cannot follow it."
        shown = "image" if kind.startswith("image") else "video"
        return Clip(f"/video/{token}", stills, shown, info.fps, info.frames, note)

    def add_routes(self, server: Flask) -> None:
        """Serve `/video/<number>`, with ranges, and `/frame/<number>/<frame>`; others are 404."""
        flask = require("flask", "dashboard")

        def video(token: str) -> Response:
            path = self._by_token.get(token)
            kind = None if path is None else _TYPES.get(path.suffix.lower())
            if path is None or kind is None or not path.is_file():
                return flask.abort(404)
            return flask.send_file(path.absolute(), mimetype=kind, conditional=True, max_age=60)

        def frame(token: str, index: int) -> Response:
            path = self._by_token.get(token)
            try:
                image = None if path is None else self._still(path, index)
            except (OSError, ValueError, ImportError):
                image = None
            if image is None:
                return flask.abort(404)
            return flask.send_file(io.BytesIO(image), mimetype="image/jpeg", max_age=60)

        def missing(token: str) -> Response:
            flask.abort(404)

        server.add_url_rule("/video/<path:token>", "video", video)
        server.add_url_rule("/frame/<token>/<int:index>", "frame", frame)
        server.add_url_rule("/frame/<path:token>", "no_frame", missing)


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
    app: Any,
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
