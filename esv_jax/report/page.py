"""The page itself: templates filled with cards, one script, and a policy that forbids the rest.

Templates escape whatever they are given; the values for the script stand in a block of JSON in
which no tag can end.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import quote

from esv_jax.extras import require
from esv_jax.report.cards import Card, as_json
from esv_jax.report.chart import Chart, draw, slots, told

_TOLD_APART = ("settings", "failures", "warnings", "title")  # attributes with a place of their own
_FAILURES = 200  # that are listed


class Entry(NamedTuple):
    """A card with what is drawn on it.

    Attributes:
      card: its numbers. anchor: of links to it.
      chart: of the class shown first, None where no values are stored.
      slots: elements with a label below the bars. pictures: theirs, or none.
      notes: of the card and of its pictures.
    """

    card: Card
    anchor: str
    chart: Chart | None
    slots: tuple[int, ...]
    pictures: tuple[str, ...]
    notes: tuple[str, ...]


class Head(NamedTuple):
    """Content above the gallery.

    Attributes:
      title: of the page. summary: lines "name: text". attributes: of the dataset.
      failures: reasons by uid.
      n_videos: in the results. n_matching: that meet the conditions. conditions: in words.
    """

    title: str
    summary: str
    attributes: Mapping[str, Any]
    failures: Mapping[str, str]
    n_videos: int
    n_matching: int
    conditions: str


def make_entry(card: Card, pictures: Sequence[str] = (), note: str = "") -> Entry:
    """A card with its chart; pictures are those of `slots(elements, pictures=True)`."""
    chart = draw(card.classes[card.shown], card.elements) if card.classes else None
    places = slots(card.elements, bool(pictures))
    notes = (*card.notes, note) if note else card.notes
    return Entry(card, anchor(card.uid), chart, tuple(places.tolist()), tuple(pictures), notes)


def anchor(uid: str) -> str:
    """The id of a card, which links to it: `page.html#video=clip-12`.

    Letters that an address cannot hold are percent-encoded, so that no uid is taken for another,
    nor for a part of the page.
    """
    return "video=" + quote(uid, safe="", errors="replace")


def render(head: Head, entries: Sequence[Entry]) -> str:
    """The page, complete."""
    jinja2, markupsafe = require("jinja2", "report"), require("markupsafe", "report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": told}
    script = _file("script.js")
    page = environment.get_template("page.html").render(
        head=head,
        policy=policy(script),
        style=markupsafe.Markup(_file("style.css")),
        script=markupsafe.Markup(script),
        values=markupsafe.Markup(json_block({"videos": [as_json(e.card) for e in entries]})),
        summary=[line.partition(":")[::2] for line in head.summary.splitlines()],
        provenance=_provenance(head.attributes),
        settings=_settings(head.attributes),
        warnings=json.loads(head.attributes.get("warnings", "[]")),
        failures=list(head.failures.items())[:_FAILURES],
        n_failures=len(head.failures),
        entries=entries,
    )
    return str(page)


def policy(script: str) -> str:
    """The Content-Security-Policy: no address but data:, no script but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def json_block(content: Any) -> str:
    """JSON that may stand in a script element: ASCII, without a letter that HTML could read."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _file(name: str) -> str:
    """A file of this subpackage, with line ends as a browser counts them for the script's hash."""
    text = resources.files("esv_jax.report").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _provenance(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Attributes in words, the empty ones left out."""
    told = {name: str(value) for name, value in attributes.items() if name not in _TOLD_APART}
    return [(name.replace("_", " "), text) for name, text in told.items() if text]


def _settings(attributes: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(attributes.get("settings", "{}")), indent=2, ensure_ascii=False)
