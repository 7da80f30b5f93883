"""Results as one HTML file: cards in templates, one script, a policy that forbids all others.

The templates escape all text. The values for the script are in a block of JSON that cannot end
its element.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from esv_jax import results as stored
from esv_jax.checks import expect, expect_int, nearest
from esv_jax.data.video_files import find_videos
from esv_jax.display import number
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.report.cards import Json, class_number, make_card
from esv_jax.results.browser import Browser
from esv_jax.results.tables import summary

_SHOWN_ELSEWHERE = ("settings", "failures", "warnings", "title")  # attributes
_FAILURES = 200  # that are listed
_POLICY = (  # no address but data:, no script but that of this digest
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
)


class Report(NamedTuple):
    """Summary of a written report.

    Attributes:
      path: the file. n_shown: videos on the page. n_matching: that met the conditions.
      n_failed: videos that could not be explained, listed on the page.
      notes: by uid, what a card lacks.
    """

    path: Path
    n_shown: int
    n_matching: int
    n_failed: int
    notes: dict[str, tuple[str, ...]]


def write_report(
    results: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    limit: int = 50,
    sort: str = "file",
    descending: bool = False,
    correct: bool | None = None,
    uids: Sequence[str] = (),
    shown: str = "pred",
    videos: str | os.PathLike[str] | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> Report:
    """Write results as one HTML file that opens offline and makes no network requests.

    The page begins with the summary, settings, provenance, warnings and failures. Then follows a
    card per video with bars of the ESVs of one class, a menu of other classes (the five with the
    highest scores, the predicted and the true one; also one minus another), 95 % intervals of
    sampled values, and a table. Cards can be searched, sorted and linked to:
    `page.html#video=clip-12`. All text from the results is escaped.

    Args:
      results: a folder of a sweep or of explanations, or one of their .nc files.
      path: the HTML file, in a folder that exists.
      limit: largest number of cards, >= 0.
      sort: "file", "uid", "evidence", "score", "gap" or "length". descending: reverses it.
      correct: keeps videos that are predicted correctly (True) or wrongly (False); None for all.
      uids: the videos, default all.
      shown: the class shown first: "pred", "gt" or a name.
      videos: folder or list of videos, for thumbnails. Uids and frame numbers (`element_index`)
        are those of the results.
      title: heading; default the name of the results.
      overwrite: replaces an existing file.
    Raises:
      ImportError: an extra is missing (`report`, for thumbnails `video`).
      ValueError: results that cannot be read, no such class, uid or sort.
      OSError: a path that exists or cannot be written, videos that do not exist.
    Cost: reads the values of the videos shown. About 9 kB per video of 16 elements, 110 kB per
      video of 300, 3 kB per thumbnail.
    """
    jinja2 = require("jinja2", "report")
    with atomic_path(path, overwrite=overwrite) as temporary:
        with stored.open(results) as dataset:
            browser = Browser(dataset)
            class_number(browser, shown)  # refuses an unknown class
            limit = expect_int("limit", limit, minimum=0)
            for uid in uids:
                way_out = "" if uid in browser else nearest(uid, map(str, dataset["video"].values))
                expected = f"names of the {len(browser)} videos"
                expect(uid in browser, "uids", expected, repr(uid), way_out)
            found = browser.find(correct=correct, failed=False, sort=sort, descending=descending)
            found = [uid for uid in found if uid in uids] if uids else found
            files = None
            if videos is not None:
                require("PIL.Image", "video")
                require("av", "video")
                files = find_videos([Path(videos)])
            cards = [make_card(browser, uid, shown, files) for uid in found[:limit]]
            failures, attributes = browser.failures, dataset.attrs
            head = summary(dataset)
        environment = jinja2.Environment(
            loader=jinja2.FunctionLoader(_file),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"number": number}
        script = _file("script.js")
        digest = hashlib.sha256(script.encode()).digest()
        page = environment.get_template("page.html").render(
            title=title or f"Element Shapley Values: {_name(Path(results))}",
            policy=_POLICY.format(base64.b64encode(digest).decode("ascii")),
            style=_file("style.css"),
            script=script,
            values=json_block({"videos": [card.json() for card in cards]}),
            summary=[line.partition(":")[::2] for line in head.splitlines()],
            provenance=[
                (name.replace("_", " "), str(value))
                for name, value in attributes.items()
                if name not in _SHOWN_ELSEWHERE and str(value)
            ],
            settings=json.dumps(
                json.loads(attributes.get("settings", "{}")), indent=2, ensure_ascii=False
            ),
            warnings=json.loads(attributes.get("warnings", "[]")),
            failures=list(failures.items())[:_FAILURES],
            n_failures=len(failures),
            n_videos=len(browser),
            n_matching=len(found),
            conditions=_conditions(correct, len(uids), sort, descending),
            cards=cards,
        )
        temporary.write_text(page, encoding="utf-8", errors="replace")
    notes = {card.row.uid: card.notes for card in cards if card.notes}
    return Report(Path(path), len(cards), len(found), len(failures), notes)


def json_block(content: Json) -> str:
    """JSON that is safe in a script element: ASCII without <, > and &."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _file(name: str) -> str:
    """A file of this subpackage, with the line ends by which a browser hashes the script."""
    text = resources.files("esv_jax.report").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _name(path: Path) -> str:
    """The name of results: their folder, or the file without its suffix."""
    path = path.absolute()
    return path.parent.name if path.name == "results.nc" else path.name.removesuffix(".nc")


def _conditions(correct: bool | None, n_uids: int, sort: str, descending: bool) -> str:
    """`wrong predictions; sorted by gap, descending`."""
    parts = [] if correct is None else ["correct predictions" if correct else "wrong predictions"]
    parts += [f"{n_uids} named"] if n_uids else []
    order = "in the order of the file" if sort == "file" else f"sorted by {sort}"
    return "; ".join([*parts, order + (", descending" if descending else "")])
