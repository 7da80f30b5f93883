"""Pairs of a subsequence and its complement: how many of each size, and which."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import expect, expect_int
from esv_jax.subsequences.samples import flat_bits

_MAX_RANKED = 2**16  # subsequences of one size that are drawn by their rank
_MAX_TOTAL = 2**62  # larger numbers of subsequences are replaced by it


@dataclasses.dataclass(frozen=True)
class PairPlan:
    """Pairs by the size s <= n / 2 of their smaller side, smallest first.

    Attributes:
      n: elements.
      counts: pairs of size s = 1, 2, ..., floor(n / 2).
      totals: pairs that there are of each size, 2**62 at most; the two sides of n / 2 count once.
    """

    n: int
    counts: tuple[int, ...]
    totals: tuple[int, ...]

    @property
    def n_pairs(self) -> int:
        """Pairs in all."""
        return sum(self.counts)

    @property
    def enumerated(self) -> np.ndarray:
        """Return whether all pairs of each size are in, (floor(n / 2),) bool."""
        return np.array(self.counts, np.int64) == np.array(self.totals, np.int64)

    @property
    def sizes(self) -> np.ndarray:
        """Size of each pair's smaller side, (n_pairs,)."""
        return np.repeat(np.arange(1, len(self.counts) + 1), self.counts)


def default_budget(n: int) -> int:
    """Evaluations for n elements where no budget is given: 8 per element, at least 512."""
    return max(512, 8 * n)


