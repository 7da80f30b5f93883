"""`pairwise_interactions`: what two elements of one sequence contribute only together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_choice, expect_int, expect_key, is_concrete, message
from esv_jax.estimators import Exact, PermutationSampling, Surrogate
from esv_jax.estimators.interactions import (
    INDICES,
    Index,
    adjacent_rows,
    interaction_index,
    pair_covers,
)
from esv_jax.estimators.surrogate_interactions import draw_members, sampled_interactions
from esv_jax.games.protocol import Game, SubsetGame
from esv_jax.games.scoring import GameInfo, Request, compiled, request_cost, score, score_rows
from esv_jax.inputs import check_enumerable, check_kind, checked_inputs
from esv_jax.subsequences import MAX_ELEMENTS, make_lattice

_ROWS_TOGETHER = 2**16  # subsequences scored in one call

_WAY_OUT = (
    "Take fewer elements (data.segment_centres picks them evenly), or sample "
    "(key=jax.random.key(0), with estimator=Surrogate() where the model has heads by scale)."
)


def pairwise_interactions(
    game: Game,
    x: Any,
    *,
    prior: Any,
    index: Index = "sii",
    estimator: Exact | Surrogate | PermutationSampling | Literal["auto"] = "auto",
    key: Array | None = None,
    draws: int | None = None,
    max_bytes: float | None = None,
) -> Array:
    """Shapley interactions of every pair of elements, for every class.

    Positive: the two are worth more together (an event that needs both frames). Negative: each
    replaces the other (two frames with the same content). Shapley interaction index:

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
      estimator: "auto" and `Exact()` enumerate. For sequences too long for that,
        `Surrogate(pool)` reads them off small models of every head (see `sampled_interactions`),
        and `PermutationSampling(permutations)`, which "auto" is beyond 24 elements where there is
        a key, takes games that score each subsequence on its own: about so many orders of
        arrival, rounded up to n / 2, after which every pair has been adjacent once.
      key: where sampled; consumed.
      draws: subsequences beside `Surrogate`, default 256, each of which gives every pair a
        difference. On trained heads of 16 elements 128 leave an error of about 14 % of the mean,
        512 of 9 %.
      max_bytes: memory that may be taken; default as for `explain`.
    Returns:
      (n, n, C), in the units of the scores, symmetric, zero on the diagonal; all zero at n = 1.
      May be called under `jit`, `vmap` and `grad`; values are then not checked.
    Raises:
      ValueError: as for `explain`; a sequence too long to enumerate, another index.
      TypeError: x that is not floating point; another estimator, or one for another kind of game.
    Cost: one pass over all subsequences, as `explain` with `Exact()`, and about 35 operations per
      subsequence and class: in all up to 1.5 times as long as `explain` on a CPU. Sampled, the
      pool's evaluations and draws * n**2 * C exponentials. The first call for a shape compiles.
    """
    x, prior, _ = checked_inputs(game, x, prior)
    expect_choice("index", index, INDICES)
    n = x.shape[0]
    if estimator == "auto":
        sampled = n > MAX_ELEMENTS and key is not None and isinstance(game, SubsetGame)
        estimator = PermutationSampling() if sampled else Exact()
    if type(estimator) not in (Exact, *_SAMPLERS):
        expected = "'auto', Exact(), Surrogate() or PermutationSampling()"
        raise TypeError(message("estimator", expected, repr(estimator)))
    check_kind(game, estimator)
    sample = _SAMPLERS.get(type(estimator))
    if sample is not _of_surrogate:
        expect(draws is None, "draws", f"None beside {type(estimator).__name__}", draws)
    if key is not None:
        expect_key("key", key)
    if sample is not None:
        expect(index == "sii", "index", "'sii' where it is sampled", repr(index))
        return _checked(sample(game, x, prior, expect_key("key", key), estimator, draws))
    check_enumerable(game, x, max_bytes, _WAY_OUT)
    if not game.on_host:
        run = compiled(game, ("interactions", index), lambda: _exact(index))
        return _checked(run(game, x, prior))
    lattice = make_lattice(n, n)
    with game.progress_bar(request_cost(game, x, Request("lattice")).n_evaluations):
        scores: Any = score_rows(game, x, lattice)

    def estimate(scores: Any, prior: Array) -> Array:
        return interaction_index(lattice, scores, prior, index)

    name = ("interactions of scores", index, n)
    return _checked(compiled(game, name, lambda: estimate)(scores, prior))


def _of_surrogate(
    game: Game, x: Any, prior: Array, key: Array, estimator: Surrogate, draws: int | None
) -> Array:
    """Differences of small models of the heads, over `draws` subsequences."""
    plan_key, draw_key = jax.random.split(key)
    plan = estimator.draw(plan_key, GameInfo.of(game, x.shape[0]))
    draws = 256 if draws is None else expect_int("draws", draws, 2)
    member = draw_members(draw_key, x.shape[0], draws)
    run = compiled(game, "sampled interactions", lambda: _sampled)
    return run(game, x, prior, plan, member)


def _of_orders(
    game: Game, x: Any, prior: Any, key: Array, estimator: PermutationSampling, draws: None
) -> Array:
    """The mean of d(X) over orders in which pairs are adjacent, every pair equally often.

    About as many orders as the estimator has.
    """
    n = x.shape[0]
    if n == 1:
        return jnp.zeros((1, 1, len(prior)), prior.dtype)
    per_cover = (n + 1) // 2
    covers = max(-(-estimator.permutations // per_cover), 1)
    orders = np.asarray(pair_covers(key, n, covers)).reshape(covers * per_cover, -1)
    total = np.zeros((n, n, len(prior)), np.float64)
    together = max(_ROWS_TOGETHER // (4 * n), 1)
    with game.progress_bar(4 * covers * n * (n - 1) // 2):
        for start in range(0, len(orders), together):
            block = orders[start : start + together]
            member, first, second = adjacent_rows(block, n)
            rows, inverse = np.unique(member.reshape(-1, n), axis=0, return_inverse=True)
            padded = np.concatenate([rows, np.repeat(rows[-1:], 4 * n * together - len(rows), 0)])
            scores = np.asarray(score(game, x, padded, prior), np.float64)
            f = scores[inverse.ravel()].reshape(*member.shape[:2], -1)
            np.add.at(total, (first, second), f[:, 3] - f[:, 1] - f[:, 2] + f[:, 0])
    total = (total + total.swapaxes(0, 1)) / covers
    return jnp.asarray(total, prior.dtype)


_SAMPLERS: dict[type, Callable[..., Array]] = {
    Surrogate: _of_surrogate,
    PermutationSampling: _of_orders,
}


def _exact(index: Index) -> Callable[[Any, Array, Array], Array]:
    def run(game: Any, x: Array, prior: Array) -> Array:
        lattice = make_lattice(x.shape[0])
        scores = score_rows(game, x, lattice)
        return interaction_index(lattice, scores, jnp.asarray(prior), index)

    return run


def _sampled(game: Any, x: Array, prior: Array, plan: Any, member: Array) -> Array:
    logits: Any = score_rows(game, x, plan)
    return sampled_interactions(plan, logits, prior, member, game.link)


def _checked(found: Array) -> Array:
    """Refuse interactions that are not finite."""
    if is_concrete(found) and not np.isfinite(np.asarray(found)).all():
        raise ValueError(message("game", "finite scores of every subsequence", "NaN or infinity"))
    return found
