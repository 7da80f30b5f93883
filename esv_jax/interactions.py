"""`pairwise_interactions`: which elements of one sequence say something only together."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
from jax import Array

from esv_jax.boundary import check_enumerable, checked_prior, checked_sequence
from esv_jax.checks import expect, expect_choice, expect_key, message
from esv_jax.estimators import Exact, Surrogate
from esv_jax.estimators.interactions import INDICES, Index, interaction_index
from esv_jax.estimators.surrogate_interactions import draw_members, sampled_interactions
from esv_jax.games import Game, run_to_end

_WAY_OUT = (
    "Take fewer elements (data.segment_centres picks them evenly), or sample "
    "(estimator=Surrogate(), key=jax.random.key(0)) where the model has heads by scale."
)


def pairwise_interactions(
    game: Game,
    x: Any,
    *,
    prior: Any,
    index: Index = "sii",
    estimator: Exact | Surrogate | Literal["auto"] = "auto",
    key: Array | None = None,
    draws: int = 256,
    max_bytes: float | None = None,
) -> Array:
    """What each pair of elements adds together beyond what the two add alone, for every class.

    Positive: they are worth more together (an event that needs both frames). Negative: each makes
    the other dispensable (two frames that show the same). Shapley interaction index:

        I[i, j] = sum over X without i and j of k! (n - k - 2)! / (n - 1)! d(X),    k = |X|
        d(X) = f(X + i + j) - f(X + i) - f(X + j) + f(X),    f of none = prior

    Source: Grabisch & Roubens (1999). `k_sii` splits ESVs by it into main effects and pairs that
    add up to the score.

    Args:
      game: what is explained, e.g. `MultiScale(heads)`.
      x: the sequence, (n, D) features or (n, ...) frames, floating point, finite, n >= 1.
      prior: scores of the empty sequence, (C,), as for `explain`.
      index: "sii"; or "sti", the Shapley-Taylor index of order 2 (Sundararajan et al., 2020),
        whose pairs i < j and single effects f({i}) - prior add up to the score; exact only.
      estimator: "auto" and `Exact()` enumerate. `Surrogate(pool)` reads them off small models of
        every head (see `sampled_interactions`), for sequences too long to enumerate.
      key: where sampled; consumed.
      draws: subsequences where sampled, each of which gives every pair a difference. On trained
        heads of 16 elements 128 leave an error of about 14 % of the mean, 512 of 9 %.
      max_bytes: memory that may be taken; default as for `explain`.
    Returns:
      (n, n, C), in the units of the scores, symmetric, zero on the diagonal; all zero at n = 1.
      May be called under `jit`, `vmap` and `grad`; questions about values are then not asked.
    Raises:
      ValueError: as for `explain`; a sequence too long to enumerate, another index.
      TypeError: x that is not floating point; another estimator; a surrogate of a game without
        heads by scale.
    Cost: one pass over all subsequences, as `explain` with `Exact()`, and about 35 operations per
      subsequence and class: in all up to 1.5 times as long as `explain` on a CPU. Sampled, the
      pool's evaluations and draws * n**2 * C exponentials. The first call for a shape compiles.
    """
    x = checked_sequence(game, x)
    prior = checked_prior(game, x, prior)
    expect_choice("index", index, INDICES)
    if isinstance(estimator, Surrogate):
        expect(index == "sii", "index", "'sii' beside a surrogate", repr(index))
        expect(draws >= 2, "draws", "a number >= 2", draws)
        plan_key, draw_key = jax.random.split(expect_key("key", key))
        plan = estimator.prepare(game, x, plan_key)
        member = draw_members(draw_key, x.shape[0], draws)
        return compiled_sampled()(game, x, prior, plan, member)
    if estimator != "auto" and not isinstance(estimator, Exact):
        raise TypeError(message("estimator", "'auto', Exact() or Surrogate()", repr(estimator)))
    check_enumerable(game, x, max_bytes, _WAY_OUT)
    return run_to_end(game, lambda: compiled(index)(game, x, prior))


@functools.cache
def compiled(index: Index) -> Any:
    """The jit-compiled interactions of one sequence, made once per index."""

    def run(game: Game, x: Array, prior: Array) -> Array:
        return interaction_index(game, x, prior, index)

    return jax.jit(run)


@functools.cache
def compiled_sampled() -> Any:
    """The jit-compiled sampled interactions, made once."""
    return jax.jit(sampled_interactions)
