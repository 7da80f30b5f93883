"""The small model of every head: a polynomial in membership, fitted to logits on a pool."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.estimators.surrogate_plan import CORRELATION, NOISE, SurrogatePlan, pair_index

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
    n, dtype = plan.n, logits.dtype
    valid = plan.pool_valid.astype(dtype)[..., None]
    mean = (logits * valid).sum(1) / valid.sum(1)  # (K, C)
    centred = (logits - mean[:, None]) * valid
    moment = jnp.einsum("kmp,kmc->kpc", plan.features, centred, precision="highest") / NOISE
    alone = jnp.einsum("kpq,kqc->kpc", plan.inverse, moment, precision="highest")
    shared = jnp.matmul(plan.common, _STRETCH * alone.sum(0), precision="highest")
    pull = jnp.einsum("kpq,qc->kpc", plan.inverse, shared, precision="highest")
    weight = alone + _STRETCH * pull

    # From centred, scaled features back to membership itself.
    constant = mean - jnp.einsum("kp,kpc->kc", plan.offset, weight, precision="highest")
    weight = weight * plan.scale[..., None]
    linear, pair = weight[:, :n], weight[:, n:]
    q = jnp.asarray(np.arange(1, plan.n_scales + 1) / n, dtype)[:, None]
    constant = constant - q * linear.sum(1)
    if plan.order == 2:
        i, j = pair_index(n)
        touching = jnp.zeros_like(linear).at[:, i].add(pair).at[:, j].add(pair)
        constant = constant + q**2 * pair.sum(1)
        linear = linear - q[..., None] * touching
    if plan.enumerated[0]:
        constant, pair = constant.at[0].set(0), pair.at[0].set(0)
        linear = linear.at[0].set(logits[0, :n])
    if plan.order == 2 and plan.n_scales > 1 and plan.enumerated[1]:
        constant, linear = constant.at[1].set(0), linear.at[1].set(0)
        pair = pair.at[1].set(logits[1, : n * (n - 1) // 2])
    return Fit(constant, linear, pair)


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
    return (logits - jnp.stack(fitted)) * plan.pool_valid.astype(logits.dtype)[..., None]


def pair_matrix(fit: Fit, n: int) -> Array:
    """Pair terms as symmetric matrices (K, n, n, C), zero on the diagonal."""
    k, c = fit.constant.shape
    matrix = jnp.zeros((k, n, n, c), fit.pair.dtype)
    if fit.pair.shape[1]:
        i, j = pair_index(n)
        matrix = matrix.at[:, i, j].set(fit.pair).at[:, j, i].set(fit.pair)
    return matrix
