"""Games whose model scores each subsequence on its own: everything from one function."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from esv_jax.games.protocol import Carry, Tile
from esv_jax.subsequences import Lattice, Samples

RowLogits = Callable[[Array], Array]  # member (m, n) bool -> logits (m, C)


def scan_tiles(
    lattice: Lattice,
    tile_logits: Callable[[Array], Array],
    visit: Callable[[Carry, Tile], Carry],
    carry: Carry,
) -> Carry:
    """Fold over the tiles of a lattice whose logits need no other tile's.

    Args:
      lattice: of n elements.
      tile_logits: tops' membership (B, n_top) bool -> logits (R, B, C).
      visit: see `Game.fold_lattice`.
      carry: initial.
    """

    def step(carry: Carry, tile: dict[str, Array]) -> tuple[Carry, None]:
        logits = tile_logits(tile["member"])
        return visit(carry, Tile(logits, tile["level"], tile["member"], tile["valid"])), None

    tiles = {
        "member": jnp.asarray(lattice.tile_member),
        "level": jnp.asarray(lattice.tile_level),
        "valid": jnp.asarray(lattice.tile_valid),
    }
    return lax.scan(step, carry, tiles)[0]


def fold_rows(
    lattice: Lattice,
    row_logits: RowLogits,
    visit: Callable[[Carry, Tile], Carry],
    carry: Carry,
) -> Carry:
    """`Game.fold_lattice` for a model that scores rows of membership independently.

    The empty subsequence is never put to the model: it is asked about the whole instead.
    """
    low = jnp.asarray(lattice.low_member)
    n_lows, width = lattice.n_lows, lattice.tile_width

    def tile_logits(member: Array) -> Array:
        top = jnp.broadcast_to(member[None], (n_lows, width, lattice.n_top))
        rows = jnp.concatenate(
            [top, jnp.broadcast_to(low[:, None], (n_lows, width, lattice.n_low))], axis=-1
        ).reshape(n_lows * width, lattice.n)
        return row_logits(_never_empty(rows)).reshape(n_lows, width, -1)

    return scan_tiles(lattice, tile_logits, visit, carry)


def sample_rows(samples: Samples, row_logits: RowLogits) -> tuple[Array, Array]:
    """`Game.sample_logits` for the same: scale after scale, every valid row known."""
    logits = lax.map(lambda member: row_logits(_never_empty(member)), samples.member)
    return jnp.where(samples.valid[..., None], logits, 0), samples.valid


def _never_empty(member: Array) -> Array:
    """Rows without an element become rows with all of them, so that no model divides by zero."""
    return member | ~member.any(axis=-1, keepdims=True)
