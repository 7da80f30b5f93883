"""`explain`: Element Shapley Values of one sequence.

An explanation has three steps: an estimator draws subsequences, the game scores them, and the
estimator turns scores into values (`attribute`). For games in JAX all three are one compiled
program; games on the host are scored by a loop in between.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import AnyArray, expect, is_concrete, message
from esv_jax.estimators import Estimator, SurrogatePlan
from esv_jax.games.grouped import Groups, ScoreTable
from esv_jax.games.protocol import Game, ScaleGame
from esv_jax.games.scoring import GameInfo, HeadRows, compiled, request_cost, score_rows
from esv_jax.groups import as_players
from esv_jax.inputs import (
    FINITE,
    EstimatorChoice,
    check_randomness,
    checked_inputs,
    choose_estimator,
)
from esv_jax.subsequences import SubsequencePlan
from esv_jax.subsequences.lattice import Lattice
from esv_jax.tolerance import check_tolerance, width_function, within_tolerance, without_tolerance


def explain(
    game: Game,
    x: ArrayLike,
    *,
    prior: ArrayLike | Sequence[float],
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    plan: SubsequencePlan | SurrogatePlan | None = None,
    groups: Groups | None = None,
    tolerance: float | None = None,
    confidence: float | None = None,
    classes: Sequence[int] | None = None,
    max_evaluations: int | None = None,
    marginals: bool = True,
    max_bytes: float | None = None,
) -> Attribution:
    """Element Shapley Values: each element's contribution to each class score of one sequence.

    Args:
      game: the model to explain, e.g. `MultiScale(heads)`.
      x: the sequence, (n, D) features or (n, ...) frames, floating point, finite, n >= 1.
        A `BlackBox` also takes integers, such as uint8.
      prior: scores of the empty sequence, (C,). Under the softmax link a probability vector
        (commonly the class frequencies of the training set), under the sigmoid link one
        probability per class, under the identity link logits.
      estimator: "auto" is `Exact()` where it fits the memory, up to 20 elements (12 of a
        `VariableLength`, 8 of a `BlackBox` game); beyond, `Surrogate()` for games that combine
        heads by scale and `SizeRegression()` for those that score each subsequence on its own.
        Or an estimator with your settings.
      key: `jax.random.key(seed)`, needed where subsequences are drawn; consumed.
      plan: subsequences to replay in place of a draw (under "auto" by the estimator that takes
        such a plan). A `SubsequencePlan` has to contain the whole sequence.
      groups: the group of each element, n integers that use 0..g - 1, or g lists of elements:
        credits groups (shots, say; `data.propose_segments` finds them) in the place of elements.
        All elements of a group join at once; one group has the whole evidential score, groups of
        one are elements. A group's value is not the sum of its elements' ESVs but that of their
        `owen_values`. No plan then.
      tolerance: half width, in units of the scores, that intervals should not exceed. Sampling
        starts with the estimator as given and doubles its budget, at once as often as the widest
        interval suggests, until the intervals are narrow enough or the evaluations, the memory or
        the distinct subsequences are used up. `SizeRegression` draws what it drew before and more,
        and a `BlackBox` scores each subsequence once. The last result is returned, and
        `Attribution.within_tolerance` says whether it is within.
      confidence: of those intervals, default 0.95; only with a tolerance.
      classes: classes whose intervals count, default all; only with a tolerance.
      max_evaluations: most model evaluations; with a tolerance of one round, default 100,000.
        "auto" then chooses an estimator within it; another estimator is refused.
      marginals: whether to return mean marginals by scale, (n, n, C).
      max_bytes: memory that may be taken; default what the device has free, or half of the
        machine's where it does not say.
    Returns:
      `Attribution` in the wider of x's and the model's dtype, float32 at least, of (n, C), or
      (g, C) for groups, whose scales then count groups. `explain` may be called under `jit`,
      `vmap` and `grad`; values are then not checked.
    Raises:
      ValueError: shapes that disagree, values that are not finite, also of the result, a prior
        that is none, a missing key, a sequence too long for `Exact` (with the numbers, and the
        way out), subsequences missing from a plan; an element in no group or in two, a group
        without elements; `classes` or `confidence` without a tolerance.
      TypeError: x of another dtype than the game takes; an estimator for another kind of game; a
        key of the old style.
    Cost: stated beforehand by `plan_cost`. The first call for a shape compiles. Groups cost 2**g
      evaluations of games that score each subsequence on its own, whatever n is; `MultiScale`
      combines the score of a union from those of all its parts: a pass over 2**n subsequences up
      to 20 elements, beyond it (up to 12 groups) it is sampled (`UnionSampling`).
    """
    x, prior, notes = checked_inputs(game, x, prior)
    removal, table = game.removal_name, None
    if groups is not None:
        expect(plan is None, "plan", "None beside groups", "a plan", "Give a key.")
        game, x, estimator = as_players(game, x, prior, groups, estimator, max_bytes)
        table = game.cost_of_table if isinstance(game, ScoreTable) else None
    if tolerance is None and (classes is not None or confidence is not None):
        raise without_tolerance(classes, confidence)
    chosen = choose_estimator(game, x, estimator, plan, max_bytes, max_evaluations)
    if chosen.needs_key or key is not None or plan is not None:
        check_randomness(chosen, x.shape[0], key, plan)
    if tolerance is None:
        result = explained(chosen, game, x, prior, key, plan, marginals)
    else:
        check_tolerance(tolerance, plan, x)
        width = width_function(classes, confidence, prior.shape[0])

        def one_round(estimator: Estimator) -> Attribution:
            return explained(estimator, game, x, prior, key, None, marginals)

        limits = max_evaluations, max_bytes
        result = within_tolerance(tolerance, width, chosen, one_round, game, x, *limits)
    return dataclasses.replace(
        result,
        warnings=tuple(dict.fromkeys((*result.warnings, *notes))),
        removal=removal,
        n_evaluations=result.n_evaluations if table is None else table.n_evaluations,
    )


def attribute(
    estimator: Estimator,
    game: Game,
    x: Any,
    prior: Any,
    key: Array | None,
    plan: object,
    length: Array | None = None,
    marginals: bool = True,
) -> Attribution:
    """The three steps for one sequence x (n, ...), without checks; pure for games in JAX.

    Args:
      plan: a plan to replay, or None to draw with `key`.
      length: elements that are there, the rest being padding; default all.
      marginals: whether the result has them.
    """
    info = GameInfo.of(game, x.shape[0])
    drawn = estimator.draw(key, info, length) if plan is None else estimator.replay(plan)
    scores = score_rows(game, x, drawn)
    result = estimator.estimate(drawn, scores, prior, info, length)
    return result if marginals else dataclasses.replace(result, marginals=None)


def explained(
    estimator: Estimator,
    game: Game,
    x: AnyArray,
    prior: AnyArray,
    key: Array | None,
    plan: object,
    marginals: bool,
) -> Attribution:
    """One sequence by one estimator, checked afterwards."""
    if plan is not None or not estimator.needs_key:
        key = None
    if game.on_host:
        result = _on_host(estimator, game, x, prior, key, plan)
        if not marginals:
            result = dataclasses.replace(result, marginals=None)
    else:
        n = x.shape[0]
        if key is not None and estimator.draws_on_host:
            info = GameInfo.of(game, estimator.padded_length(n))
            plan, key = estimator.draw(key, info, n), None
        if isinstance(plan, HeadRows) and plan.member.shape[-1] > n:
            x = jnp.pad(x, [(0, plan.member.shape[-1] - n), *[(0, 0)] * (x.ndim - 1)])
        steps = functools.partial(attribute, estimator, marginals=marginals)
        result = compiled(game, (estimator, marginals), lambda: steps)(game, x, prior, key, plan)
        result = without_padding(result, n)
    found = result.values, result.scores
    is_traced = isinstance(result.values, jax.core.Tracer)
    if not is_traced and not all(np.isfinite(np.asarray(leaf)).all() for leaf in found):
        if isinstance(plan, SubsequencePlan) and is_concrete(plan.samples.valid):
            _check_plan(plan, result)
        way_out = "A model has to take any subset of elements, one element alone included."
        raise ValueError(message("game", FINITE, first_not_finite(game, x), way_out))
    return result


ELEMENT_AXES = {
    "values": 1,
    "scores": 0,
    "marginals": 2,
    "std_error": 1,
    "coverage": 2,
    "n_evaluations": 0,
}
"""Fields of a result and the number of their first axes, over elements or scales."""


def without_padding(result: Attribution, n: int) -> Attribution:
    """The result of the first n elements."""
    if result.values.shape[0] == n:
        return result
    fields = {name: getattr(result, name) for name, axes in ELEMENT_AXES.items() if axes}
    cut = {
        name: leaf[(slice(n),) * ELEMENT_AXES[name]]
        for name, leaf in fields.items()
        if leaf is not None
    }
    return dataclasses.replace(result, **cut)


def _on_host(
    estimator: Estimator, game: Game, x: AnyArray, prior: Any, key: Array | None, plan: object
) -> Attribution:
    """The three steps for a game on the host: its scores come from a loop on this thread."""
    info = GameInfo.of(game, x.shape[0])

    def draw(key: Array) -> Any:
        return estimator.draw(key, info)

    def estimate(drawn: Any, scores: Any, prior: Array) -> Attribution:
        return estimator.estimate(drawn, scores, prior, info)

    if plan is not None:
        drawn = estimator.replay(plan)
    elif key is None:
        drawn = estimator.draw(None, info)
    else:
        drawn = compiled(game, ("draw", estimator, info), lambda: draw)(key)
    with game.progress_bar(request_cost(game, x, estimator.request(info)).n_evaluations):
        scores: Any = score_rows(game, x, drawn)
    name = ("estimate", estimator, info)
    run = estimate if isinstance(drawn, Lattice) else compiled(game, name, lambda: estimate)

    def as_jax(leaf: Any) -> Any:
        floats = isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind == "f"
        return jnp.asarray(leaf, prior.dtype) if floats else leaf

    result = jax.tree.map(as_jax, run(drawn, scores, prior))
    return dataclasses.replace(result, exact=False) if game.noise(x) else result


def _check_plan(plan: SubsequencePlan, result: Attribution) -> None:
    """Raise where the samples of a plan lack what values or scores need."""
    missed = np.flatnonzero(~(np.asarray(result.coverage) > 0).any(0))
    if len(missed):
        expected = "subsequences with and without every element, at some scale"
        way_out = "Add such subsequences, or use Constructive(unseen='zero')."
        raise ValueError(message("plan", expected, f"none for element {missed[0]}", way_out))
    expected = f"the whole sequence at scale {plan.n}, which has the result's scores"
    there = bool(np.asarray(plan.samples.valid)[:, -1].any())
    got = "no such row in any iteration"
    expect(there, "plan", expected, got, "Add a row with all elements.")
    expected = "a sampled parent of every subsequence longer than the longest head"
    got = "a whole sequence whose parents are missing"
    way_out = "Add its subsequences of one element fewer, or use Constructive(unseen='zero')."
    expect(not np.isnan(np.asarray(result.scores)).any(), "plan", expected, got, way_out)


def first_not_finite(game: Game, x: AnyArray) -> str:
    """Describe the shortest beginning of x whose score is not finite."""
    n = x.shape[0]
    if isinstance(game, ScaleGame) or not is_concrete(x):
        return "NaN or infinity in the values"
    run = compiled(game, "beginnings", lambda: score_rows)
    found = np.asarray(run(game, x, np.tril(np.ones((n, n), bool))))
    wrong = np.flatnonzero(~np.isfinite(found).all(1)).tolist()
    if not wrong:
        return "NaN or infinity for some subsequence"
    first = f"first {wrong[0] + 1} elements" if wrong[0] else "first element alone"
    return f"NaN or infinity for the {first}"
