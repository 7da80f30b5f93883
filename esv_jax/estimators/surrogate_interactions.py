"""Pairwise interactions of sequences too long to enumerate, from small models of every head."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from esv_jax.estimators.surrogate_fit import fit_heads, mix_of_scale, pair_matrix
from esv_jax.estimators.surrogate_plan import SurrogatePlan
from esv_jax.games.scoring import apply_link
from esv_jax.links import Link


def sampled_interactions(
    plan: SurrogatePlan, logits: Array, prior: Array, member: Array, link: Link
) -> Array:
    r"""Shapley interaction index of every pair, estimated: (n, n, C), symmetric, zero diagonal.

    Drawing t uniformly from (0, 1), and every element with probability t, gives subsequences of
    uniform size, uniform within each size, and so they are without any given pair: Y \ {i, j}
    has the weights of the index. So one Y serves all pairs, by toggling two elements at a time,

        d_ij(Y \ {i, j}) = sign_i sign_j [f(Y ^ ij) - f(Y ^ i) - f(Y ^ j) + f(Y)],

    sign +1 for elements that Y lacks; f comes in closed form from the models (`fit_heads`).

    Source: multilinear extension, Owen (1972); index, Grabisch & Roubens (1999).

    Args:
      plan: of the pool. logits: (K, m, C), of the heads on the pool. prior: (C,).
      member: (R, n) bool, the Y, as `draw_members` gives them; their mean is returned.
      link: from logits to scores.
    Cost: R n**2 C exponentials.
    """
    plan = plan.astype(logits.dtype)
    fit = fit_heads(plan, logits)
    n, c, dtype = plan.n, prior.shape[0], logits.dtype
    pair = pair_matrix(fit, n)  # (K, n, n, C)

    def of_size(size: Array, y: Array) -> tuple[Array, Array, Array]:
        """f^ms of size-s subsequences near y: at y (C,), per element (n, C), per pair."""
        constant, linear, pairs = mix_of_scale(plan.n_scales, jnp.maximum(size, 1), dtype)
        q = jnp.tensordot(pairs, pair, 1, precision="highest")  # (n, n, C)
        near = jnp.tensordot(y, q, 1, precision="highest")  # (n, C): pairs with y, self none
        slope = jnp.tensordot(linear, fit.linear, 1, precision="highest") + near
        value = jnp.tensordot(constant, fit.constant, 1, precision="highest")
        value = value + jnp.matmul(y, slope - near / 2, precision="highest")
        return value, slope, q

    def score(z: Array, size: Array) -> Array:
        empty = (size <= 0)[..., None]
        return jnp.where(empty, prior, apply_link(link, z))

    def one(total: Array, row: Array) -> tuple[Array, None]:
        y, k = row.astype(dtype), row.sum()
        sign = 1 - 2 * y  # +1 joins, -1 leaves
        here, _, _ = of_size(k, y)
        steps = jnp.stack([-jnp.ones((), int), jnp.ones((), int)])
        by_step = [of_size(k + step, y) for step in steps]
        single = jnp.stack([v[None, :] + sign[:, None] * g for v, g, _ in by_step])
        joins = (sign > 0)[:, None]
        single = jnp.where(joins, single[1], single[0])  # (n, C)
        once = score(single, k + sign.astype(k.dtype))
        both = jnp.zeros((n, n, c), dtype)
        change = (sign[:, None] + sign[None, :]).astype(k.dtype)  # -2, 0 or 2
        for step in (-2, 0, 2):
            v, g, q = of_size(k + step, y)
            moved = sign[:, None] * g
            signs = (sign[:, None] * sign[None, :])[..., None]
            z = v[None, None, :] + moved[:, None, :] + moved[None, :, :] + signs * q
            both = jnp.where((change == step)[..., None], z, both)
        twice = score(both, k + change)
        start = score(here[None, :], k[None])[0]
        d = twice - once[:, None, :] - once[None, :, :] + start[None, None, :]
        return total + (sign[:, None] * sign[None, :])[..., None] * d, None

    total = lax.scan(one, jnp.zeros((n, n, c), dtype), member)[0]
    return total * (1 - jnp.eye(n, dtype=dtype))[..., None] / member.shape[0]


def draw_members(key: Array, n: int, rows: int) -> Array:
    """Subsequences (rows, n) bool of uniform size, uniform in each, as evenly as can be.

    Sizes are stratified; every second row is the complement of the one before.
    """
    half = -(-rows // 2)
    shift_key, order_key = jax.random.split(key)
    shift = jax.random.uniform(shift_key, (half,))
    t = (jnp.arange(half, dtype=shift.dtype) + shift) / half
    u = jax.random.uniform(order_key, (half * n,), shift.dtype).reshape(half, n)
    member = u < t[:, None]
    both = jnp.stack([member, ~member], axis=1).reshape(-1, n)
    return both[: 2 * half]
