"""Results to one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from esv_jax import results as stored
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.report.cards import class_asked, make_card, select
from esv_jax.report.chart import slots
from esv_jax.report.page import Entry, Head, make_entry, render
from esv_jax.report.thumbnails import thumbnails, videos_by_uid
from esv_jax.results.tables import Browser, summary

LIMIT = 50


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
    limit: int = LIMIT,
    sort: str = "file",
    descending: bool = False,
    correct: bool | None = None,
    uids: Sequence[str] = (),
    shown: str = "pred",
    videos: str | os.PathLike[str] | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> Report:
    """Write a page about results: one file that opens offline and asks nothing of a network.

    Above: the summary, settings and provenance, warnings, failures with their reasons. Below: a
    card for each video, with bars of its ESVs for the class shown and for others to choose (the
    five of the highest scores, the predicted and the true one; also one minus another), 95 %
    intervals where values are sampled, and a table. Cards can be searched, sorted and linked to:
    `page.html#video=clip-12`. Everything from the results is escaped.

    Args:
      results: a folder of a sweep or of explanations, or a .nc file of theirs.
      path: the HTML file, in a folder that exists.
      limit: cards at most, >= 0.
      sort: "file", "uid", "evidence", "score", "gap" or "length". descending: the other way round.
      correct: whether predictions of the videos are right; None for all.
      uids: the videos, default all.
      shown: the class of the bars: "pred", "gt" or a name.
      videos: folder or list of videos, whose frames are shown where uids and frame numbers
        (`element_index`) are those of the results.
      title: heading; default the name of the results.
      overwrite: whether an existing file may be replaced.
    Raises:
      ImportError: an extra is missing (`report`, of videos `video`).
      ValueError: results that cannot be read, no such class, uid or sort.
      OSError: a path that is taken or cannot be written, videos that are not there.
    Cost: reads the values of the videos shown; some 9 kB a video of 16 elements, 110 kB of 300,
      and 3 kB each thumbnail.
    """
    require("jinja2", "report")
    with atomic_path(path, overwrite=overwrite) as temporary:
        with stored.open(results) as dataset:
            browser = Browser(dataset)
            class_asked(browser, shown)
            chosen, n_matching = select(
                browser,
                limit=limit,
                sort=sort,
                descending=descending,
                correct=correct,
                uids=uids,
            )
            files = None if videos is None else videos_by_uid(videos)
            entries = [_entry(browser, uid, shown, files) for uid in chosen]
            head = Head(
                title or f"Element Shapley Values: {_name(Path(results))}",
                summary(dataset),
                dataset.attrs,
                browser.failures,
                len(browser),
                n_matching,
                _conditions(correct, len(uids), sort, descending),
            )
        page = render(head, entries)
        temporary.write_text(page, encoding="utf-8", errors="replace")
    notes = {entry.card.uid: entry.notes for entry in entries if entry.notes}
    return Report(Path(path), len(entries), n_matching, len(head.failures), notes)


def _entry(browser: Browser, uid: str, shown: str, files: dict[str, Path] | None) -> Entry:
    card = make_card(browser, uid, shown)
    if files is None:
        return make_entry(card)
    if "element_index" not in browser.dataset:
        return make_entry(card, (), "No thumbnails: the results do not say which frames these are.")
    places = slots(card.elements, pictures=True)
    return make_entry(card, *thumbnails(files, uid, card.elements[places]))


def _name(path: Path) -> str:
    """Return the name of results: their folder, or the file without its suffix."""
    path = path.absolute()
    return path.parent.name if path.name == "results.nc" else path.name.removesuffix(".nc")


def _conditions(correct: bool | None, n_uids: int, sort: str, descending: bool) -> str:
    """`wrong predictions; sorted by gap, descending`."""
    parts = [] if correct is None else ["correct predictions" if correct else "wrong predictions"]
    parts += [f"{n_uids} named"] if n_uids else []
    order = "in the order of the file" if sort == "file" else f"sorted by {sort}"
    return "; ".join([*parts, order + (", descending" if descending else "")])
