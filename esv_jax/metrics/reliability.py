"""Reliability of a metric of attribution methods: agreement of its rankings over inputs.

Source: Li et al. (2021), who weigh inputs by how low the metric ranks a random attribution.
Runs on the host, in NumPy and double precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from esv_jax.checks import expect, expect_finite, expect_int, expect_numbers

_TINY = 1e-10  # added to the sum of weights, as published


def metric_reliability(scores: Any, random_column: int = 0, lower_is_better: bool = False) -> float:
    """Weighted agreement of the orders in which a metric puts methods, input against input.

        sum over i < j of w[i] w[j] (rho[i, j] + 1) / sum over i < j of w[i] w[j]  -  1

    with rho the Spearman correlation of the scores of inputs i and j, and w the `input_weights`.
    1 where all inputs that count order the methods alike, around 0 where their orders have nothing
    in common, never below -1.

    Args:
      scores: (inputs, methods) of one metric, e.g. areas under deletion curves.
      random_column: the method that is a random attribution.
      lower_is_better: whether low scores are good, as in deletion with the most important first.
    Returns:
      float in -1..1.
    Raises:
      ValueError: fewer than 2 inputs or methods, NaN, an input on which all methods score the same
      (it orders nothing, and its correlation is undefined), weights of which no two are above 0.
      TypeError: not numbers.
    Cost: inputs**2 * methods.
    """
    table = _table(scores)
    expect(len(table) >= 2, "scores", "at least 2 inputs to compare", len(table))
    for i in np.flatnonzero(np.ptp(table, axis=1) == 0):
        way_out = "Leave out inputs that order nothing."
        got = f"{table[i, 0]} for all"
        expect(False, f"scores[{i}]", "scores in which methods differ", got, way_out)
    weights = input_weights(method_ranks(table, lower_is_better), random_column)
    pairs = np.triu_indices(len(table), 1)
    shares = np.outer(weights, weights)[pairs]
    way_out = "The metric ranks random attributions best; check lower_is_better and random_column."
    got = f"{np.count_nonzero(weights)} of {len(weights)}"
    expect(bool(shares.sum() > 0), "scores", "two inputs of weight above 0", got, way_out)
    agreement = shares @ (spearman(table)[pairs] + 1) / (shares.sum() + _TINY)
    return float(agreement - 1)


def method_ranks(scores: Any, lower_is_better: bool = False) -> np.ndarray:
    """Places of methods among those of each input, from 0 for the worst, (inputs, methods) int.

    Equal scores share the lowest of their places.

    Args and raises: see `metric_reliability`; one input, and equal scores, are fine.
    """
    table = _table(scores)
    signed = -table if lower_is_better else table
    return (signed[:, None, :] < signed[:, :, None]).sum(-1)


def input_weights(ranks: Any, random_column: int = 0) -> np.ndarray:
    """Return a score per input, (inputs,): 1 where random ranks last, 0 where it ranks first.

    Args:
      ranks: (inputs, methods) from `method_ranks`.
      random_column: the method that is a random attribution.
    Raises:
      ValueError: fewer than 2 methods, a column that is none of them.
    """
    ranks = _table(ranks, "ranks")
    last = ranks.shape[1] - 1
    random_column = expect_int("random_column", random_column, 0)
    expect(random_column <= last, "random_column", f"a method in 0..{last}", random_column)
    return (last - ranks[:, random_column]) / last


def spearman(table: np.ndarray) -> np.ndarray:
    """Rank correlations of the rows of a table (r, m), (r, r); equal values share a mean rank."""
    below = (table[:, None, :] < table[:, :, None]).sum(-1)
    above = (table[:, None, :] > table[:, :, None]).sum(-1)
    centred = (below - above) / 2.0  # mean ranks, minus their mean
    products = centred @ centred.T
    length = np.sqrt(np.diag(products))
    return products / np.outer(length, length)


def _table(values: Any, name: str = "scores") -> np.ndarray:
    table = expect_numbers(name, values)
    fits = table.ndim == 2 and table.shape[0] >= 1 and table.shape[1] >= 2
    expect(fits, name, "shape (inputs, methods) with 2 methods at least", table.shape)
    expect_finite(name, table)
    return table
