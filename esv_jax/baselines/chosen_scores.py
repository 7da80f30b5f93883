"""Scores of a few chosen subsequences of a sequence, with the questions asked beforehand."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect, expect_finite, expect_floating, expect_shape, wider
from esv_jax.games import Game, run_to_end
from esv_jax.games.chosen import Chosen, choose_rows, chosen_logits, scores_rows
from esv_jax.links import apply_link

MAX_ENUMERATED = 20  # elements, where one score is built from those of all parts


def checked_inputs(game: Game, x: Any, prior: Any, name: str = "x") -> tuple[Array, Array]:
    """x (n, ...) and the prior (C,) as arrays that the game takes.

    Raises:
      ValueError: no elements, values that are not finite, a prior of another shape, and what the
      game itself refuses. TypeError: not floating point (but for a `BlackBox`).
    """
    if getattr(game, "any_dtype", False) and hasattr(x, "dtype"):
        x = jnp.asarray(x)
    else:
        x = expect_floating(name, x)
        x = x.astype(wider(x.dtype))
    expect(x.ndim >= 1 and x.shape[0] >= 1, name, "elements (n >= 1) first", f"shape {x.shape}")
    expect_finite(name, x, "Drop or fill such elements first.")
    game.check(x)
    c = game.n_classes(x)
    prior = expect_floating("prior", prior)
    expect_shape("prior", prior, (c,), f"(C,) = ({c},), one score per class of the game")
    expect_finite("prior", prior)
    return x, prior.astype(game.dtype(x))


def expect_scorable(game: Game, n: int, name: str = "x") -> None:
    """Refuse sequences of which this game cannot score a few subsequences exactly."""
    expect(
        scores_rows(game) or n <= MAX_ENUMERATED,
        name,
        f"at most {MAX_ENUMERATED} elements for a game that builds each score from all parts",
        f"{n}",
        "Take fewer elements (data.segment_centres picks them evenly).",
    )


def chosen_scores(game: Game, x: Array, member: np.ndarray, prior: Array) -> Array:
    """Scores (m, C) after the link of the subsequences `member` (m, n); of an empty one the prior.

    Args:
      game: that is asked. x, prior: from `checked_inputs`.
      member: (m, n) bool, NumPy: in any order, repeated or empty.
    Raises:
      ValueError: see `expect_scorable`.
    Cost: m evaluations where the game scores each subsequence on its own; otherwise one pass over
      all 2**n. The first call for a shape compiles.
    """
    expect_scorable(game, x.shape[0])
    chosen = choose_rows(game, member)
    empty = jnp.asarray(~member.any(1))
    return run_to_end(
        game,
        lambda: compiled()(game, x, chosen, empty, prior),
        lambda: len(np.unique(member, axis=0)),
    )


@functools.cache
def compiled() -> Any:
    """The jit-compiled scores of chosen subsequences, made once."""
    return jax.jit(scores_of)


def scores_of(game: Game, x: Array, chosen: Chosen, empty: Array, prior: Array) -> Array:
    """See `chosen_scores`; `empty` (m,) bool says which subsequences have no elements."""
    scores = apply_link(game.link, chosen_logits(game, x, chosen))
    return jnp.where(empty[:, None], prior[None], scores)
