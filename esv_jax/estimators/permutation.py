"""Sampled ESVs by orders of arrival: unbiased, and independent of any model of the scores."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from esv_jax.attribution import Attribution
from esv_jax.checks import expect_int
from esv_jax.estimators.row_scores import expect_rowwise, only_whole, row_scores
from esv_jax.estimators.spread import spread_error
from esv_jax.games.protocol import Cost, Game
from esv_jax.subsequences import Samples
from esv_jax.subsequences.samples import count_distinct

_BLOCK = 1024  # subsequences put to the game at once, about


@dataclasses.dataclass(frozen=True)
class PermutationSampling:
    """The mean, over random orders of arrival and their reverses, of what each element adds.

    Every order alone adds up to scores - prior, so efficiency holds exactly. An order and its
    reverse meet each other's complements, which cancels pairwise interactions from their mean;
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
    needs_key: ClassVar[bool] = True
    plan_type: ClassVar[type | None] = None
    pads: ClassVar[bool] = False
    draws_per_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        expect_int("permutations", self.permutations, 1)

    def prepare(self, game: Game, x: Any, key: Array) -> None:
        """Nothing: orders are drawn on the device."""
        del game, x, key

    def __call__(
        self,
        game: Game,
        x: Array,
        prior: Array,
        *,
        key: Array | None = None,
        plan: None = None,
        length: Array | None = None,
    ) -> Attribution:
        """ESVs of x (n, ...), which has no padding; see `Attribution`. `plan` is not used."""
        del plan
        assert key is not None
        expect_rowwise(game, self)
        n, drawn = x.shape[0], self.permutations
        whole = row_scores(game, x, jnp.ones((1, n), bool))[0]
        keys = jax.random.split(key, drawn)
        order = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)  # (P, n)
        together = min(drawn, max(1, _BLOCK // max(2 * (n - 1), 1)))
        n_blocks = -(-drawn // together)
        padding = jnp.broadcast_to(order[-1:], (n_blocks * together - drawn, n))
        blocks = jnp.concatenate([order, padding]).reshape(n_blocks, together, n)
        each = lax.map(lambda order: _gains(game, x, prior, whole, order), blocks)
        each = each.reshape(n_blocks * together, n, -1)[:drawn]
        std_error = None
        if drawn > 1:
            std_error = spread_error(each)
        return Attribution(
            values=only_whole(each.mean(0), n, length),
            scores=whole,
            prior=prior,
            std_error=std_error,
            n_evaluations=_n_distinct(order),
        )

    def doubled(self) -> PermutationSampling:
        """Twice the permutations."""
        return dataclasses.replace(self, permutations=2 * self.permutations)

    def cost(self, game: Game, x: Any) -> Cost:
        """Evaluations at most, where no subsequence is met twice."""
        expect_rowwise(game, self)
        n, c = x.shape[0], game.n_classes(x)
        rows = 2 * (n - 1) * self.permutations + 1
        numbers = 2 * self.permutations * n * c + 4 * min(rows, max(_BLOCK, 2 * n)) * c
        return Cost(rows, rows, numbers * jnp.dtype(game.dtype(x)).itemsize + 2 * rows * n, None)


def _prefixes(order: Array) -> Array:
    """Membership (..., n - 1, n) of the first 1..n-1 elements of orders (..., n)."""
    n = order.shape[-1]
    place = jnp.argsort(order, axis=-1)[..., None, :]  # when each element arrives
    return place <= jnp.arange(n - 1).reshape((1,) * (order.ndim - 1) + (n - 1, 1))


def _gains(game: Game, x: Array, prior: Array, whole: Array, order: Array) -> Array:
    """Each element's gain on joining, mean of an order and its reverse; orders (B, n), (B, n, C).

    What a reversed order has met is the complement of what the order has met.
    """
    b, n = order.shape
    first = jnp.broadcast_to(prior, (b, 1, *prior.shape))
    last = jnp.broadcast_to(whole, (b, 1, *whole.shape))
    if n == 1:
        return last - first
    member = _prefixes(order)  # (B, n - 1, n)
    rows = jnp.stack([member, ~member]).reshape(-1, n)
    scores = row_scores(game, x, rows).reshape(2, b, n - 1, -1)
    forward = jnp.diff(jnp.concatenate([first, scores[0], last], axis=1), axis=1)  # by place
    backward = -jnp.diff(jnp.concatenate([last, scores[1], first], axis=1), axis=1)
    by_place = (forward + backward) / 2
    return jnp.take_along_axis(by_place, jnp.argsort(order, axis=1)[:, :, None], axis=1)


def _n_distinct(order: Array) -> Array:
    """Distinct subsequences, (), among the prefixes of orders and their complements."""
    n = order.shape[-1]
    if n == 1:
        return jnp.ones((), jnp.int32)
    member = _prefixes(order)
    rows = jnp.concatenate([member, ~member]).reshape(-1, n)
    return count_distinct(Samples(rows, jnp.ones(rows.shape[0], bool))) + 1
