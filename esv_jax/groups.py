"""Groups of elements: their Shapley values, and Owen values of the elements within them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import AnyArray, expect, expect_finite, expect_int, expect_key
from esv_jax.estimators import Exact, PermutationSampling, Surrogate
from esv_jax.estimators.permutation import order_rows
from esv_jax.games.few_scores import picked_cost, score
from esv_jax.games.grouped import Grouped, Groups, ScoreTable, group_labels, group_members
from esv_jax.games.protocol import Game, ScaleGame, SubsetGame
from esv_jax.games.scoring import GameInfo, Request, request_cost
from esv_jax.inputs import (
    FEWER_ELEMENTS,
    EstimatorChoice,
    check_enumerable,
    checked_inputs,
    expect_memory,
    finite_values,
)
from esv_jax.subsequences.lattice import membership
from esv_jax.subsequences.samples import random_orders
from esv_jax.unions import UnionSampling

MAX_OWEN_TERMS = 2**18  # subsequences whose scores are kept: 182 MB at 174 classes
_MAX_GROUPS = 12  # of heads by scale beyond 20 elements: 4,096 unions
_MAX_ENUMERATED = 20  # elements; beyond, "auto" samples where a game combines scales


def as_players(
    game: Game,
    x: AnyArray,
    prior: AnyArray,
    groups: Groups,
    estimator: EstimatorChoice,
    max_bytes: float | None,
) -> tuple[Game, AnyArray, EstimatorChoice]:
    """The game of groups, the groups as its sequence (g, n), and the estimator that fits it.

    A game that scores each subsequence on its own scores unions of groups. One that combines
    scales gives all unions in one pass over its 2**n subsequences, or has them estimated where
    that is too much, or where `Surrogate` is given.
    """
    labels = group_labels(groups, x.shape[0])
    players = group_members(labels)
    g = len(players)
    if isinstance(game, SubsetGame):
        return Grouped(game, x), players, estimator
    if estimator == "auto" and x.shape[0] > _MAX_ENUMERATED:
        estimator = Surrogate()
    if isinstance(estimator, Surrogate):
        way_out = "Join groups (data.propose_segments takes their number)."
        expect(g <= _MAX_GROUPS, "groups", f"at most {_MAX_GROUPS} beside a surrogate", g, way_out)
        return game, x, UnionSampling(estimator, tuple(labels.tolist()))
    check_enumerable(game, x, max_bytes, FEWER_ELEMENTS)
    unions = membership(np.arange(2**g), g)[:, labels]  # (2**g, n)
    table = score(game, x, unions, prior=prior)
    cost = request_cost(game, x, Request("lattice"))
    estimator = Exact() if estimator == "auto" else estimator  # all scores are there anyway
    return ScoreTable(table, cost), players, estimator


def owen_values(
    game: Game,
    x: ArrayLike,
    groups: Groups,
    *,
    prior: ArrayLike | Sequence[float],
    key: Array | None = None,
    permutations: int = 64,
    max_bytes: float | None = None,
) -> Attribution:
    """Owen values: contributions of elements that come in groups, exact where they can be.

    ESVs let elements join in any order; here a group's elements join one after the other, before
    the next group's. So an element is compared with the beginnings of its own group beside whole
    other groups (part of a shot, whole other shots), and

    * the values of a group's elements sum to the group's value (`explain(..., groups=...)`);
    * with one element per group, or one group in all, they are ESVs.

    Source: Owen (1977). The formula is in `owen_terms`.

    Args:
      game, x, groups, prior, max_bytes: as for `explain`.
      key: `jax.random.key(seed)`, needed where there are more subsequences than can be kept and
        the game scores each on its own; consumed. Orders of arrival are then drawn, in which
        groups stay together, each also run in reverse.
      permutations: orders, where drawn; 2 (n - 1) evaluations each.
    Returns:
      `Attribution` of (n, C), without marginals; with `std_error` where orders are drawn.
    Raises:
      ValueError: as for `explain`; more elements than can be enumerated, where the game needs
        that; more subsequences than can be kept.
      TypeError: as for `explain`.
    Cost: 2**g + 2**(g - 1) * (sum over groups of 2**b - 2) subsequences for g groups of b
      elements: evaluated alone where the game can do so, otherwise picked in one pass over all
      2**n. At most 262,144, which any 18 elements keep to. Memory: as many rows of C + n
      numbers. The first call for a shape compiles; the count is rounded up to a power of two so
      that groupings share programs.
    """
    x, prior, notes = checked_inputs(game, x, prior)
    n, alone = x.shape[0], isinstance(game, SubsetGame)
    labels = group_labels(groups, n)
    if not alone:
        check_enumerable(game, x, max_bytes, FEWER_ELEMENTS)
    g, m = int(labels.max()) + 1, n_owen_terms(np.bincount(labels))
    if key is not None:
        expect_key("key", key)
    if alone and m > MAX_OWEN_TERMS and key is not None:
        permutations = expect_int("permutations", permutations, 1)
        result = _sampled_owen(game, x, labels, prior, key, permutations)
        return dataclasses.replace(result, warnings=notes, removal=game.removal_name)
    way_out = (
        "Make groups of more equal sizes (as many as elements in each), give a key to sample "
        "(games that score each subsequence on its own), use explain(..., groups=...) for the "
        "groups alone, or take fewer elements."
    )
    expected, got = f"at most {MAX_OWEN_TERMS:,} subsequences to keep", f"{m:,} for {n} elements"
    expect(m <= MAX_OWEN_TERMS, "groups", expected, f"{got} in {g} groups", way_out)
    rows = 1 << (m - 1).bit_length()
    out = game.output(x)
    n_bytes = rows * ((3 * out.shape[0] + n) * out.dtype.itemsize + n)
    if isinstance(game, ScaleGame):
        n_bytes += picked_cost(game, x, rows)
    cost = f"{n_bytes / 1e9:,.3g} GB"
    expect_memory(n_bytes, f"{m:,} subsequences", cost, max_bytes, FEWER_ELEMENTS)
    member, weight = owen_terms(labels)
    more = (0, rows - m)
    member, weight = np.pad(member, (more, (0, 0))), np.pad(weight, ((0, 0), more))
    with game.progress_bar(m - 1):
        scores = score(game, x, member, prior=prior)
    values = finite_values(_weighted(jnp.asarray(weight, scores.dtype), scores))
    evaluations = m - 1 if alone else request_cost(game, x, Request("lattice")).n_evaluations
    return Attribution(
        values,
        scores[2**g - 1],
        jnp.asarray(prior),
        n_evaluations=evaluations,
        exact=not game.noise(x),
        warnings=notes,
        removal=game.removal_name,
    )


def _sampled_owen(
    game: Game, x: AnyArray, labels: np.ndarray, prior: AnyArray, key: Array, permutations: int
) -> Attribution:
    """Owen values as mean gains over orders in which the elements of a group follow each other."""
    group_key, element_key = jax.random.split(key)
    rank = random_orders(group_key, permutations, int(labels.max()) + 1)[:, labels]  # (P, n)
    within = jax.random.uniform(element_key, (rank.size,)).reshape(rank.shape)
    order = jnp.argsort(rank.astype(within.dtype) + within, axis=1)
    rows = order_rows(order)
    with game.progress_bar(len(rows)):
        scores = score(game, x, rows, prior=prior)
    expect_finite("scores", scores, "A model has to take any subset of elements.")
    info = GameInfo.of(game, len(labels))
    return PermutationSampling(permutations).estimate(rows, scores, jnp.asarray(prior), info)


@jax.jit
def _weighted(weight: Array, scores: Array) -> Array:
    """Values (n, C) from scores (m, C)."""
    return jnp.matmul(weight, scores, precision="highest")


def n_owen_terms(sizes: np.ndarray) -> int:
    """Subsequences behind the Owen values of groups of the given sizes (g,).

    The 2**g unions of groups, and with every union of the other groups the proper parts of one.
    """
    g = len(sizes)
    return 2**g + sum(2 ** (g - 1) * (2 ** int(b) - 2) for b in sizes)


def owen_terms(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The subsequences behind the Owen values of (n,) labelled elements, and their weights.

        owen[i] = sum over H, S of u(|H|) v(|S|) [f(H + S + i) - f(H + S)]

    H runs through the unions of h groups without i's, S through the parts of i's group without i;
    u(h) = 1 / (g binomial(g - 1, h)) and, for a group of b elements, v(s) = 1 / (b
    binomial(b - 1, s)). Source: Owen (1977).

    Args:
      labels: (n,) int, the group of each element, 0..g - 1, each used.
    Returns:
      member (m, n) bool and weight (n, m) float64, m = `n_owen_terms`; row 0 is empty, row
      2**g - 1 the whole. Values are the product of weight with the scores.
    Cost: n * m numbers on the host.
    """
    n, g = len(labels), int(labels.max()) + 1
    groups = membership(np.arange(2**g), g)  # (2**g, g)
    size = groups.sum(1)
    between = _shares(g)  # u
    member = [groups[:, labels]]
    weight = np.zeros((n, 2**g))
    inner_weights = []
    for k in range(g):
        mine = np.flatnonzero(labels == k)
        within = _shares(len(mine))  # v
        # Where i's group is all in, i left it last; where it is all out, i joins it first.
        weight[mine] = np.where(
            groups[:, k],
            between[np.maximum(size - 1, 0)] * within[-1],
            -between[np.minimum(size, g - 1)] * within[0],
        )
        parts = membership(np.arange(1, 2 ** len(mine) - 1), len(mine))  # (P, b), proper
        others = np.flatnonzero(~groups[:, k])  # unions without the group
        rows = np.repeat(groups[others][:, labels], len(parts), axis=0)
        rows[:, mine] = np.tile(parts, (len(others), 1))
        member.append(rows)
        s = parts.sum(1)
        joined = np.where(parts.T, within[s - 1], -within[np.minimum(s, len(mine) - 1)])  # (b, P)
        inner = np.zeros((n, len(rows)))
        inner[mine] = np.kron(between[size[others]], joined)
        inner_weights.append(inner)
    return np.concatenate(member), np.concatenate([weight, *inner_weights], axis=1)


def _shares(k: int) -> np.ndarray:
    """Shapley's weights among k: 1 / (k binomial(k - 1, s)) for s = 0..k - 1."""
    return np.array([1 / (k * math.comb(k - 1, s)) for s in range(k)])
