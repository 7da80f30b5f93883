"""The two kinds of game: what the steps of an explanation call on a model.

A game wraps a model; together with a sequence it has a score for every subsequence. Estimators
take games by these types (`Estimator.takes`). Games of one's own derive from one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
from jax import Array

from esv_jax.checks import AnyArray, Link, NominalFirst, Shaped
from esv_jax.subsequences.lattice import Lattice
from esv_jax.subsequences.samples import Samples

Carry = TypeVar("Carry")


class Tile(NamedTuple):
    """A block of the lattice's subsequences with their logits, or with their scores.

    R lows (rows of `Lattice.low_member`) beside B tops.

    Attributes:
      table: (R, B, C), logits or scores. The row of the empty subsequence is finite but has no
        meaning: its score is the prior.
      level: () elements in each of the tops.
      member: (B, n_top) bool, membership of the tops.
      valid: (B,) bool, False where the tile is padded.
    """

    table: Array
    level: Array | int
    member: Array
    valid: Array


class Cost(NamedTuple):
    """Cost of an estimate, known before any work.

    Attributes:
      n_subsequences: subsequences whose scores are needed.
      n_evaluations: model (head) evaluations.
      n_bytes: memory at the peak, about.
      flops: floating-point operations, about; None where the model's own are not known.
    """

    n_subsequences: int
    n_evaluations: int
    n_bytes: int
    flops: int | None

    def __str__(self) -> str:
        """A short description."""
        flops = "" if self.flops is None else f", {self.flops / 1e9:,.3g} GFLOP"
        return (
            f"{self.n_subsequences:,} subsequences, {self.n_evaluations:,} model evaluations, "
            f"{self.n_bytes / 1e9:,.3g} GB{flops}"
        )


class Game(Protocol):
    """Members that both kinds of game have. Sequences x are (n, D) or (n, ...), elements first."""

    @property
    def link(self) -> Link:
        """Function from logits to scores."""

    auto_exact: ClassVar[int] = 20
    """Most elements for which "auto" is exact."""
    on_host: ClassVar[bool] = False
    """True where scores come from a Python function, False where from a JAX program."""
    removal_name: ClassVar[Any] = None
    """Name of the replacement of absent elements; None where they are left out."""
    owner: ClassVar[Any] = None
    """Object whose lifetime bounds that of compiled programs; None where arrays are all."""

    def output(self, x: Shaped) -> jax.ShapeDtypeStruct:
        """Shape (C,) and dtype of the scores of x, at least float32; x may be a ShapeDtypeStruct.

        Raises:
          ValueError, TypeError: where the model cannot take x, or its output is of another shape
          or kind.
        """

    def begin(self, x: AnyArray) -> None:
        """Begin a call on x; nothing for games in JAX. A game on the host scores the whole x."""
        return None

    def noise(self, x: AnyArray) -> float:
        """Largest difference between two scores of the whole x; 0 where deterministic."""
        return 0.0

    def progress_bar(self, total: int) -> contextlib.AbstractContextManager[None]:
        """Show the progress of `total` scores, where the game has a way to."""
        return contextlib.nullcontext()

    def warnings(self, x: AnyArray, prior: AnyArray) -> tuple[str, ...]:
        """Warnings for the result of x, a sentence each; x and prior are concrete arrays.

        Raises:
          ValueError: where scores and prior have different units.
        """
        return ()


@runtime_checkable
class SubsetGame(Game, Protocol, metaclass=NominalFirst):
    """A model that scores each subsequence on its own."""

    def subset_logits(self, x: Any, member: Any) -> Any:
        """Logits (m, C) of the subsequences `member` (m, n) bool, none of them empty.

        JAX arrays; NumPy arrays in and out where `on_host`.
        """

    def subset_cost(self, x: Shaped, m: int) -> Cost:
        """Cost of `subset_logits` of m subsequences; x may be a ShapeDtypeStruct."""


@runtime_checkable
class ScaleGame(Game, Protocol, metaclass=NominalFirst):
    """A model with one head per scale, combined by the recurrence of Eq. (9)."""

    @property
    def n_scales(self) -> int:
        """Number of scales that have a head."""

    def head_logits(self, x: Array, member: Array) -> Array:
        """Logits (K, m, C) of each scale's own head on member (K, m, n), row k - 1 of size k.

        Rows without elements, which are padding, get finite logits without meaning.
        """

    def all_logits(self, xs: Array, lattice: Lattice) -> list[Array]:
        """Logits of all subsequences of V sequences (V, n, D) by scale: (binomial(n, s), V, C).

        For lattices of one tile (`n_top` is 0); rows in the order of `lattice.low_codes`.
        """

    def fold_lattice(
        self, x: Array, lattice: Lattice, visit: Callable[[Carry, Tile], Carry], carry: Carry
    ) -> Carry:
        """Fold over the logits of all subsequences, tile by tile: carry = visit(carry, tile)."""

    def sample_logits(self, x: Array, samples: Samples) -> tuple[Array, Array]:
        """Logits (n, m, C) of sampled subsequences and which of them are known, (n, m) bool.

        `samples.unseen` says how a subsequence none of whose parts was sampled is combined:
        "skip" uses its known terms, "zero" takes the missing mean as 0.
        """

    def lattice_cost(self, x: Shaped, lattice: Lattice) -> Cost:
        """Cost of `fold_lattice`; x may be a ShapeDtypeStruct."""

    def sample_cost(self, x: Shaped, m: int) -> Cost:
        """Cost of `sample_logits` with m subsequences per scale; x may be a ShapeDtypeStruct."""
