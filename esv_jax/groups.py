"""Groups of elements: `group_values` credits whole groups, `owen_values` elements within them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.boundary import EstimatorChoice, checked_prior, checked_sequence, free_bytes
from esv_jax.checks import expect, message
from esv_jax.estimators import Exact
from esv_jax.estimators.owen import n_owen_terms, owen_from, owen_terms
from esv_jax.front_door import explain
from esv_jax.games import Game
from esv_jax.games.chosen import choose_rows, scores_rows
from esv_jax.games.grouped import group_elements
from esv_jax.interactions import check_enumerable
from esv_jax.subsequences import make_lattice

MAX_OWEN_TERMS = 2**18  # subsequences whose scores are kept: 182 MB at 174 classes
_FEWER_ELEMENTS = "Take fewer elements (data.segment_centres picks them evenly)."
_EACH_ONCE = "every element in exactly one group"

Groups = Sequence[int] | Sequence[Sequence[int]] | np.ndarray


def group_values(
    game: Game,
    x: Any,
    groups: Groups,
    *,
    prior: Any,
    estimator: EstimatorChoice = "auto",
    key: Array | None = None,
    marginals: bool = True,
    max_bytes: float | None = None,
) -> Attribution:
    """How much each group of elements (each shot, say) contributed to each class score.

    Shapley values whose players are the groups: groups join one at a time, all their elements at
    once. Groups of one element give ESVs; one group has the whole evidential score.

    Args:
      game: what is explained, e.g. `MultiScale(heads)`.
      x: the sequence, (n, ...), as for `explain`.
      groups: the label of each element, n integers that use 0..g - 1; or g lists of elements.
        `data.propose_segments` finds shots.
      prior, key, marginals, max_bytes: as for `explain`.
      estimator: "auto" is `Exact()` up to 20 groups; or an estimator with your settings.
    Returns:
      `Attribution` of (g, C), whose elements and scales are groups. Its sum over groups is
      scores - prior. Note that a group's value is not the sum of its elements' ESVs; it is that
      of their `owen_values`.
    Raises:
      ValueError: as for `explain`; an element in no group or in two, a group without elements;
        more elements than can be enumerated, where the game needs that.
      TypeError: x that is not floating point, labels that are no integers.
    Cost: 2**g evaluations for games that score each subsequence on its own (`VariableLength`,
      `AverageConsensus`), whatever n is. `MultiScale` builds the score of a union from those of
      all its parts: one pass over all 2**n subsequences, as for exact ESVs. The first call for
      (n, g) compiles.
    """
    x = checked_sequence(game, x)
    labels = expect_groups(groups, x.shape[0])
    if not scores_rows(game):
        check_enumerable(game, x, max_bytes, _FEWER_ELEMENTS)
        estimator = Exact() if estimator == "auto" else estimator  # all scores are there anyway
    grouped, sequence = group_elements(game, x, labels)
    return explain(
        grouped,
        sequence,
        prior=prior,
        estimator=estimator,
        key=key,
        marginals=marginals,
        max_bytes=max_bytes,
    )


def owen_values(
    game: Game, x: Any, groups: Groups, *, prior: Any, max_bytes: float | None = None
) -> Attribution:
    """How much each element contributed, where elements come in groups: Owen values, exact.

    ESVs let elements join in any order; here a group's elements join one after the other, before
    the next group's. So an element is compared with the beginnings of its own group beside whole
    other groups (part of a shot, whole other shots), and

    * the values of a group's elements sum to the group's value (`group_values`);
    * with one element per group, or one group in all, they are ESVs.

    Source: Owen (1977). The formula is in `owen_terms`.

    Args:
      game, x, groups, prior, max_bytes: as for `group_values`.
    Returns:
      `Attribution` of (n, C), without marginals.
    Raises:
      ValueError: as for `group_values`; more subsequences than can be kept.
      TypeError: as for `group_values`.
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
        check_enumerable(game, x, max_bytes, _FEWER_ELEMENTS)
    g, m = int(labels.max()) + 1, n_owen_terms(np.bincount(labels))
    expect(
        m <= MAX_OWEN_TERMS,
        "groups",
        f"at most {MAX_OWEN_TERMS:,} subsequences to keep",
        f"{m:,} for {n} elements in {g} groups",
        "Make groups of more equal sizes (as many as elements in each), ask only for "
        "group_values, or take fewer elements.",
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
        _FEWER_ELEMENTS,
    )
    terms, weights = owen_terms(labels)
    member = np.zeros((rows, n), bool)
    member[:m] = terms
    weight = np.zeros((n, rows))
    weight[:, :m] = weights
    values, scores = compiled()(
        game, x, prior, choose_rows(game, member), jnp.asarray(weight, prior.dtype), 2**g - 1
    )
    evaluations = m - 1 if whole is None else whole.n_evaluations
    return Attribution(values, scores, prior, n_evaluations=evaluations, exact=True)


