"""Groups of elements in the place of elements: shots, or anything else that goes as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import expect
from esv_jax.games.chosen import Places, choose_rows, chosen_logits, scores_rows
from esv_jax.games.protocol import Carry, Cost, Game, Tile, Unseen
from esv_jax.games.rowwise import RowLogits, fold_rows, sample_rows
from esv_jax.links import Link
from esv_jax.records import register_record
from esv_jax.subsequences import Lattice, Samples, make_lattice, membership
from esv_jax.subsequences.samples import count_distinct


@register_record
@dataclasses.dataclass(frozen=True)
class Grouped:
    """A game whose elements are groups of another's: the score of all elements of some groups.

    It holds the sequence; the "sequence" it is asked about is the groups themselves, a row (n,)
    of zeros and ones for each. Make both with `group_elements`.

    Attributes:
      game: of the elements. x: (n, ...), its sequence.
      places: of the unions of groups, where the game does not score rows on their own; row =
        code over the groups.
      table: (2**g, C) logits of the unions where they are known already; row = code.
    """

    game: Game
    x: Array
    places: Places | None = None
    table: Array | None = None

    @property
    def link(self) -> Link:
        """The game's."""
        return self.game.link

    @property
    def host(self) -> Any:
        """Where the game's model runs, if that is the host; see `run_to_end`."""
        return getattr(self.game, "host", None)

    @property
    def max_auto_exact(self) -> int:
        """As of the game itself where each union is an evaluation; else all are there anyway."""
        return getattr(self.game, "max_auto_exact", 20) if self.places is None else 24

    @property
    def row_logits(self) -> Callable[[Array, Array], Array] | None:
        """(x, member (m, g)) -> logits (m, C), where the game scores rows on their own."""
        if self.places is not None or self.table is not None:
            return None
        return lambda x, member: self._row_logits(x)(member)

    def check(self, x: Array) -> None:
        """Raise where x is not (g, n)."""
        n = self.x.shape[0]
        expect(x.ndim == 2 and x.shape[1] == n, "x", f"groups of shape (g, n) = (g, {n})", x.shape)

    def dtype(self, x: Array) -> jnp.dtype:
        """The game's."""
        return self.game.dtype(self.x)

    def n_classes(self, x: Array) -> int:
        """C."""
        return self.game.n_classes(self.x)

    def _row_logits(self, x: Array) -> RowLogits:
        """Logits (m, C) of groups chosen by membership (m, g), as a function of it."""
        if self.places is None and self.table is None:

            def expanded(member: Array) -> Array:
                elements = jnp.matmul(member.astype(x.dtype), x) > 0.5  # (m, n)
                return chosen_logits(self.game, self.x, elements)

            return expanded
        table = self.table
        if table is None:
            assert self.places is not None
            table = chosen_logits(self.game, self.x, self.places)  # (2**g, C)
        bits = jnp.asarray(1 << np.arange(x.shape[0]), jnp.int32)
        return lambda member: table[jnp.where(member, bits[None, :], 0).sum(1)]

    def fold_lattice(
        self, x: Array, lattice: Lattice, visit: Callable[[Carry, Tile], Carry], carry: Carry
    ) -> Carry:
        """See `Game.fold_lattice`."""
        return fold_rows(lattice, self._row_logits(x), visit, carry)

    def sample_logits(self, x: Array, samples: Samples, unseen: Unseen) -> tuple[Array, Array]:
        """See `Game.sample_logits`; every union of groups is scored on its own."""
        del unseen  # nothing is combined across scales
        return sample_rows(samples, self._row_logits(x))

    def lattice_cost(self, x: Any, lattice: Lattice) -> Cost:
        """See `Game.lattice_cost`."""
        return self._cost(2**lattice.n, lattice.n_lows * lattice.tile_width)

    def sample_cost(self, x: Any, m: int) -> Cost:
        """See `Game.sample_cost`."""
        rows = x.shape[0] * max(m, x.shape[0])
        return self._cost(rows, rows)

    def n_evaluations(self, samples: Samples) -> Array:
        """Distinct unions of groups, or what the pass over all elements takes."""
        if self.places is None:
            return count_distinct(samples)
        return jnp.asarray(self._cost(0, 0).n_evaluations)

    def _cost(self, rows: int, rows_at_once: int) -> Cost:
        n, itemsize = self.x.shape[0], self.game.dtype(self.x).itemsize
        row = self.game.n_classes(self.x) * itemsize
        n_bytes = rows_at_once * (4 * row + n)
        if self.places is None:
            return Cost(rows, max(rows - 1, 0), n_bytes, None)
        whole = self.game.lattice_cost(self.x, make_lattice(n))
        kept = (self.places.rows.size + self.places.found.size) * row
        return Cost(
            whole.n_subsequences, whole.n_evaluations, whole.n_bytes + n_bytes + kept, whole.flops
        )


def group_elements(game: Game, x: Array, labels: np.ndarray) -> tuple[Grouped, np.ndarray]:
    """The game of groups, and the groups as its sequence, (g, n) float32 of zeros and ones.

    Args:
      game: of the elements.
      x: (n, ...).
      labels: (n,) int, the group of each element, 0..g - 1, each used.
    Cost: on the host, n * 2**g bits where the game does not score rows on their own.
    """
    labels = np.asarray(labels)
    g = int(labels.max()) + 1
    groups = labels[None, :] == np.arange(g)[:, None]  # (g, n)
    if scores_rows(game):
        return Grouped(game, x, None), groups.astype(np.float32)
    unions = membership(np.arange(2**g), g)[:, labels]  # (2**g, n)
    places = choose_rows(game, unions)
    if not isinstance(places, Places):
        raise TypeError("places: expected places in a lattice, got rows.")
    return Grouped(game, x, places), groups.astype(np.float32)
