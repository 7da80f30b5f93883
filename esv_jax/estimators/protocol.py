"""Estimators: how subsequences are drawn, and how their scores become values."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from jax import Array

from esv_jax.attribution import Attribution
from esv_jax.games.scoring import GameInfo, Request, Rows, Scores


class Estimator(Protocol):
    """Two of the three steps of an explanation; hashable, so that `jit` may close over it.

    The steps are `draw`, scoring (`games.scoring.score_rows`) and `estimate`. An estimator never
    calls a game. All but `draw` of estimators with `draws_on_host` are pure and may be traced.

    Attributes:
      takes: kinds of games that it is for, `SubsetGame` and `ScaleGame`.
      needs_key: whether subsequences are drawn.
      plan_type: type of a `plan` in place of a draw; None where there is none.
      pads: whether sequences may be padded, so that lengths share compiled programs.
      draws_per_sequence: whether each sequence of a set draws with a key of its own; else one
        draw serves all.
      draws_on_host: whether `draw` makes tables on the host, from a concrete key.
    """

    takes: ClassVar[tuple[type, ...]]
    needs_key: ClassVar[bool]
    plan_type: ClassVar[type | None]
    pads: ClassVar[bool]
    draws_per_sequence: ClassVar[bool]
    draws_on_host: ClassVar[bool]

    def __hash__(self) -> int:
        """Estimators of equal settings share compiled programs."""

    def draw(self, key: Array | None, info: GameInfo, length: Array | None = None) -> Rows:
        """Draw subsequences of the first `length` elements (default all); consumes the key."""

    def replay(self, plan: Any) -> Rows:
        """The draw that a given plan stands for."""

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
        """The estimator at twice the budget; None where there is no more to be had."""

    def within(self, max_evaluations: int, info: GameInfo) -> Estimator | None:
        """The estimator with the largest budget of at most so many evaluations, or None."""

    def request(self, info: GameInfo) -> Request:
        """Sizes of rows and of memory, for costs."""
