"""Sampled ESVs from a small model of every head, fitted to one pool of evaluations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.attribution import Attribution
from esv_jax.checks import Link, expect, expect_int
from esv_jax.estimators.protocol import Estimator
from esv_jax.estimators.surrogate_models import (
    Fit,
    fit_heads,
    mix_of_scale,
    polynomial,
    residuals,
    through_link,
)
from esv_jax.estimators.surrogate_plan import Base, SurrogatePlan, make_plan, words_of
from esv_jax.games.protocol import ScaleGame
from esv_jax.games.scoring import GameInfo, Request, apply_link

_MIN_ELEMENTS = 3
_MIN_POOL = 16
_RAISE = 0.2  # of the variance, for each time the pool would have to be larger
_UNSEEN = 0.0125  # of the root mean square value: error that is alike in every draw
_ILL_CONDITIONED = 4  # coefficients per subsequence of the pool
_CURVED = 1.2  # of the variance to first order, for what the link's curvature adds
_SIGNS = 16  # random signs of errors that all subsequences share
_SLOPES = 8  # subsequences of each size at which the link is linearised for errors
_LENGTHS = 8, 12, 20, 32, 50, 77, 115  # to which sequences are padded


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

    `std_error` has two sources: subsequences that the pool lacks (leave-one-out residuals of the
    fit, times the derivative of the values, with the link linearised at a few subsequences of each
    size) and the sampling of the base (the spread around its least squares). Their variance is
    averaged half and half with the class's mean over elements. Three allowances are rules of thumb
    from trained and from random heads. The variance of the first source is multiplied by 1.2, for
    the curvature of the link. Interactions of three and more elements, and shrinkage by a pool
    smaller than the number p of coefficients, are alike in every draw: for r = max(1, p / m), m
    the subsequences of a scale's pool, 0.2 (r - 1) is added to that factor, and 0.0125 r times the
    class's root mean square value, times the share of subsequences that the pool lacks, is added
    to the standard error, in quadrature.

    Attributes:
      pool: most subsequences per scale, >= 16.
      order: 2 models pairs of elements, 1 elements alone; None is 2 where its n (n + 1) / 2
        coefficients are at most three times the pool, else 1. A fit of more than four times as many
        coefficients as the pool has subsequences would mostly be shrinkage: it falls back to
        order 1, with an entry in `warnings`.
      base: most subsequences per size on which effects are read; None is 4 * pool up to 20
        elements, 4096 at least, and pool / 2 beyond, 1024 at least. They cost no model evaluations.
      errors: whether to estimate standard errors.
    Raises:
      ValueError, TypeError: on settings out of range.
    """

    pool: int = 1024
    order: int | None = None
    base: int | None = None
    errors: bool = True
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
        expect(
            isinstance(self.errors, bool), "errors", "True or False", self.errors, kind=TypeError
        )

    def draw(
        self, key: Array | None, info: GameInfo, length: Array | int | None = None
    ) -> SurrogatePlan:
        """The plan for sequences of `length` (default n) elements, padded to n; cached.

        Raises:
          ValueError: fewer than 3 elements, or a key that is being traced (draw the plan outside,
          and pass it as `plan`).
        """
        assert key is not None
        n = info.n if length is None else int(length)
        expect(n >= _MIN_ELEMENTS, "x", f"at least {_MIN_ELEMENTS} elements", n, "Use Exact().")
        settings = self.pool, self._base(n), self._order(n), self.errors
        return make_plan(n, info.n_scales, *settings, words_of(key), info.n)

    def padded_length(self, n: int) -> int:
        """The next of 8, 12, 20, 32, 50, 77, 115, then 1.5 times as long each."""
        lengths = list(_LENGTHS)
        while lengths[-1] < n:
            lengths.append(lengths[-1] * 3 // 2)
        return next(length for length in lengths if n <= length)

    def _order(self, n: int) -> int:
        most = (3 if self.order is None else _ILL_CONDITIONED) * self.pool
        return 1 if self.order == 1 or n * (n + 1) // 2 > most else 2

    def warnings(self, order: int) -> tuple[str, ...]:
        """Warnings about fits of an order."""
        if self.order is None or order == self.order:
            return ()
        return (
            f"Surrogate: pairs of elements have more than {_ILL_CONDITIONED} coefficients for each "
            f"subsequence of a pool of {self.pool}; elements alone were modelled (order 1).",
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
        """Values from the heads' logits (K, m, C) on the pool; zero in the padding."""
        plan = drawn.astype(scores.dtype)
        fit = fit_heads(plan, scores)
        beyond = residuals(plan, fit, scores)
        read = _read_effects(plan, fit, beyond, prior, info.link)
        values = _values(plan, read, prior)
        std_error = None
        if plan.response is not None:
            std_error = _std_error(plan, plan.response, beyond, read, values, info.link)
        return Attribution(
            values=values,
            scores=read.whole,
            prior=prior,
            marginals=_marginals(plan, read, prior),
            std_error=std_error,
            n_evaluations=plan.pool_valid.sum(),
            warnings=self.warnings(plan.order),
        )

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
        rows = [min(self.pool, total) for total in self._totals(info)]
        base, order, n = self._base(info.n), self._order(info.n), self.padded_length(info.n)
        n_scales, p = min(info.n_scales, n), n if order == 1 else n * (n + 1) // 2
        others = n_scales * (3 * max(rows) * n + p * p) + p * p + 2 * n * base * n
        others += (max(rows) + 3 * base) * p
        per_class = n_scales * max(rows) * (1 + self.errors) + 6 * base + 3 * n * n
        return Request("heads", sum(rows), per_class=per_class, others=others)


def _std_error(
    plan: SurrogatePlan,
    responses: Array,
    beyond: Array,
    read: _Effects,
    values: Array,
    link: Link,
) -> Array:
    """Standard errors (N, C); see `Surrogate`."""
    dtype, (width, c) = beyond.dtype, values.shape
    n, present = plan.n.astype(dtype), plan.present.astype(dtype)[:, None]
    shares = jnp.repeat(plan.size_share / _SLOPES, _SLOPES, axis=1)  # (K, S)
    scores = read.some.reshape(-1, c)
    left_out = beyond / (1 - jnp.minimum(plan.leverage, 0.95))[..., None]
    left_out = left_out * jnp.sqrt(plan.left_open)[:, None, None]

    def one_scale(total: Array, scale: tuple[Array, ...]) -> tuple[Array, None]:
        response, error, share = scale  # (N + 1, m), (m, C), (S,)
        moved = through_link(link, scores, share, error)
        end = through_link(link, read.whole[None], jnp.ones(1, dtype), error)
        own, last = response[:-1], response[-1:]
        square = jnp.matmul(own**2, moved**2, precision="highest")
        square = square + 2 * jnp.matmul(own * last, moved * end, precision="highest")
        return total + square + jnp.matmul(last**2, end**2, precision="highest"), None

    start = jnp.zeros((width, c), dtype)
    moved, _ = lax.scan(one_scale, start, (responses, left_out, shares))
    moved = jnp.maximum(moved, 0) + _by_slope(responses, left_out, read, link)
    p = n if plan.order == 1 else n * (n + 1) / 2
    times = jnp.maximum(1, p / plan.pool_valid.sum(1).max().astype(dtype))
    variance = (_CURVED + _RAISE * (times - 1)) * moved / n**2 + read.variance
    variance = 0.5 * (variance + (variance * present).sum(0, keepdims=True) / n)
    unseen = _UNSEEN * times * plan.left_open.sum() / jnp.minimum(n, plan.n_scales)
    size = (values**2).sum(0, keepdims=True) / n
    return jnp.sqrt(variance + unseen**2 * size) * present


def _by_slope(responses: Array, left_out: Array, read: _Effects, link: Link) -> Array:
    """Squared changes (N, C) of the effects' sum, as slopes of the link differ with an element.

    An error that all subsequences of a size share moves those with element i by another slope than
    those without: by the derivative of the slope in the direction of d_s[i].
    """
    c = left_out.shape[-1]
    if link == "identity":
        return jnp.zeros((responses.shape[1] - 1, c), left_out.dtype)
    signs = np.random.default_rng(0).integers(0, 2, (_SIGNS, *left_out.shape[:2])) * 2 - 1
    weight = jnp.asarray(signs, left_out.dtype) * responses[None, :, -1]  # (E, K, m)
    common = jnp.einsum("ekm,kmc->ec", weight, left_out, precision="highest")
    scores, effect = read.mean, read.effect  # (N - 1, C), (N - 1, N, C)

    def one(change: Array) -> Array:
        if link == "sigmoid":
            return (effect * ((1 - 2 * scores) * change[None])[:, None]).sum(0)
        own = change[None] - jnp.matmul(scores, change, precision="highest")[:, None]
        other = jnp.matmul(effect, change, precision="highest")[..., None] * scores[:, None]
        return (effect * own[:, None] - other).sum(0)

    return (lax.map(one, common) ** 2).mean(0)  # one at a time: each has the size of all effects


class _Effects(NamedTuple):
    """Effects by size, from a base.

    Attributes:
      effect: (N - 1, N, C), d_s; zero for s >= n. mean: (N - 1, C), mean score of each size.
      some: (N - 1, R, C), scores of a few subsequences of each size.
      whole: (C,), score of the whole sequence.
      variance: (N, C), of the ESVs, because the base is a sample.
    """

    effect: Array
    mean: Array
    some: Array
    whole: Array
    variance: Array


def _values(plan: SurrogatePlan, read: _Effects, prior: Array) -> Array:
    """ESVs (N, C), zero in the padding."""
    values = ((read.whole - prior)[None, :] + read.effect.sum(0)) / plan.n.astype(prior.dtype)
    return jnp.where(plan.present[:, None], values, 0)


def _marginals(plan: SurrogatePlan, read: _Effects, prior: Array) -> Array:
    """Mean marginal contributions (N, N, C), whose mean over scales is `_values`.

    E[v_s | i in] is the size's mean + (n - s)/n d_s, E[v_s | i not in] the mean - s/n d_s.
    """
    width, c = read.effect.shape[1:]
    dtype = read.effect.dtype
    sizes = jnp.arange(1, width + 1, dtype=plan.n.dtype)
    mean = jnp.concatenate([prior[None], read.mean, read.whole[None]])  # sizes 0..N
    at_end = (jnp.arange(width + 1, dtype=plan.n.dtype) == plan.n)[:, None]
    mean = jnp.where(at_end, read.whole[None], mean)
    nothing = jnp.zeros((1, width, c), dtype)
    effect = jnp.concatenate([nothing, read.effect, nothing])
    n = plan.n.astype(dtype)
    s = sizes.astype(dtype)[:, None, None] / n
    step = (mean[1:] - mean[:-1])[:, None]
    marginals = step + (1 - s) * effect[1:] + (s - 1 / n) * effect[:-1]
    return jnp.where((plan.present[:, None] & plan.present[None])[..., None], marginals, 0)


def _read_effects(
    plan: SurrogatePlan, fit: Fit, beyond: Array, prior: Array, link: Link
) -> _Effects:
    """Effects per size from the heads' models and the residuals (K, m, C) of the pool.

    With `plan.all_parts` every subsequence is corrected by all its parts in the pool (exact when
    the pool holds all), else only those in the pool by their own residual.
    """
    width, dtype = plan.member.shape[-1], beyond.dtype
    c, n = beyond.shape[-1], plan.n.astype(dtype)

    def read(s: Array, rows: Base) -> tuple[Array, ...]:
        value = polynomial(fit, mix_of_scale(plan.n_scales, s, dtype), rows.member)
        if plan.all_parts:
            value = value + _of_parts(plan, beyond, rows.member, s)
        valid = rows.valid.astype(dtype)[:, None]
        scores = apply_link(link, value) * valid
        effect = jnp.matmul(rows.effect, scores, precision="highest")
        mean = scores.sum(0) / valid.sum()
        # What least squares leaves; its squares carry the sampling variance of the effects.
        centred = jnp.where(plan.present[None], rows.member.astype(dtype) - s.astype(dtype) / n, 0)
        explained = jnp.matmul(centred, effect, precision="highest") * ((n - 1) / n)
        rest = (scores - mean[None, :] - explained) * valid
        variance = jnp.matmul(rows.effect**2, rest**2, precision="highest") * rows.sampled
        among = jnp.arange(_SLOPES) * rows.valid.sum() // _SLOPES
        return effect, mean, scores[among], variance

    def one_size(state: None, size: tuple[Array, Base]) -> tuple[None, tuple[Array, ...]]:
        nothing = jnp.zeros((width, c), dtype)
        some = jnp.zeros((_SLOPES, c), dtype)
        none = nothing, some[0], some, nothing
        return None, lax.cond(size[0] < plan.n, read, lambda *_: none, *size)

    sizes = jnp.arange(1, width, dtype=plan.n.dtype)
    _, (effect, mean, some, variance) = lax.scan(one_size, None, (sizes, plan.base))
    if not plan.all_parts:
        corrections = _own_corrections(plan, fit, beyond, link)
        effect = effect.at[: plan.n_scales].add(corrections[: width - 1])
    value = polynomial(fit, mix_of_scale(plan.n_scales, plan.n, dtype), plan.present[None])
    value = value + _of_parts(plan, beyond, plan.present[None], plan.n)
    return _Effects(effect, mean, some, apply_link(link, value)[0], variance.sum(0) / n**2)


def _of_parts(plan: SurrogatePlan, beyond: Array, member: Array, s: Array) -> Array:
    """Residuals of the parts of subsequences (N, n) of s elements that the pool holds: (N, C).

    Each part of k elements weighs 1 / binomial(s, k), those not in the pool nothing.
    """
    n, dtype = plan.member.shape[-1], beyond.dtype
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
