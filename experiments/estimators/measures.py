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
from esv_jax.games.few_scores import score
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

    def explained(key: jax.Array, rows: int) -> ej.Attribution:
        uids, options = list(range(rows)), {"estimator": estimator, "key": key}
        return ej.explain_batch(case.game, case.xs[:rows], prior=case.prior, uids=uids, **options)

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
            half_width = np.asarray(result.half_width(0.95))
            if case.exact.ndim == 2:
                approx, half_width = values[-1], case.of_class(half_width)
            covered.append((np.abs(approx - case.exact) <= half_width).mean())
    runs = np.stack(values)  # (keys, B, n)
    errors = _errors(runs, case.target)
    return {
        "estimator": short_name(estimator),
        "evaluations": float(np.mean(evaluations)),
        "relative_error": float(errors.mean()),
        "error_by_sequence": errors.mean(0).tolist(),
        "spread": spread(runs, case.target),
        "coverage": float(np.mean(covered)) if covered else None,
        "seconds": float(np.median(seconds)),
        "plan_seconds": float(np.median(plan_seconds)),
    }


def short_name(estimator: Any) -> str:
    """`Surrogate(256)`, `Surrogate(64, order 2)`, `Algorithm 1 (256, 4)`."""
    family, names = _SETTINGS[type(estimator)]
    settings = [str(getattr(estimator, name)) for name in names]
    if (order := getattr(estimator, "order", None)) is not None:
        settings.append(f"order {order}")
    return f"{family}({', '.join(settings)})"


def family_of(row: Mapping[str, Any]) -> str:
    """The estimator of a row without its budget."""
    return str(row["estimator"]).partition("(")[0].strip()


def _errors(runs: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Relative errors (keys, B) of runs (keys, B, n)."""
    return np.stack([np.asarray(ej.metrics.relative_error(run, exact)) for run in runs])


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
    pools = range(16, max(numbers) + 1)
    fits = (pool for pool in pools if sum(min(pool, k) for k in numbers) <= evaluations)
    return max(fits, default=16)


def matched_samples(n: int, evaluations: int, iterations: int) -> int:
    """Subsequences per scale for which Algorithm 1 takes at most `evaluations`, row by row.

    The single elements and the whole are the same in every iteration.
    """
    return max(1, (evaluations - n - 1) // (iterations * (n - 2)))


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
    target = case.target[:n_sequences]
    tables = [score_table(case, row) for row in range(len(target))]
    found = []
    for name, options in (_BY_ROW if case.rowwise else _BY_SCALE).items():
        for budget in budgets:
            if budget < _n_up_to(case.n, options.get("max_order", 1)):
                continue  # of its coefficients
            runs = np.zeros((n_keys, *target.shape), target.dtype)
            for run, row in np.ndindex(n_keys, len(tables)):
                fixed = {
                    "n": case.n,
                    "pairing_trick": True,
                    "random_state": seed + 1000 * run + row,
                }
                estimator = getattr(module, name)(**fixed, **options)
                runs[run, row] = _approximated(estimator, budget, tables[row])
            found.append(
                {
                    "estimator": f"shapiq {name}",
                    "values": budget,
                    "evaluations": budget - 1 if case.rowwise else all_heads(case),
                    "relative_error": float(_errors(runs, target).mean()),
                    "spread": spread(runs, target),
                    "n_sequences": len(tables),
                }
            )
    return found


def all_heads(case: Case) -> int:
    """Head evaluations of exact ESVs: all subsequences of at most n_max elements."""
    return _n_up_to(case.n, case.game.n_scales)


def _n_up_to(n: int, size: int) -> int:
    """Number of non-empty subsequences of up to `size` elements."""
    return sum(math.comb(n, k) for k in range(1, min(n, size) + 1))


def score_table(case: Case, row: int) -> np.ndarray:
    """Exact scores (2**n,) of every subsequence of one sequence, for its class.

    Row `code`; the empty subsequence has the prior.
    """
    member = (np.arange(2**case.n)[:, None] >> np.arange(case.n)) & 1 > 0  # (2**n, n)
    scores = score(case.game, case.xs[row], member, prior=case.prior)
    return np.asarray(scores)[:, case.classes[row]].astype(np.float64)


def _approximated(estimator: Any, budget: int, table: np.ndarray) -> np.ndarray:
    """ESVs (n,) by one of shapiq's estimators from a table of scores."""
    bits = 1 << np.arange(estimator.n)

    def game(member: np.ndarray) -> np.ndarray:
        return table[np.atleast_2d(member).astype(int) @ bits]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about budgets
        return estimator.approximate(budget=budget, game=game).get_n_order_values(1)
