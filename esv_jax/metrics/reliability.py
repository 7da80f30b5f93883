"""Reliability of metrics of attribution methods: agreement of their rankings over inputs.

Runs on the host, in NumPy and double precision.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from esv_jax.checks import expect, expect_choice, expect_finite, expect_int, expect_numbers
from esv_jax.metrics.statistics import Rows

Level = Literal["nominal", "ordinal", "interval", "ratio"]
LEVELS: tuple[Level, ...] = get_args(Level)

_TINY = 1e-10  # added to the sum of weights, as published


def metric_reliability(
    scores: Rows, random_column: int = 0, lower_is_better: bool = False
) -> float:
    """Weighted agreement between inputs of the rankings of methods by a metric.

        sum over i < j of w[i] w[j] (rho[i, j] + 1) / sum over i < j of w[i] w[j]  -  1

    with rho the Spearman correlation of the scores of inputs i and j, and w the `input_weights`.
    1 where all inputs of positive weight give one ranking, around 0 for unrelated rankings.
    Source: Li et al. (2021).

    Args:
      scores: (inputs, methods) of one metric, e.g. areas under deletion curves.
      random_column: index of the random attribution.
      lower_is_better: low scores are good, as in deletion with the most important first.
    Returns:
      float in -1..1.
    Raises:
      ValueError: fewer than 2 inputs or methods, NaN, an input with equal scores for all methods
      (its correlation is undefined), fewer than two weights above 0. TypeError: not numbers.
    Cost: inputs**2 * methods.
    """
    table = _table(scores)
    expect(len(table) >= 2, "scores", "at least 2 inputs to compare", len(table))
    for i in np.flatnonzero(np.ptp(table, axis=1) == 0)[:1]:
        expected, got = "scores in which methods differ", f"{table[i, 0]} for all"
        expect(False, f"scores[{i}]", expected, got, "Leave out inputs without a ranking.")
    weights = input_weights(method_ranks(table, lower_is_better), random_column)
    pairs = np.triu_indices(len(table), 1)
    shares = np.outer(weights, weights)[pairs]
    got = f"{np.count_nonzero(weights)} of {len(weights)}"
    way_out = "The metric ranks random attributions best; check lower_is_better and random_column."
    expect(shares.sum() > 0, "scores", "two inputs of weight above 0", got, way_out)
    agreement = shares @ (spearman(table)[pairs] + 1) / (shares.sum() + _TINY)
    return float(agreement - 1)


def method_ranks(scores: Rows, lower_is_better: bool = False) -> np.ndarray:
    """Rank of each method on each input, from 0 for the worst, (inputs, methods) int.

    Equal scores share the lowest of their ranks.

    Args and raises: see `metric_reliability`; one input, and equal scores, are allowed.
    """
    table = _table(scores)
    signed = -table if lower_is_better else table
    return (signed[:, None, :] < signed[:, :, None]).sum(-1)


def input_weights(ranks: Rows, random_column: int = 0) -> np.ndarray:
    """Weight of each input, (inputs,): 1 where random ranks last, 0 where it ranks first.

    Args:
      ranks: (inputs, methods) from `method_ranks`.
      random_column: index of the random attribution.
    """
    table = _table(ranks, "ranks")
    last = table.shape[1] - 1
    random_column = expect_int("random_column", random_column, 0)
    expect(random_column <= last, "random_column", f"a method in 0..{last}", random_column)
    return (last - table[:, random_column]) / last


def spearman(table: np.ndarray) -> np.ndarray:
    """Rank correlations of the rows of a table (r, m), (r, r); equal values share a mean rank."""
    below = (table[:, None, :] < table[:, :, None]).sum(-1)
    above = (table[:, None, :] > table[:, :, None]).sum(-1)
    centred = (below - above) / 2.0  # mean ranks minus their mean
    products = centred @ centred.T
    length = np.sqrt(np.diag(products))
    return products / np.outer(length, length)


def _table(values: Rows, name: str = "scores") -> np.ndarray:
    table = expect_numbers(name, values)
    fits = table.ndim == 2 and table.shape[0] >= 1 and table.shape[1] >= 2
    expect(fits, name, "shape (inputs, methods) with 2 methods at least", table.shape)
    expect_finite(name, table)
    return table


def krippendorff_alpha(table: Rows, level: Level = "nominal") -> float:
    """Krippendorff's alpha of a table of ratings.

        alpha = 1 - observed / expected disagreement

    where the observed disagreement is that of ratings of one unit, the expected one that of all
    ratings, and each pair (a, b) counts by its squared distance:

        nominal   1 if a != b
        ordinal   (number of ratings from a to b, those equal to either counted half)**2
        interval  (a - b)**2
        ratio     ((a - b) / (a + b))**2

    Source: Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability". For the reliability
    of a metric, inputs are coders and `method_ranks` ratings (Tomsett et al., 2020).

    Args:
      table: (coders, units) numbers; NaN for no rating. Units rated less than twice are left out.
      level: of measurement.
    Returns:
      float, 1 for full agreement, around 0 for agreement by chance, negative for less.
    Raises:
      ValueError: another shape or level, infinity, no unit rated twice, ratings that are all
      equal (alpha is undefined), negative ones on a ratio scale. TypeError: not numbers.
    Cost: memory for the square of the number of different ratings.
    """
    expect_choice("level", level, LEVELS)
    rows = expect_numbers("table", table, "Number them.")
    expect(rows.ndim == 2, "table", "shape (coders, units)", rows.shape)
    expect(not np.isinf(rows).any(), "table", "finite ratings, or NaN for none", "infinity")
    rows = rows[:, (~np.isnan(rows)).sum(0) >= 2]
    expect(rows.size > 0, "table", "a unit with two ratings", "none")
    known = ~np.isnan(rows)
    ratings, index = np.unique(rows[known], return_inverse=True)
    way_out = "Otherwise alpha is undefined."
    expect(len(ratings) >= 2, "table", "ratings that differ", f"only {ratings[0]}", way_out)
    if level == "ratio":
        expect(bool((ratings >= 0).all()), "table", "ratings >= 0 on a ratio scale", ratings.min())
    counts = np.zeros((rows.shape[1], len(ratings)))  # of each rating in each unit
    np.add.at(counts, (np.nonzero(known)[1], index), 1)
    distance = _distances(ratings, counts.sum(0), level)
    per_unit = counts.sum(1)
    pairs = counts / (per_unit - 1)[:, None]
    coincidences = counts.T @ pairs - np.diag(pairs.sum(0))
    n, of_rating = per_unit.sum(), counts.sum(0)
    observed = (coincidences * distance).sum() / n
    expected = of_rating @ distance @ of_rating / (n * (n - 1))
    return float(1 - observed / expected)


def _distances(ratings: np.ndarray, counts: np.ndarray, level: Level) -> np.ndarray:
    """Squared distances (R, R) of ratings (R,) in ascending order, with their counts."""
    a, b = ratings[:, None], ratings[None, :]
    if level == "nominal":
        return (a != b).astype(np.float64)
    if level == "ordinal":
        middle = np.cumsum(counts) - counts / 2
        return (middle[:, None] - middle[None, :]) ** 2
    if level == "interval":
        return (a - b) ** 2
    return np.where(a == b, 0.0, (a - b) / np.where(a == b, 1.0, a + b)) ** 2
