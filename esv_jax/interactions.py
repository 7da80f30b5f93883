"""Pairwise Shapley interactions, exact and sampled."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import AnyArray, expect, expect_choice, expect_int, expect_key, message
from esv_jax.estimators import Exact, PermutationSampling, Surrogate
from esv_jax.estimators.surrogate_models import draw_members, sampled_interactions
from esv_jax.games.few_scores import score
from esv_jax.games.protocol import Game, SubsetGame, Tile
from esv_jax.games.scoring import GameInfo, Request, compiled, request_cost, score_rows
from esv_jax.inputs import check_enumerable, check_kind, checked_inputs, finite_values
from esv_jax.subsequences.lattice import MAX_ELEMENTS, Lattice, make_lattice
from esv_jax.subsequences.samples import random_orders

Index = Literal["sii", "sti"]
INDICES: tuple[Index, ...] = get_args(Index)

_ROWS_TOGETHER = 2**16  # subsequences scored in one call

_WAY_OUT = (
    "Take fewer elements (data.segment_centres picks them evenly), or sample "
    "(key=jax.random.key(0), with estimator=Surrogate() where the model has heads by scale)."
)


def pairwise_interactions(
    game: Game,
    x: ArrayLike,
    *,
    prior: ArrayLike | Sequence[float],
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
        a key, takes games that score each subsequence on its own. The number of orders of arrival
        is rounded up to a multiple of n / 2: in n / 2 orders every pair is adjacent once.
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
    if type(estimator) not in (Exact, Surrogate, PermutationSampling):
        expected = "'auto', Exact(), Surrogate() or PermutationSampling()"
        raise TypeError(message("estimator", expected, repr(estimator)))
    check_kind(game, estimator)
    if not isinstance(estimator, Surrogate):
        expect(draws is None, "draws", f"None beside {type(estimator).__name__}", draws)
    if key is not None:
        expect_key("key", key)
    if isinstance(estimator, Exact):
        check_enumerable(game, x, max_bytes, _WAY_OUT)
        return finite_values(_exact(game, x, prior, index))
    expect(index == "sii", "index", "'sii' where it is sampled", repr(index))
    key = expect_key("key", key)
    if isinstance(estimator, PermutationSampling):
        return finite_values(_of_orders(game, x, prior, key, estimator.permutations))
    plan_key, draw_key = jax.random.split(key)
    plan = estimator.draw(plan_key, GameInfo.of(game, n))
    member = draw_members(draw_key, n, 256 if draws is None else expect_int("draws", draws, 2))
    run = compiled(game, "sampled interactions", lambda: _of_models)
    return finite_values(run(game, x, prior, plan, member))


def _exact(game: Game, x: AnyArray, prior: AnyArray, index: Index) -> Array:
    """From the scores of all subsequences; of a game on the host from those of a loop."""
    n = x.shape[0]

    def run(game: Game, x: Array, prior: Array) -> Array:
        lattice = make_lattice(x.shape[0])
        return interaction_index(lattice, score_rows(game, x, lattice), jnp.asarray(prior), index)

    def estimate(scores: Any, prior: Array) -> Array:
        return interaction_index(make_lattice(n, n), scores, prior, index)

    if not game.on_host:
        return compiled(game, ("interactions", index), lambda: run)(game, x, prior)
    with game.progress_bar(request_cost(game, x, Request("lattice")).n_evaluations):
        scores = score_rows(game, x, make_lattice(n, n))
    name = ("interactions of scores", index, n)
    return compiled(game, name, lambda: estimate)(scores, prior)


def _of_models(game: Any, x: Array, prior: Array, plan: Any, member: Array) -> Array:
    """Differences of small models of the heads, over the subsequences `member`."""
    logits: Any = score_rows(game, x, plan)
    return sampled_interactions(plan, logits, prior, member, game.link)


def _of_orders(game: Game, x: AnyArray, prior: AnyArray, key: Array, permutations: int) -> Array:
    """The mean of d(X) over orders in which pairs are adjacent, every pair equally often."""
    n = x.shape[0]
    if n == 1:
        return jnp.zeros((1, 1, len(prior)), prior.dtype)
    per_cover = (n + 1) // 2
    covers = max(-(-permutations // per_cover), 1)
    orders = np.asarray(pair_covers(key, n, covers)).reshape(covers * per_cover, -1)
    total = np.zeros((n, n, len(prior)), np.float64)
    together = max(_ROWS_TOGETHER // (4 * n), 1)
    with game.progress_bar(4 * covers * n * (n - 1) // 2):
        for start in range(0, len(orders), together):
            block = orders[start : start + together]
            member, first, second = adjacent_rows(block, n)
            rows, inverse = np.unique(member.reshape(-1, n), axis=0, return_inverse=True)
            padded = np.concatenate([rows, np.repeat(rows[-1:], 4 * n * together - len(rows), 0)])
            scores = np.asarray(score(game, x, padded, prior=prior), np.float64)
            f = scores[inverse.ravel()].reshape(*member.shape[:2], -1)
            np.add.at(total, (first, second), f[:, 3] - f[:, 1] - f[:, 2] + f[:, 0])
    total = (total + total.swapaxes(0, 1)) / covers
    return jnp.asarray(total, prior.dtype)


def interaction_index(lattice: Lattice, scores: Any, prior: Array, index: Index = "sii") -> Array:
    """Interaction of every pair of elements, exactly: (n, n, C), symmetric, zero diagonal.

        I[i, j] = sum over X without i and j of w(|X|) d(X),
        d(X) = f(X + i + j) - f(X + i) - f(X + j) + f(X)

    with w(k) = k! (n - k - 2)! / (n - 1)! for the Shapley interaction index ("sii") and
    w(k) = 2 / (n binomial(n - 1, k)) for the Shapley-Taylor index of order 2 ("sti"). f(X) is the
    score after the link, f of the empty subsequence the prior. One element has no pair: zero.

    Seen from a subsequence of s elements, its weight for a pair depends on s and on how many of
    the pair it holds (`pair_share`). So, as for ESVs, sums over a tile factor: pairs of lows need
    sums over tops, pairs of tops weighted sums over lows, mixed pairs sums over lows that hold
    the low and that do not. No difference is taken between large sums.

    Source: Grabisch & Roubens (1999), "sii"; Sundararajan, Dhamdhere & Agarwal (2020), "sti".

    Args:
      lattice: of n elements, n >= 1.
      scores: by scale or a fold over tiles, as `score_rows` returns them.
      prior: (C,), in the dtype of the scores.
      index: "sii" or "sti".
    Returns:
      (n, n, C), in the units of the scores.
    Cost: the game's own pass, and 2 (3 + 2 n_low) + 3 n_top**2 / R operations per subsequence and
      class (R = 2**n_low; 35 at n = 16). Up to 10 elements all are lows: n**2 operations.
      Memory beyond the pass: (n_top + 1) R C numbers, as for ESVs.
    """
    n, c, dtype = lattice.n, prior.shape[0], prior.dtype
    if n == 1:
        return jnp.zeros((1, 1, c), dtype)
    n_top, n_low, n_lows = lattice.n_top, lattice.n_low, lattice.n_lows
    share = pair_share(n, index)
    empty, share[0] = share[0, 0], 0  # the prior is added at the end
    first, second = np.triu_indices(n_top, 1)  # pairs of tops
    weights = jnp.asarray(_row_weights(share, lattice), dtype)  # (n_top + 1, 3 + 2 n_low, R)

    def visit(sums: tuple[Array, Array, Array], tile: Tile) -> tuple[Array, Array, Array]:
        by_low, top_pairs, mixed_pairs = sums
        scores = tile.table * tile.valid.astype(dtype)[None, :, None]
        by_low = by_low.at[tile.level].add(scores.sum(1))
        if n_top:
            width = scores.shape[1]
            flat = scores.reshape(n_lows, width * c)
            over_lows = jnp.matmul(weights[tile.level], flat, precision="highest")
            over_lows = over_lows.reshape(-1, width, c)
            one, other = tile.member[:, first].T, tile.member[:, second].T  # (pairs, B)
            held = jnp.stack([~(one | other), one ^ other, one & other], axis=1).astype(dtype)
            sides = jnp.stack([~tile.member, tile.member]).astype(dtype)  # (2, B, n_top)
            by_side = over_lows[3:].reshape(2, n_low, width, c)
            einsum = functools.partial(jnp.einsum, precision="highest")
            top_pairs = top_pairs + einsum("qkb,kbc->qc", held, over_lows[:3])
            mixed_pairs = mixed_pairs + einsum("kbj,kibc->jic", sides, by_side)
        return by_low, top_pairs, mixed_pairs

    nothing = (
        jnp.zeros((n_top + 1, n_lows, c), dtype),
        jnp.zeros((len(first), c), dtype),
        jnp.zeros((n_top, n_low, c), dtype),
    )
    if callable(scores):
        by_low, top_pairs, mixed_pairs = scores(visit, nothing)
    else:
        table = jnp.concatenate(scores)[:, None]
        whole = Tile(table, 0, jnp.zeros((1, 0), bool), jnp.ones(1, bool))
        by_low, top_pairs, mixed_pairs = visit(nothing, whole)

    low_weights, first_low, second_low = _low_pair_weights(share, lattice)
    weight = jnp.asarray(low_weights, dtype)
    low_pairs = jnp.matmul(weight, by_low.reshape(-1, c), precision="highest")
    pairs = jnp.concatenate([top_pairs, mixed_pairs.reshape(-1, c), low_pairs])
    pairs = pairs + empty.astype(dtype) * prior[None, :]

    # Where each pair of elements is found; the diagonal finds the row of zeros.
    found = np.full((n, n), len(pairs))
    tops, lows = np.arange(n_top), n_top + np.arange(n_low)
    ends = np.concatenate([first, np.repeat(tops, n_low), n_top + first_low])
    others = np.concatenate([second, np.tile(lows, n_top), n_top + second_low])
    found[ends, others] = found[others, ends] = np.arange(len(pairs))
    return jnp.concatenate([pairs, jnp.zeros((1, c), dtype)])[found]


def pair_covers(key: Array, n: int, covers: int) -> Array:
    """Orders of arrival in which every pair of elements is adjacent once per cover.

    A complete graph of an even number m of vertices is m / 2 Hamiltonian paths, the zigzags k,
    k + 1, k - 1, k + 2, ...; each cover relabels them at random. For odd n one vertex is empty:
    the entry n. What arrives before an adjacent pair has uniform size 0..n - 2 and is uniform
    within each, as the weights of the Shapley interaction index are.

    Returns:
      (covers, m / 2, m) int, m = n or n + 1.
    """
    m = n + n % 2
    step = np.arange(m)
    zigzag = np.where(step % 2, (step + 1) // 2, -(step // 2))
    paths = (np.arange(m // 2)[:, None] + zigzag[None]) % m
    return random_orders(key, covers, m)[:, paths]


def adjacent_rows(orders: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The four subsequences behind each adjacent pair of orders (P, m), as `pair_covers` gives.

    Returns:
      member (Q, 4, n) bool, X, X + i, X + j and X + i + j of each pair, X what arrived before;
      i and j (Q,).
    """
    m = orders.shape[1]
    arrival = np.argsort(orders, axis=1)[:, :n]  # when each element arrives, (P, n)
    before = arrival[:, None, :] < np.arange(m - 1)[None, :, None]  # (P, m - 1, n)
    first, second = orders[:, :-1], orders[:, 1:]
    real = (first < n) & (second < n)
    before, first, second = before[real], first[real], second[real]
    member = np.repeat(before[:, None], 4, axis=1)
    at = np.arange(len(first))
    member[at, 1, first] = member[at, 3, first] = True
    member[at, 2, second] = member[at, 3, second] = True
    return member, first, second


