"""Error, spread, coverage, evaluations and time of an estimator on a game."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import esv_jax as ej
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
