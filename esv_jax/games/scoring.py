"""Scores of subsequences of any game: the second of the three steps of an explanation.

One block size for all: subsequences are scored in blocks of at most `MAX_ROWS` rows and about
`BLOCK_BYTES` bytes. Blocks depend on shapes alone, so the bits of scores do as well. Games on the
host are scored by an ordinary loop on the calling thread.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import AnyArray, Link, Shaped, expect
from esv_jax.games.protocol import Carry, Cost, Game, ScaleGame, SubsetGame, Tile
from esv_jax.records import register_record
from esv_jax.subsequences.lattice import Lattice, make_lattice, membership, scale_ordered_codes
from esv_jax.subsequences.samples import Samples

BLOCK_BYTES = 64e6  # working memory of one block of subsequences, or of sequences
MAX_ROWS = 1024  # subsequences in a block
MAX_SEQUENCES = 32  # sequences in a block
MAX_ENUMERATED = 20  # elements for which a few scores of a `ScaleGame` are picked from all of them

Fold: TypeAlias = Callable[[Callable[[Carry, Tile], Carry], Carry], Carry]


@register_record
@dataclasses.dataclass(frozen=True)
class HeadRows:
    """Subsequences for each scale's own head: member (K, m, n), row k - 1 of size k or empty."""

    member: Array


Rows: TypeAlias = Array | Samples | Lattice | HeadRows
Scores: TypeAlias = Array | tuple[Array, Array] | list[Array] | Fold[Any]


class GameInfo(NamedTuple):
    """Facts about a game and a sequence that an estimator may use.

    Attributes:
      n: elements, padding included.
      n_scales: scales that have a head; n where each subsequence is scored on its own.
      combines: whether scores of longer subsequences combine heads by scale.
      link: from logits to scores.
    """

    n: int
    n_scales: int
    combines: bool
    link: Link

    @classmethod
    def of(cls, game: Game, n: int) -> GameInfo:
        """The information on `game` and a sequence of n elements."""
        if isinstance(game, ScaleGame):
            return cls(n, game.n_scales, True, game.link)
        return cls(n, n, False, game.link)


def apply_link(link: Link, logits: Array) -> Array:
    """Scores (..., C) of logits (..., C), in the units of the prior.

    Args:
      link: "softmax" gives probabilities of exclusive classes; "sigmoid" one probability per
        class, independent of the others; "identity" leaves logits, and the prior is in logits.
      logits: (..., C), floating point.
    """
    if link == "softmax":
        return jax.nn.softmax(logits, axis=-1)
    return jax.nn.sigmoid(logits) if link == "sigmoid" else logits


def score_rows(game: Game, x: Any, rows: Rows) -> Scores:
    """Scores of the subsequences that an estimator has drawn. Pure for games in JAX.

    Args:
      game: `SubsetGame` or `ScaleGame`.
      x: (n, ...).
      rows: membership (m, n) bool; `Samples`, with any leading axes; `HeadRows`; or a `Lattice`.
    Returns:
      (m, C) for membership; (..., n, m, C) scores and (..., n, m) bool, which are known, for
      samples; (K, m, C) logits before the link for head rows. For a lattice a list of
      (binomial(n, s), C) for scales 0..n, rows in the order of `scale_ordered_codes`, or, of more
      than one tile in JAX, a fold over tiles (see `Fold`), since all scores need not fit together.
      At least float32. The score of an empty subsequence is finite and has no meaning.
    Raises:
      TypeError: head rows of a game that has no heads by scale.
    """
    if isinstance(rows, Lattice):
        return _lattice_scores(game, x, rows)
    if isinstance(rows, Samples):
        return _sample_scores(game, x, rows)
    if isinstance(rows, HeadRows):
        if not isinstance(game, ScaleGame):
            raise TypeError(f"game: expected heads by scale, got {type(game).__name__}.")
        return game.head_logits(x, rows.member).astype(game.output(x).dtype)
    return _subset_scores(game, x, rows)


