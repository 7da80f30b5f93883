"""Content of the card of one video: its numbers, and its values for a few classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from esv_jax.checks import expect, expect_int, message, nearest
from esv_jax.results.tables import Browser

TOP = 5  # classes of the highest scores that can be chosen on a card


class ClassValues(NamedTuple):
    """The values of one video for one class.

    Attributes:
      number, name: of the class. tags: "predicted", "true", both or none.
      score, prior: of the class, float32.
      esv: (n,) float32. std_error: (n,) float32, or None where there is none.
      half: (n,) half-widths of 95 % intervals, or None like `std_error`.
    """

    number: int
    name: str
    tags: tuple[str, ...]
    score: np.float32
    prior: np.float32
    esv: np.ndarray
    std_error: np.ndarray | None
    half: np.ndarray | None


class Card(NamedTuple):
    """One video of the gallery.

    Attributes:
      uid: its name. elements: (n,) indices of its elements in the original sequence.
      true, predicted: class names, "" where unknown. correct: None where not known.
      score, evidence: of the predicted class. gap: largest efficiency gap.
      exact: whether values are exact. n_evaluations: of the model.
      classes: by falling score. shown: place of the class that is shown first among them.
      notes: what a reader should know, a sentence each.
    """

    uid: str
    elements: np.ndarray
    true: str
    predicted: str
    correct: bool | None
    score: float
    evidence: float
    gap: float
    exact: bool
    n_evaluations: int
    classes: tuple[ClassValues, ...]
    shown: int
    notes: tuple[str, ...] = ()


def select(
    browser: Browser,
    *,
    limit: int,
    sort: str,
    descending: bool,
    correct: bool | None,
    uids: Sequence[str],
) -> tuple[list[str], int]:
    """Uids of the explained videos that are asked for, at most `limit`; and how many there were.

    Raises:
      ValueError: a uid that is not there, a negative limit, another sort.
    """
    limit = expect_int("limit", limit, minimum=0)
    names = [str(uid) for uid in browser.dataset["video"].values] if uids else []
    for uid in uids:
        way_out = "" if uid in browser else nearest(uid, names)
        expect(uid in browser, "uids", f"names of the {len(browser)} videos", repr(uid), way_out)
    found = browser.find(correct=correct, failed=False, sort=sort, descending=descending)
    if uids:
        asked = set(uids)
        found = [uid for uid in found if uid in asked]
    return found[:limit], len(found)


def class_asked(browser: Browser, shown: str) -> int | None:
    """Number of a class asked for by name; None for "pred" and "gt", which differ by video.

    Raises:
      ValueError: no such class.
    """
    if shown in ("pred", "gt"):
        return None
    if shown not in browser.class_names:
        way_out = nearest(shown, browser.class_names)
        raise ValueError(message("class", "pred, gt or the name of a class", repr(shown), way_out))
    return browser.class_names.index(shown)


def make_card(browser: Browser, uid: str, shown: str = "pred") -> Card:
    """The card of one explained video; reads its values.

    Args:
      browser: of the results. uid: of a video that did not fail.
      shown: "pred", "gt" or the name of a class: which is shown first. Where it has no values the
        predicted class takes its place, or the stored one of the highest score, and a note says so.
    Raises:
      ValueError: no such video or class, one that failed.
    """
    row, attribution = browser.row(uid), browser.attribution(uid)
    by_name = class_asked(browser, shown)
    asked = {"pred": row.prediction, "gt": row.label}.get(shown, by_name)
    place: dict[int, int] = {}  # of a class along the last axis of the values
    for k, number in enumerate(browser.classes_of(uid)):
        if number >= 0:
            place.setdefault(number, k)
    scores, priors = np.asarray(attribution.scores), np.asarray(attribution.prior)
    ranked = sorted(place, key=lambda number: (-scores[place[number]], number))
    kept = {*ranked[:TOP], row.prediction, row.label, asked}
    values = np.asarray(attribution.values)
    sampled = attribution.std_error is not None
    errors = np.asarray(attribution.std_error) if sampled else None
    half = np.asarray(attribution.half_width(0.95)) if sampled else None
    classes = tuple(
        ClassValues(
            number,
            browser.class_names[number],
            _tags(number, row.prediction, row.label),
            scores[place[number]],
            priors[place[number]],
            values[:, place[number]],
            None if errors is None else errors[:, place[number]],
            None if half is None else half[:, place[number]],
        )
        for number in ranked
        if number in kept
    )
    numbers = [c.number for c in classes]
    first = next((numbers.index(c) for c in (asked, row.prediction) if c in numbers), 0)
    return Card(
        uid=uid,
        elements=browser.element_index(uid),
        true=browser.class_names[row.label] if row.label >= 0 else "",
        predicted=browser.class_names[row.prediction] if row.prediction >= 0 else "",
        correct=row.correct,
        score=row.score,
        evidence=row.evidence,
        gap=row.gap,
        exact=row.exact,
        n_evaluations=int(attribution.n_evaluations),
        classes=classes,
        shown=first,
        notes=() if asked in numbers else (_not_stored(shown, asked, bool(numbers)),),
    )


def as_json(card: Card) -> dict[str, Any]:
    """A card for the script of the page; float32 in their shortest form, which reads back alike."""
    return {
        "uid": card.uid,
        "true": card.true,
        "predicted": card.predicted,
        "correct": card.correct,
        "score": _finite(card.score),
        "evidence": _finite(card.evidence),
        "gap": _finite(card.gap),
        "elements": [int(index) for index in card.elements],
        "shown": card.shown,
        "place": {tag: _place(card, tag) for tag in ("predicted", "true")},
        "classes": [
            {
                "class": c.number,
                "name": c.name,
                "score": _shortest(c.score),
                "prior": _shortest(c.prior),
                "esv": [_shortest(value) for value in c.esv],
                "std_error": None if c.std_error is None else [_shortest(e) for e in c.std_error],
            }
            for c in card.classes
        ],
    }


def _place(card: Card, tag: str) -> int | None:
    """Return the index of the predicted or true class among a card's classes, or None."""
    return next((k for k, c in enumerate(card.classes) if tag in c.tags), None)


def _tags(number: int, prediction: int, label: int) -> tuple[str, ...]:
    return ("predicted",) * (number == prediction) + ("true",) * (number == label)


def _not_stored(shown: str, asked: int | None, others: bool) -> str:
    if shown == "gt" and asked == -1:
        return "The true class is not known." + (" Another is shown." if others else "")
    what = {"pred": "the predicted class", "gt": "the true class"}.get(shown, f"{shown!r}")
    return f"No values of {what} are stored." + (" Another class is shown." if others else "")


def _shortest(value: Any) -> float | None:
    """The shortest number that reads back as the float32; None where it is not finite."""
    return float(str(np.float32(value))) if np.isfinite(value) else None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
