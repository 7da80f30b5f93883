"""Algorithm 1 of the paper: samples grown one element at a time, scores by recurrence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import gammaln

from esv_jax.attribution import Attribution
from esv_jax.checks import expect_choice, expect_int
from esv_jax.estimators.exact import ScaleSums, coverage_of, marginals_of, values_of
from esv_jax.estimators.permutation import spread_error
from esv_jax.estimators.protocol import Estimator
from esv_jax.games.protocol import ScaleGame, SubsetGame
from esv_jax.games.scoring import GameInfo, Request
from esv_jax.subsequences import SubsequencePlan
from esv_jax.subsequences.growth import grow_samples
from esv_jax.subsequences.samples import Samples, Unseen, count_distinct

_BIAS = 0.15  # squared bias, in variances of one iteration, once nearly all is drawn


@dataclasses.dataclass(frozen=True)
class Constructive(Estimator):
    """Sampled ESVs by the paper's Algorithm 1.

    Mean scores with and without an element pool all iterations, as Algorithm 1 does. With
    max_subsequences at least every binomial(n, s) it is exact. Source: Price & Damen (2020),
    Eq. (10), Algorithm 1.

    For models that combine scales the estimate is biased, because a sampled subsequence sees few
    of its parts, and further iterations do not lessen that. `std_error` is the spread between
    iterations (`spread_error`) and an allowance for the bias: its square is taken to be
    0.15 c times the variance of one iteration, with c the share of all subsequences that were
    drawn, averaged over scales. That is a rule of thumb from trained and from random heads at
    16 and 49 elements, where intervals then cover.

    Attributes:
      max_subsequences: m, most subsequences per scale, >= 1.
      iterations: independent passes, >= 1; two or more give a standard error.
      unseen: how cells that no sample covers are treated. "skip" leaves them out of an element's
        mean over scales; "zero" counts them, and the missing means of the recurrence, as 0:
        parity with the paper's public code.
    Raises:
      ValueError: on counts below 1 or another policy. TypeError: on counts that are no integers.
    """

    max_subsequences: int = 1024
    iterations: int = 4
    unseen: Unseen = "skip"
    takes: ClassVar[tuple[type, ...]] = (ScaleGame, SubsetGame)
    plan_type: ClassVar[type | None] = SubsequencePlan
    pads: ClassVar[bool] = True
    draws_per_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expect_int("max_subsequences", self.max_subsequences, 1)
        expect_int("iterations", self.iterations, 1)
        expect_choice("unseen", self.unseen, ("skip", "zero"))

    def padded_length(self, n: int) -> int:
        """The next multiple of eight."""
        return -(-n // 8) * 8

    def draw(self, key: Array | None, info: GameInfo, length: Array | int | None = None) -> Samples:
        """Samples with a leading axis of iterations, member (I, n, m, n)."""
        assert key is not None
        drawn = lax.map(
            lambda key: grow_samples(key, info.n, self.max_subsequences, length),
            jax.random.split(key, self.iterations),
        )
        return dataclasses.replace(drawn, unseen=self.unseen)

    def replay(self, plan: SubsequencePlan) -> Samples:
        """The plan's samples; its own numbers of subsequences and iterations hold."""
        return dataclasses.replace(plan.samples, unseen=self.unseen, replayed=True)

    def estimate(
        self,
        drawn: Samples,
        scores: Any,
        prior: Array,
        info: GameInfo,
        length: Array | None = None,
    ) -> Attribution:
        """Values from scores (I, n, m, C) and which are known; elements beyond `length` have 0.

        `scores` of the result are the mean over iterations when drawn, and those of the last
        iteration with the whole sequence when replayed, as the public code reports them.
        """
        found, known = scores
        size = jnp.asarray(info.n if length is None else length)
        sums, whole = lax.map(
            lambda one: _scale_sums(one[0], one[1], one[2], prior, size), (found, known, drawn)
        )
        pooled: ScaleSums = jax.tree.map(lambda leaf: leaf.sum(0), sums)
        iterations = drawn.valid.shape[0]
        std_error = None
        if iterations > 1:
            each = jax.vmap(lambda one: values_of(one, size, self.unseen))(sums)
            std_error = spread_error(each, size)
            if info.combines:
                bias = _BIAS * iterations * _share_drawn(drawn, size, each.dtype)
                std_error = std_error * jnp.sqrt(1 + bias)
        n_scales = min(info.n_scales, info.n)
        with_heads = Samples(drawn.member[..., :n_scales, :, :], drawn.valid[..., :n_scales, :])
        return Attribution(
            values=values_of(pooled, size, self.unseen),
            scores=_last_known(whole, known[:, size - 1]) if drawn.replayed else whole.mean(0),
            prior=prior,
            marginals=marginals_of(pooled, self.unseen),
            std_error=std_error,
            coverage=coverage_of(pooled),
            n_evaluations=count_distinct(with_heads),
        )

    def doubled(self, info: GameInfo) -> Constructive | None:
        """Twice the subsequences per scale: more iterations would not lessen the bias."""
        if self.max_subsequences >= math.comb(info.n, info.n // 2):
            return None
        return dataclasses.replace(self, max_subsequences=2 * self.max_subsequences)

    def within(self, max_evaluations: int, info: GameInfo) -> Constructive | None:
        """The most subsequences per scale within the evaluations; None for fewer than n."""
        m = max_evaluations // (self.iterations * min(info.n_scales, info.n))
        if m < info.n:
            return None
        return dataclasses.replace(self, max_subsequences=min(m, self.max_subsequences))

    def request(self, info: GameInfo) -> Request:
        """All iterations."""
        return Request("samples", self.max_subsequences, self.iterations)


def _last_known(whole: Array, known: Array) -> Array:
    """The last of `whole` (I, C) whose iteration has it, `known` (I, m); NaN where none has."""
    has = known.any(-1)
    return whole[len(whole) - 1 - jnp.argmax(has[::-1])]


def _scale_sums(
    scores: Array, known: Array, samples: Samples, prior: Array, length: Array
) -> tuple[ScaleSums, Array]:
    """Sums of one iteration's scores (n, m, C), and the whole sequence's scores (C,)."""
    n, c = samples.member.shape[-1], prior.shape[0]
    member = samples.member & known[..., None]
    absent = ~samples.member & known[..., None]

    def summed(cells: Array) -> tuple[Array, Array]:
        weight = cells.astype(scores.dtype)
        return jnp.einsum("smi,smc->sic", weight, scores, precision="highest"), cells.sum(1)

    with_element, n_with = summed(member)
    without, n_without = summed(absent)
    sums = ScaleSums(
        with_element,
        jnp.concatenate([jnp.broadcast_to(prior, (1, n, c)), without[:-1]]),
        n_with,
        jnp.concatenate([jnp.ones((1, n), n_without.dtype), n_without[:-1]]),
    )
    # One subsequence has all elements; NaN where it was not scored.
    whole = scores[length - 1].sum(0)
    return sums, jnp.where(known[length - 1].any(), whole, jnp.nan)


def _share_drawn(samples: Samples, length: Array, dtype: jnp.dtype) -> Array:
    """Share of all subsequences that were drawn, mean over iterations and over scales, ()."""
    drawn = samples.valid.sum(-1).mean(0).astype(dtype)  # (n,)
    s = jnp.arange(1, len(drawn) + 1).astype(dtype)
    size = length.astype(dtype)
    present = s <= size
    log_total = gammaln(size + 1) - gammaln(s + 1) - gammaln(jnp.where(present, size - s, 0) + 1)
    share = jnp.where(present, drawn * jnp.exp(-log_total), 0)
    return jnp.minimum(share, 1).sum() / size
