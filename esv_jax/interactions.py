"""`pairwise_interactions`: which elements of one sequence say something only together."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import Array

from esv_jax.boundary import checked_prior, checked_sequence, free_bytes
from esv_jax.checks import expect, expect_choice
from esv_jax.estimators.interactions import INDICES, Index, interaction_index
from esv_jax.games import Game
from esv_jax.subsequences import MAX_ELEMENTS, make_lattice


def pairwise_interactions(
    game: Game,
    x: Any,
    *,
    prior: Any,
    index: Index = "sii",
    max_bytes: float | None = None,
) -> Array:
    """What each pair of elements adds together beyond what the two add alone, for every class.

    Positive: they are worth more together (an event that needs both frames). Negative: each makes
    the other dispensable (two frames that show the same). Shapley interaction index, exact:

        I[i, j] = sum over X without i and j of k! (n - k - 2)! / (n - 1)! d(X),    k = |X|
        d(X) = f(X + i + j) - f(X + i) - f(X + j) + f(X),    f of none = prior

    Source: Grabisch & Roubens (1999). `k_sii` splits ESVs by it into main effects and pairs that
    add up to the score.

    Args:
      game: what is explained, e.g. `MultiScale(heads)`.
      x: the sequence, (n, D) features or (n, ...) frames, floating point, finite, n >= 1.
      prior: scores of the empty sequence, (C,), as for `explain`.
      index: "sii"; or "sti", the Shapley-Taylor index of order 2 (Sundararajan et al., 2020),
        whose pairs i < j and single effects f({i}) - prior add up to the score.
      max_bytes: memory that may be taken; default as for `explain`.
    Returns:
      (n, n, C), in the units of the scores, symmetric, zero on the diagonal; all zero at n = 1.
      May be called under `jit`, `vmap` and `grad`; questions about values are then not asked.
    Raises:
      ValueError: as for `explain`; a sequence too long to enumerate, another index.
      TypeError: x that is not floating point.
    Cost: one pass over all subsequences, as `explain` with `Exact()`, and about 35 operations per
      subsequence and class: in all up to 1.5 times as long as `explain` on a CPU. The first call
      for a shape compiles.
    """
    x = checked_sequence(game, x)
    prior = checked_prior(game, x, prior)
    expect_choice("index", index, INDICES)
    way_out = "Take fewer elements (data.segment_centres picks them evenly)."
    check_enumerable(game, x, max_bytes, way_out)
    return compiled(index)(game, x, prior)


def check_enumerable(game: Game, x: Any, max_bytes: float | None, way_out: str) -> None:
    """Raise, with the numbers and the way out, where all subsequences of x do not fit."""
    n = x.shape[0]
    expect(
        n <= MAX_ELEMENTS,
        "x",
        f"at most {MAX_ELEMENTS} elements to enumerate",
        f"{n}, which have {2**n - 1:,} subsequences",
        way_out,
    )
    limit = free_bytes() if max_bytes is None else max_bytes
    cost = game.lattice_cost(x, make_lattice(n))
    expect(
        cost.n_bytes <= limit,
        "x",
        f"a computation within {limit / 1e9:,.3g} GB of memory",
        f"{n} elements, which take {cost}",
        way_out,
    )


@functools.cache
def compiled(index: Index) -> Any:
    """The jit-compiled interactions of one sequence, made once per index."""

    def run(game: Game, x: Array, prior: Array) -> Array:
        return interaction_index(game, x, prior, index)

    return jax.jit(run)