def block_rows(game: SubsetGame, x: Shaped) -> int:
    """Subsequences of x in one block, from shapes alone."""
    per_row = max(game.subset_cost(x, 1).n_bytes, 1)
    return int(min(max(BLOCK_BYTES // per_row, 1), MAX_ROWS))


def block_sequences(n_bytes: int) -> int:
    """Sequences in one block, where one takes `n_bytes`."""
    return int(min(max(BLOCK_BYTES // max(n_bytes, 1), 1), MAX_SEQUENCES))


def _subset_scores(game: Any, x: AnyArray, member: Any) -> Any:
    """Scores (m, C) after the link of the subsequences `member` (m, n)."""
    dtype = game.output(x).dtype
    if game.on_host:
        member = np.asarray(member)
        return np.asarray(game.subset_logits(np.asarray(x), _never_empty(member)), dtype)
    chex.assert_shape(member, (None, x.shape[0]))
    m, n = member.shape

    def block(rows: Array) -> Array:
        return apply_link(game.link, game.subset_logits(x, _never_empty(rows)).astype(dtype))

    n_blocks = max(-(-m // block_rows(game, x)), 1)
    if n_blocks == 1:
        return block(member)
    size = -(-m // n_blocks)
    padding = jnp.broadcast_to(member[-1:], (n_blocks * size - m, n))
    blocks = jnp.concatenate([member, padding]).reshape(n_blocks, size, n)
    return lax.map(block, blocks).reshape(n_blocks * size, -1)[:m]


def _never_empty(member: AnyArray) -> AnyArray:
    """Rows without elements become rows with all of them: no model divides by zero."""
    return member | ~member.any(axis=-1, keepdims=True)


def _sample_scores(game: Any, x: AnyArray, samples: Samples) -> tuple[Any, Any]:
    """Scores (..., n, m, C) and which of them are known (..., n, m)."""
    valid, n = samples.valid, samples.member.shape[-1]
    if game.on_host:
        # Elements that no sample has are padding, not part of the clip.
        member, there = np.asarray(samples.member), np.asarray(valid)
        present = (member & there[..., None]).any(tuple(range(there.ndim)))
        length = int(np.flatnonzero(present).max(initial=-1)) + 1
        known = _subset_scores(game, np.asarray(x)[:length], member[there][:, :length])
        scores = np.zeros((*there.shape, known.shape[-1]), known.dtype)
        scores[there] = known
        return scores, there
    if isinstance(game, SubsetGame):
        scores = _subset_scores(game, x, samples.member.reshape(-1, n))
        return jnp.where(valid[..., None], scores.reshape(*valid.shape, -1), 0), valid
    dtype = game.output(x).dtype
    lead = valid.shape[:-2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(lead) :]), samples)

    def one(each: Samples) -> tuple[Array, Array]:
        logits, known = game.sample_logits(x, each)
        return jnp.where(known[..., None], apply_link(game.link, logits.astype(dtype)), 0), known

    scores, known = lax.map(one, flat)
    return scores.reshape(*valid.shape, -1), known.reshape(valid.shape)


def _lattice_scores(game: Any, x: Any, lattice: Lattice) -> list[Any] | Fold[Any]:
    """Scores of all subsequences by scale, or a fold over the lattice's tiles."""
    n = lattice.n
    if isinstance(game, SubsetGame):
        if not (game.on_host or lattice.n_top == 0):
            return _fold_subsets(game, x, lattice)
        scores = _subset_scores(game, x, membership(scale_ordered_codes(n), n))
        return by_scale(scores, n)
    dtype = game.output(x).dtype
    if lattice.n_top == 0:
        return [scores[:, 0] for scores in side_by_side(game, x[None], lattice)]

    def fold(visit: Callable[[Carry, Tile], Carry], carry: Carry) -> Carry:
        def linked(carry: Carry, tile: Tile) -> Carry:
            scores = apply_link(game.link, tile.table.astype(dtype))
            return visit(carry, tile._replace(table=scores))

        return game.fold_lattice(x, lattice, linked, carry)

    return fold


def side_by_side(game: ScaleGame, xs: Array, lattice: Lattice) -> list[Array]:
    """Scores (binomial(n, s), V, C) by scale of V sequences (V, n, D), of a lattice of one tile."""
    logits = jnp.concatenate(game.all_logits(xs, lattice))  # one link of all: fewer kernels
    return by_scale(apply_link(game.link, logits.astype(game.output(xs[0]).dtype)), lattice.n)


def by_scale(table: Any, n: int) -> list[Any]:
    """A table (2**n, ...), rows in the order of `scale_ordered_codes`, as one part per scale."""
    ends = np.cumsum([math.comb(n, s) for s in range(n + 1)])
    return [table[end - math.comb(n, s) : end] for s, end in enumerate(ends)]


def _fold_subsets(game: SubsetGame, x: Array, lattice: Lattice) -> Fold[Any]:
    """A fold over the tiles of a game that scores each subsequence on its own."""
    low = jnp.asarray(lattice.low_member)
    n_lows, width = lattice.n_lows, lattice.tile_width

    def fold(visit: Callable[[Carry, Tile], Carry], carry: Carry) -> Carry:
        def step(carry: Carry, tile: dict[str, Array]) -> tuple[Carry, None]:
            top = jnp.broadcast_to(tile["member"][None], (n_lows, width, lattice.n_top))
            lows = jnp.broadcast_to(low[:, None], (n_lows, width, lattice.n_low))
            rows = jnp.concatenate([top, lows], axis=-1).reshape(n_lows * width, lattice.n)
            scores = _subset_scores(game, x, rows).reshape(n_lows, width, -1)
            return visit(carry, Tile(scores, tile["level"], tile["member"], tile["valid"])), None

        tiles = {
            "member": jnp.asarray(lattice.tile_member),
            "level": jnp.asarray(lattice.tile_level),
            "valid": jnp.asarray(lattice.tile_valid),
        }
        return lax.scan(step, carry, tiles)[0]

    return fold


class Request(NamedTuple):
    """Sizes of what an estimator scores and keeps, for costs.

    Attributes:
      rows: kind of rows, see `score_rows`.
      m: rows of "subsets"; of "samples" per scale; of "heads" in all scales; unused for "lattice".
      iterations: independent samples.
      per_class, others: numbers that `estimate` keeps for each class, and beside.
    """

    rows: Literal["subsets", "samples", "heads", "lattice"]
    m: int = 0
    iterations: int = 1
    per_class: int = 0
    others: int = 0


def request_cost(game: Game, x: Shaped, request: Request) -> Cost:
    """Cost of scoring and estimating; x may be a ShapeDtypeStruct."""
    out, n = game.output(x), x.shape[0]
    c, itemsize = out.shape[0], out.dtype.itemsize
    own = (request.per_class * c + request.others) * itemsize
    if request.rows == "heads":
        return Cost(request.m, request.m, request.m * c * itemsize + own, None)
    if isinstance(game, ScaleGame):
        if request.rows == "lattice":
            return game.lattice_cost(x, make_lattice(n))
        one, k = game.sample_cost(x, request.m), request.iterations
        n_bytes = one.n_bytes + (k - 1) * n * max(request.m, n) * c * itemsize
        flops = None if one.flops is None else k * one.flops
        return Cost(k * one.n_subsequences, k * one.n_evaluations, n_bytes, flops)
    if not isinstance(game, SubsetGame):
        raise TypeError(f"game: expected a SubsetGame or a ScaleGame, got {type(game).__name__}.")
    rows = request.m
    if request.rows == "samples":
        rows = request.iterations * n * max(request.m, n)
    kept = rows
    if request.rows == "lattice":
        rows, lattice = 2**n, make_lattice(n)
        kept = rows if game.on_host or not lattice.n_top else lattice.n_lows * lattice.tile_width
    block = game.subset_cost(x, min(kept, block_rows(game, x)))
    whole = game.subset_cost(x, rows)
    evaluations = rows - 1 if request.rows == "lattice" else min(rows, whole.n_evaluations)
    if whole.n_evaluations != rows:  # a table that is made once
        evaluations = whole.n_evaluations
    n_bytes = block.n_bytes + 2 * kept * c * itemsize + own
    return Cost(rows, evaluations, n_bytes, whole.flops)


# Scores of a few subsequences, compiled


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
    member = np.asarray(member)
    if game.on_host:
        scores = _subset_scores(game, x, member)
        return jnp.asarray(np.where(member.any(1)[:, None], scores, np.asarray(prior)[None]))
    return score_together(game, jnp.asarray(x)[None], member[None], prior)[0]


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
        isinstance(game, SubsetGame) or n <= MAX_ENUMERATED,
        name,
        f"at most {MAX_ENUMERATED} elements for a game that builds each score from all parts",
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
    """Return the lattice indices of each sequence's subsequences (V, m, n).

    Cost: sorting of m integers; K is a power of two, so that like requests share a program.
    """
    v, m, n = member.shape
    lattice = make_lattice(n)
    row_of_low = np.zeros(lattice.n_lows, np.int64)
    row_of_low[lattice.low_codes] = np.arange(lattice.n_lows)
    index_of_top = np.zeros(2**lattice.n_top, np.int64)  # tile * B + b
    valid = lattice.tile_valid.ravel()
    index_of_top[lattice.tile_code.ravel()[valid]] = np.flatnonzero(valid)
    size = lattice.n_lows * lattice.tile_width
    k = min(1 << max(m - 1, 0).bit_length(), size)
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
    scores = _lattice_scores(game, x, lattice)
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
    lattice = make_lattice(x.shape[0])
    out = game.output(x)
    size = min(1 << max(m - 1, 0).bit_length(), lattice.n_lows * lattice.tile_width)
    kept = lattice.n_tiles * size * math.prod(out.shape) * out.dtype.itemsize
    return game.lattice_cost(x, lattice).n_bytes + kept


# Compiled programs, whose lifetime is that of the model they contain

_programs: dict[int, dict[Hashable, Any]] = {}


def memory_of(game: Game) -> dict[Hashable, Any]:
    """Cache of a game's model, such as its compiled programs; freed with the model."""
    owner = game.owner
    name = 0 if owner is None else id(owner)
    if name not in _programs:
        _programs[name] = {}
        if owner is not None:
            try:
                weakref.finalize(owner, _programs.pop, name, None).atexit = False
            except TypeError:  # cannot be referenced weakly: nothing is kept
                return _programs.pop(name)
    return _programs[name]


def compiled(game: Game, name: Hashable, make: Callable[[], Callable[..., Any]]) -> Any:
    """The jit-compiled function that `make` returns, made once per model and name.

    Models with their weights in arrays share their programs (`owner` is None). Other programs
    contain the model's code and what it closes over, and go when the model goes.
    """
    memory = memory_of(game)
    if name not in memory:
        function = make()
        memory[name] = jax.jit(
            lambda *args: function(*args)
        )  # a function of its own: caches differ
    return memory[name]
