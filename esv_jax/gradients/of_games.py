"""The score of a whole sequence as a function that gradients can be taken of."""

from __future__ import annotations

import math
from typing import Any

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
    """A game's scores of the whole sequence, as a function x (n, ...) -> (C,) in JAX.

    Of a `MultiScale` game it is the definition, Price & Damen (2020), Eq. (8): the mean over
    scales of the mean over all subsequences, each put through its head.

    Args:
      game: `MultiScale`, `AverageConsensus`, `VariableLength`, or any other `SubsetGame` in JAX.
      link: "softmax" for probabilities, "identity" for logits; default the game's.
      max_evaluations: most head evaluations of a `MultiScale` game in one call.
    Raises:
      TypeError: a `BlackBox`, whose model JAX cannot differentiate; a game of groups; another
      `ScaleGame`. ValueError: another link. When called: ValueError, x that the game cannot take,
      or a sequence with more than `max_evaluations` subsequences.
    Cost: one model evaluation per call; of `MultiScale` the sum over s <= n_max of binomial(n, s)
      head evaluations (39,202 of 16 elements and 8 scales), kept in memory for the gradient.
    """
    link = game.link if link is None else link
    expect_choice("link", link, LINKS)
    expect_int("max_evaluations", max_evaluations, 1)
    _expect_differentiable(game)

    def scores(x: Array) -> Array:
        out = game.output(x)
        if isinstance(game, MultiScale):
            logits = _multi_scale_logits(game, x, max_evaluations)
        else:
            subsets: Any = game  # a SubsetGame, as checked above
            logits = subsets.subset_logits(x, jnp.ones((1, x.shape[0]), bool))[0]
        return apply_link(link, logits.astype(out.dtype))

    return scores


def _multi_scale_logits(game: MultiScale, x: Array, max_evaluations: int) -> Array:
    n, n_max = x.shape[0], game.n_scales
    n_heads = sum(math.comb(n, s) for s in range(1, min(n, n_max) + 1))
    expect(
        n_heads <= max_evaluations,
        "x",
        f"a sequence of at most {max_evaluations:,} subsequences with a head",
        f"{n_heads:,} of {n} elements",
        "Take fewer elements, or raise max_evaluations.",
    )
    dtype = game.output(x).dtype
    heads = jax.tree.map(lambda leaf: leaf.astype(dtype), game.heads)
    return direct_logits(heads, x.astype(dtype))


def _expect_differentiable(game: Any) -> None:
    """Refuse games that have no gradient, each with its way out."""
    name = type(game).__name__
    if isinstance(game, Grouped | ScoreTable):
        way_out = "Explain its elements: `game.game`, on `game.x`."
    elif not isinstance(game, MultiScale | SubsetGame):
        way_out = "Write its score as a function of x."
    elif game.on_host:
        way_out = "Give the model in JAX, e.g. as a VariableLength game."
    else:
        return
    raise TypeError(message("game", "a game that JAX can differentiate", name, way_out))
