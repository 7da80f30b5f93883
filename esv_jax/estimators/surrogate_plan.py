"""What the surrogate estimator fixes before it sees a sequence: subsequences, weights, inverses."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.records import register_record, static_field

# Prior variances of the ridge model, in units of the heads' own variance: additive effects, pair
# effects, what neither explains; and the correlation of effects between neighbouring scales.
_ADDITIVE, _PAIRWISE, NOISE, CORRELATION = 0.75, 0.15, 0.10, 0.7
_ERROR_ROWS = 128


class Base(NamedTuple):
    """Subsequences of the sizes 1..n - 1, row s - 1 of each array for size s.

    Attributes:
      member: (n - 1, N, n) bool. valid: (n - 1, N) bool, False in padding.
      effect: (n - 1, n, N); times scores it gives d_i = E[v | i in] - E[v | i not in].
      sampled: (n - 1,), the share of each size's subsequences that is not here.
    """

    member: Array
    valid: Array
    effect: Array
    sampled: Array


@register_record
@dataclasses.dataclass(frozen=True)
class SurrogatePlan:
    """Tables for sequences of n elements and heads of scales 1..K, reused for all of them.

    Attributes:
      pool: (K, m, n) bool, the subsequences that heads are evaluated on; `pool_valid` (K, m).
      features: (K, m, p) of the pool, centred and scaled, zero in padding.
      offset, scale: (K, p), what centred and scaled them.
      inverse: (K, p, p) of each scale's own ridge system; `common` (p, p) of what scales share.
      base: subsequences of every size on which effects are read.
      error_base: fewer of them, on which errors are.
      pool_effect: (K, n, m), as `Base.effect`, on the pool.
      leverage: (K, m), share of a pool member's own logits in its fitted ones.
      n, n_scales, order: sizes; order 2 has pairs, 1 elements alone.
      enumerated: per scale, whether the pool holds all subsequences.
    """

    pool: Array
    pool_valid: Array
    features: Array
    offset: Array
    scale: Array
    inverse: Array
    common: Array
    base: Base
    error_base: Base
    pool_effect: Array
    leverage: Array
    n: int = static_field()
    n_scales: int = static_field()
    order: int = static_field()
    enumerated: tuple[bool, ...] = static_field()

    def astype(self, dtype: Any) -> SurrogatePlan:
        """The plan with its numbers in another precision."""

        def cast(leaf: Array) -> Array:
            return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree.map(cast, self)


def draw_subsets(rng: np.random.Generator, n: int, k: int, m: int) -> np.ndarray:
    """All k-subsets of n elements where there are at most m, else m drawn without replacement.

    Returns:
      (rows, n) bool.
    """
    total = math.comb(n, k)
    if total <= m:
        index = np.array(list(itertools.combinations(range(n), k))).reshape(total, k)
    elif total <= 8 * m:
        every = np.array(list(itertools.combinations(range(n), k)))
        index = every[rng.permutation(total)[:m]]
    else:
        seen: dict[bytes, np.ndarray] = {}
        while len(seen) < m:
            for row in np.sort(rng.permuted(np.tile(np.arange(n), (m, 1)), axis=1)[:, :k]):
                seen.setdefault(row.tobytes(), row)
        index = np.array(list(seen.values())[:m])
    member = np.zeros((len(index), n), bool)
    np.put_along_axis(member, index, True, axis=1)
    return member


def effect_weights(member: np.ndarray) -> np.ndarray:
    """Weights (n, N) that read effects d_i = E[v | i in] - E[v | i not in] off N scores.

    All subsequences of a size: the difference of means. A sample: least squares on centred
    membership, with a ridge that only fixes the direction in which membership cannot vary.
    """
    n_rows, n = member.shape
    size = int(member[0].sum())
    m = member.astype(np.float64)
    if n_rows == math.comb(n, size):
        return (m / m.sum(0) - (1 - m) / (1 - m).sum(0)).T
    z = m - m.mean(0)
    gram = z.T @ z + n_rows * (np.ones((n, n)) + 1e-6 * np.eye(n))
    weights = np.linalg.solve(gram, z.T)
    return (weights - weights.mean(0)) * n / (n - 1)


def pair_index(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Elements i < j of all pairs, in the order that pair terms are kept in."""
    return np.triu_indices(n, 1)


