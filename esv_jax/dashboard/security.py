"""What the server refuses, and the headers of everything that it sends.

The dashboard reads one person's results on that person's machine. Other pages that are open in the
same browser must not read them: hence the check of the Host header, against names that are made to
point to this machine, and a policy that lets nothing in from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from esv_jax.extras import require

LOCAL = ("localhost", "127.0.0.1", "[::1]")
ANY_HOST = ("0.0.0.0", "::", "[::]")
MAX_REQUEST = 2**20  # bytes that a browser may send
UPDATE = "/_dash-update-component"
_EVERYTHING_ELSE = "/<path:path>"  # for which Dash would give the page, too


def protect(
    server: Any,
    hosts: Sequence[str],
    script_hashes: Callable[[], list[str]],
    questions: Callable[[], Container[str]],
) -> None:
    """Refuse foreign hosts, unknown paths and methods; put headers on every answer.

    Args:
      server: the Flask application.
      hosts: names under which it may be called beside `LOCAL`; one of `ANY_HOST` allows all.
      script_hashes: gives the hashes of the inline scripts of the page.
      questions: gives the outputs that the page may ask for.
    """
    flask = require("flask", "dashboard")
    server.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
    allowed = {*LOCAL, *(name.lower() for name in hosts)}
    open_to_all = bool(allowed & set(ANY_HOST))
    policy: list[str] = []

    def check() -> None:
        request = flask.request
        if not open_to_all and host_name(request.headers.get("Host", "")) not in allowed:
            flask.abort(403)
        is_update = request.path == UPDATE
        if request.method not in (("POST",) if is_update else ("GET", "HEAD")):
            flask.abort(405)
        if is_update and not request.is_json:
            flask.abort(415)
        if is_update and not is_question(request.get_json(silent=True), questions()):
            flask.abort(400)
        if request.url_rule is None or request.url_rule.rule == _EVERYTHING_ELSE:
            flask.abort(404)

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


def host_name(header: str) -> str:
    """The name in a Host header, without the port, in small letters."""
    name, colon, port = header.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else header.strip().lower()


def is_question(body: Any, outputs: Container[str]) -> bool:
    """Whether the body of a request has the form in which the page asks, for one of its outputs."""
    kinds: dict[str, Any]
    kinds = {"output": str, "outputs": (dict, list), "inputs": list, "changedPropIds": list}
    has_form = isinstance(body, dict) and all(
        isinstance(body.get(name), kind) for name, kind in kinds.items()
    )
    return has_form and body["output"] in outputs


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
