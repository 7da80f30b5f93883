"""Scores of given subsequences, for estimators of games that score each on its own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import expect, is_concrete, message
from esv_jax.games.chosen import scores_rows
from esv_jax.games.protocol import Game
from esv_jax.links import apply_link

_BLOCK = 1024  # rows put to the game at once


def expect_rowwise(game: Game, estimator: Any) -> None:
    """Raise TypeError where the game's scores of a subsequence need those of others."""
    if not scores_rows(game):
        raise TypeError(
            message(
                "game",
                f"one that scores each subsequence on its own (row_logits) for "
                f"{type(estimator).__name__}",
                type(game).__name__,
                "Use Exact(), Constructive() or Surrogate(), which combine scales.",
            )
        )


def row_scores(game: Any, x: Array, member: Array) -> Array:
    """Scores (m, C), after the link, of the subsequences `member` (m, n), none of them empty."""
    m, n = member.shape
    if m <= _BLOCK:
        return apply_link(game.link, game.row_logits(x, member))
    n_blocks = -(-m // _BLOCK)
    size = -(-m // n_blocks)
    padding = jnp.broadcast_to(member[-1:], (n_blocks * size - m, n))
    blocks = jnp.concatenate([member, padding]).reshape(n_blocks, size, n)
    scores = lax.map(lambda rows: apply_link(game.link, game.row_logits(x, rows)), blocks)
    return scores.reshape(n_blocks * size, -1)[:m]


def only_whole(values: Array, n: int, length: Array | None) -> Array:
    """`values` of a sequence without padding; NaN where a traced `length` says there is some.

    Raises:
      ValueError: where a `length` with a value does.
    """
    if length is None:
        return values
    if is_concrete(length):
        got = int(np.asarray(length))
        expect(got == n, "length", f"{n}, all elements of x", got, "Cut the padding off first.")
    return jnp.where(jnp.asarray(length) == n, values, jnp.nan)
