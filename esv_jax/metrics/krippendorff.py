"""Krippendorff's alpha: how far coders agree beyond chance, on data of several levels.

Runs on the host, in NumPy and double precision.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from esv_jax.checks import expect, expect_choice, expect_numbers

Level = Literal["nominal", "ordinal", "interval", "ratio"]
LEVELS: tuple[Level, ...] = get_args(Level)


def krippendorff_alpha(table: Any, level: Level = "nominal", missing: Any = None) -> float:
    """Krippendorff's alpha of a table of ratings.

        alpha = 1 - observed / expected disagreement

    observed between ratings of the same unit, expected between all ratings, each pair counting
    by the squared distance of its level:

        nominal   1 where they differ
        ordinal   (ratings between them, and half of those equal to either)**2
        interval  (a - b)**2
        ratio     ((a - b) / (a + b))**2

    Source: Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability". As the reliability of
    a metric, take inputs as coders and `method_ranks` as ratings (Tomsett et al., 2020).

    Args:
      table: (coders, units) numbers; NaN where a coder gave none. Units rated less than twice are
        left out.
      level: of the data.
      missing: (coders, units) bool, ratings to leave out besides.
    Returns:
      float, 1 where all agree, around 0 where agreement is what chance gives, down to -1 and
      below.
    Raises:
      ValueError: another shape or level, infinity, no unit rated twice, ratings that are all the
      same (nothing to agree about: alpha is undefined), negative ones on a ratio scale.
      TypeError: no numbers.
    Cost: memory for the square of the number of different ratings.
    """
    expect_choice("level", level, LEVELS)
    counts, ratings = _counts(_ratings(table, missing))
    if level == "ratio":
        expect(bool((ratings >= 0).all()), "table", "ratings >= 0 on a ratio scale", ratings.min())
    distance = _distances(ratings, counts.sum(0), level)
    per_unit = counts.sum(1)
    pairs = counts / (per_unit - 1)[:, None]
    coincidences = counts.T @ pairs - np.diag(pairs.sum(0))
    n, of_rating = per_unit.sum(), counts.sum(0)
    observed = (coincidences * distance).sum() / n
    expected = of_rating @ distance @ of_rating / (n * (n - 1))
    return float(1 - observed / expected)


def _ratings(table: Any, missing: Any) -> np.ndarray:
    """Ratings (coders, units) float64, NaN where there is none."""
    ratings = expect_numbers("table", table, "Number them.")
    expect(ratings.ndim == 2, "table", "shape (coders, units)", ratings.shape)
    expect(not np.isinf(ratings).any(), "table", "finite ratings, or NaN for none", "infinity")
    if missing is not None:
        missing = np.asarray(missing)
        got = f"dtype {missing.dtype}"
        expect(missing.dtype == np.bool_, "missing", "bool", got, kind=TypeError)
        expect(missing.shape == ratings.shape, "missing", f"shape {ratings.shape}", missing.shape)
        ratings[missing] = np.nan
    return ratings


def _counts(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the ratings of each unit rated twice or more, (units, R); also the ratings (R,)."""
    table = table[:, (~np.isnan(table)).sum(0) >= 2]
    expect(table.size > 0, "table", "a unit with two ratings", "none")
    known = ~np.isnan(table)
    ratings, places = np.unique(table[known], return_inverse=True)
    one = f"only {ratings[0]}"
    expect(len(ratings) >= 2, "table", "ratings that differ", one, "Alpha is undefined without.")
    counts = np.zeros((table.shape[1], len(ratings)))
    np.add.at(counts, (np.nonzero(known)[1], places), 1)
    return counts, ratings


def _distances(ratings: np.ndarray, times: np.ndarray, level: Level) -> np.ndarray:
    """Squared distances of ratings (R,) in ascending order, given `times` each, (R, R)."""
    a, b = ratings[:, None], ratings[None, :]
    if level == "nominal":
        return (a != b).astype(np.float64)
    if level == "ordinal":
        middle = np.cumsum(times) - times / 2  # half of its own ratings are below it
        return (middle[:, None] - middle[None, :]) ** 2
    if level == "interval":
        return (a - b) ** 2
    return np.where(a == b, 0.0, (a - b) / np.where(a == b, 1.0, a + b)) ** 2
