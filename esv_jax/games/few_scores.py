"""Scores of a few given subsequences, compiled."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import AnyArray, Shaped, expect
from esv_jax.games.protocol import Game, ScaleGame, SubsetGame, Tile
from esv_jax.games.scoring import (
    HeadRows,
    apply_link,
    compiled,
    lattice_scores,
    score_rows,
    subset_scores,
)
from esv_jax.subsequences.lattice import Lattice, make_lattice

_MAX_ENUMERATED = 20  # elements of a `ScaleGame`, whose scores are picked from those of all


def score(game: Game, x: AnyArray, member: Any, *, prior: AnyArray) -> Any:
    """Scores (m, C) after the link of any few subsequences; of an empty one the prior.

    Args:
      game: `SubsetGame` or `ScaleGame`.
      x: (n, ...), checked.
      member: (m, n) bool, NumPy, in any order, repeated or empty.
      prior: (C,).
    Raises:
      ValueError: more elements of a `ScaleGame` than can be enumerated.
    Cost: m evaluations of a `SubsetGame`; otherwise one pass over all 2**n subsequences (single
      elements need the first head alone). Compiled once per shape.
    """
    if game.on_host:
        member = np.asarray(member)
        scores = subset_scores(game, x, member)
        return jnp.asarray(np.where(member.any(1)[:, None], scores, np.asarray(prior)[None]))
    return score_together(game, jnp.asarray(x)[None], np.asarray(member)[None], prior)[0]


def score_together(game: Game, xs: AnyArray, member: Any, prior: AnyArray) -> Array:
    """`score` of V sequences of one shape (V, n, ...) in JAX, member (V, m, n): (V, m, C)."""
    empty = ~member.any(-1)
    if isinstance(game, SubsetGame):
        chosen: Any = jnp.asarray(member)
    elif member.sum(-1).max(initial=0) <= 1:
        chosen = HeadRows(jnp.asarray(member)[:, None])
    else:
        chosen = _find_rows(member)
    run = compiled(game, "score", lambda: _score_together)
    return run(game, xs, chosen, empty, prior)


def _score_together(game: Any, xs: Array, chosen: Any, empty: Array, prior: Array) -> Array:
    def one(x: Array, chosen: Any, empty: Array) -> Array:
        if isinstance(chosen, Found):
            scores = _gathered(game, x, chosen)
        else:
            found: Any = score_rows(game, x, chosen)
            scores = apply_link(game.link, found[0]) if isinstance(chosen, HeadRows) else found
        return jnp.where(empty[:, None], prior.astype(scores.dtype)[None], scores)

    if xs.shape[0] == 1:  # keeps control flow that vmap would run both ways
        return one(xs[0], jax.tree.map(lambda leaf: leaf[0], chosen), empty[0])[None]
    return jax.vmap(one)(xs, chosen, empty)


def expect_scorable(game: Game, n: int, name: str = "x") -> None:
    """Refuse sequences of which this game cannot score a few subsequences exactly."""
    expect(
        isinstance(game, SubsetGame) or n <= _MAX_ENUMERATED,
        name,
        f"at most {_MAX_ENUMERATED} elements for a game that builds each score from all parts",
        f"{n}",
        "Take fewer elements (data.segment_centres picks them evenly).",
    )


class Found(NamedTuple):
    """Indices of m subsequences in a lattice of T tiles.

    Attributes:
      rows: (V, T, K) indices in each tile, r * B + b; padded with 0.
      found: (V, m) index of each subsequence among the T * K.
    """

    rows: Array
    found: Array


def _find_rows(member: np.ndarray) -> Found:
    """Return the lattice indices of each sequence's subsequences (V, m, n)."""
    v, m, n = member.shape
    lattice = make_lattice(n)
    row_of_low = np.zeros(lattice.n_lows, np.int64)
    row_of_low[lattice.low_codes] = np.arange(lattice.n_lows)
    index_of_top = np.zeros(2**lattice.n_top, np.int64)  # tile * B + b
    valid = lattice.tile_valid.ravel()
    index_of_top[lattice.tile_code.ravel()[valid]] = np.flatnonzero(valid)
    k = _per_tile(lattice, m)
    rows = np.zeros((v, lattice.n_tiles, k), np.int32)
    found = np.zeros((v, m), np.int32)
    for i in range(v):
        codes, inverse = np.unique(member[i] @ (1 << np.arange(n)), return_inverse=True)
        tile, b = np.divmod(index_of_top[codes & (2**lattice.n_top - 1)], lattice.tile_width)
        row = row_of_low[codes >> lattice.n_top] * lattice.tile_width + b
        order = np.lexsort((row, tile))
        start = np.searchsorted(tile[order], np.arange(lattice.n_tiles + 1))
        slot = np.arange(len(codes)) - start[tile[order]]  # of each code, in its tile
        rows[i, tile[order], slot] = row[order]
        index = np.zeros(len(codes), np.int32)
        index[order] = tile[order] * k + slot
        found[i] = index[inverse.ravel()]
    return Found(jnp.asarray(rows), jnp.asarray(found))


def _gathered(game: ScaleGame, x: Array, chosen: Found) -> Array:
    """Scores (m, C) of the subsequences at the indices of `chosen`, of one sequence."""
    out, lattice = game.output(x), make_lattice(x.shape[0])
    n_tiles, k = chosen.rows.shape
    scores = lattice_scores(game, x, lattice)
    if isinstance(scores, list):
        return jnp.concatenate(scores)[chosen.rows[0]][chosen.found]

    def visit(carry: tuple[Array, Array], tile: Tile) -> tuple[Array, Array]:
        t, kept = carry
        rows = tile.table.reshape(-1, out.shape[0])[chosen.rows[t]]
        return t + 1, lax.dynamic_update_slice_in_dim(kept, rows[None], t, 0)

    start = (jnp.zeros((), jnp.int32), jnp.zeros((n_tiles, k, out.shape[0]), out.dtype))
    return scores(visit, start)[1].reshape(-1, out.shape[0])[chosen.found]


def picked_cost(game: ScaleGame, x: Shaped, m: int) -> int:
    """Bytes of `score` of m subsequences, about."""
    lattice, out = make_lattice(x.shape[0]), game.output(x)
    kept = lattice.n_tiles * _per_tile(lattice, m) * out.shape[0] * out.dtype.itemsize
    return game.lattice_cost(x, lattice).n_bytes + kept


def _per_tile(lattice: Lattice, m: int) -> int:
    """Scores kept of each tile for m subsequences: a power of two, for few programs."""
    return min(1 << max(m - 1, 0).bit_length(), lattice.n_lows * lattice.tile_width)
