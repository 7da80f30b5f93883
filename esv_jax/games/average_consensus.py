"""Models that average per-element logits (TSN): no subsequence needs the network again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, expect_choice, expect_floating, expect_shape, wider
from esv_jax.games.protocol import Carry, Cost, Tile, Unseen
from esv_jax.games.rowwise import sample_rows, scan_tiles
from esv_jax.links import LINKS, Link
from esv_jax.records import register_record, static_field
from esv_jax.subsequences import Lattice, Samples
from esv_jax.subsequences.samples import count_distinct


@register_record
@dataclasses.dataclass(frozen=True)
class AverageConsensus:
    """f(X) = mean over the elements of X of (input_relu(x) @ w + b).

    Source: Wang et al., Temporal Segment Networks (2016), average consensus; the variable-length
    model of Price & Damen (2020), section 4.

    Attributes:
      w: (D, C). b: (C,).
      input_relu: whether features pass a ReLU first.
      link: "softmax" (default) or "identity".
    Raises:
      ValueError: if shapes disagree.
    """

    w: Array
    b: Array
    input_relu: bool = static_field(default=True)
    link: Link = static_field(default="softmax")

    def __post_init__(self) -> None:
        expect_choice("link", self.link, LINKS)
        object.__setattr__(self, "w", expect_floating("w", self.w))
        object.__setattr__(self, "b", expect_floating("b", self.b))
        expect_shape("w", self.w, (None, None), "(D, C)")
        c = self.w.shape[1]
        expect_shape("b", self.b, (c,), f"(C,) = ({c},)")

    def check(self, x: Array) -> None:
        """Raise where x is not (n, D)."""
        width = self.w.shape[0]
        expect(x.ndim == 2 and x.shape[1] == width, "x", f"shape (n, D) with D = {width}", x.shape)

    def dtype(self, x: Array) -> jnp.dtype:
        """The wider of x's and the weights'."""
        return wider(x.dtype, self.w.dtype)

    def n_classes(self, x: Array) -> int:
        """C."""
        return self.w.shape[1]

    def element_logits(self, x: Array) -> Array:
        """Logits (n, C) of each element alone."""
        dtype = self.dtype(x)
        x = jax.nn.relu(x) if self.input_relu else x
        w, b = self.w.astype(dtype), self.b.astype(dtype)
        return jnp.matmul(x.astype(dtype), w, precision="highest") + b[None, :]

    def row_logits(self, x: Array, member: Array) -> Array:
        """Logits (m, C) of the subsequences `member` (m, n), none of them empty."""
        logits = self.element_logits(x)
        keep = member.astype(logits.dtype)
        return jnp.matmul(keep, logits, precision="highest") / keep.sum(1, keepdims=True)

    def fold_lattice(
        self, x: Array, lattice: Lattice, visit: Callable[[Carry, Tile], Carry], carry: Carry
    ) -> Carry:
        """See `Game.fold_lattice`. Cost: n element logits, then one addition per subsequence."""
        logits = self.element_logits(x)
        top, low = logits[: lattice.n_top], logits[lattice.n_top :]
        low_member = lattice.low_member.astype(logits.dtype)
        low_sum = jnp.matmul(low_member, low, precision="highest")  # (R, C)

        def tile_logits(member: Array) -> Array:
            top_sum = jnp.matmul(member.astype(top.dtype), top, precision="highest")  # (B, C)
            count = lattice.low_scale[:, None] + member.sum(1)[None, :]  # (R, B)
            total = low_sum[:, None] + top_sum[None, :]
            return total / jnp.maximum(count, 1).astype(top.dtype)[..., None]

        return scan_tiles(lattice, tile_logits, visit, carry)

    def sample_logits(self, x: Array, samples: Samples, unseen: Unseen) -> tuple[Array, Array]:
        """See `Game.sample_logits`; every subsequence is scored on its own."""
        del unseen  # nothing is combined across scales
        return sample_rows(samples, lambda member: self.row_logits(x, member))

    def lattice_cost(self, x: Any, lattice: Lattice) -> Cost:
        """See `Game.lattice_cost`; the model is evaluated once per element."""
        d, c = self.w.shape
        tile = lattice.n_lows * lattice.tile_width
        n_bytes = 4 * tile * c * x.dtype.itemsize
        return Cost(2**lattice.n, lattice.n, n_bytes, 2 * lattice.n * d * c + 6 * 2**lattice.n * c)

    def sample_cost(self, x: Any, m: int) -> Cost:
        """See `Game.sample_cost`."""
        n, (d, c) = x.shape[0], self.w.shape
        rows = n * max(m, n)
        return Cost(rows, n, 4 * rows * c * x.dtype.itemsize, 2 * n * d * c + 2 * rows * n * c)

    def n_evaluations(self, samples: Samples) -> Array:
        """Distinct subsequences scored, though the network itself runs once per element."""
        return count_distinct(samples)
