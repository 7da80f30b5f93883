"""Games whose elements are groups of elements, such as shots."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import AnyArray, Link, Shaped, expect, message
from esv_jax.games.protocol import Cost, SubsetGame
from esv_jax.records import register_record, static_field

Groups = Sequence[int] | Sequence[Sequence[int]] | np.ndarray

_EACH_ONCE = "every element in exactly one group"


def _of_the_game(name: str) -> Any:
    """A property that `Grouped` has from its game."""
    return property(lambda self: getattr(self.game, name))


@register_record
@dataclasses.dataclass(frozen=True)
class Grouped(SubsetGame):
    """The game of unions of groups of another game's elements.

    It holds the sequence. The sequence that it takes is the groups, (g, n) of zeros and ones.

    Attributes:
      game: of the elements; it scores each subsequence on its own.
      x: (n, ...), its sequence.
    """

    game: SubsetGame
    x: Any

    link = _of_the_game("link")
    removal_name = _of_the_game("removal_name")
    auto_exact = _of_the_game("auto_exact")  # one evaluation of the game per union
    on_host = _of_the_game("on_host")
    owner = _of_the_game("owner")

    def output(self, x: Shaped) -> jax.ShapeDtypeStruct:
        """The game's; x has to be (g, n)."""
        n = self.x.shape[0]
        expect(x.shape[1:] == (n,), "x", f"groups of shape (g, n) = (g, {n})", x.shape)
        return self.game.output(self.x)

    def warnings(self, x: AnyArray, prior: AnyArray) -> tuple[str, ...]:
        """The game's."""
        return self.game.warnings(self.x, prior)

    def subset_logits(self, x: AnyArray, member: AnyArray) -> AnyArray:
        """Logits (m, C) of the unions of the groups in `member` (m, g)."""
        if self.on_host:
            return self.game.subset_logits(self.x, member @ (np.asarray(x) > 0.5))
        elements = jnp.matmul(member.astype(x.dtype), x) > 0.5  # (m, n)
        return self.game.subset_logits(self.x, elements)

    def subset_cost(self, x: Shaped, m: int) -> Cost:
        """The game's."""
        return self.game.subset_cost(self.x, m)


@register_record
@dataclasses.dataclass(frozen=True)
class ScoreTable(SubsetGame):
    """A game given by the scores of all its subsequences.

    Attributes:
      table: (2**n, C) scores, floating point; row = code. Row 0 is not used.
      cost_of_table: what the table itself takes, if anything.
    """

    auto_exact: ClassVar[int] = 24
    link: ClassVar[Link] = "identity"

    table: Array
    cost_of_table: Cost | None = static_field(default=None)

    def output(self, x: Shaped) -> jax.ShapeDtypeStruct:
        """(C,), in the dtype of the table; x has to have its number of elements."""
        n = self.table.shape[0].bit_length() - 1
        expect(x.shape[0] == n, "x", f"the {n} elements of the table", x.shape)
        return jax.ShapeDtypeStruct(self.table.shape[1:], self.table.dtype)

    def subset_logits(self, x: Array, member: Array) -> Array:
        """Rows (m, C) of the table."""
        bits = jnp.asarray(1 << np.arange(member.shape[1]), jnp.int32)
        return self.table[jnp.where(member, bits[None, :], 0).sum(1)]

    def subset_cost(self, x: Shaped, m: int) -> Cost:
        """The cost of the table and of m of its rows."""
        whole = self.cost_of_table or Cost(m, m, 0, 0)
        n_bytes = m * self.table.shape[1] * self.table.dtype.itemsize
        return whole._replace(n_bytes=whole.n_bytes + n_bytes)


def group_labels(groups: object, n: int) -> np.ndarray:
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
    for k in range(labels.max() + 1):
        expected = f"labels that use all of 0..{labels.max()}"
        expect(k in labels, "groups", expected, f"group {k} without elements")
    return labels


def group_members(labels: np.ndarray) -> np.ndarray:
    """The groups as a sequence for `Grouped`: (g, n) float32 of zeros and ones."""
    return (labels[None, :] == np.arange(int(labels.max()) + 1)[:, None]).astype(np.float32)


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
    for i, label in enumerate(labels):
        expect(label >= 0, "groups", _EACH_ONCE, f"element {i} in no group")
    return labels


def _integers(name: str, values: list[Any]) -> np.ndarray:
    """(k,) int64 of integers and nothing else."""
    array = np.asarray(values) if all(np.ndim(value) == 0 for value in values) else None
    if array is None or not np.issubdtype(array.dtype, np.integer):
        kind = "nested lists" if array is None else f"dtype {array.dtype}"
        raise TypeError(message(name, "integers", kind))
    return array.astype(np.int64)
