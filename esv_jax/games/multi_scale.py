"""The multi-scale model: heads of fixed length, combined so that any length has a score."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import AnyArray, Link, Shaped, check_link, is_concrete, message, wider
from esv_jax.games.average_consensus import AverageConsensus
from esv_jax.games.lattice_pass import fold_multi_scale, head_output
from esv_jax.games.protocol import Carry, Cost, ScaleGame, Tile
from esv_jax.models.heads import HeadStack, TsnHead
from esv_jax.records import register_record, static_field
from esv_jax.subsequences.lattice import Lattice, low_incidence, recurrence_shares
from esv_jax.subsequences.samples import Samples


@register_record
@dataclasses.dataclass(frozen=True)
class MultiScale(ScaleGame):
    """f^ms(X): the mean over scales s = 1..min(n, n_max) of the mean of f^s over X's parts.

    Source: Price & Damen (2020), Eq. (8), computed by the recurrence of Eq. (9) on logits.

    Attributes:
      heads: of scales 1..n_max, from `models.stack_heads` or training.
      link: "softmax" (default), "sigmoid" or "identity".
      n_scales: number of heads.
      first_layers: (s, D, H) for s = 1..n_max, made from `heads`: their first layers without
        padding. Sliced here, once, because compiled code would copy them at every call.
      last_layers: (H, C) for s = 1..n_max, the heads' last layers, sliced here as well.
    Raises:
      TypeError: if `heads` is not a `HeadStack`. ValueError: on another link, or a softmax over
      one class.
    """

    heads: HeadStack
    link: Link = static_field(default="softmax")
    first_layers: tuple[Array, ...] = dataclasses.field(init=False, repr=False)
    last_layers: tuple[Array, ...] = dataclasses.field(init=False, repr=False)
    n_scales: int = static_field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.heads, HeadStack):
            got, way_out = type(self.heads).__name__, "Make one with models.stack_heads."
            raise TypeError(message("heads", "a HeadStack", got, way_out))
        check_link(self.link, self.heads.n_classes)
        w1, w2 = self.heads.w1, self.heads.w2
        if is_concrete(w1) and is_concrete(w2):  # by NumPy: each slice by JAX is a program
            layers = jax.device_put((_first_layers(np.asarray(w1)), tuple(np.asarray(w2))))
        else:
            layers = _first_layers(w1), tuple(w2)
        object.__setattr__(self, "first_layers", layers[0])
        object.__setattr__(self, "last_layers", layers[1])
        object.__setattr__(self, "n_scales", self.heads.n_max)

    def output(self, x: Shaped) -> jax.ShapeDtypeStruct:
        """(C,), in the wider dtype of x's and the heads'; x has to be (n, D) with the heads' D."""
        d, w2 = self.heads.w1.shape[2], self.heads.w2
        if len(x.shape) != 2 or x.shape[1] != d:
            way_out = "For a batch, use explain_batch." if len(x.shape) == 3 else ""
            expected = f"shape (n, D) with the heads' D = {d}"
            raise ValueError(message("x", expected, x.shape, way_out))
        return jax.ShapeDtypeStruct(w2.shape[2:], wider(x.dtype, w2.dtype))

    def warnings(self, x: AnyArray, prior: AnyArray) -> tuple[str, ...]:
        """None."""
        return ()

    def _prepared(self, x: Array) -> tuple[HeadStack, Array]:
        """Heads and features in one dtype, features past the input ReLU."""
        dtype = wider(x.dtype, self.heads.w2.dtype)
        heads = jax.tree.map(lambda leaf: leaf.astype(dtype), self.heads)
        x = jax.nn.relu(x) if heads.input_relu else x
        return heads, x.astype(dtype)

    def fold_lattice(
        self, x: Array, lattice: Lattice, visit: Callable[[Carry, Tile], Carry], carry: Carry
    ) -> Carry:
        """See `ScaleGame.fold_lattice` and `fold_multi_scale`."""
        heads, x = self._prepared(x)
        first_layers = [layer.astype(x.dtype) for layer in self.first_layers]
        return fold_multi_scale(heads, first_layers, x, lattice, visit, carry)

    def all_logits(self, xs: Array, lattice: Lattice) -> list[Array]:
        """See `ScaleGame.all_logits`: Eq. (9) bottom-up, equal to Eq. (8), without a loop.

        Sequences are side by side: heads of one scale are one product for all of them, and so is
        each step of the recurrence, whose 0/1 matrices are the same for all. The logits of the
        empty subsequence are 0.

        Cost: per sequence sum over s <= n_max of binomial(n, s) head evaluations, and binomial(2n,
          n - 1) multiply-adds per class for the recurrence. Memory: V * 2**n * C numbers, twice.
        """
        heads, xs = self._prepared(xs)
        first_layers = [layer.astype(xs.dtype) for layer in self.first_layers]
        last_layers = [layer.astype(xs.dtype) for layer in self.last_layers]
        n, (n_videos, _, width) = lattice.n, xs.shape
        member, size = lattice.low_member, lattice.low_scale
        n_max, h, c = heads.w2.shape
        own, from_parents = recurrence_shares(np.arange(n + 1), n_max)
        incidence = low_incidence(lattice)
        elements = jnp.swapaxes(xs, 0, 1)  # (n, V, D)
        done = [jnp.zeros((1, n_videos, c), xs.dtype)]
        for s in range(1, n + 1):
            n_rows = math.comb(n, s)
            logits = jnp.zeros((1, 1, 1), xs.dtype)
            if s <= n_max:
                # Element e can be at position j only if j <= e <= n - s + j: one window per j.
                at = np.arange(s)[:, None] + np.arange(n - s + 1)[None, :]
                windows = elements[at].reshape(s, -1, width)
                product = jnp.einsum(
                    "jrd,jdh->jrh", windows, first_layers[s - 1], precision="highest"
                ).reshape(s, n - s + 1, n_videos, h)
                element = np.nonzero(member[size == s])[1].reshape(n_rows, s)
                hidden = heads.b1[s - 1][None, None]
                for j in range(s):
                    hidden = hidden + product[j][element[:, j] - j]  # (n_rows, V, H)
                layers, b2 = jax.tree.map(lambda leaf, s=s: leaf[s - 1], (heads.hidden, heads.b2))
                logits = head_output(hidden.reshape(-1, h), layers, last_layers[s - 1], b2)
                logits = logits * jnp.asarray(own[s], xs.dtype)
                logits = logits.reshape(n_rows, n_videos, c)
            parents = jnp.matmul(
                jnp.asarray(incidence[s - 1], xs.dtype),
                done[-1].reshape(-1, n_videos * c),
                precision="highest",
            ).reshape(n_rows, n_videos, c)
            done.append(logits + jnp.asarray(from_parents[s], xs.dtype) * parents)
        return done

    def sample_logits(self, x: Array, samples: Samples) -> tuple[Array, Array]:
        """f^ms by the recurrence over sampled subsequences; see `ScaleGame.sample_logits`.

        The mean over a subsequence's parents is that over its **sampled** parents. One without
        any has, under "skip", its own head alone, and is unknown beyond n_max; under "zero" the
        missing mean is 0. Source: Price & Damen (2020), Algorithm 1 (with Eq. 9's factors).
        Cost: per scale m head evaluations (s <= n_max) and two products of m x m.
        """
        heads, x = self._prepared(x)
        (n, m, _), unseen = samples.member.shape, samples.unseen
        chex.assert_shape(samples.member, (n, m, x.shape[0]))
        n_scales = min(heads.n_max, n)

        def combine(state: Any, scale: dict[str, Any]) -> Any:
            logits, before, known = state
            s, member, valid = scale["s"], scale["member"], scale["valid"]
            own = _sampled_head(scale["head"], x, member) if "head" in scale else None
            size = s.astype(x.dtype)
            common = jnp.matmul(
                member.astype(x.dtype), before.T.astype(x.dtype), precision="highest"
            )
            is_parent = (common > size - 1.5) & known[None, :] & valid[:, None]  # |A and B| = |B|
            is_parent = is_parent & (s > 1)
            count = is_parent.sum(1)
            total = jnp.matmul(is_parent.astype(x.dtype), logits, precision="highest")
            mean = total / jnp.maximum(count, 1).astype(x.dtype)[:, None]
            seen = (count > 0)[:, None]
            if own is None:
                result, is_known = mean, valid & (seen[:, 0] | (unseen == "zero"))
            else:
                result, is_known = (own + (size - 1) * mean) / size, valid
                if unseen == "skip":
                    result = jnp.where(seen, result, own)
            result = jnp.where(is_known[:, None], result, 0)
            return (result, member, is_known), (result, is_known)

        # Scales run in two loops, with heads and beyond; the state is the scale before.
        state = (
            jnp.zeros((m, heads.n_classes), x.dtype),
            jnp.zeros((m, n), bool),
            jnp.zeros(m, bool),
        )
        scales = {"s": jnp.arange(1, n + 1), "member": samples.member, "valid": samples.valid}
        short = jax.tree.map(lambda leaf: leaf[:n_scales], scales | {"head": heads})
        state, found = lax.scan(combine, state, short)
        if n > n_scales:
            long = jax.tree.map(lambda leaf: leaf[n_scales:], scales)
            _, more = lax.scan(combine, state, long)
            found = jax.tree.map(lambda *parts: jnp.concatenate(parts), found, more)
        return found

    def head_logits(self, x: Array, member: Array) -> Array:
        """See `ScaleGame.head_logits`."""
        chex.assert_shape(member, (None, None, x.shape[0]))
        heads, x = self._prepared(x)
        heads = jax.tree.map(lambda leaf: leaf[: member.shape[0]], heads)
        return lax.map(lambda scale: _sampled_head(scale[0], x, scale[1]), (heads, member))

    def lattice_cost(self, x: Shaped, lattice: Lattice) -> Cost:
        """See `ScaleGame.lattice_cost`."""
        heads, n, itemsize = self.heads, lattice.n, x.dtype.itemsize
        d, (n_max, h, c) = heads.w1.shape[2], heads.w2.shape
        n_scales = min(n_max, n)
        evaluations = sum(math.comb(n, s) for s in range(1, n_scales + 1))
        per_head = 2 * h * (c + h * len(heads.hidden))
        windows = sum(s * (n - s + 1) for s in range(1, n_scales + 1))
        low_parents = math.comb(2 * lattice.n_low, lattice.n_low - 1)
        recurrence = 2**n * c * lattice.n_top // 2 + 2 * 2**lattice.n_top * low_parents * c
        flops = evaluations * per_head + 2 * windows * d * h + recurrence + 2**n * c * 8
        slab = lattice.n_lows * c
        workspace = (lattice.n_slots + 1 + 8 * lattice.tile_width) * slab if lattice.n_top else 0
        hidden = lattice.n_lows * lattice.tile_width * h
        sums = (lattice.n_top + 1) * (lattice.n_lows + lattice.n_top * (lattice.n_low + 1)) * c
        n_bytes = (workspace + 4 * slab + 2 * hidden + 2 * sums + windows * h) * itemsize
        return Cost(2**n, evaluations, n_bytes, flops)

    def sample_cost(self, x: Shaped, m: int) -> Cost:
        """See `ScaleGame.sample_cost`."""
        heads, n = self.heads, x.shape[0]
        d, h, c = heads.feature_dim, heads.hidden_dim, heads.n_classes
        width = max(m, n)
        n_scales = min(heads.n_max, n)
        evaluations = sum(min(width, math.comb(n, s)) for s in range(1, n_scales + 1))
        flops = evaluations * 2 * h * (c + h * len(heads.hidden))
        flops += 2 * n_scales * heads.n_max * n * d * h + n * width * width * 2 * (c + n)
        n_bytes = (2 * n * width * c + 3 * width * width) * x.dtype.itemsize + n * width * n
        return Cost(n * width, evaluations, n_bytes, flops)