def _features(member: np.ndarray, q: float, order: int) -> np.ndarray:
    z = member - q
    if order == 1:
        return z
    i, j = pair_index(member.shape[1])
    return np.concatenate([z, z[:, i] * z[:, j]], axis=1)


def _make_base(rng: np.random.Generator, n: int, most: int) -> Base:
    """All subsequences of a size where they are few, else `most`; n - s are complements of s."""
    rows: dict[int, np.ndarray] = {}
    for s in range(1, n):
        rows[s] = ~rows[n - s] if 2 * s > n else draw_subsets(rng, n, s, most)
    width = max(map(len, rows.values()))
    member = np.zeros((n - 1, width, n), bool)
    effect = np.zeros((n - 1, n, width), np.float32)
    for s, table in rows.items():
        member[s - 1, : len(table)] = table
        effect[s - 1, :, : len(table)] = effect_weights(table)
    sampled = np.array([1 - len(rows[s]) / math.comb(n, s) for s in range(1, n)], np.float32)
    return Base(*map(jnp.asarray, (member, member.any(-1), effect, sampled)))


@functools.lru_cache(maxsize=4)  # hundreds of megabytes each for long sequences
def make_plan(
    n: int, n_scales: int, pool: int, base: int, order: int, seed: tuple[int, ...]
) -> SurrogatePlan:
    """Build the plan on the host, in double precision; cached.

    Args:
      n: elements, >= 3. n_scales: K. pool: most subsequences per scale. base: most per size.
      order: 1 or 2. seed: words of a key.
    Cost: K inverses of p x p, p = n (order 1) or n (n + 1) / 2.
    """
    rng = np.random.default_rng(list(seed))
    pools = [draw_subsets(rng, n, k, pool) for k in range(1, n_scales + 1)]
    width = max(len(rows) for rows in pools)
    p = n if order == 1 else n * (n + 1) // 2
    n_pairs = max(n * (n - 1) // 2, 1)
    stretch = 1 / (1 - CORRELATION)

    features = np.zeros((n_scales, width, p), np.float32)
    offset, scale = np.zeros((n_scales, p)), np.zeros((n_scales, p))
    inverse = np.zeros((n_scales, p, p), np.float32)
    leverage = np.zeros((n_scales, width), np.float32)
    common = np.eye(p) / CORRELATION + n_scales * stretch * np.eye(p)
    for k, rows in enumerate(pools, start=1):
        q = k / n
        spread = q * (1 - q)
        if k < n:  # the whole sequence is one subsequence; nothing varies
            scale[k - 1, :n] = math.sqrt(_ADDITIVE / (n * spread))
            scale[k - 1, n:] = math.sqrt(_PAIRWISE / (n_pairs * spread**2))
        z = _features(rows, q, order) * scale[k - 1]
        offset[k - 1] = z.mean(0)
        z -= offset[k - 1]
        own = np.linalg.inv(z.T @ z / NOISE + stretch * np.eye(p))
        features[k - 1, : len(rows)] = z
        leverage[k - 1, : len(rows)] = ((z @ own) * z).sum(1) / NOISE + 1 / len(rows)
        inverse[k - 1] = own
        common -= stretch**2 * own
    pool_member = np.zeros((n_scales, width, n), bool)
    pool_effect = np.zeros((n_scales, n, width), np.float32)
    for k, rows in enumerate(pools):
        pool_member[k, : len(rows)] = rows
        if k + 1 < n:
            pool_effect[k, :, : len(rows)] = effect_weights(rows)
    with jax.ensure_compile_time_eval():  # cached: must not belong to a trace
        return SurrogatePlan(
            pool=jnp.asarray(pool_member),
            pool_valid=jnp.asarray(pool_member.any(-1)),
            features=jnp.asarray(features),
            offset=jnp.asarray(offset, jnp.float32),
            scale=jnp.asarray(scale, jnp.float32),
            inverse=jnp.asarray(inverse),
            common=jnp.asarray(np.linalg.inv(common), jnp.float32),
            base=_make_base(rng, n, base),
            error_base=_make_base(rng, n, min(base, _ERROR_ROWS)),
            pool_effect=jnp.asarray(pool_effect),
            leverage=jnp.asarray(leverage),
            n=n,
            n_scales=n_scales,
            order=order,
            enumerated=tuple(len(rows) == math.comb(n, k) for k, rows in enumerate(pools, start=1)),
        )
