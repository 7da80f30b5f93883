"""What an estimator may ask of a game.

A game knows a model; together with a sequence it has a score for every subsequence. Anything with
these methods is a game: no base class, no registry. A model that scores each subsequence on its
own gets all of them from one function (see `rowwise`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import jax.numpy as jnp
from jax import Array

from esv_jax.links import Link
from esv_jax.subsequences import Lattice, Samples

Carry = TypeVar("Carry")
Unseen = Literal["skip", "zero"]


class Tile(NamedTuple):
    """A block of the lattice's subsequences with their logits.

    R lows (rows of `Lattice.low_member`) beside B tops.

    Attributes:
      logits: (R, B, C) before the link. The row of the empty subsequence is finite but means
        nothing: its score is the prior.
      level: () elements in each of the tops.
      member: (B, n_top) bool, membership of the tops.
      valid: (B,) bool, False where the tile is padded.
    """

    logits: Array
    level: Array | int
    member: Array
    valid: Array


class Cost(NamedTuple):
    """What an estimate will take, known before any work.

    Attributes:
      n_subsequences: subsequences whose scores are needed.
      n_evaluations: model (head) evaluations.
      n_bytes: memory at the peak, about.
      flops: floating-point operations, about; None where the model is a black box.
    """

    n_subsequences: int
    n_evaluations: int
    n_bytes: int
    flops: int | None

    def __str__(self) -> str:
        """One line for people."""
        flops = "" if self.flops is None else f", {self.flops / 1e9:,.3g} GFLOP"
        return (
            f"{self.n_subsequences:,} subsequences, {self.n_evaluations:,} model evaluations, "
            f"{self.n_bytes / 1e9:,.3g} GB{flops}"
        )


class Game(Protocol):
    """Scores of subsequences of a sequence x (n, D) or (n, ...), elements first."""

    @property
    def link(self) -> Link:
        """How logits become scores."""

    def check(self, x: Array) -> None:
        """Raise ValueError where the model cannot take x (shape questions only)."""

    def dtype(self, x: Array) -> jnp.dtype:
        """Floating dtype that the scores of x will have."""

    def n_classes(self, x: Array) -> int:
        """C."""

    def fold_lattice(
        self, x: Array, lattice: Lattice, visit: Callable[[Carry, Tile], Carry], carry: Carry
    ) -> Carry:
        """Visit the logits of all subsequences, tile after tile: carry = visit(carry, tile)."""

    def sample_logits(self, x: Array, samples: Samples, unseen: Unseen) -> tuple[Array, Array]:
        """Logits (n, m, C) of sampled subsequences and which of them are known, (n, m) bool.

        `unseen` says what a model that combines scales does with a subsequence none of whose
        parts was sampled: "skip" uses what is known, "zero" takes the missing mean as 0.
        """

    def lattice_cost(self, x: Any, lattice: Lattice) -> Cost:
        """Cost of `fold_lattice`; x may be a ShapeDtypeStruct."""

    def sample_cost(self, x: Any, m: int) -> Cost:
        """Cost of `sample_logits` with m subsequences per scale; x may be a ShapeDtypeStruct."""

    def n_evaluations(self, samples: Samples) -> Array:
        """Distinct model evaluations, (), behind samples with any leading axes."""
