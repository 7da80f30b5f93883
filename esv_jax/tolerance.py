"""Rounds of larger budgets, until intervals are within a tolerance."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.checks import AnyArray, Shaped, expect, expect_classes, is_concrete, message
from esv_jax.estimators import Estimator
from esv_jax.games.protocol import Game
from esv_jax.games.scoring import GameInfo, request_cost
from esv_jax.inputs import choose_estimator

_MAX_EVALUATIONS = 100_000  # of one round
_MAX_DOUBLINGS = 4  # from one round to the next


def without_tolerance(classes: object, confidence: object) -> ValueError:
    """The error for arguments that have no effect without a tolerance."""
    name, value = ("confidence", confidence) if classes is None else ("classes", classes)
    way_out = "The result has the values of all classes, and interval(confidence)."
    expected = f"a half width beside {name}"
    return ValueError(message("tolerance", expected, f"{name}={value!r} alone", way_out))


def check_tolerance(tolerance: float, plan: object, x: AnyArray) -> None:
    """Refuse a tolerance out of range, beside a plan, or while tracing."""
    expect(tolerance > 0, "tolerance", "a half width > 0", tolerance)
    expect(plan is None, "plan", "None beside a tolerance", "a plan", "Its budget is fixed.")
    traced = not is_concrete(x)
    expect(not traced, "tolerance", "None while tracing", tolerance, "Rounds depend on values.")


def width_function(
    classes: Sequence[int] | None, confidence: float | None, n_classes: int
) -> Callable[[Attribution], np.ndarray]:
    """The widest half width of the classes that count: () of one sequence, (B,) of a batch."""
    index = None
    if classes is not None:
        index = expect_classes("classes", list(classes), n_classes)

    def width(result: Attribution) -> np.ndarray:
        half = np.asarray(result.half_width(0.95 if confidence is None else confidence))
        return (half if index is None else half[..., index]).max((-2, -1))

    return width


def larger_estimator(
    estimator: Estimator,
    game: Game,
    x: Shaped,
    limit: int | None,
    max_bytes: float | None,
    excess: float,
) -> Estimator | None:
    """The estimator of the next round, or None where evaluations or memory are used up.

    The budget doubles as often as it has to where errors fall with its inverse, at least once;
    less often where memory does not suffice.

    Args:
      excess: widest half width, in units of the tolerance.
    """
    info = GameInfo.of(game, x.shape[0])
    limit = _MAX_EVALUATIONS if limit is None else limit

    def evaluations(each: Estimator) -> int:
        return request_cost(game, x, each.request(info)).n_evaluations

    doubled: list[Estimator] = []
    for _ in range(int(min(math.log2(max(excess, 2)), _MAX_DOUBLINGS))):
        larger = (doubled[-1] if doubled else estimator).doubled(info)
        if larger is not None and evaluations(larger) > limit:
            larger = larger.within(limit, info)
        if larger is None or evaluations(larger) <= evaluations(estimator):
            break
        doubled.append(larger)
    for larger in reversed(doubled):
        with contextlib.suppress(ValueError):  # it does not fit the memory
            return choose_estimator(game, x, larger, None, max_bytes)
    return None


def within_tolerance(
    tolerance: float,
    width: Callable[[Attribution], np.ndarray],
    estimator: Estimator,
    explained: Callable[[Estimator], Attribution],
    game: Game,
    x: AnyArray,
    limit: int | None,
    max_bytes: float | None,
) -> Attribution:
    """Rounds until the widest interval is within the tolerance, or no larger round is possible."""
    result = explained(estimator)
    while width(result) > tolerance:
        excess = float(width(result)) / tolerance
        larger = larger_estimator(estimator, game, x, limit, max_bytes, excess)
        if larger is None:
            break
        try:
            finer = explained(larger)
        except Exception as error:
            if not out_of_memory(error):
                raise
            break
        stalled = int(finer.n_evaluations) <= int(result.n_evaluations)
        result, estimator = finer, larger
        if stalled:  # all distinct subsequences have been evaluated
            break
    return dataclasses.replace(result, within_tolerance=bool(width(result) <= tolerance))


def out_of_memory(error: Exception) -> bool:
    """Return whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )
