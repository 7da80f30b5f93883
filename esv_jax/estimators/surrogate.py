"""Sampled ESVs from a small model of every head, fitted to one pool of evaluations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.attribution import Attribution
from esv_jax.checks import Link, expect, expect_int
from esv_jax.estimators.protocol import Estimator
from esv_jax.estimators.surrogate_models import Fit, fit_heads, mix_of_scale, polynomial, residuals
from esv_jax.estimators.surrogate_plan import Base, SurrogatePlan, make_plan, words_of
from esv_jax.games.protocol import ScaleGame
from esv_jax.games.scoring import GameInfo, Request, apply_link

_MIN_ELEMENTS = 3
_MIN_POOL = 16
_RAISE = 0.2  # of the variance, for each time the pool would have to be larger
_UNSEEN = 0.0125  # of the root mean square value: error that is alike in every draw
_ILL_CONDITIONED = 4  # coefficients per subsequence of the pool
_CORRECT_ALL_UP_TO = 24  # elements; beyond, residuals of other subsequences weigh next to nothing


@dataclasses.dataclass(frozen=True)
class Surrogate(Estimator):
    """Sampled ESVs for models that combine heads by scale (`MultiScale`).

    One pool of subsequences per scale is evaluated, once. A ridge model of every head (additive
    and pairwise in membership) then gives f^ms of any subsequence in closed form, corrected by
    the pool's residuals, and each element's effect is read size by size:

        esv[i] = 1/n * [v(X) - v(nothing) + sum over s = 1..n-1 of d_s[i]]
        d_s[i] = E[v(S): |S| = s, i in S] - E[v(S): |S| = s, i not in S]

    The d_s sum to zero over elements, so efficiency holds at any budget. At equal head evaluations
    the error is a fraction of Algorithm 1's. Pool, weights and inverses depend on n, the settings
    and the key alone: they are built once on the host and reused for all sequences and classes.

    `std_error` covers what the pool leaves open (a wild bootstrap of the fit's leave-one-out
    residuals, linearised) and what the base sample does (the spread around its least squares),
    averaged half and half with the class's mean over elements. Beyond it there is error that no
    resampling sees, for it is alike in every draw: what three and more elements do together, and
    shrinkage where the pool has fewer members than the model coefficients. For these 1.25 % of
    the class's root mean square value is added, by the share of subsequences that pools leave open
    and as many times as the pool would have to be larger; the variance is raised by 0.2 for each
    such time, too. These are rules of thumb, from trained and from random heads.

    Attributes:
      pool: most subsequences per scale, >= 16.
      order: 2 models pairs of elements, 1 elements alone; None is 2 where its n (n + 1) / 2
        coefficients are at most three times the pool, else 1. A fit of more than four times as many
        coefficients as the pool has subsequences would mostly be shrinkage: it falls back to
        order 1, with an entry in `warnings`.
      base: most subsequences per size on which effects are read; None is 4 * pool up to 20
        elements, 4096 at least, and pool / 2 beyond, 1024 at least. They cost no model evaluations.
      error_draws: draws of the bootstrap; 0 gives no standard errors.
    Raises:
      ValueError, TypeError: on settings out of range.
    """

    pool: int = 1024
    order: int | None = None
    base: int | None = None
    error_draws: int = 8
    takes: ClassVar[tuple[type, ...]] = (ScaleGame,)
    plan_type: ClassVar[type | None] = SurrogatePlan
    draws_on_host: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expect_int("pool", self.pool, _MIN_POOL)
        if self.order is not None:
            expect_int("order", self.order, 1)
            expect(self.order <= 2, "order", "1 or 2", self.order)
        if self.base is not None:
            expect_int("base", self.base, _MIN_POOL)
        expect_int("error_draws", self.error_draws, 0)

    def draw(self, key: Array | None, info: GameInfo, length: Array | None = None) -> SurrogatePlan:
        """The plan for sequences of n elements: pool, inverses, weights, signs; cached.

        Raises:
          ValueError: fewer than 3 elements, or a key that is being traced (draw the plan outside,
          and pass it as `plan`).
        """
        assert key is not None
        n = info.n
        expect(n >= _MIN_ELEMENTS, "x", f"at least {_MIN_ELEMENTS} elements", n, "Use Exact().")
        sizes = min(info.n_scales, n), self.pool, self._base(n), self._order(n), self.error_draws
        return make_plan(n, *sizes, words_of(key))

    def _order(self, n: int) -> int:
        most = (3 if self.order is None else _ILL_CONDITIONED) * self.pool
        return 1 if self.order == 1 or n * (n + 1) // 2 > most else 2

    def warnings(self, n: int) -> tuple[str, ...]:
        """Warnings about a fit to sequences of n elements."""
        if self.order is None or self._order(n) == self.order:
            return ()
        return (
            f"Surrogate: {n * (n + 1) // 2} pairs and elements cannot be told apart by a pool of "
            f"{self.pool}; elements alone were modelled (order 1).",
        )

    def _base(self, n: int) -> int:
        if self.base is not None:
            return self.base
        return max(4 * self.pool, 4096) if n <= 20 else max(self.pool // 2, 1024)

    def estimate(
        self,
        drawn: SurrogatePlan,
        scores: Any,
        prior: Array,
        info: GameInfo,
        length: Array | None = None,
    ) -> Attribution:
        """Values from the heads' logits (K, m, C) on the pool; sequences are never padded."""
        plan, link = drawn.astype(scores.dtype), info.link
        everything = plan.n <= _CORRECT_ALL_UP_TO
        read = _read_effects(plan, plan.base, scores, prior, link, everything)
        std_error = None
        if plan.signs.shape[0]:
            std_error = self._std_error(plan, scores, read, prior, link, everything)
        return Attribution(
            values=_values(read, prior),
            scores=read.whole,
            prior=prior,
            marginals=_marginals(read, prior),
            std_error=std_error,
            n_evaluations=plan.pool_valid.sum(),
            warnings=self.warnings(plan.n),
        )

    def _std_error(
        self,
        plan: SurrogatePlan,
        logits: Array,
        read: _Effects,
        prior: Array,
        link: Link,
        everything: bool,
    ) -> Array:
        """Standard errors (n, C); see the class."""
        left_out = _left_out(plan, residuals(plan, fit_heads(plan, logits), logits))

        def values(logits: Array) -> Array:
            few = _read_effects(
                plan, plan.error_base, logits, prior, link, everything, not everything
            )
            return _values(few, prior)

        _, push = jax.linearize(values, logits)
        signs = plan.signs.astype(logits.dtype)
        moved = jax.vmap(lambda sign: push(sign[..., None] * left_out))(signs)
        times = max(1.0, plan.features.shape[2] / plan.member.shape[1])
        variance = (1 + _RAISE * (times - 1)) * (moved**2).mean(0) + read.variance
        variance = 0.5 * (variance + variance.mean(0, keepdims=True))
        unseen = _UNSEEN * times * float(np.mean(_open_shares(plan)))
        size = (_values(read, prior) ** 2).mean(0, keepdims=True)
        return jnp.sqrt(variance + unseen**2 * size)

    def doubled(self, info: GameInfo) -> Surrogate | None:
        """Twice the pool; None where the pool holds every subsequence that a head takes."""
        if self.pool >= max(self._totals(info)):
            return None
        return dataclasses.replace(self, pool=2 * self.pool)

    def within(self, max_evaluations: int, info: GameInfo) -> Surrogate | None:
        """The largest pool that the evaluations allow."""
        totals = self._totals(info)
        low, high = _MIN_POOL, self.pool
        if sum(min(low, total) for total in totals) > max_evaluations or high < low:
            return None
        while low < high:
            middle = (low + high + 1) // 2
            fits = sum(min(middle, total) for total in totals) <= max_evaluations
            low, high = (middle, high) if fits else (low, middle - 1)
        return dataclasses.replace(self, pool=low)

    def _totals(self, info: GameInfo) -> list[int]:
        """Subsequences of each scale that has a head."""
        return [math.comb(info.n, k) for k in range(1, min(info.n_scales, info.n) + 1)]

    def request(self, info: GameInfo) -> Request:
        """Head evaluations; memory of the plan and of one sequence."""
        n, n_scales = info.n, min(info.n_scales, info.n)
        rows = [min(self.pool, total) for total in self._totals(info)]
        p = n if self._order(n) == 1 else n * (n + 1) // 2
        base = self._base(n)
        others = n_scales * (max(rows) * (p + n) + p * p) + p * p + 2 * n * base * n + 3 * base * p
        per_class = n_scales * max(rows) + 6 * base + n * base * bool(self.error_draws)
        return Request("heads", sum(rows), per_class=per_class, others=others)


def _left_out(plan: SurrogatePlan, beyond: Array) -> Array:
    """Leave-one-out residuals (K, m, C), by the share of each scale that the pool leaves open."""
    left_out = beyond / (1 - jnp.minimum(plan.leverage, 0.95))[..., None]
    return left_out * jnp.sqrt(jnp.asarray(_open_shares(plan), beyond.dtype))[:, None, None]


def _open_shares(plan: SurrogatePlan) -> list[float]:
    """Return per scale the share of its subsequences that are not in the pool."""
    pool = plan.member.shape[1]
    return [
        0.0 if enumerated else 1 - pool / math.comb(plan.n, k)
        for k, enumerated in enumerate(plan.enumerated, start=1)
    ]


class _Effects(NamedTuple):
    """Effects by size, from a base.

    Attributes:
      effect: (n - 1, n, C), d_s. mean: (n - 1, C), mean score of each size.
      whole: (C,), score of the whole sequence.
      variance: (n, C), of the ESVs, because the base is a sample.
    """

    effect: Array
    mean: Array
    whole: Array
    variance: Array


def _values(read: _Effects, prior: Array) -> Array:
    """ESVs (n, C)."""
    n = read.effect.shape[1]
    return ((read.whole - prior)[None, :] + read.effect.sum(0)) / n


