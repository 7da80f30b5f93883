"""Any JAX function that takes a sequence with a mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from esv_jax.checks import expect, expect_choice, expect_int
from esv_jax.games.protocol import Carry, Cost, Tile, Unseen
from esv_jax.games.rowwise import fold_rows, sample_rows
from esv_jax.links import LINKS, Link
from esv_jax.records import register_record, static_field
from esv_jax.subsequences import Lattice, Samples
from esv_jax.subsequences.samples import count_distinct


@register_record
@dataclasses.dataclass(frozen=True)
class VariableLength:
    """A game from `apply_fn(features, mask) -> logits`.

    Attributes:
      apply_fn: (n, D) features and (n,) bool mask -> (C,) logits. Elements whose mask is False
        must not affect the result. Pass `jax.tree_util.Partial(fn, params)` to have parameters
        traced (new parameters then compile nothing); otherwise what `apply_fn` closes over is
        compiled in.
      link: "softmax" (default) or "identity".
      batch_size: subsequences put to the model at once; default a whole tile of the lattice.
    Raises:
      TypeError: if `apply_fn` is not callable. ValueError: on another link or batch_size < 1.
    """

    max_auto_exact: ClassVar[int] = 12  # elements; beyond, 2**n evaluations may be no small thing

    apply_fn: Callable[[Array, Array], Array]
    link: Link = static_field(default="softmax")
    batch_size: int | None = static_field(default=None)

    def __post_init__(self) -> None:
        expect_choice("link", self.link, LINKS)
        if self.batch_size is not None:
            expect_int("batch_size", self.batch_size, 1)
        expect(
            callable(self.apply_fn),
            "apply_fn",
            "a function of (features, mask)",
            type(self.apply_fn).__name__,
            kind=TypeError,
        )
        if not isinstance(self.apply_fn, jax.tree_util.Partial):
            object.__setattr__(self, "apply_fn", jax.tree_util.Partial(self.apply_fn))

    def _output(self, x: Any) -> jax.ShapeDtypeStruct:
        mask = jax.ShapeDtypeStruct((x.shape[0],), jnp.bool_)
        return jax.eval_shape(self.apply_fn, jax.ShapeDtypeStruct(x.shape, x.dtype), mask)

    def check(self, x: Array) -> None:
        """Raise where apply_fn does not give one vector of logits for x."""
        expect(x.ndim >= 1, "x", "elements along the first axis", f"shape {x.shape}")
        shape = self._output(x).shape
        expect(len(shape) == 1, "apply_fn", "logits of shape (C,)", shape)

    def dtype(self, x: Array) -> jnp.dtype:
        """The dtype of apply_fn's logits."""
        return self._output(x).dtype

    def n_classes(self, x: Array) -> int:
        """C."""
        return self._output(x).shape[0]

    def row_logits(self, x: Array, member: Array) -> Array:
        """Logits (m, C) of the subsequences `member` (m, n)."""
        if self.batch_size is None or self.batch_size >= member.shape[0]:
            return jax.vmap(self.apply_fn, (None, 0))(x, member)
        return lax.map(lambda row: self.apply_fn(x, row), member, batch_size=self.batch_size)

    def fold_lattice(
        self, x: Array, lattice: Lattice, visit: Callable[[Carry, Tile], Carry], carry: Carry
    ) -> Carry:
        """See `Game.fold_lattice`. Cost: 2**n evaluations of apply_fn."""
        return fold_rows(lattice, lambda member: self.row_logits(x, member), visit, carry)

    def sample_logits(self, x: Array, samples: Samples, unseen: Unseen) -> tuple[Array, Array]:
        """See `Game.sample_logits`; every subsequence is scored on its own."""
        del unseen  # nothing is combined across scales
        return sample_rows(samples, lambda member: self.row_logits(x, member))

    def lattice_cost(self, x: Any, lattice: Lattice) -> Cost:
        """See `Game.lattice_cost`; the model's own memory is not known."""
        tile = lattice.n_lows * lattice.tile_width
        n_bytes = 4 * tile * self.n_classes(x) * x.dtype.itemsize
        return Cost(2**lattice.n, 2**lattice.n - 1, n_bytes, None)

    def sample_cost(self, x: Any, m: int) -> Cost:
        """See `Game.sample_cost`."""
        rows = x.shape[0] * max(m, x.shape[0])
        return Cost(rows, rows, 4 * rows * self.n_classes(x) * x.dtype.itemsize, None)

    def n_evaluations(self, samples: Samples) -> Array:
        """Distinct subsequences of all scales."""
        return count_distinct(samples)
