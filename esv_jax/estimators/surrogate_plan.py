"""Plan of the surrogate estimator, fixed before any sequence: subsequences, weights, inverses."""

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

from esv_jax.checks import message
from esv_jax.games.scoring import HeadRows
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
class SurrogatePlan(HeadRows):
    """Tables for sequences of n elements and heads of scales 1..K, reused for all of them.

    Attributes:
      member: (K, m, n) bool, the pool, on which heads are evaluated; `pool_valid` (K, m).
      features: (K, m, p) of the pool, centred and scaled, zero in padding.
      offset, scale: (K, p), what centred and scaled them.
      inverse: (K, p, p) of each scale's own ridge system; `common` (p, p) of what scales share.
      base: subsequences of every size on which effects are read.
      error_base: fewer of them, on which errors are.
      pool_effect: (K, n, m), as `Base.effect`, on the pool.
      leverage: (K, m), share of a pool member's own logits in its fitted ones.
      signs: (E, K, m) int8, random signs of the bootstrap.
      n, n_scales, order: sizes; order 2 has pairs, 1 elements alone.
      enumerated: per scale, whether the pool holds all subsequences.
    """

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
    signs: Array
    n: int = static_field()
    n_scales: int = static_field()
    order: int = static_field()
    enumerated: tuple[bool, ...] = static_field()

    def astype(self, dtype: Any) -> SurrogatePlan:
        """The plan with its numbers in another precision."""

        def cast(leaf: Array) -> Array:
            return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree.map(cast, self)


def n_word_rows(m: int) -> int:
    """Rows of random words that `draw_subsets` needs for m subsets."""
    return 2 * m + 64


def draw_subsets(words: np.ndarray, k: int, m: int) -> np.ndarray:
    """All k-subsets of n elements where there are at most m, else m drawn without replacement.

    Args:
      words: (n_word_rows(m), n) uint32, random.
    Returns:
      (rows, n) bool.
    """
    n = words.shape[1]
    total = math.comb(n, k)
    if total <= max(m, min(8 * m, words.size)):
        index = np.array(list(itertools.combinations(range(n), k))).reshape(total, k)
        if total > m:
            index = index[np.argsort(words.reshape(-1)[:total], kind="stable")[:m]]
    else:
        drawn = np.sort(np.argsort(words, axis=1, kind="stable")[:, :k], axis=1)
        _, first = np.unique(drawn, axis=0, return_index=True)
        index = drawn[np.sort(first)[:m]]
        if len(index) < m:  # 2 m draws of more than 8 m subsets
            raise RuntimeError(f"draw_subsets: expected {m} distinct subsets, got {len(index)}.")
    member = np.zeros((len(index), n), bool)
    np.put_along_axis(member, index, True, axis=1)
    return member


def random_words(key: Array, *shape: int) -> np.ndarray:
    """Random uint32 words of `shape` on the host, from a concrete key.

    Drawn as one row of a power of two, so that few programs are compiled: one takes 0.2 s, and up
    to 1 s for arrays of several axes.
    """
    m = math.prod(shape)
    with jax.ensure_compile_time_eval():
        words = jax.random.bits(key, (2 ** max(m - 1, 1).bit_length(),), jnp.uint32)
    return np.asarray(words)[:m].reshape(shape)


def key_of(words: tuple[int, ...], impl: str) -> Array:
    """The key with the given data; see `words_of`."""
    with jax.ensure_compile_time_eval():
        return jax.random.wrap_key_data(jnp.asarray(words, jnp.uint32), impl=impl)


def words_of(key: Array) -> tuple[tuple[int, ...], str]:
    """Data and implementation of a concrete key, hashable: the name of a cached draw.

    Raises:
      ValueError: a key that is being traced.
    """
    if isinstance(key, jax.core.Tracer):
        way_out = "Tables are made on the host: draw them outside, and pass them as `plan`."
        raise ValueError(message("key", "a concrete key", "one being traced", way_out))
    return tuple(int(word) for word in np.ravel(jax.random.key_data(key))), str(
        jax.random.key_impl(key)
    )


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


def _make_base(key: Array, n: int, most: int) -> Base:
    """All subsequences of a size where they are few, else `most`; n - s are complements of s."""
    words = random_words(key, n // 2, n_word_rows(most), n)
    rows: dict[int, np.ndarray] = {}
    for s in range(1, n):
        rows[s] = ~rows[n - s] if 2 * s > n else draw_subsets(words[s - 1], s, most)
    width = max(map(len, rows.values()))
    member = np.zeros((n - 1, width, n), bool)
    effect = np.zeros((n - 1, n, width), np.float32)
    for s, table in rows.items():
        member[s - 1, : len(table)] = table
        effect[s - 1, :, : len(table)] = effect_weights(table)
    sampled = np.array([1 - len(rows[s]) / math.comb(n, s) for s in range(1, n)], np.float32)
    return Base(*jax.device_put((member, member.any(-1), effect, sampled)))


@functools.lru_cache(maxsize=4)  # hundreds of megabytes each for long sequences
def make_plan(
    n: int,
    n_scales: int,
    pool: int,
    base: int,
    order: int,
    error_draws: int,
    seed: tuple[tuple[int, ...], str],
) -> SurrogatePlan:
    """Build the plan on the host, in double precision; cached.

    Args:
      n: elements, >= 3. n_scales: K. pool: most subsequences per scale. base: most per size.
      order: 1 or 2. error_draws: random signs to draw. seed: `words_of` a key.
    Cost: K inverses of p x p, p = n (order 1) or n (n + 1) / 2.
    """
    with jax.ensure_compile_time_eval():  # the plan is cached: it must not belong to a trace
        pool_key, base_key, error_key, sign_key = jax.random.split(key_of(*seed), 4)
    words = random_words(pool_key, n_scales, n_word_rows(pool), n)
    pools = [draw_subsets(words[k - 1], k, pool) for k in range(1, n_scales + 1)]
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
    signs = 1 - 2 * (random_words(sign_key, error_draws, n_scales, width) & 1).astype(np.int8)
    with jax.ensure_compile_time_eval():
        return SurrogatePlan(
            member=jax.device_put(pool_member),
            pool_valid=jax.device_put(pool_member.any(-1)),
            features=jax.device_put(features),
            offset=jax.device_put(offset.astype(np.float32)),
            scale=jax.device_put(scale.astype(np.float32)),
            inverse=jax.device_put(inverse),
            common=jax.device_put(np.linalg.inv(common).astype(np.float32)),
            base=_make_base(base_key, n, base),
            error_base=_make_base(error_key, n, min(base, _ERROR_ROWS)),
            pool_effect=jax.device_put(pool_effect),
            leverage=jax.device_put(leverage),
            signs=jax.device_put(signs),
            n=n,
            n_scales=n_scales,
            order=order,
            enumerated=tuple(len(rows) == math.comb(n, k) for k, rows in enumerate(pools, start=1)),
        )
