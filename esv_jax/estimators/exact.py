"""Exact Element Shapley Values: every subsequence, once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.estimators.scale_means import ScaleSums, marginals_of
from esv_jax.games.protocol import Cost, Game, Tile
from esv_jax.links import apply_link
from esv_jax.subsequences import Lattice, make_lattice


@dataclasses.dataclass(frozen=True)
class Exact:
    """All 2**n subsequences; no key, no error.

    Source: Shapley (1953); Price & Damen (2020), Eqs. (4) and (7). See `Game.lattice_cost` for
    what a call takes; 16 elements are a matter of milliseconds, each further one doubles it.
    """

    needs_key: ClassVar[bool] = False
    plan_type: ClassVar[type | None] = None
    pads: ClassVar[bool] = False
    draws_per_sequence: ClassVar[bool] = False

    def prepare(self, game: Game, x: Any, key: Array) -> None:
        """Nothing: the lattice is cached per n."""
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
        """ESVs of x (n, ...); see `Attribution`. `key`, `plan` and `length` are not used."""
        del key, plan, length
        lattice = make_lattice(x.shape[0])
        sums = scale_sums(game, x, prior, lattice)
        marginals = marginals_of(sums)
        return Attribution(
            values=marginals.mean(0),
            scores=sums.with_element[-1, 0],
            prior=prior,
            marginals=marginals,
            n_evaluations=game.lattice_cost(x, lattice).n_evaluations,
            exact=True,
        )

    def side_by_side(self, game: Any, xs: Array, prior: Array) -> Attribution | None:
        """The same of V sequences (V, n, ...) of one length at once, where the game has a way to.

        That is where it gives the scores of whole lattices (`MultiScale.whole_lattice`) and one
        tile holds them; else None. Faster than `vmap`: what sequences share is one product.
        """
        n = xs.shape[1]
        lattice = make_lattice(n)
        if lattice.n_top or not hasattr(game, "whole_lattice"):
            return None
        scores = [apply_link(game.link, logits) for logits in game.whole_lattice(xs, lattice)]
        marginals = jnp.moveaxis(_marginals_side_by_side(scores, prior, lattice), 2, 0)
        n_videos = xs.shape[0]
        evaluations = game.lattice_cost(xs[0], lattice).n_evaluations
        return Attribution(
            values=marginals.mean(1),
            scores=scores[-1][0],
            prior=jnp.broadcast_to(prior, (n_videos, *prior.shape)),
            marginals=marginals,
            n_evaluations=jnp.full(n_videos, evaluations),
            exact=True,
        )

    def doubled(self) -> None:
        """Nothing: it is exact."""

    def cost(self, game: Game, x: Any) -> Cost:
        """See `Game.lattice_cost`."""
        return game.lattice_cost(x, make_lattice(x.shape[0]))


def scale_sums(game: Game, x: Array, prior: Array, lattice: Lattice) -> ScaleSums:
    """Sums of all subsequences' scores by scale and element.

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
        scores = apply_link(game.link, tile.logits) * tile.valid.astype(dtype)[None, :, None]
        by_low = by_low.at[tile.level].add(scores.sum(1))
        if n_top:
            width = scores.shape[1]
            by_size = jnp.matmul(sum_by_size, scores.reshape(n_lows, -1), precision="highest")
            by_size = by_size.reshape(n_low + 1, width, c)
            sides = jnp.concatenate([tile.member, ~tile.member], axis=1).astype(dtype)
            by_element = jnp.einsum("bi,pbc->pic", sides, by_size, precision="highest")
            by_top = by_top.at[tile.level].add(by_element)
        return by_low, by_top

    nothing = (
        jnp.zeros((n_top + 1, n_lows, c), dtype),
        jnp.zeros((n_top + 1, n_low + 1, 2 * n_top, c), dtype),
    )
    by_low, by_top = game.fold_lattice(x, lattice, visit, nothing)

    # From (level of the top, size of the low) to scale; each element's two sides side by side.
    sides = jnp.zeros((n + 1, 2, n, c), dtype)
    start = np.searchsorted(lattice.low_scale, np.arange(n_low + 2))  # of each size's rows
    for p in range(n_low + 1):
        rows = slice(start[p], start[p + 1])
        member = lattice.low_member[rows]
        weight = jnp.asarray(np.concatenate([member, ~member], axis=1).T, dtype)
        own = jnp.einsum("ir,urc->uic", weight, by_low[:, rows], precision="highest")
        scales = slice(p, p + n_top + 1)
        sides = sides.at[scales, :, n_top:].add(own.reshape(n_top + 1, 2, n_low, c))
        if n_top:
            sides = sides.at[scales, :, :n_top].add(by_top[:, p].reshape(n_top + 1, 2, n_top, c))
    without = sides[:-1, 1].at[0].set(prior)  # scale 0 is the empty subsequence
    s = np.arange(1, n + 1)
    n_each = np.array([math.comb(n - 1, k - 1) for k in s])  # on both sides
    counts = jnp.asarray(np.broadcast_to(n_each[:, None], (n, n)))
    return ScaleSums(sides[1:, 0], without, counts, counts)


def _marginals_side_by_side(scores: list[Array], prior: Array, lattice: Lattice) -> Array:
    """Mean marginals (n, n, V, C): mean scores with each element less those without, by scale.

    Args:
      scores: by scale 0..n, (binomial(n, s), V, C), in the order of the lattice's lows.
      prior: (C,), scores of the empty subsequence.
    """
    n, (_, n_videos, c) = lattice.n, scores[0].shape
    without = jnp.broadcast_to(prior, (n, n_videos, c))  # at scale 0
    marginals = []
    for s in range(1, n + 1):
        member = lattice.low_member[lattice.low_scale == s]
        share = [member / math.comb(n - 1, s - 1), ~member / max(math.comb(n - 1, s), 1)]
        weight = jnp.asarray(np.concatenate(share, axis=1).T, prior.dtype)
        means = jnp.matmul(weight, scores[s].reshape(len(member), -1), precision="highest")
        means = means.reshape(2, n, n_videos, c)
        marginals.append(means[0] - without)
        without = means[1]
    return jnp.stack(marginals)
