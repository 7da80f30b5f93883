"""State of the page as a query string: any string gives a state."""

from __future__ import annotations

import dataclasses
from urllib.parse import parse_qsl, urlencode

from esv_jax.results.tables import SORTS

PAGES = ("video", "overview")
OUTCOMES = ("all", "correct", "wrong", "failed")
MAX_CLASSES = 8  # shown of one video
MAX_METHODS = 8  # beside its values
_MAX_QUERY, _MAX_TEXT, _MAX_CLASS = 8000, 500, 10**7


@dataclasses.dataclass(frozen=True)
class State:
    """One view of the results; the query string holds all of it.

    Attributes:
      page: one of `PAGES`.
      uid: the video looked at; "" for the first that the filters leave.
      frames: name of the results looked at, where there are several; "" for the first.
      classes: class numbers that are compared; () for the true and the predicted class.
      methods: names of other methods whose values are marked beside the bars.
      contrast: (a, b) for the values of class a minus those of b, or None.
      search: part of the uids that are listed. true, predicted: their class, or None.
      outcome: one of `OUTCOMES`. sort: one of `SORTS`. descending: whether the largest is first.
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
    """The state that a query string says; what it does not say, or says wrongly, is the default.

    Args:
      query: any text or None; of `format_query`, with or without "?", it gives the same state back.
    """
    text = (query or "").encode("utf-8", "replace").decode("utf-8").removeprefix("?")
    said = dict(parse_qsl(text if len(text) <= _MAX_QUERY else ""))
    a, b = _number(said.get("a", "")), _number(said.get("b", ""))
    return State(
        page=_one_of(PAGES, said.get("page", "")),
        uid=_text(said.get("uid", "")),
        frames=_text(said.get("frames", "")),
        classes=_numbers(said.get("classes", "")),
        methods=_names(said.get("methods", "")),
        contrast=None if a is None or b is None or a == b else (a, b),
        search=_text(said.get("search", "")),
        true=_number(said.get("true", "")),
        predicted=_number(said.get("predicted", "")),
        outcome=_one_of(OUTCOMES, said.get("outcome", "")),
        sort=_one_of(SORTS, said.get("sort", "")),
        descending=said.get("order") == "descending",
    )


def format_query(state: State) -> str:
    """The query string of a state, with "?"; "" for the default."""

    plain = {
        "page": state.page if state.page != PAGES[0] else "",
        "uid": state.uid,
        "frames": state.frames,
        "search": state.search,
        "outcome": state.outcome if state.outcome != OUTCOMES[0] else "",
        "sort": state.sort if state.sort != SORTS[0] else "",
    }
    said: dict[str, str | int] = {name: value for name, value in plain.items() if value}
    if state.classes:
        said["classes"] = ",".join(map(str, state.classes))
    if state.methods:
        said["methods"] = ",".join(state.methods)
    if state.contrast is not None:
        said["a"], said["b"] = state.contrast
    if state.true is not None:
        said["true"] = state.true
    if state.predicted is not None:
        said["predicted"] = state.predicted
    if state.descending:
        said["order"] = "descending"
    return f"?{urlencode(said, safe=',')}" if said else ""


def filters_of(state: State) -> dict[str, str | int | bool | None]:
    """The part of a state that says which videos are listed: arguments of `Browser.find`."""
    right = {"correct": True, "wrong": False}.get(state.outcome)
    return {
        "search": state.search,
        "true_class": state.true,
        "predicted_class": state.predicted,
        "correct": right,
        "failed": True if state.outcome == "failed" else None,
        "sort": state.sort,
        "descending": state.descending,
    }


def _one_of(choices: tuple[str, ...], text: str) -> str:
    return text if text in choices else choices[0]


def _text(text: str) -> str:
    """Text short enough for a name; what is longer names nothing."""
    return text if len(text) <= _MAX_TEXT else ""


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        return None
    return int(text) if int(text) < _MAX_CLASS else None


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [_number(part) for part in text.split(",")[:MAX_CLASSES]]
    return tuple(dict.fromkeys(number for number in numbers if number is not None))


def _names(text: str) -> tuple[str, ...]:
    """Names as results may hold them: identifiers."""
    names = _text(text).split(",")[:MAX_METHODS]
    return tuple(dict.fromkeys(name for name in names if name.isidentifier()))
