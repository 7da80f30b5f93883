"""Groups of elements: their Shapley values, and Owen values of the elements within them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.attribution import Attribution
from esv_jax.checks import (
    AnyArray,
    Link,
    expect,
    expect_finite,
    expect_int,
    expect_key,
    is_concrete,
    message,
)
from esv_jax.estimators import Estimator, Exact, PermutationSampling, Surrogate
from esv_jax.estimators.exact import scale_marginals
from esv_jax.estimators.permutation import order_rows
from esv_jax.estimators.surrogate_models import Fit, fit_heads, mix_of_scale, polynomial
from esv_jax.estimators.surrogate_plan import (
    SurrogatePlan,
    draw_subsets,
    key_of,
    n_word_rows,
    random_words,
    words_of,
)
from esv_jax.games.grouped import Grouped, Groups, ScoreTable, group_labels, group_members
from esv_jax.games.protocol import Game, ScaleGame, SubsetGame
from esv_jax.games.scoring import (
    GameInfo,
    HeadRows,
    Request,
    apply_link,
    by_scale,
    picked_cost,
    request_cost,
    score,
)
from esv_jax.inputs import (
    FEWER_ELEMENTS,
    EstimatorChoice,
    check_enumerable,
    checked_inputs,
    free_bytes,
)
from esv_jax.records import register_record
from esv_jax.subsequences.lattice import membership, scale_ordered_codes
from esv_jax.subsequences.samples import random_orders

MAX_OWEN_TERMS = 2**18  # subsequences whose scores are kept: 182 MB at 174 classes
MAX_GROUPS = 12  # of heads by scale beyond 20 elements: 4,096 unions
_MAX_ENUMERATED = 20  # elements; beyond, "auto" samples where a game combines scales
_LEAST_PARTS = 16


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
    sample_unions = _UNION_SAMPLERS.get(type(estimator))
    if sample_unions is not None:
        way_out = "Join groups (data.propose_segments takes their number)."
        expect(g <= MAX_GROUPS, "groups", f"at most {MAX_GROUPS} beside a surrogate", g, way_out)
        return game, x, sample_unions(estimator, tuple(labels.tolist()))
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
        result = _sampled_owen(
            game, x, labels, prior, key, expect_int("permutations", permutations, 1)
        )
        return dataclasses.replace(result, warnings=notes, removal=game.removal_name)
    expect(
        m <= MAX_OWEN_TERMS,
        "groups",
        f"at most {MAX_OWEN_TERMS:,} subsequences to keep",
        f"{m:,} for {n} elements in {g} groups",
        "Make groups of more equal sizes (as many as elements in each), give a key to sample "
        "(games that score each subsequence on its own), use explain(..., groups=...) for the "
        "groups alone, or take fewer elements.",
    )
    rows = 1 << (m - 1).bit_length()
    out = game.output(x)
    n_bytes = rows * ((3 * out.shape[0] + n) * out.dtype.itemsize + n)
    if isinstance(game, ScaleGame):
        n_bytes += picked_cost(game, x, rows)
    limit = free_bytes() if max_bytes is None else max_bytes
    expect(
        n_bytes <= limit,
        "x",
        f"a computation within {limit / 1e9:,.3g} GB of memory",
        f"{m:,} subsequences, which take {n_bytes / 1e9:,.3g} GB",
        FEWER_ELEMENTS,
    )
    terms, weights = owen_terms(labels)
    member = np.zeros((rows, n), bool)
    member[:m] = terms
    weight = np.zeros((n, rows))
    weight[:, :m] = weights
    with game.progress_bar(m - 1):
        scores = score(game, x, member, prior=prior)
    values = _weighted(jnp.asarray(weight, scores.dtype), scores)
    if is_concrete(values) and not np.isfinite(np.asarray(values)).all():
        raise ValueError(message("game", "finite scores of every subsequence", "NaN or infinity"))
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
    """Owen values from orders of arrival in which the elements of a group follow each other.

    The mean gain over all such orders is the Owen value: Owen (1977).
    """
    n = len(labels)
    group_key, element_key = jax.random.split(key)
    rank = random_orders(group_key, permutations, int(labels.max()) + 1)[:, labels]  # (P, n)
    within = jax.random.uniform(element_key, (rank.size,)).reshape(rank.shape)
    order = jnp.argsort(rank.astype(within.dtype) + within, axis=1)
    rows = order_rows(order)
    with game.progress_bar(len(rows)):
        scores = score(game, x, rows, prior=prior)
    expect_finite("scores", scores, "A model has to take any subset of elements.")
    info = GameInfo.of(game, n)
    estimator = PermutationSampling(permutations)
    return estimator.estimate(rows, scores, jnp.asarray(prior), info)


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
        inner[mine] = (joined[:, None, :] * between[size[others]][None, :, None]).reshape(
            len(mine), -1
        )
        inner_weights.append(inner)
    return np.concatenate(member), np.concatenate([weight, *inner_weights], axis=1)


def _shares(k: int) -> np.ndarray:
    """Shapley's weights among k: 1 / (k binomial(k - 1, s)) for s = 0..k - 1."""
    return np.array([1 / (k * math.comb(k - 1, s)) for s in range(k)])


