"""Numbers about a whole set of videos: counted from lists in memory, values from a sample."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from esv_jax.dashboard.sources import Source

MAX_SAMPLE = 1024  # videos whose values are read
_BLOCK = 32  # videos that are read together
_RELATIVE = 10  # places of videos of different lengths


class Confusion(NamedTuple):
    """Videos of one class taken for another."""

    true: int
    predicted: int
    videos: int


class Overview(NamedTuple):
    """Numbers of the overview page.

    Attributes:
      evidence: evidential scores of the predicted class, of videos "correct", "wrong" or "all".
      lengths: (V,) elements of the explained videos.
      accuracy: share of predictions that are right, or None without labels.
      means, errors: mean ESV of the predicted class by position, and its standard error; NaN
        where nothing lies.
      relative: whether positions are tenths of videos of different lengths.
      above: (n, n) probability that the ESV at position i is above the one at j, as
        `metrics.position_statistics` has it; of the same positions.
      n_sampled: videos behind the four above.
      confusions: pairs of classes, most videos first. failures: (uid, reason).
    """

    evidence: dict[str, np.ndarray]
    lengths: np.ndarray
    accuracy: float | None
    means: np.ndarray
    errors: np.ndarray
    relative: bool
    above: np.ndarray
    n_sampled: int
    confusions: list[Confusion]
    failures: list[tuple[str, str]]


def summarise(source: Source) -> Overview:
    """All numbers of the page.

    Cost: a pass over the list, and the values of at most `MAX_SAMPLE` videos, spread over the file
      in blocks; about a second for 25,000 videos of 174 classes.
    """
    browser = source.browser
    uids = browser.find()
    rows = [browser.row(uid) for uid in uids]
    explained = [row for row in rows if not row.failed]
    known = [row for row in explained if row.correct is not None]
    evidence = {
        "correct": np.array([row.evidence for row in known if row.correct], float),
        "wrong": np.array([row.evidence for row in known if not row.correct], float),
    }
    if not known:
        evidence = {"all": np.array([row.evidence for row in explained], float)}
    wrong = Counter((row.label, row.prediction) for row in known if not row.correct)
    values = sample(source)
    lengths = {len(own) for own in values}
    same = len(lengths) == 1
    placed = np.stack(values) if same else np.array([relative(own) for own in values])
    placed = placed.reshape(len(values), placed.shape[-1] if values else 0)
    return Overview(
        evidence=evidence,
        lengths=np.array([row.n for row in explained], float),
        accuracy=sum(bool(row.correct) for row in known) / len(known) if known else None,
        means=_mean(placed),
        errors=_standard_error(placed),
        relative=not same,
        above=_above(values, None if same else _RELATIVE),
        n_sampled=len(values),
        confusions=[Confusion(*pair, count) for pair, count in wrong.most_common(15)],
        failures=list(browser.failures.items()),
    )


def sample(source: Source) -> list[np.ndarray]:
    """ESVs (n_i,) of the predicted class, of at most `MAX_SAMPLE` videos spread over the file."""
    browser = source.browser
    uids = browser.find()
    count = len(uids)
    n_blocks = max(1, min(MAX_SAMPLE, count) // _BLOCK)
    blocks = -(-count // _BLOCK) if count <= MAX_SAMPLE else n_blocks
    step = _BLOCK if count <= MAX_SAMPLE else count / blocks
    starts = sorted({int(k * step) for k in range(blocks)})
    kept = []
    for start in starts:
        stop = min(start + _BLOCK, count)
        values = source.read("esv", slice(start, stop))
        for k, uid in enumerate(uids[start:stop]):
            row = browser.row(uid)
            classes = browser.classes_of(uid)
            if not row.failed and row.prediction in classes and row.n > 0:
                own = values[k, : row.n, classes.index(row.prediction)]
                kept.append(own.astype(np.float64))
    return kept


def relative(own: np.ndarray, places: int = _RELATIVE) -> np.ndarray:
    """Mean value in each tenth of a video, (places,); NaN in tenths where no element lies."""
    at = (2 * np.arange(len(own)) + 1) * places // (2 * len(own))
    counts = np.bincount(at, minlength=places)
    sums = np.bincount(at, own, minlength=places)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _above(values: list[np.ndarray], bins: int | None) -> np.ndarray:
    """See `Overview`; the metrics bring models, which the first page should not wait for."""
    from esv_jax.metrics import position_statistics

    return position_statistics(values, bins=bins).overall.above if values else np.zeros((0, 0))


def _mean(values: np.ndarray) -> np.ndarray:
    counts = (~np.isnan(values)).sum(0)
    return np.where(counts > 0, np.nansum(values, 0) / np.maximum(counts, 1), np.nan)


def _standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean of each column; 0 where fewer than two rows have a value."""
    counts = (~np.isnan(values)).sum(0)
    squares = np.nansum((values - _mean(values)) ** 2, 0)
    return np.sqrt(squares / np.maximum(counts - 1, 1) / np.maximum(counts, 1)) * (counts > 1)