def _first_layers(w1: Any) -> tuple[Any, ...]:
    """The first layer of each scale without its padding, (s, D, H), of (n_max, n_max, D, H)."""
    return tuple(w[:s] for s, w in enumerate(w1, 1))


def _sampled_head(head: HeadStack, x: Array, member: Array) -> Array:
    """Logits (m, C) of subsequences `member` by one scale's head, arrays without their axis."""
    n_positions = head.w1.shape[0]
    place = jnp.cumsum(member, axis=1)  # (m, n)
    products = jnp.einsum("nd,pdh->pnh", x, head.w1, precision="highest")
    hidden = jnp.broadcast_to(head.b1[None, :], (member.shape[0], head.b1.shape[0]))
    for p in range(n_positions):
        index = (place <= p).sum(1)  # the element at position p; n where there is none
        present = index < x.shape[0]
        added = products[p][jnp.minimum(index, x.shape[0] - 1)]
        hidden = hidden + jnp.where(present[:, None], added, 0)
    return head_output(hidden, head.hidden, head.w2, head.b2)


def direct_logits(heads: HeadStack, x: Array) -> Array:
    """f^ms(X) of the whole sequence by its definition, Eq. (8), (C,): the plain way.

    The mean over scales of the mean over **all** subsequences of that scale, each put through
    its head. Useful as a twin of the recurrence and to predict from short sequences.

    Args:
      heads: of scales 1..n_max. x: (n, D), before any input ReLU.
    Cost: sum over s <= n_max of binomial(n, s) head evaluations, one at a time per scale.
    """
    x = jax.nn.relu(x) if heads.input_relu else x
    n_scales = min(heads.n_max, x.shape[0])
    means = []
    for s in range(1, n_scales + 1):
        index = np.array(list(itertools.combinations(range(x.shape[0]), s)))
        member = np.zeros((len(index), x.shape[0]), bool)
        np.put_along_axis(member, index, True, axis=1)
        head = jax.tree.map(lambda leaf, s=s: leaf[s - 1], heads)
        means.append(_sampled_head(head, x, jnp.asarray(member)).mean(0))
    return jnp.stack(means).mean(0)


def make_game(heads: HeadStack | TsnHead, link: Link = "softmax") -> MultiScale | AverageConsensus:
    """`MultiScale` of a stack of heads, `AverageConsensus` of a TSN head.

    Args:
      heads: e.g. `load_model(path).heads`.
      link: "softmax" (default) or "identity".
    Raises:
      TypeError: for anything else. ValueError: on another link.
    """
    if isinstance(heads, TsnHead):
        return AverageConsensus(heads.w, heads.b, input_relu=heads.input_relu, link=link)
    return MultiScale(heads, link)
