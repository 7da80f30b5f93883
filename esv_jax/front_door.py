"""`explain`: one sequence in, its Element Shapley Values out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.boundary import (
    EstimatorChoice,
    check_randomness,
    checked_prior,
    checked_sequence,
    choose_estimator,
    notes_of,
)
from esv_jax.checks import expect, is_concrete, message
from esv_jax.estimators import Estimator, SurrogatePlan
from esv_jax.games import Game, run_to_end
from esv_jax.grouping import Groups, as_players
from esv_jax.subsequences import SubsequencePlan


def explain(
    game: Game,
    x: Any,
    *,
    prior: Any,
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    plan: SubsequencePlan | SurrogatePlan | None = None,
    groups: Groups | None = None,
    tolerance: float | None = None,
    confidence: float = 0.95,
    classes: Sequence[int] | None = None,
    max_evaluations: int = 100_000,
    marginals: bool = True,
    max_bytes: float | None = None,
) -> Attribution:
    """How much each element of one sequence contributed to each class score.

    Args:
      game: what is explained, e.g. `MultiScale(heads)`.
      x: the sequence, (n, D) features or (n, ...) frames, floating point, finite, n >= 1.
        A `BlackBox` also takes integers, uint8 say.
      prior: scores of the empty sequence, (C,). Under the softmax link a probability vector
        (commonly the class frequencies of the training set), under the identity link logits.
      estimator: "auto" is `Exact()` where it fits the memory, up to 20 elements (12 of a
        `VariableLength`, 8 of a `BlackBox` game); beyond,
        `Surrogate()` for models that combine heads by scale and `SizeRegression()` for those that
        score each subsequence on its own. Or an estimator with your settings.
      key: `jax.random.key(seed)`, needed where subsequences are drawn; consumed.
      plan: subsequences to replay in place of drawing them (under "auto" by the estimator that
        takes such a plan).
      groups: the group of each element, n integers that use 0..g - 1, or g lists of elements:
        credits groups (shots, say; `data.propose_segments` finds them) in the place of elements.
        All elements of a group join at once; one group has the whole evidential score, groups of
        one are elements. A group's value is not the sum of its elements' ESVs but that of their
        `owen_values`. No plan then.
      tolerance: half width, in units of the scores, that intervals should not exceed. Sampling
        starts with the estimator as given and doubles its budget, each time from scratch, until
        they do not or the budget ends; `Attribution.within_tolerance` says which.
      confidence: of those intervals.
      classes: whose intervals count; default all.
      max_evaluations: the budget with a tolerance, model evaluations of one round.
      marginals: whether to return mean marginals by scale, (n, n, C).
      max_bytes: memory that may be taken; default what the device has free, or half of the
        machine's where it does not say.
    Returns:
      `Attribution` in the wider of x's and the model's dtype, of (n, C), or (g, C) for groups,
      whose scales then count groups. `explain` may be called under
      `jit`, `vmap` and `grad`; questions about values are then not asked.
    Raises:
      ValueError: shapes that disagree, values that are not finite, a prior that is none, a missing
        key, a sequence too long for `Exact` (with the numbers, and the way out), an element that
        a plan never covers; an element in no group or in two, a group without elements.
      TypeError: x that is not floating point, or integer for a `BlackBox`; a key of the old
        style.
    Cost: stated beforehand by `plan_cost`. The first call for a shape compiles. Groups cost 2**g
      evaluations of games that score each subsequence on its own, whatever n is; `MultiScale`
      builds the score of a union from those of all its parts: a pass over 2**n subsequences up to
      20 elements, beyond it (up to 12 groups) it is sampled (`UnionSampling`).
    """
    x = checked_sequence(game, x)
    prior = checked_prior(game, x, prior)
    notes = notes_of(game, x, prior)
    if groups is not None:
        expect(plan is None, "plan", "None beside groups", "a plan", "Give a key.")
        game, players, estimator = as_players(game, x, groups, estimator, max_bytes)
        x = jnp.asarray(players)
    estimator = choose_estimator(game, x, estimator, plan, max_bytes)
    check_randomness(estimator, x.shape[0], key, plan)
    if tolerance is None:
        return notes.added_to(_run(estimator, game, x, prior, key, plan, marginals))
    _check_tolerance(tolerance, plan, x)
    wanted = slice(None) if classes is None else np.asarray(classes)
    while True:
        result = _run(estimator, game, x, prior, key, None, marginals)
        widest = float(np.asarray(result.half_width(confidence))[:, wanted].max())
        larger = estimator.doubled()
        if widest <= tolerance or larger is None:
            break
        if larger.cost(game, x).n_evaluations > max_evaluations:
            break
        estimator = choose_estimator(game, x, larger, None, max_bytes)
    return notes.added_to(dataclasses.replace(result, within_tolerance=widest <= tolerance))


def _run(
    estimator: Estimator,
    game: Game,
    x: Array,
    prior: Array,
    key: Array | None,
    plan: Any,
    marginals: bool,
) -> Attribution:
    if plan is not None or not estimator.needs_key:
        key = None
    elif key is not None:
        plan = estimator.prepare(game, x, key)
    run = compiled(estimator, marginals)
    result = run_to_end(
        game,
        lambda: run(game, x, prior, key, plan),
        lambda: estimator.cost(game, x).n_evaluations,
    )
    _check_covered(result)
    return result


def _check_tolerance(tolerance: float, plan: Any, x: Array) -> None:
    expect(tolerance > 0, "tolerance", "a half width > 0", tolerance)
    expect(plan is None, "plan", "None beside a tolerance", "a plan", "Its budget is fixed.")
    traced = not is_concrete(x)
    expect(not traced, "tolerance", "None while tracing", tolerance, "Rounds depend on values.")


@functools.cache
def compiled(estimator: Estimator, marginals: bool) -> Any:
    """The jit-compiled call of an estimator on one sequence, made once per estimator."""

    def run(game: Game, x: Array, prior: Array, key: Array | None, plan: Any) -> Attribution:
        result = estimator(game, x, prior, key=key, plan=plan)
        return result if marginals else dataclasses.replace(result, marginals=None)

    return jax.jit(run)


def _check_covered(result: Attribution) -> None:
    """A replayed plan may miss an element wholly; that is the caller's to know."""
    if result.coverage is None or not is_concrete(result.coverage):
        return
    missed = np.flatnonzero(~(np.asarray(result.coverage) > 0).any(0))
    if len(missed) and np.isnan(np.asarray(result.values)).any():
        raise ValueError(
            message(
                "plan",
                "subsequences with and without every element, at some scale",
                f"none for element {missed[0]}",
                "Add such subsequences, or use Constructive(unseen='zero').",
            )
        )
