"""Shapley values of groups of elements from sampled subsequences of their unions."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.attribution import Attribution
from esv_jax.checks import Link
from esv_jax.estimators import Estimator, Surrogate
from esv_jax.estimators.exact import scale_marginals
from esv_jax.estimators.surrogate_models import (
    Fit,
    fit_heads,
    mix_of_scale,
    polynomial,
    through_link,
)
from esv_jax.estimators.surrogate_plan import (
    SurrogatePlan,
    draw_subsets,
    key_of,
    n_word_rows,
    random_words,
    words_of,
)
from esv_jax.games.protocol import ScaleGame
from esv_jax.games.scoring import GameInfo, HeadRows, Request, apply_link, by_scale
from esv_jax.records import register_record
from esv_jax.subsequences.lattice import membership, scale_ordered_codes

_LEAST_PARTS = 16


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
        and `errors` are not used.
      labels: the group of each element, 0..g - 1.
    """

    settings: Surrogate
    labels: tuple[int, ...]
    takes: ClassVar[tuple[type, ...]] = (ScaleGame,)
    draws_on_host: ClassVar[bool] = True

    def draw(
        self, key: Array | None, info: GameInfo, length: Array | int | None = None
    ) -> UnionPlan:
        """Models of heads, and parts of all unions of the groups; cached."""
        assert key is not None
        models = dataclasses.replace(self.settings, base=_LEAST_PARTS, errors=False).draw(key, info)
        parts = _draw_parts(models.n_scales, self.labels, self._parts, words_of(key))
        u, k, r, n = parts[1].shape
        flat = jnp.moveaxis(parts[1], 1, 0).reshape(k, u * r, n)
        return UnionPlan(jnp.concatenate([models.member, flat], axis=1), models, *parts)

    @property
    def _groups(self) -> int:
        return max(self.labels) + 1

    @property
    def _parts(self) -> int:
        return max(self.settings.pool >> self._groups, _LEAST_PARTS)

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
        g = self._groups
        table = apply_link(info.link, logits).astype(prior.dtype)
        marginals = scale_marginals(by_scale(table[scale_ordered_codes(g)], g), prior)
        member = membership(np.arange(2**g), g)
        others = np.minimum(member.sum(1, keepdims=True) - member, g - 1)
        share = np.array([1 / (g * math.comb(g - 1, k)) for k in range(g)])[others]
        share[0] = 0  # of the prior, which has no error
        weight = jnp.asarray(np.where(member, share, -share).T, jnp.float32).astype(prior.dtype)
        std_error = jnp.sqrt(jnp.matmul(weight**2, variance, precision="highest"))
        return Attribution(
            values=marginals.mean(0),
            scores=table[-1],
            prior=prior,
            marginals=marginals,
            std_error=std_error,
            n_evaluations=models.pool_valid.sum() + drawn.valid.sum(),
            warnings=self.settings.warnings(models.order),
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
        unions, scales = 2**self._groups, min(info.n_scales, info.n)
        rows = unions * scales * self._parts
        per_class = one.per_class + 3 * rows + 8 * unions
        return Request(
            "heads", one.m + rows, per_class=per_class, others=one.others + rows * info.n
        )


@functools.lru_cache(maxsize=8)
def _draw_parts(
    n_scales: int, labels: tuple[int, ...], most: int, seed: tuple[tuple[int, ...], str]
) -> tuple[Array, Array, Array, Array]:
    """`UnionPlan` beyond its models: all unions mix one table of words with words of their own."""
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
    """f^ms of all unions (U, C), variances of their scores; `found` (U, K, r, C) are of parts."""
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
        at, change = apply_link(link, total)[None], (beyond - mean[:, None]) * there
        slope = through_link(link, at, jnp.ones(1, dtype), change)
        open_share = (1 - drawn.astype(dtype))[:, None] / jnp.maximum(rows - 1, 1)
        variance = share**2 * open_share * (slope**2).sum(1) / rows
        return total, variance.sum(0)

    together = max(1, 1024 // plan.parts.shape[2])
    unions = (plan.unions, plan.parts, plan.valid, plan.drawn, found)
    return lax.map(one, unions, batch_size=together)
