"""Requests that the server refuses, and the headers of its responses.

The dashboard reads one person's results on that person's machine. Other pages that are open in the
same browser must not read them: hence the check of the Host header, against names that are made to
point to this machine, and a policy that lets nothing in from elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from esv_jax.extras import require

_LOG = logging.getLogger(__name__)

LOCAL = ("localhost", "127.0.0.1", "[::1]")
ANY_HOST = ("0.0.0.0", "::", "[::]")
MAX_REQUEST = 2**20  # bytes that a browser may send
UPDATE = "/_dash-update-component"
_LONGEST = 10_000  # characters of a text, and entries of a list
_NEEDS_TOKEN = "Open the address that esv-jax dashboard printed: it has the token.\n"
_FILES = ("/video/", "/frame/", "/assets/", "/_dash-component-suites/")
_EVERYTHING_ELSE = "/<path:path>"  # for which Dash would give the page, too


def protect(
    server: Any,
    hosts: Sequence[str],
    script_hashes: Callable[[], list[str]],
    callbacks: Callable[[], Mapping[str, Any]],
    token: str = "",
) -> None:
    """Refuse foreign hosts, unknown paths and methods; put headers on every answer.

    Args:
      server: the Flask application.
      hosts: names under which it may be called beside `LOCAL`; one of `ANY_HOST` allows all.
      script_hashes: gives the hashes of the inline scripts of the page.
      callbacks: gives the callbacks of the page by their output, as Dash keeps them.
      token: secret that the first address has to hold (`?token=...`); a cookie has it from then
        on. "" for none.
    """
    flask = require("flask", "dashboard")
    exceptions = require("werkzeug.exceptions", "dashboard")
    server.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
    allowed = {*LOCAL, *(name.lower() for name in hosts)}
    open_to_all = bool(allowed & set(ANY_HOST))
    policy: list[str] = []
    cookie = f"esv_jax_{hashlib.sha256(token.encode()).hexdigest()[:8]}"  # browsers mix ports

    def check() -> Any:
        request = flask.request
        if not open_to_all and host_name(request.headers.get("Host", "")) not in allowed:
            flask.abort(403)
        is_update = request.path == UPDATE
        if request.method not in (("POST",) if is_update else ("GET", "HEAD")):
            flask.abort(405)
        if token and not is_same(request.cookies.get(cookie, ""), token):
            if is_update or not is_same(request.args.get("token", ""), token):
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

    def failed(error: Exception) -> Any:
        if isinstance(error, exceptions.HTTPException):
            return error
        if flask.request.path.startswith(_FILES):
            return exceptions.NotFound()  # an address that names no file, such as one with NUL
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _LOG.error("esv-jax: the dashboard could not answer: %s", text)
        return exceptions.InternalServerError()

    def guard(response: Any) -> Any:
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
    """The name in a Host header, without the port, in small letters."""
    name, colon, port = header.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else header.strip().lower()


def is_same(given: str, token: str) -> bool:
    """Return whether two secrets are equal, in constant time."""
    return hmac.compare_digest(given.encode(), token.encode())


def _json(request: Any) -> Any:
    """The body of a request; None where it is no JSON, or nested too deeply to be read."""
    try:
        return request.get_json(silent=True)
    except RecursionError:
        return None


def is_callback(body: Any, callbacks: Mapping[str, Any]) -> bool:
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
    names = _names(outputs)
    spelled = body["output"].strip(".").split("...")
    inputs, states = (_names(callback[part]) for part in ("inputs", "state"))
    return (
        names == spelled
        and _names(body.get("inputs")) == inputs
        and _names(body.get("state", [])) == states
        and isinstance(changed, list)
        and all(isinstance(name, str) and name in (inputs or ()) for name in changed)
        and all(map(_has_value, [*body["inputs"], *body.get("state", [])]))
    )


def _has_value(place: dict[str, Any]) -> bool:
    """Return whether a property has a value that its control can have; an address is text."""
    value = place.get("value")
    is_address = place["property"] == "search"
    return _is_value(value) and (not is_address or value is None or isinstance(value, str))


def _names(places: Any) -> list[str] | None:
    """Components and their properties as "id.property"; None for anything malformed."""
    if not isinstance(places, list):
        return None
    names = []
    for place in places:
        if not isinstance(place, dict):
            return None
        name, prop = place.get("id"), place.get("property")
        if not (isinstance(name, str) and isinstance(prop, str)):
            return None
        names.append(f"{name}.{prop}")
    return names


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= _LONGEST and all(map(_is_single, value))
    return _is_single(value)


def _is_single(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return value is None or (isinstance(value, int | float) and abs(value) < 2**53)


def content_policy(script_hashes: Sequence[str]) -> str:
    """Own scripts and those inline ones; styles inline, as Plotly writes them; nothing foreign."""
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