@register_record
@dataclasses.dataclass(frozen=True)
class UnionPlan(HeadRows):
    """Subsequences to score for g groups of n elements under heads of scales 1..K.

    Attributes:
      member: (K, m + U r, n) bool, the pool of the models, then the parts of all unions.
      models: of the pool that the heads' models are fitted on.
      unions: (U, n) bool, all unions of groups, row = code; the empty one stands for the whole.
      parts: (U, K, r, n) bool, parts of k elements of each union; none beyond `valid` (U, K, r).
      drawn: (U, K), the share of a union's parts of k elements that is there.
    """

    models: SurrogatePlan
    unions: Array
    parts: Array
    valid: Array
    drawn: Array


@dataclasses.dataclass(frozen=True)
class UnionSampling(Estimator):
    """Shapley values of groups of elements for models that combine heads by scale.

    The score of a union is built from the means of every head over the union's parts. A mean is
    that of a small model of the head (see `Surrogate`) plus the mean of what drawn parts of the
    union have beyond it: unbiased whatever the model, and the better the model, the smaller the
    error. With all unions known, the values are exact for them, and efficiency holds. `std_error`
    comes from the spread of the drawn parts, put through the link to first order.

    Attributes:
      settings: of the models; `pool` is also, about, the number of parts drawn per scale. `base`
        and `error_draws` are not used.
      labels: the group of each element, 0..g - 1.
    """

    settings: Surrogate
    labels: tuple[int, ...]
    takes: ClassVar[tuple[type, ...]] = (ScaleGame,)
    draws_on_host: ClassVar[bool] = True

    def draw(self, key: Array | None, info: GameInfo, length: Array | None = None) -> UnionPlan:
        """Models of heads, and parts of all unions of the groups; cached."""
        assert key is not None
        least = dataclasses.replace(self.settings, base=_LEAST_PARTS, error_draws=0)
        models = least.draw(key, info)
        parts = _draw_parts(models.n_scales, self.labels, self._parts(), words_of(key))
        u, k, r, n = parts[1].shape
        flat = jnp.moveaxis(parts[1], 1, 0).reshape(k, u * r, n)
        return UnionPlan(jnp.concatenate([models.member, flat], axis=1), models, *parts)

    def _groups(self) -> int:
        return max(self.labels) + 1

    def _parts(self) -> int:
        return max(self.settings.pool >> self._groups(), _LEAST_PARTS)

    def estimate(
        self,
        drawn: UnionPlan,
        scores: Any,
        prior: Array,
        info: GameInfo,
        length: Array | None = None,
    ) -> Attribution:
        """Values (g, C) of the groups from the heads' logits (K, m + U r, C)."""
        models = drawn.models.astype(scores.dtype)
        m, (u, k, r, _) = models.member.shape[1], drawn.parts.shape
        fit = fit_heads(models, scores[:, :m])
        parts = jnp.moveaxis(scores[:, m:].reshape(k, u, r, -1), 1, 0)  # (U, K, r, C)
        logits, variance = _union_logits(drawn, fit, parts, info.link)
        g = self._groups()
        table = apply_link(info.link, logits).astype(prior.dtype)
        marginals = scale_marginals(by_scale(table[scale_ordered_codes(g)], g), prior)
        weight = _shapley_weights(g).astype(prior.dtype)
        std_error = jnp.sqrt(jnp.matmul(weight**2, variance, precision="highest"))
        return Attribution(
            values=marginals.mean(0),
            scores=table[-1],
            prior=prior,
            marginals=marginals,
            std_error=std_error,
            n_evaluations=models.pool_valid.sum() + drawn.valid.sum(),
            warnings=self.settings.warnings(models.n),
        )

    def doubled(self, info: GameInfo) -> UnionSampling | None:
        """Twice the pool."""
        larger = self.settings.doubled(info)
        return None if larger is None else dataclasses.replace(self, settings=larger)

    def within(self, max_evaluations: int, info: GameInfo) -> UnionSampling | None:
        """The largest pool that the evaluations allow, halving."""
        settings: Surrogate | None = self.settings
        while settings is not None:
            smaller = dataclasses.replace(self, settings=settings)
            if smaller.request(info).m <= max_evaluations:
                return smaller
            half = settings.pool // 2
            settings = dataclasses.replace(settings, pool=half) if half >= _LEAST_PARTS else None
        return None

    def request(self, info: GameInfo) -> Request:
        """Rows of the models and of the parts of all unions."""
        one = self.settings.request(info)
        unions, scales = 2 ** self._groups(), min(info.n_scales, info.n)
        rows = unions * scales * self._parts()
        per_class = one.per_class + 3 * rows + 8 * unions
        return Request(
            "heads", one.m + rows, per_class=per_class, others=one.others + rows * info.n
        )