def pair_share(n: int, index: Index = "sii") -> np.ndarray:
    """Weight of one subsequence in the interaction of a pair, (n + 1, 3), float64.

    Row s, column k: of s elements, k of the pair among them. It is +w(s - 2), -w(s - 1), +w(s)
    for k = 2, 1, 0, and 0 where no such subsequence exists; w as in `interaction_index`.
    """
    w = 1 / np.array([(n - 1) * math.comb(n - 2, k) for k in range(n - 1)])
    if index == "sti":
        w = 2 / np.array([n * math.comb(n - 1, k) for k in range(n - 1)])
    share = np.zeros((n + 1, 3))
    for held, sign in enumerate((1, -1, 1)):
        share[held : held + n - 1, held] = sign * w
    return share


def k_sii(values: Array, interactions: Array) -> tuple[Array, Array]:
    """Main effects and pairs that add up to the score: k-SII of order 2, or 2-Shapley values.

        main[i] = esv[i] - 1/2 * sum over j of I[i, j]        pairs = I

    The general definition adds Bernoulli numbers times interactions of higher order; at order 2
    it needs only B_1 = -1/2. So an ESV is a main effect and half of each of its pairs, and

        sum of main + sum over i < j of pairs = scores - prior.

    Source: Bordt & von Luxburg (2023), n-Shapley values, where the pairs are Shapley interactions
    ("sii"); "sti" has its own main effects, f({i}) - prior.

    Args:
      values: ESVs (..., n, C).
      interactions: (..., n, n, C), from `pairwise_interactions`.
    Returns:
      main (..., n, C) and pairs (..., n, n, C), in the units of the scores.
    """
    return values - interactions.sum(-2) / 2, interactions


