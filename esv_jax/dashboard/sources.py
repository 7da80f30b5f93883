"""Results behind a page: the state of a page as a query string, values read on demand."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlencode

import numpy as np

from esv_jax import results
from esv_jax.attribution import Attribution
from esv_jax.checks import expect
from esv_jax.results.browser import SORTS, Browser
from esv_jax.results.layout import reading
from esv_jax.results.sequences import is_results

PAGES = ("video", "overview")
OUTCOMES = ("all", "correct", "wrong", "failed")
MAX_CLASSES = 8  # of one video
MAX_METHODS = 8  # beside its values
_MAX_QUERY, _MAX_TEXT, _MAX_CLASS = 8000, 500, 10**7
_KEPT_VIDEOS, _KEPT_LISTS = 256, 32

Results: TypeAlias = str | os.PathLike[str] | Browser


# State


@dataclasses.dataclass(frozen=True)
class State:
    """One view of the results.

    Attributes:
      page: one of `PAGES`.
      uid: the video shown; "" for the first in the list.
      frames: label of the results shown; "" for the first.
      classes: class numbers that are compared; () for the true and the predicted class.
      methods: other methods whose values are marked beside the bars.
      contrast: (a, b) for the values of class a minus those of b, or None.
      search: part of the uids in the list. true, predicted: class numbers of the list, or None.
      outcome: one of `OUTCOMES`. sort: one of `SORTS`. descending: order of the list.
    """

    page: str = "video"
    uid: str = ""
    frames: str = ""
    classes: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    contrast: tuple[int, int] | None = None
    search: str = ""
    true: int | None = None
    predicted: int | None = None
    outcome: str = "all"
    sort: str = "file"
    descending: bool = False


def parse(query: str | None) -> State:
    """The state of a query string; missing or malformed parts are the default.

    Args:
      query: any text or None; `parse(format_query(state)) == state`, with or without "?".
    """
    text = (query or "").encode("utf-8", "replace").decode("utf-8").removeprefix("?")
    parts = dict(parse_qsl(text if len(text) <= _MAX_QUERY else ""))

    def given(name: str) -> str:
        return parts.get(name, "")

    a, b = _number(given("a")), _number(given("b"))
    numbers = [_number(part) for part in given("classes").split(",")[:MAX_CLASSES]]
    names = _text(given("methods")).split(",")[:MAX_METHODS]
    return State(
        page=_one_of(PAGES, given("page")),
        uid=_text(given("uid")),
        frames=_text(given("frames")),
        classes=tuple(dict.fromkeys(number for number in numbers if number is not None)),
        methods=tuple(dict.fromkeys(name for name in names if name.isidentifier())),
        contrast=None if a is None or b is None or a == b else (a, b),
        search=_text(given("search")),
        true=_number(given("true")),
        predicted=_number(given("predicted")),
        outcome=_one_of(OUTCOMES, given("outcome")),
        sort=_one_of(SORTS, given("sort")),
        descending=given("order") == "descending",
    )


def format_query(state: State) -> str:
    """The query string of a state, with "?"; "" for the default."""
    a, b = state.contrast or (None, None)
    parts = {
        "page": state.page if state.page != PAGES[0] else None,
        "uid": state.uid or None,
        "frames": state.frames or None,
        "search": state.search or None,
        "outcome": state.outcome if state.outcome != OUTCOMES[0] else None,
        "sort": state.sort if state.sort != SORTS[0] else None,
        "classes": ",".join(map(str, state.classes)) or None,
        "methods": ",".join(state.methods) or None,
        "a": a,
        "b": b,
        "true": state.true,
        "predicted": state.predicted,
        "order": "descending" if state.descending else None,
    }
    given = {name: value for name, value in parts.items() if value is not None}
    return f"?{urlencode(given, safe=',')}" if given else ""


def _one_of(choices: tuple[str, ...], text: str) -> str:
    return text if text in choices else choices[0]


def _text(text: str) -> str:
    """A name; longer text is ignored."""
    return text if len(text) <= _MAX_TEXT else ""


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        return None
    return int(text) if int(text) < _MAX_CLASS else None


# Results


class Explained(NamedTuple):
    """One video and its values.

    Attributes:
      attribution: the stored record. classes: class numbers along its last axis.
      frames: (n,) index of each element in the original sequence.
      scores, prior: (C,) of all classes, even if values of only some are stored.
      methods: values (n, C) of other methods by name.
    """

    attribution: Attribution
    classes: tuple[int, ...]
    frames: np.ndarray
    scores: np.ndarray
    prior: np.ndarray
    methods: dict[str, np.ndarray]


class Source:
    """One file or folder of results.

    Attributes:
      browser: its videos. label: its number of frames. title: its path.
      is_first: marks the results shown first.
    """

    def __init__(self, browser: Browser, label: str, title: str, is_first: bool = True) -> None:
        """Wrap open results; reads nothing."""
        self.browser, self.label, self.title, self.is_first = browser, label, title, is_first
        self._reading = threading.Lock()  # one dataset, many threads of the server
        self._lists = functools.lru_cache(maxsize=_KEPT_LISTS)(browser.find)
        self._videos = functools.lru_cache(maxsize=_KEPT_VIDEOS)(self._explained)

    def matches(self, state: State) -> list[str]:
        """Uids of the list of a state, sorted."""
        return self._lists(
            search=state.search,
            true_class=state.true,
            predicted_class=state.predicted,
            correct={"correct": True, "wrong": False}.get(state.outcome),
            failed=True if state.outcome == "failed" else None,
            sort=state.sort,
            descending=state.descending,
        )

    def explained(self, uid: str) -> Explained:
        """The values of one video.

        Raises:
          ValueError: no such video, or one that could not be explained.
          OSError: damaged values.
        """
        with self._reading:
            return self._videos(uid)

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Stored values of videos that follow each other in the file."""
        with self._reading, reading(self.browser.dataset):
            return self.browser.dataset[name].isel(video=rows).values

    def class_name(self, c: int) -> str:
        """The name of a class; "unknown" for -1."""
        names = self.browser.class_names
        return names[c] if 0 <= c < len(names) else "unknown"

    def _explained(self, uid: str) -> Explained:
        browser, dataset = self.browser, self.browser.dataset
        video = dataset.isel(video=dataset.indexes["video"].get_loc(uid))
        return Explained(
            attribution=browser.attribution(uid),
            classes=browser.classes_of(uid),
            frames=np.asarray(browser.element_index(uid)),
            scores=video["scores"].values,
            prior=video["prior"].values,
            methods=browser.method_values(uid),
        )


