"""Sequences in blocks of one fixed shape: what one compiled call explains together.

A sequence's bits depend on the shape of its block and on nothing else in it, so sets of sequences
keep theirs in any order, company, and on any number of devices.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.estimators import Estimator, Exact
from esv_jax.games import Game

_TOGETHER_BYTES = 64e6  # working memory of the sequences that one compiled call takes together
_MAX_TOGETHER = 32
_LENGTH_STEP = 8  # sampled sequences are padded to multiples of this many elements


def padded_length(estimator: Estimator, n: int) -> int:
    """Elements that a block has for sequences of n: n, or the next multiple of eight."""
    return -(-n // _LENGTH_STEP) * _LENGTH_STEP if estimator.pads else n


def block_size(estimator: Estimator, game: Game, example: Any) -> int:
    """Sequences in a block, from their shape alone."""
    if not isinstance(estimator, Exact) or hasattr(game, "host"):
        return 1
    fit = int(_TOGETHER_BYTES // estimator.cost(game, example).n_bytes)
    return min(max(fit, 1), _MAX_TOGETHER)


class Block(NamedTuple):
    """What a compiled call takes beside the game and the prior.

    Attributes:
      xs: (B, N, ...) sequences, zero beyond their lengths and in rows without one.
      keys: (B,) one per sequence, or None.
      lengths: (B,) elements in each; N in rows without a sequence.
    """

    xs: np.ndarray
    keys: Array | None
    lengths: np.ndarray


def make_block(
    estimator: Estimator,
    sequences: Sequence[np.ndarray],
    names: Sequence[str | int],
    key: Array | None,
    shape: tuple[int, ...],
) -> Block:
    """Sequences (n_i, ...) as a block of `shape` (B, N, ...), of the first one's dtype.

    Args:
      names: of the sequences, for their keys.
      key: of the set; used where the estimator draws.
    """
    xs = np.zeros(shape, sequences[0].dtype)
    lengths = np.full(shape[0], shape[1])
    for row, sequence in enumerate(sequences):
        xs[row, : len(sequence)] = sequence
        lengths[row] = len(sequence)
    keys = None
    if key is not None and estimator.needs_key:
        every = [*names, *[""] * (shape[0] - len(names))]
        own = estimator.draws_per_sequence
        keys = jnp.stack([video_key(key, name) if own else key for name in every])
    return Block(xs, keys, lengths)


@functools.cache
def block_program(estimator: Estimator, marginals: bool) -> Any:
    """The call of an estimator on a block: f(game, xs, prior, keys, lengths, plan) -> batch.

    All leaves of the batch have its axis; its own `lengths` is None. Not compiled.
    """

    def run(
        game: Game, xs: Array, prior: Array, keys: Array | None, lengths: Array, plan: Any
    ) -> Attribution:
        def one(x: Array, key: Array | None, length: Array) -> Attribution:
            result = estimator(game, x, prior, key=key, plan=plan, length=length)
            result = dataclasses.replace(result, n_evaluations=jnp.asarray(result.n_evaluations))
            return result if marginals else dataclasses.replace(result, marginals=None)

        if xs.shape[0] == 1:  # keeps control flow that vmap would have to run both ways
            single = one(xs[0], None if keys is None else keys[0], lengths[0])
            return jax.tree.map(lambda leaf: leaf[None], single)
        if isinstance(estimator, Exact):
            whole = estimator.side_by_side(game, xs, prior)
            if whole is not None:
                return whole if marginals else dataclasses.replace(whole, marginals=None)
        return jax.vmap(one)(xs, keys, lengths)

    return run


@functools.cache
def compiled_block(estimator: Estimator, marginals: bool) -> Any:
    """`block_program`, compiled for the first device."""
    return jax.jit(block_program(estimator, marginals))


def video_key(key: Array, uid: str | int) -> Array:
    """The key of one sequence of a set: `key` folded with a checksum of its name.

    Depends on the name alone (not on order, batch or process), so that results do neither.
    """
    return jax.random.fold_in(key, zlib.crc32(str(uid).encode()))
