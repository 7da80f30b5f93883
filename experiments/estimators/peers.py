"""Estimators of shapiq on the same games, from exact scores of subsequences.

shapiq's approximators of Shapley values were compared at n = 16 with 512, 2048 and 8192 values, on
the temporal-order game and on rough heads. The best were KernelSHAP with few values, kADD-SHAP of
order 3 with many (it is skipped where its 696 coefficients exceed the values), and SVARM; all with
paired sampling. Worse were KernelSHAP unpaired, with leverage weights and unbiased; permutation,
stratified and Owen sampling; KernelSHAP-IQ. ProxySPEX, which has further dependencies, was not
compared.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from esv_jax.games import score
from experiments.estimators.games import Case
from experiments.estimators.measures import relative_error, spread

_BY_SCALE: dict[str, dict[str, int]] = {"KernelSHAP": {}, "kADDSHAP": {"max_order": 3}}
_BY_ROW: dict[str, dict[str, int]] = {"KernelSHAP": {}, "SVARM": {}}  # where values are few


def approximators() -> Any | None:
    """The module of shapiq's estimators, or None where it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("shapiq.approximator")
    except ImportError:
        return None


def measure_peers(
    module: Any, case: Case, budgets: Sequence[int], n_sequences: int, n_keys: int, seed: int
) -> list[dict[str, Any]]:
    """Errors and spread of shapiq's estimators on the first sequences of a case.

    `values` is the number of scores of subsequences, including the empty one (the prior).
    `evaluations` is the number of model evaluations: one for each non-empty subsequence where each
    is scored on its own. Where heads are combined by scale, the score of the whole sequence, which
    is always included, takes all head evaluations at any budget.
    """
    tables = [score_table(case, row) for row in range(min(n_sequences, len(case.xs)))]
    target = case.target[: len(tables)]
    found = []
    for name, options in (_BY_ROW if case.rowwise else _BY_SCALE).items():
        for budget in budgets:
            if budget < _coefficients(case.n, options.get("max_order", 1)):
                continue
            runs = np.zeros((n_keys, *target.shape), target.dtype)
            for run in range(n_keys):
                for row, table in enumerate(tables):
                    estimator = getattr(module, name)(
                        n=case.n,
                        pairing_trick=True,
                        random_state=seed + 1000 * run + row,
                        **options,
                    )
                    runs[run, row] = _approximated(estimator, budget, table)
            found.append(
                {
                    "estimator": f"shapiq {name}",
                    "values": budget,
                    "evaluations": budget - 1 if case.rowwise else all_heads(case),
                    "relative_error": relative_error(runs, target),
                    "spread": spread(runs, target),
                    "n_sequences": len(tables),
                }
            )
    return found


def all_heads(case: Case) -> int:
    """Head evaluations of exact ESVs: all subsequences of at most n_max elements."""
    return sum(math.comb(case.n, k) for k in range(1, min(case.n, case.game.n_scales) + 1))


def _coefficients(n: int, order: int) -> int:
    """Number of coefficients of a regression on subsequences of up to `order` elements."""
    return sum(math.comb(n, k) for k in range(1, order + 1))


def score_table(case: Case, row: int) -> np.ndarray:
    """Exact scores (2**n,) of every subsequence of one sequence, for its class.

    Row `code`; the empty subsequence has the prior.
    """
    member = (np.arange(2**case.n)[:, None] >> np.arange(case.n)) & 1 > 0  # (2**n, n)
    if case.rowwise:
        scores = np.asarray(score(case.game, case.xs[row], member, prior=case.prior))
    else:
        scores = np.asarray(jax.nn.softmax(_recurred_logits(case, row, member), axis=-1))
    table = scores[:, case.classes[row]].astype(np.float64)
    table[0] = case.prior[case.classes[row]]
    return table


def _recurred_logits(case: Case, row: int, member: np.ndarray) -> np.ndarray:
    """f^ms (2**n, C): logits of each scale summed over the parts of every subsequence."""
    n, n_scales = case.n, case.game.n_scales
    size = member.sum(1)
    codes = [np.flatnonzero(size == k) for k in range(1, n_scales + 1)]
    pool = np.zeros((n_scales, max(map(len, codes)), n), bool)
    for k, rows in enumerate(codes):
        pool[k, : len(rows)] = member[rows]
    logits: Any = jax.jit(type(case.game).head_logits)(case.game, case.xs[row], pool)
    total = np.zeros((2**n, len(case.prior)))
    for k, rows in enumerate(codes, start=1):
        parts = np.zeros_like(total)
        parts[rows] = np.asarray(logits)[k - 1, : len(rows)]
        for i in range(n):
            halves = parts.reshape(-1, 2, 2**i, len(case.prior))
            halves[:, 1] += halves[:, 0]
        number = np.cumprod([np.maximum(size - j, 0) / (j + 1) for j in range(k)], axis=0)[-1]
        total += parts / np.maximum(number, 1)[:, None]
    return total / np.clip(size, 1, n_scales)[:, None]


def _approximated(estimator: Any, budget: int, table: np.ndarray) -> np.ndarray:
    """ESVs (n,) by one of shapiq's estimators from a table of scores."""
    bits = 1 << np.arange(estimator.n)

    def game(member: np.ndarray) -> np.ndarray:
        return table[np.atleast_2d(member).astype(int) @ bits]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about budgets
        return estimator.approximate(budget=budget, game=game).get_n_order_values(1)
