"""What `explain` may ask of an estimator."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.games.protocol import Cost, Game
from esv_jax.subsequences import SubsequencePlan


class Estimator(Protocol):
    """A pure function from a game and a sequence to ESVs; hashable, so `jit` may close over it."""

    needs_key: ClassVar[bool]

    def __hash__(self) -> int:
        """Estimators of equal settings share compiled programs."""

    def __call__(
        self,
        game: Game,
        x: Array,
        prior: Array,
        *,
        key: Array | None = None,
        plan: SubsequencePlan | None = None,
        length: Array | None = None,
    ) -> Attribution:
        """ESVs of x (n, ...), of which the first `length` elements are there (default all)."""

    def cost(self, game: Game, x: Any) -> Cost:
        """What the call will take; x may be a ShapeDtypeStruct."""
