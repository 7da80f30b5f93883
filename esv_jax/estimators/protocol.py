"""Estimators: how subsequences are drawn, and how their scores become values."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.checks import NominalFirst
from esv_jax.games.scoring import GameInfo, Request, Rows, Scores


@runtime_checkable
class Estimator(Protocol, metaclass=NominalFirst):
    """The first and the last of the three steps of an explanation.

    The steps are `draw`, scoring (`games.scoring.score_rows`) and `estimate`. An estimator never
    calls a game. It is hashable, so that `jit` may close over it. All methods but the `draw` of
    estimators with `draws_on_host` are pure and may be traced.

    Attributes:
      takes: kinds of games, `SubsetGame` and `ScaleGame`.
      needs_key: whether subsequences are drawn.
      plan_type: type of the plans that it replays; None for none.
      pads: whether sequences of several lengths may share a draw and a block.
      draws_per_sequence: whether each sequence of a set draws with a key of its own; else one
        draw serves all.
      draws_on_host: whether `draw` makes tables on the host, from a concrete key.
    """

    takes: ClassVar[tuple[type, ...]]
    needs_key: ClassVar[bool] = True
    plan_type: ClassVar[type | None] = None
    pads: ClassVar[bool] = False
    draws_per_sequence: ClassVar[bool] = False
    draws_on_host: ClassVar[bool] = False

    def draw(self, key: Array | None, info: GameInfo, length: Array | int | None = None) -> Rows:
        """Draw subsequences of the first `length` elements (default all); consumes the key."""

    def padded_length(self, n: int) -> int:
        """Elements that sequences of n are padded to, so that lengths share a compiled program."""
        return n

    def replay(self, plan: Any) -> Rows:
        """The draw of a given plan; by default the plan itself."""
        return plan

    def estimate(
        self,
        drawn: Any,
        scores: Scores,
        prior: Array,
        info: GameInfo,
        length: Array | None = None,
    ) -> Attribution:
        """Values from scores, as `score_rows` returns them for the draw."""

    def doubled(self, info: GameInfo) -> Estimator | None:
        """The estimator at twice the budget; None at the largest budget."""
        return None

    def within(self, max_evaluations: int, info: GameInfo) -> Estimator | None:
        """The estimator with the largest budget within `max_evaluations`; None where none fits."""
        return None

    def request(self, info: GameInfo) -> Request:
        """Sizes of rows and of memory, for costs."""
