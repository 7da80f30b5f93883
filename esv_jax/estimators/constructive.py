"""Algorithm 1 of the paper: samples grown one element at a time, scores by recurrence."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import gammaln

from esv_jax.attribution import Attribution
from esv_jax.checks import expect_choice, expect_int
from esv_jax.estimators.scale_means import ScaleSums, coverage_of, marginals_of, values_of
from esv_jax.estimators.spread import spread_error
from esv_jax.games.chosen import scores_rows
from esv_jax.games.protocol import Cost, Game, Unseen
from esv_jax.links import apply_link
from esv_jax.subsequences import Samples, SubsequencePlan, grow_samples

_BIAS = 0.15  # squared bias, in variances of one iteration, once nearly all is drawn


@dataclasses.dataclass(frozen=True)
class Constructive:
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
      unseen: what happens to cells no sample covers. "skip" leaves them out of an element's mean
        over scales; "zero" counts them, and the missing means of the recurrence, as 0: parity
        with the paper's public code.
    Raises:
      ValueError: on counts below 1 or another policy. TypeError: on counts that are no integers.
    """

    max_subsequences: int = 1024
    iterations: int = 4
    unseen: Unseen = "skip"
    needs_key: ClassVar[bool] = True
    plan_type: ClassVar[type | None] = SubsequencePlan
    pads: ClassVar[bool] = True
    draws_per_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expect_int("max_subsequences", self.max_subsequences, 1)
        expect_int("iterations", self.iterations, 1)
        expect_choice("unseen", self.unseen, ("skip", "zero"))

    def prepare(self, game: Game, x: Any, key: Array) -> None:
        """Nothing: samples are grown on the device."""
        del game, x, key

    def __call__(
        self,
        game: Game,
        x: Array,
        prior: Array,
        *,
        key: Array | None = None,
        plan: SubsequencePlan | None = None,
        length: Array | None = None,
    ) -> Attribution:
        """ESVs of x (n, ...), elements beyond `length` being padding (their values are 0).

        Exactly one of `key` (drawn anew) and `plan` (replayed; its own numbers of subsequences
        and iterations hold) is used; the plan wins. `scores` are the mean over iterations when
        drawn, and those of the last iteration when replayed, as the public code reports them.
        Cost: see `Game.sample_cost`, times the iterations.
        """
        n = x.shape[0]
        length = jnp.asarray(n if length is None else length)

        def one_pass(samples: Samples) -> tuple[ScaleSums, Array, Samples]:
            return (*self._one_pass(game, x, prior, samples, length), samples)

        if plan is not None:
            sums, scores, samples = lax.map(one_pass, plan.samples)
            scores = scores[-1]
        else:
            assert key is not None
            sums, scores, samples = lax.map(
                lambda key: one_pass(grow_samples(key, n, self.max_subsequences, length)),
                jax.random.split(key, self.iterations),
            )
            scores = scores.mean(0)

        pooled: ScaleSums = jax.tree.map(lambda leaf: leaf.sum(0), sums)
        iterations = samples.valid.shape[0]
        std_error = None
        if iterations > 1:
            each = jax.vmap(lambda one: values_of(one, length, self.unseen))(sums)
            std_error = spread_error(each, length)
            if not scores_rows(game):
                bias = _BIAS * iterations * _share_drawn(samples, length, each.dtype)
                std_error = std_error * jnp.sqrt(1 + bias)
        return Attribution(
            values=values_of(pooled, length, self.unseen),
            scores=scores,
            prior=prior,
            marginals=marginals_of(pooled, self.unseen),
            std_error=std_error,
            coverage=coverage_of(pooled),
            n_evaluations=game.n_evaluations(samples),
        )

    def _one_pass(
        self, game: Game, x: Array, prior: Array, samples: Samples, length: Array
    ) -> tuple[ScaleSums, Array]:
        """Sums of one iteration's scores, and the whole sequence's scores (C,)."""
        logits, known = game.sample_logits(x, samples, self.unseen)
        scores = jnp.where(known[..., None], apply_link(game.link, logits), 0)
        member = samples.member & known[..., None]
        absent = ~samples.member & known[..., None]

        def summed(cells: Array) -> tuple[Array, Array]:
            weight = cells.astype(scores.dtype)
            return (
                jnp.einsum("smi,smc->sic", weight, scores, precision="highest"),
                cells.sum(1),
            )

        with_element, n_with = summed(member)
        without, n_without = summed(absent)
        n, c = x.shape[0], prior.shape[0]
        first = jnp.broadcast_to(prior, (1, n, c))
        sums = ScaleSums(
            with_element,
            jnp.concatenate([first, without[:-1]]),
            n_with,
            jnp.concatenate([jnp.ones((1, n), n_without.dtype), n_without[:-1]]),
        )
        return sums, scores[length - 1].sum(0)  # one subsequence has all elements

    def doubled(self) -> Constructive:
        """Twice the subsequences per scale: more iterations would not lessen the bias."""
        return dataclasses.replace(self, max_subsequences=2 * self.max_subsequences)

    def cost(self, game: Game, x: Any) -> Cost:
        """Of all iterations; memory is that of one."""
        one = game.sample_cost(x, self.max_subsequences)
        flops = None if one.flops is None else one.flops * self.iterations
        return Cost(
            one.n_subsequences * self.iterations,
            one.n_evaluations * self.iterations,
            one.n_bytes,
            flops,
        )


def _share_drawn(samples: Samples, length: Array, dtype: jnp.dtype) -> Array:
    """Share of all subsequences that were drawn, mean over iterations and over scales, ()."""
    drawn = samples.valid.sum(-1).mean(0).astype(dtype)  # (n,)
    s = jnp.arange(1, len(drawn) + 1).astype(dtype)
    size = length.astype(dtype)
    present = s <= size
    log_total = gammaln(size + 1) - gammaln(s + 1) - gammaln(jnp.where(present, size - s, 0) + 1)
    share = jnp.where(present, drawn * jnp.exp(-log_total), 0)
    return jnp.minimum(share, 1).sum() / size
