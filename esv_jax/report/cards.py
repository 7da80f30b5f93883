"""Content of the card of one video: its numbers, its values for a few classes, its frames."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

import numpy as np

from esv_jax import data
from esv_jax.checks import message, nearest
from esv_jax.display import MOST_BARS, element_text, label_steps
from esv_jax.results.browser import Browser, VideoRow
from esv_jax.svg import BarPaths, bar_paths, bars_svg

TOP = 5  # classes with the highest scores that can be chosen on a card
THUMBNAIL_HEIGHT = 96  # pixels
_QUALITY = 80  # of JPEG
_LABELS, _FEW_LABELS = 16, 8  # below the bars at most, if short and if long

Json: TypeAlias = "str | float | bool | Sequence[Json] | Mapping[str, Json] | None"


class ClassValues(NamedTuple):
    """The values of one video for one class.

    Attributes:
      number, name: of the class. tags: "predicted", "true", both or none.
      score, prior: of the class, float32.
      esv: (n,) float32. std_error, half: (n,) float32 standard errors and half-widths of 95 %
        intervals; None for exact values.
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
      row: its numbers. elements: (n,) indices of its elements in the original sequence.
      true, predicted: class names, "" if unknown. n_evaluations: of the model.
      classes: by falling score. shown: index among them of the class shown first.
      labelled: elements with a label below the bars. pictures: of these, `data:` addresses.
      notes: sentences about what is missing.
    """

    row: VideoRow
    elements: np.ndarray
    true: str
    predicted: str
    n_evaluations: int
    classes: tuple[ClassValues, ...]
    shown: int
    labelled: tuple[int, ...]
    pictures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The id of the card in links: `page.html#video=clip-12`.

        Percent-encoding keeps it distinct from all other uids and ids of the page.
        """
        return "video=" + quote(self.row.uid, safe="", errors="replace")

    @property
    def paths(self) -> BarPaths:
        """Bars of the class shown first."""
        return bar_paths(self.classes[self.shown].esv, self.classes[self.shown].half)

    def svg(self) -> str:
        """The SVG of the bars."""
        texts = element_texts(self.elements, self.classes[self.shown])
        label = f"ESVs of {len(texts)} frames; arrow keys go from frame to frame"
        return bars_svg(self.paths, texts, label, focus=True)

    def json(self) -> Json:
        """The card for the page's script; float32 in the shortest form that reads back equal."""
        row = self.row
        return {
            "uid": row.uid,
            "true": self.true,
            "predicted": self.predicted,
            "correct": row.correct,
            "score": _shortest(row.score, np.float64),
            "evidence": _shortest(row.evidence, np.float64),
            "gap": _shortest(row.gap, np.float64),
            "elements": self.elements.tolist(),
            "shown": self.shown,
            "place": {
                tag: next((k for k, c in enumerate(self.classes) if tag in c.tags), None)
                for tag in ("predicted", "true")
            },
            "classes": [
                {
                    "class": c.number,
                    "name": c.name,
                    "score": _shortest(c.score),
                    "prior": _shortest(c.prior),
                    "esv": [*map(_shortest, c.esv)],
                    "std_error": None if c.std_error is None else [*map(_shortest, c.std_error)],
                }
                for c in self.classes
            ],
        }


def _shortest(value: float | np.float32, dtype: type[np.floating] = np.float32) -> float | None:
    """The shortest number that reads back as `dtype`; None if it is not finite."""
    return float(str(dtype(value))) if np.isfinite(value) else None


def element_texts(elements: np.ndarray, values: ClassValues) -> list[str]:
    """Descriptions of the elements (n,) with their values for one class."""
    halves = [None] * len(elements) if values.half is None else values.half.tolist()
    return [*map(element_text, elements.tolist(), values.esv.tolist(), halves)]


def class_number(browser: Browser, shown: str) -> int | None:
    """Number of a class by name; None for "pred" and "gt", which differ by video.

    Raises:
      ValueError: no such class.
    """
    if shown in ("pred", "gt"):
        return None
    if shown not in browser.class_names:
        way_out = nearest(shown, browser.class_names)
        raise ValueError(message("class", "pred, gt or the name of a class", repr(shown), way_out))
    return browser.class_names.index(shown)


