"""What `explain` may ask of an estimator."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.games.protocol import Cost, Game


class Estimator(Protocol):
    """A pure function from a game and a sequence to ESVs; hashable, so `jit` may close over it.

    Attributes:
      needs_key: whether subsequences are drawn.
      plan_type: what may be passed as `plan` in place of a draw; None where nothing may.
      pads: whether sequences may be padded, so that lengths share compiled programs.
      draws_per_sequence: whether each sequence of a set draws with a key of its own; else one
        draw serves all.
    """

    needs_key: ClassVar[bool]
    plan_type: ClassVar[type | None]
    pads: ClassVar[bool]
    draws_per_sequence: ClassVar[bool]

    def __hash__(self) -> int:
        """Estimators of equal settings share compiled programs."""

    def prepare(self, game: Game, x: Any, key: Array) -> Any:
        """A plan to make on the host before compiled code runs; None where there is none.

        Called with a concrete or traced x and the key; not called where the user gives a plan.
        """

    def __call__(
        self,
        game: Game,
        x: Array,
        prior: Array,
        *,
        key: Array | None = None,
        plan: Any = None,
        length: Array | None = None,
    ) -> Attribution:
        """ESVs of x (n, ...), of which the first `length` elements are there (default all)."""

    def doubled(self) -> Estimator | None:
        """The estimator at twice the budget; None where there is no more to be had."""

    def cost(self, game: Game, x: Any) -> Cost:
        """What the call will take; x may be a ShapeDtypeStruct."""
