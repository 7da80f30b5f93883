"""Groups in the place of elements: how `explain(..., groups=...)` is put to an estimator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax import Array

from esv_jax.boundary import EstimatorChoice, check_enumerable
from esv_jax.checks import expect, message
from esv_jax.estimators import Exact, Surrogate
from esv_jax.estimators.union_sampling import MAX_GROUPS, UnionSampling
from esv_jax.games import Game
from esv_jax.games.chosen import scores_rows
from esv_jax.games.grouped import Grouped, group_elements

Groups = Sequence[int] | Sequence[Sequence[int]] | np.ndarray

_MAX_ENUMERATED = 20  # elements; beyond, "auto" samples where a game combines scales
_EACH_ONCE = "every element in exactly one group"
FEWER_ELEMENTS = "Take fewer elements (data.segment_centres picks them evenly)."


def as_players(
    game: Game, x: Array, groups: Groups, estimator: EstimatorChoice, max_bytes: float | None
) -> tuple[Grouped, np.ndarray, EstimatorChoice]:
    """The game of groups, the groups as its sequence (g, n), and the estimator that fits it.

    A game that scores each subsequence on its own is asked about unions of groups as any other
    game is about subsequences. One that combines scales gives all unions in one pass over its
    2**n subsequences, or has them estimated where that is too much, or `Surrogate` is asked for.
    """
    labels = expect_groups(groups, x.shape[0])
    if scores_rows(game):
        return *group_elements(game, x, labels), estimator
    many = x.shape[0] > _MAX_ENUMERATED and callable(getattr(game, "head_logits", None))
    if isinstance(estimator, Surrogate) or (estimator == "auto" and many):
        g = int(labels.max()) + 1
        way_out = "Join groups (data.propose_segments takes their number)."
        expect(g <= MAX_GROUPS, "groups", f"at most {MAX_GROUPS} beside a surrogate", g, way_out)
        settings = estimator if isinstance(estimator, Surrogate) else Surrogate()
        players = (labels[None, :] == np.arange(g)[:, None]).astype(np.float32)
        return Grouped(game, x), players, UnionSampling(settings)
    check_enumerable(game, x, max_bytes, FEWER_ELEMENTS)
    estimator = Exact() if estimator == "auto" else estimator  # all scores are there anyway
    return *group_elements(game, x, labels), estimator


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