@functools.cache
def make_pair_plan(n: int, budget: int) -> PairPlan:
    """The pairs that `budget` evaluations pay for.

    They are spread evenly over the sizes 1..n-1 (a pair of half size serves one size, the others
    two), never more of a size than there are.

    Raises:
      ValueError: where `budget` is below 2n, and below the number of all subsequences.
    """
    expect_int("n", n, 1)
    totals = [
        min(math.comb(n, s) // (2 if 2 * s == n else 1), _MAX_TOTAL) for s in range(1, n // 2 + 1)
    ]
    least = min(2 * n, 2 * sum(totals))
    expect(
        budget >= least,
        "budget",
        f"at least {least} evaluations for {n} elements, two per element",
        budget,
    )
    counts = [0] * len(totals)
    share = {s: 0.5 if 2 * s == n else 1.0 for s in range(1, len(totals) + 1)}
    left = budget // 2
    while share:
        per_share = left / sum(share.values())
        filled = [s for s in share if totals[s - 1] <= share[s] * per_share]
        for s in filled:
            counts[s - 1] = totals[s - 1]
            left -= totals[s - 1]
            del share[s]
        if not filled:
            exact = {s: share[s] * per_share for s in share}
            for s in share:
                counts[s - 1] = int(exact[s])
            rest = left - sum(int(e) for e in exact.values())
            for s in sorted(share, key=lambda s: int(exact[s]) - exact[s])[:rest]:
                counts[s - 1] += 1
            break
    return PairPlan(n, tuple(counts), tuple(totals))


def draw_pairs(key: Array, plan: PairPlan) -> Array:
    """Membership (n_pairs, n) of the smaller sides; a uniform draw of distinct pairs per size.

    Sizes follow `plan.sizes`. Of a pair of half size the side with element 0 is given. Same key,
    same pairs on every backend. A plan with more pairs of every size draws those of a smaller plan
    and others, so that a larger budget needs only the scores that a smaller one has not.
    """
    rank_key, set_key = jax.random.split(key)
    counts, totals = np.array(plan.counts, np.int64), np.array(plan.totals, np.int64)
    sizes = np.arange(1, len(counts) + 1)
    few, full = totals <= _MAX_RANKED, counts == totals
    ranked, complete, drawn = sizes[few], sizes[full & ~few], sizes[~full & ~few]
    rows = jnp.concatenate(
        [
            _by_rank(rank_key, plan, ranked),
            _enumerated(plan, complete),
            _by_set(set_key, plan, drawn),
        ]
    )
    order = np.concatenate([ranked, complete, drawn])
    return rows[np.argsort(np.repeat(order, counts[order - 1]), kind="stable")]


def _enumerated(plan: PairPlan, some: np.ndarray) -> Array:
    """All pairs of some sizes."""
    totals = np.array(plan.totals, np.int64)[some - 1]
    return _unranked(jnp.asarray(_within(totals), jnp.int32), np.repeat(some, totals), plan.n)


def _by_rank(key: Array, plan: PairPlan, some: np.ndarray) -> Array:
    """Pairs of some sizes: the first of a random order of all."""
    counts, totals = (np.array(k, np.int64)[some - 1] for k in (plan.counts, plan.totals))
    if (counts == totals).all():
        return _enumerated(plan, some)
    size, rank = np.repeat(some, totals), _within(totals)
    chosen = np.repeat(np.cumsum(totals) - totals, counts) + _within(counts)
    bits = jax.random.bits(key, size.shape, jnp.uint32)
    columns = jnp.asarray(size, jnp.int32), bits, jnp.asarray(rank, jnp.int32)
    shuffled = lax.sort(columns, num_keys=2)[2]
    return _unranked(shuffled[chosen], size[chosen], plan.n)


def _unranked(rank: Array, size: np.ndarray, n: int) -> Array:
    """Subsequences (m, n) of given ranks (m,) among those of their size, colexicographic.

    Those of half size are ranked among the ones with element 0.
    """
    if len(size) == 0:
        return jnp.zeros((0, n), bool)
    half = (2 * size == n).astype(int)
    width = int(size.max()) + 1
    binomials = [[min(math.comb(i, k), 2**31 - 1) for k in range(width)] for i in range(n)]
    table = jnp.asarray(np.array(binomials, np.int32))
    shift = jnp.asarray(half, jnp.int32)  # one element fewer to choose from

    def step(state: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
        rank, missing = state
        smaller = table[i - shift, missing]  # subsets of the elements before i
        taken = (missing > 0) & (rank >= smaller)
        rank = jnp.where(taken, rank - smaller, rank)
        return (rank, missing - taken.astype(jnp.int32)), taken

    start = rank, jnp.asarray(size - half, jnp.int32)
    (_, missing), taken = lax.scan(step, start, jnp.arange(n - 1, 0, -1, dtype=jnp.int32))
    first = (missing > 0) | (shift > 0)
    return jnp.concatenate([first[:, None], taken[::-1].T], axis=1)


def _by_set(key: Array, plan: PairPlan, some: np.ndarray) -> Array:
    """Pairs of some sizes that are small parts of all there are: the first distinct of many.

    Told apart by 64-bit sums of words. There are as many independent draws as leave enough
    distinct ones with a margin of eight standard deviations.
    """
    n = plan.n
    if len(some) == 0:
        return jnp.zeros((0, n), bool)
    place_key, word_key = jax.random.split(key)

    def places(size: Array, index: Array) -> Array:  # of one draw, whatever else is drawn
        own = jax.random.fold_in(jax.random.fold_in(place_key, size), index)
        return jax.random.uniform(own, (n,))

    counts, totals = (np.array([k[s - 1] for s in some], float) for k in (plan.counts, plan.totals))
    mean = -totals * np.log1p(-counts / totals)
    draws = np.ceil(mean + 8 * np.sqrt(mean) + 16).astype(int)
    size = np.repeat(some, draws)
    place = jax.vmap(places)(jnp.asarray(size, jnp.int32), jnp.asarray(_within(draws), jnp.int32))
    with_first = jnp.asarray((2 * size == n)[:, None] & (np.arange(n) == 0))
    order = jnp.argsort(jnp.where(with_first, -1.0, place), axis=1)
    ranks = jnp.argsort(order, axis=1)
    member = ranks < jnp.asarray(size, ranks.dtype)[:, None]
    words = flat_bits(word_key, (n, 2))
    left, right = (jnp.where(member, words[None, :, j], 0).sum(1, dtype=jnp.uint32) for j in (0, 1))
    index = jnp.arange(len(size), dtype=jnp.int32)
    left, right, index = lax.sort((left, right, index), num_keys=3)
    repeats = (left[1:] == left[:-1]) & (right[1:] == right[:-1])
    is_new = jnp.ones(len(size), bool).at[index[1:]].set(~repeats)
    # The new ones of each size first, in the order drawn.
    key_of = 2 * size.astype(np.int32) + (~is_new).astype(jnp.int32)
    kept = jnp.argsort(key_of, stable=True)
    counted = counts.astype(int)
    chosen = np.repeat(np.cumsum(draws) - draws, counted) + _within(counted)
    return member[kept[chosen]]


def _within(counts: np.ndarray) -> np.ndarray:
    """0..count-1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
