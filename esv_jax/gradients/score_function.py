"""The score of a whole sequence as a differentiable function."""

from __future__ import annotations

import math
from typing import NoReturn

import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.checks import LINKS, Link, expect, expect_choice, expect_int, message
from esv_jax.games.grouped import Grouped, ScoreTable
from esv_jax.games.multi_scale import MultiScale, direct_logits
from esv_jax.games.protocol import Game, SubsetGame
from esv_jax.games.scoring import apply_link
from esv_jax.gradients.derivatives import ScoreFunction


def score_function(
    game: Game, link: Link | None = None, *, max_evaluations: int = 100_000
) -> ScoreFunction:
    """The score of the whole sequence of a game, as a function x (n, ...) -> (C,) in JAX.

    For a `MultiScale` game this is the definition, Price & Damen (2020), Eq. (8): the mean over
    scales of the mean over all subsequences, each scored by the head of its scale.

    Args:
      game: `MultiScale`, `AverageConsensus`, `VariableLength`, or another `SubsetGame` in JAX.
      link: "softmax" for probabilities, "identity" for logits; default the game's.
      max_evaluations: limit on the head evaluations of a `MultiScale` game in one call.
    Raises:
      TypeError: a `BlackBox`, which JAX cannot differentiate; a game of groups; another
      `ScaleGame`. ValueError: another link. When called: ValueError, x that does not fit the
      game, or a sequence with more than `max_evaluations` subsequences.
    Cost: one model evaluation per call; for `MultiScale` the sum over s <= n_max of binomial(n, s)
      head evaluations (39,202 for 16 elements and 8 scales), kept in memory for the gradient.
    """
    link = game.link if link is None else link
    expect_choice("link", link, LINKS)
    expect_int("max_evaluations", max_evaluations, 1)
    if isinstance(game, Grouped | ScoreTable):
        _refuse(game, "Explain its elements: `game.game`, on `game.x`.")
    if not isinstance(game, MultiScale | SubsetGame):
        _refuse(game, "Write its score as a function of x.")
    if isinstance(game, SubsetGame) and game.on_host:
        _refuse(game, "Give the model in JAX, e.g. as a VariableLength game.")

    def scores(x: Array) -> Array:
        dtype = game.output(x).dtype
        if isinstance(game, MultiScale):
            n, n_max = x.shape[0], game.n_scales
            n_heads = sum(math.comb(n, s) for s in range(1, min(n, n_max) + 1))
            expected = f"a sequence of at most {max_evaluations:,} subsequences with a head"
            got = f"{n_heads:,} of {n} elements"
            way_out = "Take fewer elements, or raise max_evaluations."
            expect(n_heads <= max_evaluations, "x", expected, got, way_out)
            heads = jax.tree.map(lambda leaf: leaf.astype(dtype), game.heads)
            logits = direct_logits(heads, x.astype(dtype))
        else:
            logits = game.subset_logits(x, jnp.ones((1, x.shape[0]), bool))[0]
        return apply_link(link, logits.astype(dtype))

    return scores


def _refuse(game: object, way_out: str) -> NoReturn:
    name = type(game).__name__
    raise TypeError(message("game", "a game that JAX can differentiate", name, way_out))
