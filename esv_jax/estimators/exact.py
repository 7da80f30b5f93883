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
from esv_jax.subsequences import Lattice, SubsequencePlan, make_lattice


@dataclasses.dataclass(frozen=True)
class Exact:
    """All 2**n subsequences; no key, no error.

    Source: Shapley (1953); Price & Damen (2020), Eqs. (4) and (7). See `Game.lattice_cost` for
    what a call takes; 16 elements are a matter of milliseconds, each further one doubles it.
    """

    needs_key: ClassVar[bool] = False

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

    def cost(self, game: Game, x: Any) -> Cost:
        """See `Game.lattice_cost`."""
        return game.lattice_cost(x, make_lattice(x.shape[0]))


def scale_sums(game: Game, x: Array, prior: Array, lattice: Lattice) -> ScaleSums:
    """Sums of all subsequences' scores by scale and element.

    Per tile, membership sums factor: summed over its tops they leave the lows' membership, summed
    over the lows of equal size the tops'. Only those two sums are kept per level of tops.
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
            member = tile.member.astype(dtype)
            by_element = jnp.einsum("bi,pbc->pic", member, by_size, precision="highest")
            by_top = by_top.at[tile.level].add(by_element)
        return by_low, by_top

    nothing = (
        jnp.zeros((n_top + 1, n_lows, c), dtype),
        jnp.zeros((n_top + 1, n_low + 1, n_top, c), dtype),
    )
    by_low, by_top = game.fold_lattice(x, lattice, visit, nothing)
    by_low = by_low.at[0, 0].set(0)  # the empty subsequence: the prior's place

    # Both sums, from (level of top, elements in low) to scale.
    member = jnp.asarray(lattice.low_member, dtype)
    low_sums = jnp.einsum("pr,ri,urc->upic", sum_by_size, member, by_low, precision="highest")
    totals = jnp.einsum("pr,urc->upc", sum_by_size, by_low, precision="highest")
    with_element = jnp.zeros((n + 1, n, c), dtype)
    total = jnp.zeros((n + 1, c), dtype)
    for u in range(n_top + 1):
        scales = slice(u, u + n_low + 1)
        with_element = with_element.at[scales, n_top:].add(low_sums[u])
        with_element = with_element.at[scales, :n_top].add(by_top[u])
        total = total.at[scales].add(totals[u])
    without = (total[:, None] - with_element)[:-1].at[0].set(prior)
    s = np.arange(1, n + 1)
    n_with = np.array([math.comb(n - 1, k - 1) for k in s])
    return ScaleSums(
        with_element[1:],
        without,
        jnp.asarray(np.broadcast_to(n_with[:, None], (n, n))),
        jnp.asarray(np.broadcast_to(n_with[:, None], (n, n))),  # binomial(n - 1, s - 1) as well
    )