_UNION_SAMPLERS: dict[type, Callable[[Any, tuple[int, ...]], UnionSampling]] = {
    Surrogate: UnionSampling
}
"""Samplers of the scores of unions, by estimator."""


@functools.lru_cache(maxsize=8)
def _draw_parts(
    n_scales: int, labels: tuple[int, ...], most: int, seed: tuple[tuple[int, ...], str]
) -> tuple[Array, Array, Array, Array]:
    """`UnionPlan` beyond its models, on the host.

    All unions draw from one table of random words, which each mixes with words of its own.
    """
    g, n = max(labels) + 1, len(labels)
    unions = membership(np.arange(2**g), g)[:, list(labels)]  # (U, n) bool
    unions[0] = True
    with jax.ensure_compile_time_eval():
        word_key, union_key = jax.random.split(jax.random.fold_in(key_of(*seed), 1))
    words = random_words(word_key, n_scales, n_word_rows(most), n)
    own = random_words(union_key, 2**g, n_scales)
    parts = np.zeros((2**g, n_scales, most, n), bool)
    drawn = np.ones((2**g, n_scales))
    for union, table, share, salt in zip(unions, parts, drawn, own, strict=True):
        elements = np.flatnonzero(union)
        for k in range(1, min(len(elements), n_scales) + 1):
            mixed = _mixed(words[k - 1][:, elements] ^ salt[k - 1])
            rows = draw_subsets(mixed, k, most)
            table[k - 1, : len(rows), elements] = rows.T
            share[k - 1] = len(rows) / math.comb(len(elements), k)
    with jax.ensure_compile_time_eval():  # cached: must not belong to a trace
        return (
            jnp.asarray(unions),
            jnp.asarray(parts),
            jnp.asarray(parts.any(-1)),
            jnp.asarray(drawn, jnp.float32),
        )


def _mixed(words: np.ndarray) -> np.ndarray:
    """A bijection of uint32 words that leaves no pattern: MurmurHash3's finaliser."""
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


def _union_logits(plan: UnionPlan, fit: Fit, found: Array, link: Link) -> tuple[Array, Array]:
    """Logits f^ms of all unions (U, C), and the variances (U, C) of their scores.

    Args:
      found: (U, K, r, C), logits of the unions' parts.
    """
    n_scales, dtype = plan.models.n_scales, fit.linear.dtype
    one_head = jnp.eye(n_scales, dtype=dtype)

    def one(union: tuple[Array, ...]) -> tuple[Array, Array]:
        member, parts, valid, drawn, logits = union  # (n,), (K, r, n), (K, r), (K,), (K, r, C)
        modelled = [polynomial(fit, (one_head[k],) * 3, parts[k]) for k in range(n_scales)]
        there = valid.astype(dtype)[..., None]
        beyond = (logits - jnp.stack(modelled)) * there
        rows = jnp.maximum(there.sum(1), 1)  # (K, 1)
        mean = beyond.sum(1) / rows
        size = member.sum()
        share = valid.any(1).astype(dtype)[:, None] / jnp.minimum(size, n_scales).astype(dtype)
        model = polynomial(fit, mix_of_scale(n_scales, size, dtype), member[None, :])[0]
        total = model + (share * mean).sum(0)
        slope = _through(link, total, (beyond - mean[:, None]) * there)
        open_share = (1 - drawn.astype(dtype))[:, None] / jnp.maximum(rows - 1, 1)
        variance = share**2 * open_share * (slope**2).sum(1) / rows
        return total, variance.sum(0)

    together = max(1, 1024 // plan.parts.shape[2])
    unions = (plan.unions, plan.parts, plan.valid, plan.drawn, found)
    return lax.map(one, unions, batch_size=together)


def _through(link: Link, logits: Array, change: Array) -> Array:
    """First-order changes of scores for changes (..., C) of logits (C,)."""
    if link == "identity":
        return change
    p = apply_link(link, logits)
    if link == "sigmoid":
        return change * (p * (1 - p))
    p = p.reshape((1,) * (change.ndim - 1) + p.shape)
    return p * (change - (p * change).sum(-1, keepdims=True))


def _shapley_weights(g: int) -> Array:
    """Weights (g, 2**g) of the scores of all unions in the values of groups; 0 for the empty."""
    member = membership(np.arange(2**g), g)
    others = member.sum(1, keepdims=True) - member
    share = np.array([1 / (g * math.comb(g - 1, k)) for k in range(g)])
    weight = np.where(member, share[np.minimum(others, g - 1)], -share[np.minimum(others, g - 1)])
    weight[0] = 0
    return jnp.asarray(weight.T, jnp.float32)
