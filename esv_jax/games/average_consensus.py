"""Models that average per-element logits (TSN): no subsequence needs the network again."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.checks import Link, Shaped, check_link, expect, expect_floating, expect_shape, wider
from esv_jax.games.protocol import Cost, SubsetGame
from esv_jax.records import register_record, static_field


@register_record
@dataclasses.dataclass(frozen=True)
class AverageConsensus(SubsetGame):
    """f(X) = mean over the elements of X of (input_relu(x) @ w + b).

    Source: Wang et al., Temporal Segment Networks (2016), average consensus; the variable-length
    model of Price & Damen (2020), section 4.

    Attributes:
      w: (D, C). b: (C,).
      input_relu: whether features pass a ReLU first.
      link: "softmax" (default), "sigmoid" or "identity".
    Raises:
      ValueError: if shapes disagree, or a softmax over one class.
    """

    w: Array
    b: Array
    input_relu: bool = static_field(default=True)
    link: Link = static_field(default="softmax")

    def __post_init__(self) -> None:
        object.__setattr__(self, "w", expect_floating("w", self.w))
        object.__setattr__(self, "b", expect_floating("b", self.b))
        expect_shape("w", self.w, (None, None), "(D, C)")
        c = self.w.shape[1]
        expect_shape("b", self.b, (c,), f"(C,) = ({c},)")
        check_link(self.link, c)

    def output(self, x: Shaped) -> jax.ShapeDtypeStruct:
        """(C,), in the wider dtype of x's and the weights'; x has to be (n, D)."""
        d, fits = self.w.shape[0], len(x.shape) == 2 and x.shape[1] == self.w.shape[0]
        expect(fits, "x", f"shape (n, D) with D = {d}", x.shape)
        return jax.ShapeDtypeStruct((self.w.shape[1],), wider(x.dtype, self.w.dtype))

    def subset_logits(self, x: Array, member: Array) -> Array:
        """Logits (m, C) of the subsequences `member` (m, n), none of them empty."""
        chex.assert_rank([x, member], 2)
        dtype = self.output(x).dtype
        x = jax.nn.relu(x) if self.input_relu else x
        w, b = self.w.astype(dtype), self.b.astype(dtype)
        logits = jnp.matmul(x.astype(dtype), w, precision="highest") + b[None, :]
        keep = member.astype(dtype)
        return jnp.matmul(keep, logits, precision="highest") / keep.sum(1, keepdims=True)

    def subset_cost(self, x: Shaped, m: int) -> Cost:
        """See `SubsetGame.subset_cost`; the network is evaluated once per element."""
        n, (d, c) = x.shape[0], self.w.shape
        itemsize = self.output(x).dtype.itemsize
        return Cost(m, m, m * (4 * c + n) * itemsize, 2 * n * d * c + 2 * m * n * c)