def _row_weights(share: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Weights of the lows of a tile by level of its tops: (n_top + 1, 3 + 2 n_low, R).

    Rows 0..2 are for pairs of tops, of which the top holds 0..2. Then come, for mixed pairs whose
    top is not in and those whose top is, one row per low.
    """
    scale = np.arange(lattice.n_top + 1)[:, None] + lattice.low_scale[None, :]  # (levels, R)
    at_scale = share[scale]  # (levels, R, 3)
    low_in = lattice.low_member.T.astype(int)  # (n_low, R)
    lows = np.arange(lattice.n_lows)[None, :]
    mixed = [at_scale[:, lows, low_in + side] for side in (0, 1)]  # each (levels, n_low, R)
    return np.concatenate([at_scale.transpose(0, 2, 1), *mixed], axis=1)


def _low_pair_weights(
    share: np.ndarray, lattice: Lattice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (pairs, (n_top + 1) R) of sums over tops for pairs of lows, and the two lows."""
    first, second = np.triu_indices(lattice.n_low, 1)
    member = lattice.low_member.astype(int)
    held = (member[:, first] + member[:, second]).T  # (pairs, R)
    scale = np.arange(lattice.n_top + 1)[:, None] + lattice.low_scale[None, :]  # (levels, R)
    return share[scale[None], held[:, None, :]].reshape(len(first), scale.size), first, second
