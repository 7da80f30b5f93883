"""Error, spread, coverage and time of estimators on a game, also of shapiq's."""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import esv_jax as ej
from esv_jax.games import score
from esv_jax.games.scoring import GameInfo
from experiments.estimators.games import Case

_SETTINGS = {
    ej.Constructive: ("Algorithm 1 ", ("max_subsequences", "iterations")),
    ej.Surrogate: ("Surrogate", ("pool",)),
    ej.SizeRegression: ("SizeRegression", ("budget",)),
    ej.PermutationSampling: ("PermutationSampling", ("permutations",)),
}
FAMILIES = tuple(family.strip() for family, _ in _SETTINGS.values())


def measure(case: Case, estimator: Any, n_keys: int, seed: int) -> dict[str, Any]:
    """Error, spread, coverage and wall time of an estimator on a game.

    Relative error is the mean over sequences and keys. The spread is the standard deviation over
    keys (corrected for small numbers), averaged over elements and relative to mean |exact|.
    Coverage is the share of exact values in 95 % intervals over sequences, elements, classes and
    keys. Time is the median over keys per sequence, without compilation and planning.
    """
    names = list(range(len(case.xs)))

    def explained(key: jax.Array, rows: int) -> ej.Attribution:
        xs, uids = case.xs[:rows], names[:rows]
        return ej.explain_batch(
            case.game, xs, prior=case.prior, estimator=estimator, key=key, uids=uids
        )

    values, covered, evaluations, seconds, plan_seconds = [], [], [], [], []
    for run in range(n_keys):
        key = jax.random.fold_in(jax.random.key(seed), run)
        start = time.perf_counter()
        if estimator.draws_on_host:
            estimator.draw(key, GameInfo.of(case.game, case.n))
        plan_seconds.append(time.perf_counter() - start)
        if run == 0:
            explained(key, 1)  # compiles
        start = time.perf_counter()
        result = explained(key, len(case.xs))
        approx = np.asarray(result.values)
        seconds.append((time.perf_counter() - start) / len(case.xs))
        values.append(case.of_class(approx))
        evaluations.append(np.asarray(result.n_evaluations).mean())
        if result.std_error is not None:
            covered.append(_covered(case, approx, np.asarray(result.half_width(0.95))))
    runs = np.stack(values)  # (keys, B, n)
    return {
        "estimator": short_name(estimator),
        "evaluations": float(np.mean(evaluations)),
        "relative_error": relative_error(runs, case.target),
        "error_by_sequence": np.mean([_errors(run, case.target) for run in runs], 0).tolist(),
        "spread": spread(runs, case.target),
        "coverage": float(np.mean(covered)) if covered else None,
        "seconds": float(np.median(seconds)),
        "plan_seconds": float(np.median(plan_seconds)),
    }


def short_name(estimator: Any) -> str:
    """`Surrogate(256)`, `Surrogate(64, order 2)`, `Algorithm 1 (256, 4)`."""
    family, names = _SETTINGS[type(estimator)]
    settings = [str(getattr(estimator, name)) for name in names]
    order = getattr(estimator, "order", None)
    settings += [] if order is None else [f"order {order}"]
    return f"{family}({', '.join(settings)})"


def family_of(row: Mapping[str, Any]) -> str:
    """The estimator of a row without its budget."""
    return str(row["estimator"]).partition("(")[0].strip()


def relative_error(runs: np.ndarray, exact: np.ndarray) -> float:
    """Mean relative error over keys and sequences: runs (keys, B, n), exact (B, n)."""
    return float(np.mean([_errors(run, exact) for run in runs]))


def spread(runs: np.ndarray, exact: np.ndarray) -> float | None:
    """Standard deviation over keys relative to mean |exact|; None with one key."""
    k = len(runs)
    if k < 2:
        return None
    # The root of an unbiased variance is too small on average, by this factor for normal runs.
    small = math.sqrt(2 / (k - 1)) * math.gamma(k / 2) / math.gamma((k - 1) / 2)
    deviation = runs.std(0, ddof=1).mean(-1) / small
    return float((deviation / np.abs(exact).mean(-1)).mean())


def matched_pool(n: int, n_scales: int, evaluations: float) -> int:
    """The largest pool whose head evaluations are at most those given (16 at least)."""
    numbers = [math.comb(n, k) for k in range(1, min(n, n_scales) + 1)]
    pool = 16

    def taken(pool: int) -> int:
        return sum(min(pool, number) for number in numbers)

    while pool < max(numbers) and taken(pool + 1) <= evaluations:
        pool += 1
    return pool


def matched_samples(n: int, evaluations: int, iterations: int) -> int:
    """Subsequences per scale for which Algorithm 1 takes at most `evaluations`, row by row.

    The single elements and the whole are the same in every iteration.
    """
    return max(1, (evaluations - n - 1) // (iterations * (n - 2)))


def _covered(case: Case, approx: np.ndarray, half_width: np.ndarray) -> float:
    """Share of exact values within intervals (B, n, C)."""
    if case.exact.ndim == 2:
        approx, half_width = case.of_class(approx), case.of_class(half_width)
    return float((np.abs(approx - case.exact) <= half_width).mean())


def _errors(approx: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return np.asarray(ej.metrics.relative_error(approx, exact))


# Estimators of shapiq

# shapiq's approximators of Shapley values were compared at n = 16 with 512, 2048 and 8192 values,
# on the temporal-order game and on rough heads. The best were KernelSHAP with few values, kADD-
# SHAP of order 3 with many (it is skipped where its 696 coefficients exceed the values), and
# SVARM; all with paired sampling. Worse were KernelSHAP unpaired, with leverage weights and
# unbiased; permutation, stratified and Owen sampling; KernelSHAP-IQ. ProxySPEX, which has further
# dependencies, was not compared.
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