def _marginals(read: _Effects, prior: Array) -> Array:
    """Mean marginal contributions (n, n, C), whose mean over scales is `_values`.

    E[v_s | i in] is the size's mean + (n - s)/n d_s, E[v_s | i not in] the mean - s/n d_s.
    """
    n, c = read.effect.shape[1:]
    dtype = read.effect.dtype
    mean = jnp.concatenate([prior[None], read.mean, read.whole[None]])  # sizes 0..n
    nothing = jnp.zeros((1, n, c), dtype)
    effect = jnp.concatenate([nothing, read.effect, nothing])
    s = jnp.arange(1, n + 1, dtype=dtype)[:, None, None] / n
    step = (mean[1:] - mean[:-1])[:, None]
    return step + (1 - s) * effect[1:] + (s - 1 / n) * effect[:-1]


def _read_effects(
    plan: SurrogatePlan,
    base: Base,
    logits: Array,
    prior: Array,
    link: Link,
    everything: bool,
    fit_alone: bool = False,
) -> _Effects:
    """Effects per size from the heads' logits on the pool (K, m, C).

    Args:
      everything: whether every subsequence is corrected by all its parts in the pool (exact when
        the pool holds all), or only those in the pool by their own residual.
    """
    n, dtype = plan.n, logits.dtype
    fit = fit_heads(plan, logits)
    beyond = None if fit_alone else residuals(plan, fit, logits)

    def one_size(state: None, size: tuple[Array, Base]) -> tuple[None, tuple[Array, ...]]:
        s, rows = size
        value = polynomial(fit, mix_of_scale(plan.n_scales, s, dtype), rows.member)
        if everything and beyond is not None:
            value = value + _of_parts(plan, beyond, rows.member, s)
        valid = rows.valid.astype(dtype)[:, None]
        scores = apply_link(link, value) * valid
        effect = jnp.matmul(rows.effect, scores, precision="highest")
        mean = scores.sum(0) / valid.sum()
        # What least squares leaves; its squares carry the sampling variance of the effects.
        centred = rows.member.astype(dtype) - s.astype(dtype) / n
        explained = jnp.matmul(centred, effect, precision="highest") * ((n - 1) / n)
        rest = (scores - mean[None, :] - explained) * valid
        variance = jnp.matmul(rows.effect**2, rest**2, precision="highest") * rows.sampled
        return None, (effect, mean, variance)

    sizes = (jnp.arange(1, n), base)
    _, (effect, mean, variance) = lax.scan(one_size, None, sizes)
    if not everything and beyond is not None:
        effect = effect.at[: plan.n_scales].add(_own_corrections(plan, fit, beyond, link)[: n - 1])
    last = jnp.asarray(n)
    whole = jnp.ones((1, n), bool)
    value = polynomial(fit, mix_of_scale(plan.n_scales, last, dtype), whole)
    if beyond is not None:
        value = value + _of_parts(plan, beyond, whole, last)
    return _Effects(effect, mean, apply_link(link, value)[0], variance.sum(0) / n**2)


def _of_parts(plan: SurrogatePlan, beyond: Array, member: Array, s: Array) -> Array:
    """Residuals of the parts of subsequences (N, n) of s elements that the pool holds: (N, C).

    Each part of k elements weighs 1 / binomial(s, k), those not in the pool nothing.
    """
    n, dtype = plan.n, beyond.dtype
    m = member.astype(dtype)
    share = np.zeros((n + 1, plan.n_scales))
    for size in range(1, n + 1):
        for k in range(1, min(size, plan.n_scales) + 1):
            share[size, k - 1] = 1 / (min(size, plan.n_scales) * math.comb(size, k))

    def one_scale(total: Array, scale: tuple[Array, ...]) -> tuple[Array, None]:
        pool, residual, k, weight = scale
        common = jnp.matmul(m, pool.astype(dtype).T, precision="highest")
        inside = (common > k - 0.5).astype(dtype)
        return total + weight * jnp.matmul(inside, residual, precision="highest"), None

    scales = jnp.arange(1, plan.n_scales + 1, dtype=dtype)
    start = jnp.zeros((m.shape[0], beyond.shape[-1]), dtype)
    steps = (plan.member, beyond, scales, jnp.asarray(share, dtype)[s])
    return lax.scan(one_scale, start, steps)[0]


def _own_corrections(plan: SurrogatePlan, fit: Fit, beyond: Array, link: Link) -> Array:
    """Effects (K, n, C) that the pool's own residuals add at the sizes that have a head."""

    def one(size: tuple[Array, ...]) -> Array:
        s, pool, residual, effect = size
        value = polynomial(fit, mix_of_scale(plan.n_scales, s, fit.linear.dtype), pool)
        own = residual / s.astype(residual.dtype)
        difference = apply_link(link, value + own) - apply_link(link, value)
        return jnp.matmul(effect, difference, precision="highest")

    sizes = jnp.arange(1, plan.n_scales + 1)
    return lax.map(one, (sizes, plan.member, beyond, plan.pool_effect))
