"""Element Shapley Values from random orders of arrival."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.checks import expect, expect_int, is_concrete
from esv_jax.estimators.protocol import Estimator
from esv_jax.games.protocol import SubsetGame
from esv_jax.games.scoring import GameInfo, Request
from esv_jax.subsequences.samples import Samples, count_distinct, random_orders

_POOLED = 4.0  # repetitions that the mean over elements counts as
_LEAST_SHARE = 0.3  # of that mean, however many there are


@dataclasses.dataclass(frozen=True)
class PermutationSampling(Estimator):
    """Mean gain of each element on joining, over random orders of arrival and their reverses.

    Every order alone adds up to scores - prior, so efficiency holds exactly. An order and its
    reverse contain each other's complements, which cancels pairwise interactions from their mean;
    orders are drawn independently, so the spread of these means gives the standard error
    (`spread_error`). The estimate is unbiased at any number, but `SizeRegression` has less error
    for as many evaluations: this is its cross-check.

    Source: Castro et al. (2009), Polynomial calculation of the Shapley value based on sampling;
    Mitchell et al. (2022), Sampling permutations for Shapley value estimation (antithetic pairs).

    Attributes:
      permutations: orders drawn, each also run in reverse; 2 (n - 1) evaluations each. Two or
        more give a standard error.
    Raises:
      ValueError: on a count below 1; when called, on a `length` other than n: padded sequences
      are not taken. TypeError: on a count that is no integer; on a game that combines scales.
    """

    permutations: int = 64
    takes: ClassVar[tuple[type, ...]] = (SubsetGame,)
    draws_per_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expect_int("permutations", self.permutations, 1)

    def draw(self, key: Array | None, info: GameInfo, length: Array | int | None = None) -> Array:
        """Rows of all prefixes of the orders, of their complements, and the whole: (m, n) bool."""
        assert key is not None
        return order_rows(random_orders(key, self.permutations, info.n))

    def estimate(
        self,
        drawn: Array,
        scores: Any,
        prior: Array,
        info: GameInfo,
        length: Array | None = None,
    ) -> Attribution:
        """Values from the scores (m, C) of the rows, which have no padding.

        An order's prefixes say when each element arrived. What a reversed order contains is the
        complement of what the order does.
        """
        p, n, c = self.permutations, info.n, prior.shape[0]
        scores = jnp.asarray(scores)
        whole = scores[-1]
        sides = scores[:-1].reshape(2, p, n - 1, c)
        first, last = (jnp.broadcast_to(end, (p, 1, c)) for end in (prior, whole))
        forward = jnp.diff(jnp.concatenate([first, sides[0], last], axis=1), axis=1)
        backward = -jnp.diff(jnp.concatenate([last, sides[1], first], axis=1), axis=1)
        by_arrival = (forward + backward) / 2
        prefix = drawn[: p * (n - 1)].reshape(p, n - 1, n)
        arrival = (~prefix).sum(1)  # (P, n)
        each = jnp.take_along_axis(by_arrival, arrival[:, :, None], axis=1)
        return Attribution(
            values=only_whole(each.mean(0), n, length),
            scores=whole,
            prior=prior,
            std_error=spread_error(each) if p > 1 else None,
            n_evaluations=count_distinct(Samples(drawn, jnp.ones(drawn.shape[0], bool))),
        )

    def doubled(self, info: GameInfo) -> PermutationSampling:
        """Twice the permutations."""
        return dataclasses.replace(self, permutations=2 * self.permutations)

    def within(self, max_evaluations: int, info: GameInfo) -> PermutationSampling | None:
        """The most permutations within the evaluations."""
        p = (max_evaluations - 1) // max(2 * (info.n - 1), 1)
        return None if p < 1 else dataclasses.replace(self, permutations=min(p, self.permutations))

    def request(self, info: GameInfo) -> Request:
        """Rows at most, where no subsequence occurs twice."""
        rows = 2 * (info.n - 1) * self.permutations + 1
        return Request("subsets", rows, per_class=4 * rows, others=rows * info.n // 2)


def order_rows(order: Array) -> Array:
    """Rows that orders of arrival (P, n) need: (2 P (n - 1) + 1, n) bool.

    The prefixes of 1..n - 1 elements, order by order; their complements; the whole.
    """
    n = order.shape[-1]
    arrival = jnp.argsort(order, axis=-1)[:, None, :]
    prefix = arrival <= jnp.arange(n - 1)[None, :, None]  # (P, n - 1, n)
    rows = jnp.stack([prefix, ~prefix]).reshape(-1, n)
    return jnp.concatenate([rows, jnp.ones((1, n), bool)])


def spread_error(each: Array, length: Array | int | None = None) -> Array:
    """Standard error (n, C) of the mean of k independent estimates (k, n, C) of the same values.

    The variance over few repetitions is a poor estimate: it is shrunk towards its class's mean
    over elements, with weight 4 / (k + 3), and raised by 1 / (2 k), which makes normal
    intervals as wide as the remaining uncertainty of the variance requires. The weight is 0.3 at
    least: where estimates have heavy tails, a value too small comes with a variance too small.

    Args:
      each: k >= 2 estimates.
      length: elements that are there; the others are left out of the mean and get 0.
    """
    k, n = each.shape[:2]
    dtype = each.dtype
    present = (jnp.arange(n) < (n if length is None else length)).astype(dtype)[:, None]
    own = each.var(0, ddof=1) * present
    pooled = own.sum(0, keepdims=True) / present.sum()
    share = max(_POOLED / (k + _POOLED - 1), _LEAST_SHARE)
    variance = (1 - share) * own + share * pooled * present
    return jnp.sqrt(variance * ((1 + 1 / (2 * k)) / k))


def only_whole(values: Array, n: int, length: Array | int | None) -> Array:
    """`values` of a sequence without padding; NaN where a traced `length` is not n.

    Raises:
      ValueError: a concrete `length` other than n.
    """
    if length is None:
        return values
    if is_concrete(length):
        got = int(np.asarray(length))
        expect(got == n, "length", f"{n}, all elements of x", got, "Cut the padding off first.")
    return jnp.where(jnp.asarray(length) == n, values, jnp.nan)
