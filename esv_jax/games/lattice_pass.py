"""f^ms of every subsequence of a sequence, in one loop over the lattice's tiles.

Three ideas carry it. The first layer of a head is a sum over positions, so it is computed once
per (element, position) and looked up. The look-ups of a subsequence split into its top's and its
low's, so hidden pre-activations are outer sums of two small tables. And the recurrence needs only
the level of tops before: parents that lack an element of the top are whole slabs of the workspace,
those that lack one of the low a small product with a 0/1 matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.games.protocol import Carry, Tile
from esv_jax.models.heads import HeadStack, HiddenLayer
from esv_jax.subsequences.lattice import Lattice, low_incidence, recurrence_shares


def fold_multi_scale(
    heads: HeadStack,
    first_layers: Sequence[Array],
    x: Array,
    lattice: Lattice,
    visit: Callable[[Carry, Tile], Carry],
    carry: Carry,
) -> Carry:
    """Visit f^ms (logits) of all 2**n subsequences, tile after tile.

    Computes Eq. (9) of Price & Damen (2020) bottom-up; equals their Eq. (8).

    Args:
      heads: of scales 1..n_max, in x's dtype.
      first_layers: `heads.w1` without its padding, (s, D, H) per scale.
      x: (n, D), after the heads' input ReLU where they have one.
      lattice: of n elements, more than one tile (`n_top` > 0).
      visit: carry = visit(carry, tile) with `Tile.table` the logits (R, B, C).
      carry: initial.
    Cost: sum over s <= n_max of binomial(n, s) head evaluations, each H * C multiply-adds and
      more for further hidden layers; for the recurrence about n_top / 2 additions and, up to
      n_low = 6, a dozen multiply-adds per subsequence and class. Memory: a workspace of
      `lattice.n_slots * R * C` numbers.
    """
    tables = _first_layer_tables(heads, first_layers, x, lattice)
    scale = np.arange(lattice.n_top + 1)[:, None] + np.arange(lattice.n_low + 1)[None, :]
    share = jnp.asarray(recurrence_shares(scale, heads.n_max)[1], x.dtype)  # (n_top + 1, n_low + 1)
    incidence = [jnp.asarray(table, x.dtype) for table in low_incidence(lattice)]
    even_counts = [min(k, lattice.n_top) for k in range(0, lattice.n_top + 2, 2)]
    width, n_lows, c = lattice.tile_width, lattice.n_lows, heads.n_classes

    def step(
        state: tuple[Array, Carry], tile: dict[str, Array]
    ) -> tuple[tuple[Array, Carry], None]:
        workspace, carry = state
        level = tile["level"]
        own = _own(heads, tables, lattice, level, tile["top_one_hot"])
        # Slots beyond a level's number of parents are zero: even numbers of them, fewer programs.
        sums = [functools.partial(_sum_of_slabs, k) for k in even_counts]
        from_tops = lax.switch((level + 1) // 2, sums, workspace, tile["parents"])
        logits = _solve(incidence, share[level], own, from_tops)
        workspace = lax.dynamic_update_slice_in_dim(workspace, logits, tile["start"], axis=1)
        visited = Tile(logits, level, tile["member"], tile["valid"])
        return (workspace, visit(carry, visited)), None

    # Even and odd levels take turns in the workspace; the last slot stays zero, for padding.
    workspace = jnp.zeros((n_lows, max(lattice.n_slots, width) + 1, c), x.dtype)
    names = ("level", "start", "parents", "member", "valid")
    tiles = {name: jnp.asarray(getattr(lattice, f"tile_{name}")) for name in names}
    tiles["top_one_hot"] = jnp.asarray(_top_one_hot(lattice, heads.n_max))
    (_, carry), _ = lax.scan(step, (workspace, carry), tiles)
    return carry


def _sum_of_slabs(count: int, workspace: Array, parents: Array) -> Array:
    """Sum (R, B, C) over the first `count` parents of each top of a tile."""
    if count == 0:
        shape = (workspace.shape[0], parents.shape[0], workspace.shape[2])
        return jnp.zeros(shape, workspace.dtype)
    return sum(workspace[:, parents[:, k]] for k in range(count))  # type: ignore[return-value]


def _solve(incidence: list[Array], share: Array, own: list[Array], from_tops: Array) -> Array:
    """The recurrence through the lows of a tile, size after size: (R, B, C).

    Args:
      incidence: `low_incidence`, one 0/1 matrix per size p >= 1 of the low.
      share: (n_low + 1,) share of one parent at each size, for this tile's level.
      own: per size, each subsequence's own head times its share, (binomial(n_low, p), B, C).
      from_tops: (R, B, C) sums over the parents that lack an element of the top.
    """
    done: list[Array] = []
    start = 0
    for p, part in enumerate(own):
        rows, width, c = part.shape
        parents = from_tops[start : start + rows]
        if p:
            before = done[-1].reshape(-1, width * c)
            within = jnp.matmul(incidence[p - 1], before, precision="highest")
            parents = parents + within.reshape(part.shape)
        done.append(part + share[p] * parents)
        start += rows
    return jnp.concatenate(done)


def head_output(hidden: Array, layers: Sequence[HiddenLayer], w2: Array, b2: Array) -> Array:
    """Logits (m, C) of one head from the pre-activations (m, H) of its first layer."""
    hidden = jax.nn.relu(hidden)
    for layer in layers:
        product = jnp.matmul(hidden, layer.w, precision="highest")
        hidden = jax.nn.relu(product + layer.b[None, :])
    return jnp.matmul(hidden, w2, precision="highest") + b2[None, :]


class _FirstLayer(NamedTuple):
    """First-layer pre-activations, by the elements already taken in the top (its level u).

    Attributes:
      low: one array per number p of elements in the low: (levels, binomial(n_low, p), H), what
        the low's elements add at positions u.. of scale u + p, and the bias.
      top: (levels, K, n_low + 1, H): what one element of the top adds at one position, of scale
        u + p; K counts (position, element) pairs.
    """

    low: list[Array]
    top: Array


def _first_layer_tables(
    heads: HeadStack, first_layers: Sequence[Array], x: Array, lattice: Lattice
) -> _FirstLayer:
    """Look-up tables of the first layer; see `_FirstLayer`.

    Element e can stand at position j of a length-s subsequence only if j <= e <= n - s + j: per
    (s, j) that is a window of n - s + 1 elements. All windows' products form one table of rows.
    """
    n, n_low, n_top = lattice.n, lattice.n_low, lattice.n_top
    n_scales = min(heads.n_max, n)
    start = np.zeros(n_scales + 2, int)  # of each scale's rows
    rows = []
    for s in range(1, n_scales + 1):
        window = x[np.arange(s)[:, None] + np.arange(n - s + 1)[None, :]]  # (s, n - s + 1, D)
        product = jnp.einsum("jrd,jdh->jrh", window, first_layers[s - 1], precision="highest")
        rows.append(product.reshape(-1, heads.hidden_dim))
        start[s + 1] = start[s] + s * (n - s + 1)
    nothing = start[n_scales + 1]  # a row of zeros
    table = jnp.concatenate([*rows, jnp.zeros((1, heads.hidden_dim), x.dtype)])

    def row(s: np.ndarray, position: np.ndarray, element: np.ndarray) -> np.ndarray:
        """Row of the table, `nothing` where there is no such head, position or place."""
        offset = element - position
        there = (s >= 1) & (s <= n_scales) & (offset >= 0) & (offset <= n - s) & (position < s)
        scale = np.clip(s, 1, n_scales)
        return np.where(there, start[scale] + position * (n - scale + 1) + offset, nothing)

    levels = np.arange(min(n_top, n_scales) + 1)
    low = []
    for p in range(n_low + 1):
        member = lattice.low_member[lattice.low_scale == p]
        element = n_top + np.nonzero(member)[1].reshape(len(member), p)
        scale = levels + p
        bias = heads.b1[np.clip(scale, 1, n_scales) - 1]  # (levels, H)
        added = jnp.broadcast_to(bias[:, None], (len(levels), len(member), heads.hidden_dim))
        for k in range(p):
            at = row(scale[:, None], (levels + k)[:, None], element[None, :, k])
            added = added + table[at]
        low.append(added)
    position, offset = _top_pairs(n_top, int(levels[-1]))  # (levels, K) each, -1 for padding
    scales = levels[:, None, None] + np.arange(n_low + 1)[None, None, :]
    at = row(scales, position[..., None], (position + offset)[..., None])
    at = np.where(position[..., None] < 0, nothing, at)
    return _FirstLayer(low, table[at])


def _top_pairs(n_top: int, last_level: int) -> tuple[np.ndarray, np.ndarray]:
    """(position, element - position) pairs possible in a top of each level; -1 for padding."""
    widest = max(max(u * (n_top - u + 1) for u in range(last_level + 1)), 1)
    position = np.full((last_level + 1, widest), -1)
    offset = np.full((last_level + 1, widest), -1)
    for u in range(last_level + 1):
        pairs = np.indices((u, n_top - u + 1)).reshape(2, -1)
        position[u, : pairs.shape[1]], offset[u, : pairs.shape[1]] = pairs
    return position, offset


def _top_one_hot(lattice: Lattice, n_max: int) -> np.ndarray:
    """Which pairs of `_top_pairs` each top uses: (T, B, K) bool, zero beyond level n_max."""
    n_top = lattice.n_top
    last_level = min(n_top, n_max, lattice.n)
    n_pairs = _top_pairs(n_top, last_level)[0].shape[1]
    out = np.zeros((*lattice.tile_code.shape, n_pairs), bool)
    position = np.cumsum(lattice.tile_member, axis=-1) - 1  # (T, B, n_top)
    level = lattice.tile_level[:, None, None]
    pair = position * (n_top - level + 1) + np.arange(n_top) - position
    used = lattice.tile_member & (level <= last_level)
    t, b, _ = np.nonzero(used)
    out[t, b, pair[used]] = True
    return out


def _own(
    heads: HeadStack, tables: _FirstLayer, lattice: Lattice, level: Array, top_one_hot: Array
) -> list[Array]:
    """f^s(X) times its share in f^ms(X), by size p of the low, (binomial(n_low, p), B, C).

    The lows of p elements, beside all tops of the tile, are of scale level + p: one product.
    """
    dtype, width = heads.w2.dtype, lattice.tile_width
    share = jnp.asarray(recurrence_shares(np.arange(lattice.n + 1), heads.n_max)[0], dtype)
    n_scales = min(heads.n_max, lattice.n)
    last_level = tables.low[0].shape[0] - 1
    index = jnp.minimum(level, last_level)

    def from_top() -> Array:
        table = tables.top[index]
        product = jnp.matmul(
            top_one_hot.astype(dtype), table.reshape(table.shape[0], -1), precision="highest"
        )
        return product.reshape(width, *table.shape[1:])  # (B, n_low + 1, H)

    shape = (width, lattice.n_low + 1, heads.hidden_dim)
    top = lax.cond(level <= last_level, from_top, lambda: jnp.zeros(shape, dtype))

    parts = []
    for p in range(lattice.n_low + 1):
        n_rows = math.comb(lattice.n_low, p)

        def evaluated(p: int = p, n_rows: int = n_rows) -> Array:
            scale = jnp.maximum(level + p, 1)
            hidden = tables.low[p][index][:, None] + top[None, :, p]
            layers = jax.tree.map(lambda leaf: leaf[scale - 1], (heads.hidden, heads.w2, heads.b2))
            logits = head_output(hidden.reshape(n_rows * width, heads.hidden_dim), *layers)
            return (logits * share[scale]).reshape(n_rows, width, heads.n_classes)

        def absent(n_rows: int = n_rows) -> Array:
            return jnp.zeros((n_rows, width, heads.n_classes), dtype)

        has_head = (level + p >= 1) & (level + p <= n_scales)
        parts.append(lax.cond(has_head, evaluated, absent))
    return parts
