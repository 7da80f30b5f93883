"""`owen_values`: a group's credit, shared among its elements."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esv_jax.attribution import Attribution
from esv_jax.boundary import check_enumerable, checked_prior, checked_sequence, free_bytes
from esv_jax.checks import expect
from esv_jax.estimators.owen import n_owen_terms, owen_from, owen_terms
from esv_jax.games import Game, run_to_end
from esv_jax.games.chosen import choose_rows, scores_rows
from esv_jax.grouping import FEWER_ELEMENTS, Groups, expect_groups
from esv_jax.subsequences import make_lattice

MAX_OWEN_TERMS = 2**18  # subsequences whose scores are kept: 182 MB at 174 classes


def owen_values(
    game: Game, x: Any, groups: Groups, *, prior: Any, max_bytes: float | None = None
) -> Attribution:
    """How much each element contributed, where elements come in groups: Owen values, exact.

    ESVs let elements join in any order; here a group's elements join one after the other, before
    the next group's. So an element is compared with the beginnings of its own group beside whole
    other groups (part of a shot, whole other shots), and

    * the values of a group's elements sum to the group's value (`explain(..., groups=...)`);
    * with one element per group, or one group in all, they are ESVs.

    Source: Owen (1977). The formula is in `owen_terms`.

    Args:
      game, x, groups, prior, max_bytes: as for `explain`.
    Returns:
      `Attribution` of (n, C), without marginals.
    Raises:
      ValueError: as for `explain`; more elements than can be enumerated, where the game needs
        that; more subsequences than can be kept.
      TypeError: as for `explain`.
    Cost: 2**g + 2**(g - 1) * (sum over groups of 2**b - 2) subsequences for g groups of b
      elements: evaluated alone where the game can do so, otherwise picked in one pass over all
      2**n. At most 262,144, which any 18 elements keep to. Memory: as many rows of C + n
      numbers. The first call for a shape compiles; the count is rounded up to a power of two so
      that groupings share programs.
    """
    x = checked_sequence(game, x)
    prior = checked_prior(game, x, prior)
    n, row_wise = x.shape[0], scores_rows(game)
    labels = expect_groups(groups, n)
    if not row_wise:
        check_enumerable(game, x, max_bytes, FEWER_ELEMENTS)
    g, m = int(labels.max()) + 1, n_owen_terms(np.bincount(labels))
    expect(
        m <= MAX_OWEN_TERMS,
        "groups",
        f"at most {MAX_OWEN_TERMS:,} subsequences to keep",
        f"{m:,} for {n} elements in {g} groups",
        "Make groups of more equal sizes (as many as elements in each), ask only for "
        "explain(..., groups=...), or take fewer elements.",
    )
    rows = 1 << (m - 1).bit_length()
    whole = None if row_wise else game.lattice_cost(x, make_lattice(n))
    n_bytes = (0 if whole is None else whole.n_bytes) + rows * (
        (3 * len(prior) + n) * prior.dtype.itemsize + n
    )
    limit = free_bytes() if max_bytes is None else max_bytes
    expect(
        n_bytes <= limit,
        "x",
        f"a computation within {limit / 1e9:,.3g} GB of memory",
        f"{m:,} subsequences, which take {n_bytes / 1e9:,.3g} GB",
        FEWER_ELEMENTS,
    )
    terms, weights = owen_terms(labels)
    member = np.zeros((rows, n), bool)
    member[:m] = terms
    weight = np.zeros((n, rows))
    weight[:, :m] = weights
    inputs = (choose_rows(game, member), jnp.asarray(weight, prior.dtype), 2**g - 1)
    values, scores = run_to_end(game, lambda: compiled()(game, x, prior, *inputs))
    evaluations = m - 1 if whole is None else whole.n_evaluations
    return Attribution(values, scores, prior, n_evaluations=evaluations, exact=True)


@functools.cache
def compiled() -> Any:
    """The jit-compiled Owen values of one sequence, made once."""
    return jax.jit(owen_from)
