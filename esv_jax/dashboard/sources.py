"""The results that are looked at: opened once, values read when a video is looked at."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esv_jax import results
from esv_jax.attribution import Attribution
from esv_jax.checks import expect
from esv_jax.dashboard.state import State, filters_of
from esv_jax.results.layout import reading
from esv_jax.results.sequences import is_results
from esv_jax.results.tables import Browser

_KEPT_VIDEOS, _KEPT_LISTS = 256, 32


class Explained(NamedTuple):
    """One video and its values.

    Attributes:
      attribution: the stored record. classes: class numbers behind its last axis.
      frames: (n,) index of each element in the original sequence.
      scores, prior: (C,) of all classes, also where values are kept of some.
      methods: values (n, C) of other methods by name, where the results hold any.
    """

    attribution: Attribution
    classes: tuple[int, ...]
    frames: np.ndarray
    scores: np.ndarray
    prior: np.ndarray
    methods: dict[str, np.ndarray]

    def column(self, c: int) -> int | None:
        """Return the index of a class among the stored values, or None if it is not stored."""
        return self.classes.index(c) if c in self.classes else None


class Source:
    """One file or folder of results.

    Attributes:
      browser: its videos. label: how it is called. title: where it came from.
      is_first: whether it is the one to begin with.
    """

    def __init__(self, browser: Browser, label: str, title: str, is_first: bool = True) -> None:
        """Wrap what is open; reads nothing."""
        self.browser, self.label, self.title, self.is_first = browser, label, title, is_first
        self._reading = threading.Lock()  # one dataset, many threads of the server
        self._lists = functools.lru_cache(maxsize=_KEPT_LISTS)(self._find)
        self._videos = functools.lru_cache(maxsize=_KEPT_VIDEOS)(self._explained)

    def matches(self, state: State) -> list[str]:
        """Uids that the filters of a state leave, sorted."""
        return self._lists(tuple(filters_of(state).items()))

    def explained(self, uid: str) -> Explained:
        """One video's values.

        Raises:
          ValueError: no such video, or one that could not be explained.
          OSError: values that are damaged.
        """
        with self._reading:
            return self._videos(uid)

    def read(self, name: str, rows: slice) -> np.ndarray:
        """Stored values of some videos, one after the other in the file."""
        with self._reading, reading(self.browser.dataset):
            return self.browser.dataset[name].isel(video=rows).values

    def class_name(self, c: int) -> str:
        """The name of a class; "unknown" for -1."""
        names = self.browser.class_names
        return names[c] if 0 <= c < len(names) else "unknown"

    def _find(self, filters: tuple[tuple[str, Any], ...]) -> list[str]:
        return self.browser.find(**dict(filters))

    def _explained(self, uid: str) -> Explained:
        browser = self.browser
        attribution = browser.attribution(uid)
        dataset = browser.dataset
        video = dataset.isel(video=dataset.indexes["video"].get_loc(uid))
        return Explained(
            attribution=attribution,
            classes=browser.classes_of(uid),
            frames=np.asarray(browser.element_index(uid)),
            scores=video["scores"].values,
            prior=video["prior"].values,
            methods=browser.method_values(uid),
        )


def open_sources(given: Any) -> tuple[Source, ...]:
    """Results to look at, fewest elements first; those given first are the ones to begin with.

    Args:
      given: a path of results, a `Browser`, or several of these. Of a folder also the
        results in its folders, e.g. those of other numbers of frames.
    Raises:
      ValueError: nothing given, or what `results.open` refuses.
    """
    single = isinstance(given, str | os.PathLike | Browser)
    several: Sequence[Any] = [given] if single else list(given)
    expect(len(several) > 0, "results", "at least one file or folder", "none")
    several = [inner for item in several for inner in _within(item)]
    opened = []
    for item in several:
        is_open = isinstance(item, Browser)
        browser = item if is_open else Browser(results.open(item))
        opened.append((browser, "results" if is_open else str(Path(item))))
    first = opened[0][0]
    opened.sort(key=lambda pair: pair[0].dataset.sizes["element"])
    labels: list[str] = []
    for browser, _ in opened:
        label = _label(browser)
        again = sum(other.split(" ")[0] == label for other in labels)
        labels.append(f"{label} ({again + 1})" if again else label)
    pairs = zip(opened, labels, strict=True)
    return tuple(
        Source(browser, label, title, browser is first) for (browser, title), label in pairs
    )


def _within(item: Any) -> list[Any]:
    """List the results to open for one input: a folder's own and those of its subfolders."""
    if isinstance(item, Browser) or not Path(item).is_dir():
        return [item]
    folders = [Path(item), *sorted(path for path in Path(item).iterdir() if path.is_dir())]
    return [folder for folder in folders if is_results(folder)] or [item]


def pick(sources: Sequence[Source], state: State) -> Source:
    """The results that a state names, or those to begin with."""
    first = next(source for source in sources if source.is_first)
    return next((source for source in sources if source.label == state.frames), first)


def _label(browser: Browser) -> str:
    """The number of elements: as asked for, or of the longest video."""
    settings = json.loads(browser.dataset.attrs.get("settings", "{}"))
    asked = settings.get("frames") if isinstance(settings, dict) else None
    return "all" if asked == "all" else str(browser.dataset.sizes["element"])
