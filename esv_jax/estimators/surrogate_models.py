"""Polynomial models of the heads in membership, and pairwise interactions from them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from esv_jax.checks import Link
from esv_jax.estimators.surrogate_plan import (
    CORRELATION,
    NOISE,
    SurrogatePlan,
    features,
    pair_index,
)
from esv_jax.games.scoring import apply_link

_STRETCH = 1 / (1 - CORRELATION)


class Fit(NamedTuple):
    """Each head as constant + sum_i linear + sum_{i<j} pair.

    Attributes:
      constant: (K, C). linear: (K, n, C).
      pair: (K, n (n - 1) / 2, C); no pairs at order 1.
    """

    constant: Array
    linear: Array
    pair: Array


def fit_heads(plan: SurrogatePlan, logits: Array) -> Fit:
    """Ridge fits of all heads, tied to each other; linear in the logits on the pool (K, m, C).

    Effects have a normal prior around effects that the scales share. Heads of one (with pairs,
    two) elements whose pool is complete are such polynomials, and are taken as they are.
    Cost: 2 K (m p + p**2) C multiply-adds with p = n (n + 1) / 2 (order 1: n).
    """
    width, dtype = plan.member.shape[-1], logits.dtype
    n = plan.n.astype(dtype)
    present = plan.present.astype(dtype)
    valid = plan.pool_valid.astype(dtype)[..., None]
    count = jnp.maximum(valid.sum(1), 1)  # (K, 1): padded plans have scales without subsequences
    mean = jnp.where(valid > 0, logits, 0).sum(1) / count  # (K, C)
    centred = jnp.where(valid > 0, logits - mean[:, None], 0)
    q = jnp.arange(1, plan.n_scales + 1, dtype=dtype) / n

    def moments(scale: tuple[Array, ...]) -> tuple[Array, Array]:
        member, is_there, y, q, spreads, inverse = scale
        z = features(member.astype(dtype), q, spreads, present[None], plan.order) * is_there
        moment = jnp.matmul(z.T, y, precision="highest") / NOISE
        return z.sum(0), jnp.matmul(inverse, moment, precision="highest")

    each = (plan.member, valid, centred, q, plan.scale, plan.inverse)
    offset, alone = lax.map(moments, each)
    shared = jnp.matmul(plan.common, _STRETCH * alone.sum(0), precision="highest")
    pull = jnp.einsum("kpq,qc->kpc", plan.inverse, shared, precision="highest")
    weight = alone + _STRETCH * pull

    # From centred, scaled features back to membership itself.
    constant = mean - jnp.einsum("kp,kpc->kc", offset / count, weight, precision="highest")
    linear = weight[:, :width] * plan.scale[:, 0, None, None]
    pair = weight[:, width:] * plan.scale[:, 1, None, None]
    constant = constant - q[:, None] * linear.sum(1)
    if plan.order == 2:
        i, j = pair_index(width)
        touching = jnp.zeros_like(linear).at[:, i].add(pair).at[:, j].add(pair)
        constant = constant + q[:, None] ** 2 * pair.sum(1)
        linear = linear - q[:, None, None] * touching
    constant, linear, pair = _as_given(plan, logits, constant, linear, pair)
    return Fit(constant, linear, pair)


def _as_given(
    plan: SurrogatePlan, logits: Array, constant: Array, linear: Array, pair: Array
) -> tuple[Array, Array, Array]:
    """Heads of one element, and with pairs of two, whose pool is complete, without a fit."""
    width = plan.member.shape[-1]
    is_one = plan.enumerated[0]
    alone = jnp.zeros_like(linear[0]).at[: logits.shape[1]].set(logits[0, :width])
    alone = jnp.where(plan.present[:, None], alone, 0)
    constant = constant.at[0].set(jnp.where(is_one, 0, constant[0]))
    linear = linear.at[0].set(jnp.where(is_one, alone, linear[0]))
    pair = pair.at[0].set(jnp.where(is_one, 0, pair[0]))
    if plan.order == 1 or plan.n_scales == 1:
        return constant, linear, pair
    is_two = plan.enumerated[1]
    i, j = pair_index(width)
    there = plan.present[i] & plan.present[j]
    both = jnp.where(there[:, None], logits[1, plan.pair_row], 0)
    constant = constant.at[1].set(jnp.where(is_two, 0, constant[1]))
    linear = linear.at[1].set(jnp.where(is_two, 0, linear[1]))
    return constant, linear, pair.at[1].set(jnp.where(is_two, both, pair[1]))


def polynomial(fit: Fit, weights: tuple[Array, Array, Array], member: Array) -> Array:
    """Mixed heads on subsequences (N, n): (N, C).

    Args:
      weights: (K,) each, how much of every head's constant, linear and pair terms; mixing comes
        first, so that a subsequence costs one polynomial.
    """
    m = member.astype(fit.linear.dtype)
    constant, linear, pair = (
        jnp.tensordot(weight, terms, 1, precision="highest")
        for weight, terms in zip(weights, fit, strict=True)
    )
    value = constant[None, :] + jnp.matmul(m, linear, precision="highest")
    if pair.shape[0]:
        i, j = pair_index(member.shape[1])
        value = value + jnp.matmul(m[:, i] * m[:, j], pair, precision="highest")
    return value


def mix_of_scale(n_scales: int, s: Array, dtype: jnp.dtype) -> tuple[Array, Array, Array]:
    """Weights (K,) that turn heads into f^ms of subsequences of s elements, for `polynomial`.

    The mean of head k over the k-element parts of S is its polynomial with every element counted
    with k/s and every pair with k (k - 1) / (s (s - 1)).
    """
    k = jnp.arange(1, n_scales + 1, dtype=dtype)
    size = s.astype(dtype)
    share = jnp.where(k <= size, 1 / jnp.minimum(size, n_scales), 0)
    pairs = k * (k - 1) / jnp.maximum(size * (size - 1), 1)
    return share, share * k / size, share * pairs


def residuals(plan: SurrogatePlan, fit: Fit, logits: Array) -> Array:
    """Residuals of the pool's logits, (K, m, C); 0 in padding."""
    one_head = jnp.eye(plan.n_scales, dtype=logits.dtype)
    fitted = [polynomial(fit, (one_head[k],) * 3, plan.member[k]) for k in range(plan.n_scales)]
    return jnp.where(plan.pool_valid[..., None], logits - jnp.stack(fitted), 0)


def through_link(link: Link, scores: Array, weight: Array, change: Array) -> Array:
    """Changes (..., C) of scores for changes (..., C) of logits, to first order at S points.

    Args:
      scores: (S, C), at the points. weight: (S,), of the points in the mean; they sum to 1.
    """
    if link == "identity":
        return change
    slope = scores if link == "softmax" else scores * (1 - scores)
    mean = jnp.matmul(weight, slope, precision="highest")
    moved = change * mean.reshape((1,) * (change.ndim - 1) + mean.shape)
    if link == "softmax":
        common = jnp.matmul(change, scores.T, precision="highest")
        moved = moved - jnp.matmul(common, weight[:, None] * scores, precision="highest")
    return moved


def pair_matrix(fit: Fit, n: int) -> Array:
    """Pair terms as symmetric matrices (K, n, n, C), zero on the diagonal."""
    k, c = fit.constant.shape
    matrix = jnp.zeros((k, n, n, c), fit.pair.dtype)
    if fit.pair.shape[1]:
        i, j = pair_index(n)
        matrix = matrix.at[:, i, j].set(fit.pair).at[:, j, i].set(fit.pair)
    return matrix


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
    n, c, dtype = plan.member.shape[-1], prior.shape[0], logits.dtype
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