def open_sources(given: Results | Iterable[Results]) -> tuple[Source, ...]:
    """Open results, sorted by their number of elements; those given first are shown first.

    Args:
      given: a path of results, a `Browser`, or several of these. A folder includes the results in
        its folders, e.g. with other numbers of frames.
    Raises:
      ValueError: nothing given, or what `results.open` refuses.
    """
    several = [given] if isinstance(given, str | os.PathLike | Browser) else list(given)
    expect(len(several) > 0, "results", "at least one file or folder", "none")
    opened = [
        (item, "results")
        if isinstance(item, Browser)
        else (Browser(results.open(item)), str(Path(item)))
        for outer in several
        for item in _within(outer)
    ]
    first = opened[0][0]
    opened.sort(key=lambda pair: pair[0].dataset.sizes["element"])
    sources: list[Source] = []
    for browser, title in opened:
        label = _label(browser)
        again = sum(source.label.split(" ")[0] == label for source in sources)
        label = f"{label} ({again + 1})" if again else label
        sources.append(Source(browser, label, title, browser is first))
    return tuple(sources)


def pick(sources: Sequence[Source], state: State) -> Source:
    """The results of a state, or the first."""
    first = next(source for source in sources if source.is_first)
    return next((source for source in sources if source.label == state.frames), first)


def _within(item: Results) -> Sequence[Results]:
    """Results to open for one input: a folder's own and those of its subfolders."""
    if isinstance(item, Browser) or not Path(item).is_dir():
        return [item]
    folders = [Path(item), *sorted(path for path in Path(item).iterdir() if path.is_dir())]
    return [folder for folder in folders if is_results(folder)] or [item]


def _label(browser: Browser) -> str:
    """The number of elements: as set for the sweep, or of the longest video."""
    settings = json.loads(browser.dataset.attrs.get("settings", "{}"))
    frames = settings.get("frames") if isinstance(settings, dict) else None
    return "all" if frames == "all" else str(browser.dataset.sizes["element"])
