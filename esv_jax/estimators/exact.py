"""Exact Element Shapley Values from the scores of all subsequences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.checks import AnyArray
from esv_jax.estimators.protocol import Estimator
from esv_jax.games.protocol import ScaleGame, SubsetGame, Tile
from esv_jax.games.scoring import Fold, GameInfo, Request, by_scale
from esv_jax.subsequences.lattice import Lattice, make_lattice, membership, scale_ordered_codes
from esv_jax.subsequences.samples import Unseen


@dataclasses.dataclass(frozen=True)
class Exact(Estimator):
    """All 2**n subsequences; no key, no error.

    Source: Shapley (1953); Price & Damen (2020), Eqs. (4) and (7). Cost: see `plan_cost`; 16
    elements of heads by scale take milliseconds, and each further element doubles the time.
    """

    takes: ClassVar[tuple[type, ...]] = (ScaleGame, SubsetGame)
    needs_key: ClassVar[bool] = False

    def draw(self, key: Array | None, info: GameInfo, length: Array | int | None = None) -> Lattice:
        """The lattice of all subsequences; `key` and `length` are not used."""
        return make_lattice(info.n)

    def estimate(
        self,
        drawn: Lattice,
        scores: Any,
        prior: Array,
        info: GameInfo,
        length: Array | None = None,
    ) -> Attribution:
        """Values from the scores of all subsequences, by scale or as a fold over tiles.

        Scores by scale may have further axes before the last, (binomial(n, s), ..., C); so have
        the values then, (n, ..., C).
        """
        if callable(scores):
            sums = scale_sums(scores, prior, drawn)
            marginals, whole = marginals_of(sums), sums.with_element[-1, 0]
        else:
            marginals, whole = scale_marginals(scores, prior), scores[-1][0]
        n = info.n
        evaluations = 2**n - 1
        if info.combines:
            evaluations = sum(math.comb(n, s) for s in range(1, min(info.n_scales, n) + 1))
        return Attribution(
            values=marginals.mean(0),
            scores=whole,
            prior=prior,
            marginals=marginals,
            n_evaluations=evaluations,
            exact=True,
        )

    def request(self, info: GameInfo) -> Request:
        """All subsequences."""
        return Request("lattice")


def scale_sums(fold: Fold[Any], prior: Array, lattice: Lattice) -> ScaleSums:
    """Sums of all subsequences' scores by scale and element, from a fold over tiles.

    Per tile, membership sums factor: summed over its tops they leave the lows' membership, summed
    over the lows of equal size the tops'. Only those two sums are kept per level of tops. Sums
    without an element are summed as such: taken as differences, single scores lose a digit.
    Cost: about 8 operations per subsequence and class beyond the game's own.
    """
    n, n_top, n_low, n_lows = lattice.n, lattice.n_top, lattice.n_low, lattice.n_lows
    dtype, c = prior.dtype, prior.shape[0]
    same_size = np.arange(n_low + 1)[:, None] == lattice.low_scale[None, :]  # (n_low + 1, R)
    sum_by_size = jnp.asarray(same_size, dtype)

    def visit(sums: tuple[Array, Array], tile: Tile) -> tuple[Array, Array]:
        by_low, by_top = sums
        scores = tile.table * tile.valid.astype(dtype)[None, :, None]
        by_low = by_low.at[tile.level].add(scores.sum(1))
        if n_top:
            width = scores.shape[1]
            by_size = jnp.matmul(sum_by_size, scores.reshape(n_lows, -1), precision="highest")
            by_size = by_size.reshape(n_low + 1, width, c)
            sides = jnp.concatenate([tile.member, ~tile.member], axis=1).astype(dtype)
            by_element = jnp.einsum("bi,pbc->pic", sides, by_size, precision="highest")
            by_top = by_top.at[tile.level].add(by_element)
        return by_low, by_top

    start_sums = (
        jnp.zeros((n_top + 1, n_lows, c), dtype),
        jnp.zeros((n_top + 1, n_low + 1, 2 * n_top, c), dtype),
    )
    by_low, by_top = fold(visit, start_sums)

    # From (level of the top, size of the low) to scale; each element's two sides side by side.
    member = np.concatenate([lattice.low_member, ~lattice.low_member], axis=1).T
    weight = jnp.asarray(same_size[:, None] & member[None], dtype)  # (n_low + 1, 2 n_low, R)
    by_element = jnp.einsum("pir,urc->upic", weight, by_low, precision="highest")
    by_element = by_element.reshape(n_top + 1, n_low + 1, 2, n_low, c)
    by_top = by_top.reshape(n_top + 1, n_low + 1, 2, n_top, c)
    every = jnp.concatenate([by_top, by_element], axis=3)
    scale = np.arange(n_top + 1)[:, None] + np.arange(n_low + 1)[None, :]
    of_scale = jnp.asarray(np.arange(n + 1)[:, None, None] == scale[None], dtype)
    sides = jnp.einsum("sup,upkec->skec", of_scale, every, precision="highest")
    without = sides[:-1, 1].at[0].set(prior)  # scale 0 is the empty subsequence
    s = np.arange(1, n + 1)
    n_each = np.array([math.comb(n - 1, k - 1) for k in s])  # on both sides
    counts = jnp.asarray(np.broadcast_to(n_each[:, None], (n, n)))
    return ScaleSums(sides[1:, 0], without, counts, counts)


def scale_marginals(scores: Sequence[Any], prior: AnyArray) -> Any:
    """Mean marginals (n, n, ..., C): mean scores with each element less those without, by scale.

    NumPy arrays in float64 where the scores are NumPy's (of a game on the host).

    Args:
      scores: by scale 0..n, (binomial(n, s), ..., C), rows in the order of `scale_ordered_codes`.
      prior: (C,), scores of the empty subsequence.
    """
    n, shape = len(scores) - 1, scores[0].shape[1:]
    host = isinstance(scores[0], np.ndarray)
    dtype = np.float64 if host else prior.dtype
    member = by_scale(membership(scale_ordered_codes(n), n), n)
    xp: Any = np if host else jnp
    without = xp.broadcast_to(prior, (n, *shape))  # at scale 0
    marginals = []
    for s in range(1, n + 1):
        rows = member[s]
        share = [rows / math.comb(n - 1, s - 1), ~rows / max(math.comb(n - 1, s), 1)]
        weight = xp.asarray(np.concatenate(share, axis=1).T, dtype)
        table = scores[s].reshape(len(rows), -1)
        means = weight @ table if host else jnp.matmul(weight, table, precision="highest")
        means = means.reshape(2, n, *shape)
        marginals.append(means[0] - without)
        without = means[1]
    return xp.stack(marginals)


class ScaleSums(NamedTuple):
    """Sums of scores by scale.

    Attributes:
      with_element: (n, n, C); `[s - 1, i]` sums the scores of the subsequences of s elements that
        contain element i.
      without_element: (n, n, C); `[s - 1, i]` sums those of the subsequences of s - 1 elements
        that do not contain i; row 0 is the prior.
      n_with, n_without: (n, n), how many each sums.
    """

    with_element: Array
    without_element: Array
    n_with: Array
    n_without: Array


def marginals_of(sums: ScaleSums, unseen: Unseen = "skip") -> Array:
    """Mean marginal contributions (n, n, C): the difference of means in Eq. (7), by scale.

    Source: Price & Damen (2020). A cell with an empty side is NaN under "skip"; under "zero" an
    empty side's mean is 0, as in the paper's public code.
    """
    dtype = sums.with_element.dtype
    with_mean = sums.with_element / jnp.maximum(sums.n_with, 1).astype(dtype)[..., None]
    without_mean = sums.without_element / jnp.maximum(sums.n_without, 1).astype(dtype)[..., None]
    difference = with_mean - without_mean
    if unseen == "zero":
        return difference
    return jnp.where((coverage_of(sums) > 0)[..., None], difference, jnp.nan)


def coverage_of(sums: ScaleSums) -> Array:
    """Subsequences behind each (scale, element) cell, (n, n): those on its emptier side."""
    return jnp.minimum(sums.n_with, sums.n_without)


def values_of(sums: ScaleSums, length: Array, unseen: Unseen) -> Array:
    """ESVs (n, C): the mean of each element's marginals over scales.

    Under "skip" the mean is over the scales that samples cover, NaN where there is none; under
    "zero" over all `length` scales. Elements beyond `length` are 0.
    """
    marginals = marginals_of(sums, unseen)
    dtype = marginals.dtype
    present = jnp.arange(marginals.shape[0]) < length
    if unseen == "zero":
        values = marginals.sum(0) / length.astype(dtype)
    else:
        covered = coverage_of(sums) > 0
        total = jnp.where(covered[..., None], marginals, 0).sum(0)
        values = total / covered.sum(0).astype(dtype)[:, None]
    return jnp.where(present[:, None], values, 0)
