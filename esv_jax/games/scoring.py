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
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import AnyArray, Link, Shaped
from esv_jax.games.protocol import Carry, Cost, Game, ScaleGame, SubsetGame, Tile
from esv_jax.records import register_record
from esv_jax.subsequences.lattice import Lattice, make_lattice, membership, scale_ordered_codes
from esv_jax.subsequences.samples import Samples

BLOCK_BYTES = 64e6  # working memory of one block of subsequences, or of sequences
MAX_ROWS = 1024  # subsequences in a block
MAX_SEQUENCES = 32  # sequences in a block

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
    """
    if isinstance(rows, Lattice):
        return lattice_scores(game, x, rows)
    if isinstance(rows, Samples):
        return _sample_scores(game, x, rows)
    if isinstance(rows, HeadRows):
        logits = cast(ScaleGame, game).head_logits(x, rows.member)
        return logits.astype(game.output(x).dtype)
    return subset_scores(game, x, rows)


def block_rows(game: SubsetGame, x: Shaped) -> int:
    """Subsequences of x in one block, from shapes alone."""
    return min(_in_a_block(game.subset_cost(x, 1).n_bytes), MAX_ROWS)


def block_sequences(n_bytes: int) -> int:
    """Sequences in one block, where one takes `n_bytes`."""
    return min(_in_a_block(n_bytes), MAX_SEQUENCES)


def _in_a_block(n_bytes: int) -> int:
    return int(max(BLOCK_BYTES // max(n_bytes, 1), 1))


def subset_scores(game: Any, x: AnyArray, member: Any) -> Any:
    """Scores (m, C) after the link of the subsequences `member` (m, n)."""
    dtype = game.output(x).dtype
    if game.on_host:
        member = _never_empty(np.asarray(member))
        return np.asarray(game.subset_logits(np.asarray(x), member), dtype)
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
        known = subset_scores(game, np.asarray(x)[:length], member[there][:, :length])
        scores = np.zeros((*there.shape, known.shape[-1]), known.dtype)
        scores[there] = known
        return scores, there
    if isinstance(game, SubsetGame):
        scores = subset_scores(game, x, samples.member.reshape(-1, n))
        return jnp.where(valid[..., None], scores.reshape(*valid.shape, -1), 0), valid
    dtype = game.output(x).dtype
    lead = valid.shape[:-2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(lead) :]), samples)

    def one(each: Samples) -> tuple[Array, Array]:
        logits, known = game.sample_logits(x, each)
        return jnp.where(known[..., None], apply_link(game.link, logits.astype(dtype)), 0), known

    scores, known = lax.map(one, flat)
    return scores.reshape(*valid.shape, -1), known.reshape(valid.shape)


def lattice_scores(game: Any, x: Any, lattice: Lattice) -> list[Any] | Fold[Any]:
    """Scores of all subsequences by scale, or a fold over the lattice's tiles."""
    n = lattice.n
    if isinstance(game, SubsetGame):
        if not (game.on_host or lattice.n_top == 0):
            return _fold_subsets(game, x, lattice)
        scores = subset_scores(game, x, membership(scale_ordered_codes(n), n))
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
            scores = subset_scores(game, x, rows).reshape(n_lows, width, -1)
            return visit(carry, Tile(scores, tile["level"], tile["member"], tile["valid"])), None

        names = ("member", "level", "valid")
        tiles = {name: jnp.asarray(getattr(lattice, f"tile_{name}")) for name in names}
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
    is_lattice, subsets = request.rows == "lattice", cast(SubsetGame, game)
    rows = request.m
    if request.rows == "samples":
        rows = request.iterations * n * max(request.m, n)
    kept = rows
    if is_lattice:
        rows, lattice = 2**n, make_lattice(n)
        kept = rows if game.on_host or not lattice.n_top else lattice.n_lows * lattice.tile_width
    block = subsets.subset_cost(x, min(kept, block_rows(subsets, x)))
    whole = subsets.subset_cost(x, rows)
    evaluations = whole.n_evaluations  # other than the rows: of a table that is made once
    if evaluations == rows and is_lattice:
        evaluations -= 1
    n_bytes = block.n_bytes + 2 * kept * c * itemsize + own
    return Cost(rows, evaluations, n_bytes, whole.flops)


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
        memory[name] = jax.jit(lambda *args: function(*args))  # a new function: caches differ
    return memory[name]