def make_card(
    browser: Browser, uid: str, shown: str = "pred", videos: Mapping[str, Path] | None = None
) -> Card:
    """The card of one explained video; reads its values.

    Args:
      browser: of the results. uid: of a video that did not fail.
      shown: "pred", "gt" or the name of the class shown first. Without values of it, the predicted
        class or the stored class with the highest score is shown, with a note.
      videos: files by uid, for thumbnails.
    Raises:
      ValueError: no such video or class, one that failed.
    Cost: with `videos`, decodes the video up to the last frame shown.
    """
    row, attribution = browser.row(uid), browser.attribution(uid)
    wanted = {"pred": row.prediction, "gt": row.label}.get(shown, class_number(browser, shown))
    columns: dict[int, int] = {}  # of each class along the last axis of the values
    for k, c in enumerate(browser.classes_of(uid)):
        if c >= 0:
            columns.setdefault(c, k)
    scores, priors = np.asarray(attribution.scores), np.asarray(attribution.prior)
    ranked = sorted(columns, key=lambda c: (-scores[columns[c]], c))
    kept = {*ranked[:TOP], row.prediction, row.label, wanted}
    numbers = [c for c in ranked if c in kept]
    values = np.asarray(attribution.values)
    errors = half = None
    if attribution.std_error is not None:
        errors, half = np.asarray(attribution.std_error), np.asarray(attribution.half_width(0.95))
    classes = tuple(
        ClassValues(
            c,
            browser.class_names[c],
            ("predicted",) * (c == row.prediction) + ("true",) * (c == row.label),
            scores[columns[c]],
            priors[columns[c]],
            values[:, columns[c]],
            None if errors is None else errors[:, columns[c]],
            None if half is None else half[:, columns[c]],
        )
        for c in numbers
    )
    elements = browser.element_index(uid)
    notes = [] if wanted in numbers else [_not_stored(shown, wanted, bool(numbers))]
    pictures: tuple[str, ...] = ()
    if videos is not None:
        if "element_index" not in browser.dataset:
            note = "No thumbnails: the results do not say which frames these are."
        else:
            pictures, note = _thumbnails(videos, uid, elements[labelled(elements, True)])
        notes += [note] if note else []
    return Card(
        row,
        elements,
        true=browser.class_names[row.label] if row.label >= 0 else "",
        predicted=browser.class_names[row.prediction] if row.prediction >= 0 else "",
        n_evaluations=int(attribution.n_evaluations),
        classes=classes,
        shown=next((numbers.index(c) for c in (wanted, row.prediction) if c in numbers), 0),
        labelled=tuple(labelled(elements, bool(pictures)).tolist()),
        pictures=pictures,
        notes=tuple(notes),
    )


def labelled(elements: np.ndarray, pictures: bool) -> np.ndarray:
    """Indices of the elements (n,) with a label, or a picture, below the bars.

    Picture j of k is below elements j * n / k to (j + 1) * n / k and shows the middle one.
    """
    n = len(elements)
    if pictures:
        k = n if n <= MOST_BARS else _LABELS
        return (2 * np.arange(k) + 1) * n // (2 * k)
    long = len(str(int(np.max(elements, initial=0)))) > 3
    return np.array(label_steps(n, _FEW_LABELS if long else _LABELS))


def _thumbnails(
    videos: Mapping[str, Path], uid: str, indices: np.ndarray
) -> tuple[tuple[str, ...], str]:
    """Frames (k,) of one video as k `data:image/jpeg` addresses, and ""; or none and the reason."""
    if uid not in videos:
        return (), "No thumbnails: no video of this name was found."
    try:
        frames = data.decode_frames(videos[uid], indices=indices, size=THUMBNAIL_HEIGHT)
    except (OSError, ValueError) as error:
        return (), f"No thumbnails: {' '.join(str(error).split())}"
    size = {"max_height": THUMBNAIL_HEIGHT, "max_width": 4 * THUMBNAIL_HEIGHT}
    stills = (data.images.jpeg_still(frame, quality=_QUALITY, **size) for frame in frames)
    encoded = (base64.b64encode(still).decode("ascii") for still in stills)
    return tuple(f"data:image/jpeg;base64,{text}" for text in encoded), ""


def _not_stored(shown: str, wanted: int | None, others: bool) -> str:
    if shown == "gt" and wanted == -1:
        return "The true class is not known." + (" Another is shown." if others else "")
    name = {"pred": "the predicted class", "gt": "the true class"}.get(shown, repr(shown))
    return f"No values of {name} are stored." + (" Another class is shown." if others else "")
