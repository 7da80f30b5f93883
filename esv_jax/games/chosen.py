"""Logits of chosen subsequences of any game: a few of all, wherever they lie."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.games.protocol import Game, Tile
from esv_jax.subsequences import Lattice, make_lattice

_ROWS_AT_ONCE = 1024


class Places(NamedTuple):
    """Where m chosen subsequences lie in a lattice of T tiles.

    Attributes:
      rows: (T, K) places in each tile, r * B + b; padded with 0.
      found: (m,) where each subsequence is among the T * K.
    """

    rows: Array
    found: Array


Chosen: TypeAlias = Array | Places  # (m, n) bool membership where rows are scored on their own


def scores_rows(game: Game) -> bool:
    """Whether a game scores each subsequence on its own, so that any few can be asked for.

    `MultiScale` does not: the score of one subsequence is built from those of all its parts.
    """
    return callable(getattr(game, "row_logits", None))


def choose_rows(game: Game, member: np.ndarray, lattice: Lattice | None = None) -> Chosen:
    """Host tables for `chosen_logits` of the subsequences `member` (m, n) bool.

    Args:
      game: that will be asked.
      member: rows in any order, repeated or empty.
      lattice: of n elements; default `make_lattice(n)`. Not used where rows are scored alone.
    Cost: sorting of m integers; the tables depend on `member`, so that equal shapes share a
      compiled program (K is rounded up to a power of two for it).
    """
    if scores_rows(game):
        return jnp.asarray(member)
    n = member.shape[1]
    lattice = make_lattice(n) if lattice is None else lattice
    codes, inverse = np.unique(member @ (1 << np.arange(n)), return_inverse=True)

    row_of_low = np.zeros(lattice.n_lows, np.int64)
    row_of_low[lattice.low_codes] = np.arange(lattice.n_lows)
    place_of_top = np.zeros(2**lattice.n_top, np.int64)  # tile * B + b
    valid = lattice.tile_valid.ravel()
    place_of_top[lattice.tile_code.ravel()[valid]] = np.flatnonzero(valid)
    tile, b = np.divmod(place_of_top[codes & (2**lattice.n_top - 1)], lattice.tile_width)
    row = row_of_low[codes >> lattice.n_top] * lattice.tile_width + b

    order = np.lexsort((row, tile))
    start = np.searchsorted(tile[order], np.arange(lattice.n_tiles + 1))
    size = lattice.n_lows * lattice.tile_width
    k = min(_power_of_two(int(np.diff(start).max())), size)
    rows = np.zeros((lattice.n_tiles, k), np.int32)
    slot = np.arange(len(codes)) - start[tile[order]]  # of each code, in its tile
    rows[tile[order], slot] = row[order]
    found = np.zeros(len(codes), np.int32)
    found[order] = tile[order] * k + slot
    return Places(jnp.asarray(rows), jnp.asarray(found[inverse.ravel()]))


def chosen_logits(game: Game, x: Array, chosen: Chosen, lattice: Lattice | None = None) -> Array:
    """Logits (m, C) of the subsequences of x (n, ...) that `choose_rows` was given.

    The row of an empty subsequence is finite but means nothing.

    Args:
      game: that `chosen` was made for. x: (n, ...).
      chosen: from `choose_rows`. lattice: the one it was given.
    Cost: m evaluations, 1,024 at once, where rows are scored on their own; otherwise one pass over
      all 2**n subsequences, and T K C numbers of memory.
    """
    if isinstance(chosen, Places):
        return _gathered_logits(game, x, chosen, lattice)
    m, n = chosen.shape
    width = min(m, _ROWS_AT_ONCE)
    blocks = -(-m // width)
    rows = jnp.zeros((blocks * width, n), bool).at[:m].set(chosen)
    rows = rows | ~rows.any(axis=1, keepdims=True)  # none becomes all: no model divides by zero
    rows = rows.reshape(blocks, width, n)
    logits = lax.map(lambda member: game.row_logits(x, member), rows)  # type: ignore[attr-defined]
    return logits.reshape(blocks * width, -1)[:m]


def _gathered_logits(game: Game, x: Array, places: Places, lattice: Lattice | None) -> Array:
    lattice = make_lattice(x.shape[0]) if lattice is None else lattice
    c, (n_tiles, k) = game.n_classes(x), places.rows.shape

    def visit(carry: tuple[Array, Array], tile: Tile) -> tuple[Array, Array]:
        t, kept = carry
        rows = tile.logits.reshape(-1, c)[places.rows[t]]
        return t + 1, lax.dynamic_update_slice_in_dim(kept, rows[None], t, 0)

    kept = jnp.zeros((n_tiles, k, c), game.dtype(x))
    _, kept = game.fold_lattice(x, lattice, visit, (jnp.zeros((), jnp.int32), kept))
    return kept.reshape(-1, c)[places.found]


def _power_of_two(k: int) -> int:
    """The least power of two >= k."""
    return 1 << max(k - 1, 0).bit_length()