@functools.cache
def compiled() -> Any:
    """The jit-compiled Owen values of one sequence, made once."""
    return jax.jit(owen_from)


def expect_groups(groups: Any, n: int) -> np.ndarray:
    """Groups of n elements as labels, (n,) int64 of 0..g - 1.

    Args:
      groups: n integers, the group of each element; or g lists of the elements of each group.
    Raises:
      ValueError: an element in no group, in two, or beyond n; a group without elements.
      TypeError: anything that is no integer where one is expected.
    """
    described = f"labels of shape (n,) = ({n},), or lists of elements"
    if not isinstance(groups, Iterable) or isinstance(groups, str):
        raise TypeError(message("groups", described, type(groups).__name__))
    entries: list[Any] = list(np.asarray(groups) if hasattr(groups, "dtype") else groups)
    expect(len(entries) > 0, "groups", described, "none")
    listed = [isinstance(entry, list | tuple | range | np.ndarray | Array) for entry in entries]
    if all(listed):
        return _labels_of_lists(entries, n)
    if any(listed):
        raise TypeError(message("groups", described, "a mixture of the two"))
    labels = _integers("groups", entries)
    expect(len(labels) == n, "groups", described, f"{len(labels)} labels")
    expect(labels.min() >= 0, "groups", "labels 0..g - 1", labels.min())
    missing = np.setdiff1d(np.arange(labels.max() + 1), labels)
    if len(missing):
        got = f"group {missing[0]} without elements"
        raise ValueError(message("groups", f"labels that use all of 0..{labels.max()}", got))
    return labels


def _labels_of_lists(groups: list[Any], n: int) -> np.ndarray:
    labels = np.full(n, -1)
    for k, group in enumerate(groups):
        expect(len(group) > 0, "groups", "at least one element in each group", f"group {k} empty")
        for i in _integers(f"groups[{k}]", list(group)):
            expect(0 <= i < n, f"groups[{k}]", f"elements 0..{n - 1}", i)
            got = f"element {i} twice in group {k}"
            if labels[i] not in (-1, k):
                got = f"element {i} in two groups, {labels[i]} and {k}"
            expect(labels[i] == -1, "groups", _EACH_ONCE, got)
            labels[i] = k
    missing = np.flatnonzero(labels < 0)
    if len(missing):
        raise ValueError(message("groups", _EACH_ONCE, f"element {missing[0]} in no group"))
    return labels


def _integers(name: str, values: list[Any]) -> np.ndarray:
    """(k,) int64 of integers and nothing else."""
    array = np.asarray(values) if all(np.ndim(value) == 0 for value in values) else None
    if array is None or not np.issubdtype(array.dtype, np.integer):
        kind = "nested lists" if array is None else f"dtype {array.dtype}"
        raise TypeError(message(name, "integers", kind))
    return array.astype(np.int64)
