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
_ALL_PARTS_UP_TO = 20  # elements whose residuals correct all subsequences that contain them
_DOUBLE_UP_TO = 512  # coefficients of a head's model; more are solved in single precision


class Base(NamedTuple):
    """Subsequences of the sizes 1..N - 1, row s - 1 of each array for size s; none from n on.

    Attributes:
      member: (N - 1, R, N) bool. valid: (N - 1, R) bool, False in padding.
      effect: (N - 1, N, R); times scores it gives d_i = E[v | i in] - E[v | i not in].
      sampled: (N - 1,), the share of each size's subsequences that is not here.
    """

    member: Array
    valid: Array
    effect: Array
    sampled: Array


@register_record
@dataclasses.dataclass(frozen=True)
class SurrogatePlan(HeadRows):
    """Tables for sequences of n elements, padded to N, and heads of scales 1..K.

    Only shapes and static fields are compiled: plans of all n with one N share a program.

    Attributes:
      member: (K, m, N) bool, the pool, on which heads are evaluated; `pool_valid` (K, m).
      scale: (K, 2), standard deviations of the priors of elements' and of pairs' coefficients.
      inverse: (K, p, p) of each scale's own ridge system; `common` (p, p) of what scales share;
        zero at elements and pairs in the padding.
      pair_row: (N (N - 1) / 2,) int32, row of the pool of two elements that is this pair.
      base: subsequences of every size on which effects are read.
      pool_effect: (K, N, m), as `Base.effect`, on the pool.
      leverage: (K, m), share of a pool member's own logits in its fitted ones.
      response: (K, N + 1, m), change of the effects' sum over sizes per change of a pool member's
        logits, and in the last row that of the whole sequence's logits; None without errors.
      size_share: (K, N - 1), shares of the sizes in a head's effects summed over sizes.
      enumerated: (K,) bool, whether the pool holds all subsequences of a scale.
      left_open: (K,), the share of a scale's subsequences that the pool does not hold.
      n: int32, elements.
      n_scales, order: K; order 2 has pairs, 1 elements alone.
      all_parts: whether residuals of the pool correct all subsequences that contain its members.
    """

    pool_valid: Array
    scale: Array
    inverse: Array
    common: Array
    pair_row: Array
    base: Base
    pool_effect: Array
    leverage: Array
    response: Array | None
    size_share: Array
    enumerated: Array
    left_open: Array
    n: Array
    n_scales: int = static_field()
    order: int = static_field()
    all_parts: bool = static_field()

    @property
    def present(self) -> Array:
        """(N,) bool, False in the padding."""
        return jnp.arange(self.member.shape[-1], dtype=self.n.dtype) < self.n

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
        if total > m * m:  # next to no draw occurs twice
            words = words[: m + 64]
        drawn = np.sort(np.argsort(words, axis=1, kind="stable")[:, :k], axis=1)
        _, first = np.unique(drawn, axis=0, return_index=True)
        index = drawn[np.sort(first)[:m]]
        if len(index) < m:  # 2 m draws of more than 8 m subsets
            raise RuntimeError(f"draw_subsets: expected {m} distinct subsets, got {len(index)}.")
    member = np.zeros((len(index), n), bool)
    np.put_along_axis(member, index, True, axis=1)
    return member


def random_words(key: Array, *shape: int) -> np.ndarray:
    """Random uint32 words of `shape` on the host, from a concrete key; nothing is compiled."""
    words = np.ravel(jax.random.key_data(key)).tolist()
    m = math.prod(shape)
    raw = np.random.Philox(np.random.SeedSequence(words)).random_raw(-(-m // 2))
    return raw.astype("<u8").view("<u4")[:m].astype(np.uint32).reshape(shape)


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
    weights = np.linalg.inv(gram) @ z.T
    return (weights - weights.mean(0)) * n / (n - 1)


def pair_index(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Elements i < j of all pairs, in the order that pair terms are kept in."""
    return np.triu_indices(n, 1)


def features(member: Any, q: Any, scale: Any, present: Any, order: int) -> Any:
    """Scaled, not centred features (m, p) of subsequences (m, N); NumPy or JAX."""
    z = (member - q) * present
    if order == 1:
        return scale[0] * z
    i, j = pair_index(member.shape[1])
    xp = np if isinstance(z, np.ndarray) else jnp
    return xp.concatenate([scale[0] * z, scale[1] * z[:, i] * z[:, j]], axis=1)


def _make_base(key: Array, n: int, most: int, width: int) -> Base:
    """All subsequences of a size where they are few, else `most`; n - s are complements of s."""
    words = random_words(key, n // 2, n_word_rows(most), n)
    rows: dict[int, np.ndarray] = {}
    for s in range(1, n):
        rows[s] = ~rows[n - s] if 2 * s > n else draw_subsets(words[s - 1], s, most)
    most_rows = min(most, max(math.comb(width, s) for s in range(1, width)))
    member = np.zeros((width - 1, most_rows, width), bool)
    effect = np.zeros((width - 1, width, most_rows), np.float32)
    sampled = np.zeros(width - 1, np.float32)
    for s, table in rows.items():
        member[s - 1, : len(table), :n] = table
        effect[s - 1, :n, : len(table)] = effect_weights(table)
        sampled[s - 1] = 1 - len(table) / math.comb(n, s)
    return Base(*jax.device_put((member, member.any(-1), effect, sampled)))


@functools.lru_cache(maxsize=8)  # up to hundreds of megabytes each for long sequences
def make_plan(
    n: int,
    n_scales: int,
    pool: int,
    base: int,
    order: int,
    errors: bool,
    seed: tuple[tuple[int, ...], str],
    width: int | None = None,
) -> SurrogatePlan:
    """Build the plan on the host; cached.

    Args:
      n: elements, >= 3. n_scales: scales that have a head. pool: most subsequences per scale.
      base: most per size. order: 1 or 2. errors: whether standard errors are wanted.
      seed: `words_of` a key.
      width: elements to pad to, N >= n; default n. What is drawn does not depend on it.
    Cost: K products and inverses of p x p, p = n (order 1) or n (n + 1) / 2.
    """
    width = n if width is None else width
    n_heads = min(n_scales, n)
    with jax.ensure_compile_time_eval():  # the plan is cached: it must not belong to a trace
        pool_key, base_key = jax.random.split(key_of(*seed))
    words = random_words(pool_key, n_heads, n_word_rows(pool), n)
    pools = [draw_subsets(words[k - 1], k, pool) for k in range(1, n_heads + 1)]

    n_scales = min(n_scales, width)
    m = min(pool, max(math.comb(width, k) for k in range(1, n_scales + 1)))
    member = np.zeros((n_scales, m, width), bool)
    effect = np.zeros((n_scales, width, m), np.float32)
    leverage = np.zeros((n_scales, m), np.float32)
    enumerated = np.zeros(n_scales, bool)
    left_open = np.zeros(n_scales, np.float32)
    scale = np.zeros((n_scales, 2), np.float32)
    size_share = np.zeros((n_scales, width - 1), np.float32)
    by_size = _size_shares(n, n_heads)
    size_share[:n_heads, : n - 1] = by_size / np.maximum(by_size.sum(1, keepdims=True), 1e-9)
    n_pairs = max(n * (n - 1) // 2, 1)
    for k, rows in enumerate(pools, start=1):
        member[k - 1, : len(rows), :n] = rows
        left_open[k - 1] = 1 - len(rows) / math.comb(n, k)
        enumerated[k - 1] = len(rows) == math.comb(n, k)
        if k < n:  # the whole sequence is one subsequence; nothing varies
            effect[k - 1, :n, : len(rows)] = effect_weights(rows)
            spread = k / n * (1 - k / n)
            scale[k - 1] = (_ADDITIVE / (n * spread)) ** 0.5, (_PAIRWISE / n_pairs) ** 0.5 / spread
    all_parts = n <= _ALL_PARTS_UP_TO
    own, common, leverages, responses = _ridge(pools, scale, order, errors, all_parts)
    for k, each in enumerate(leverages):
        leverage[k, : len(each)] = each
    response = None
    if errors:
        response = np.zeros((n_scales, width + 1, m), np.float32)
        rows_of = [*range(n), width]
        for k, table in enumerate(responses):
            response[k, rows_of, : table.shape[1]] = table

    at = np.arange(n)  # of true coefficients among padded ones
    pair_row = np.zeros(width * (width - 1) // 2, np.int32)
    if order == 2:
        i, j = pair_index(n)
        index = np.zeros((width, width), np.int64)
        index[pair_index(width)] = np.arange(len(pair_row))
        pair_row[index[i, j]] = np.arange(len(i))
        at = np.concatenate([at, width + index[i, j]])
    p = width if order == 1 else width * (width + 1) // 2
    inverse = np.zeros((n_scales, p, p), np.float32)
    padded_common = np.zeros((p, p), np.float32)
    for k, table in enumerate(own):
        inverse[k][np.ix_(at, at)] = table
    padded_common[np.ix_(at, at)] = common
    with jax.ensure_compile_time_eval():
        put = jax.device_put
        return SurrogatePlan(
            member=put(member),
            pool_valid=put(member.any(-1)),
            scale=put(scale),
            inverse=put(inverse),
            common=put(padded_common),
            pair_row=put(pair_row),
            base=_make_base(base_key, n, base, width),
            pool_effect=put(effect),
            leverage=put(leverage),
            response=None if response is None else put(response),
            size_share=put(size_share),
            enumerated=put(enumerated),
            left_open=put(left_open),
            n=put(np.int32(n)),
            n_scales=n_scales,
            order=order,
            all_parts=all_parts,
        )


def _ridge(
    pools: list[np.ndarray], scale: np.ndarray, order: int, errors: bool, all_parts: bool
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Inverses of the tied ridge systems of all heads, and what errors need of them.

    With Z_k the centred features of scale k's pool and y_k its logits, coefficients are

        w_k = own_k b_k + stretch^2 own_k common sum over l of own_l b_l,   b_k = Z_k' y_k / NOISE.

    To first order in the link, effects and the score of the whole depend on w_k by F_k w_k: an
    element's effect at any size is a multiple of its linear coefficient and the sum of its pairs',
    less their means. Where residuals correct `all_parts`, they add D_k (y_k - Z_k w_k).

    Returns:
      own inverses (p, p) per scale, the common one, leverages (m_k,), responses (n + 1, m_k).
    """
    n = pools[0].shape[1]
    p = n if order == 1 else n * (n + 1) // 2
    dtype: Any = np.float64 if p <= _DOUBLE_UP_TO else np.float32
    stretch, n_scales = 1 / (1 - CORRELATION), len(pools)
    eye = np.eye(p, dtype=dtype)
    tables: list[np.ndarray] = []
    own: list[np.ndarray] = []
    offsets, leverages = [], []
    common = eye * (1 / CORRELATION + n_scales * stretch)
    for k, rows in enumerate(pools, start=1):
        z = features(rows.astype(dtype), dtype(k / n), scale[k - 1].astype(dtype), dtype(1), order)
        offsets.append(z.mean(0))
        z -= offsets[-1]
        inverse = _inverse(z.T @ z / dtype(NOISE) + dtype(stretch) * eye)
        common -= dtype(stretch**2) * inverse
        leverages.append(((z @ inverse) * z).sum(1) / NOISE + 1 / len(rows))
        tables.append(z)
        own.append(inverse)
    common = _inverse(common)
    if not errors:
        return own, common, leverages, []

    i, j = pair_index(n)
    element = np.arange(n)[:, None]
    touches = np.zeros((n, 0)) if order == 1 else ((element == i) | (element == j)).astype(dtype)
    shares = _size_shares(n, n_scales).sum(1)  # (K,)
    solved, direct = [], []
    for k, (rows, z, inverse) in enumerate(zip(pools, tables, own, strict=True), start=1):
        m, (one, two), spread = len(rows), scale[k - 1].astype(dtype), k / n * (1 - k / n)
        read, given = np.zeros((n + 1, p), dtype), np.zeros((n + 1, m), dtype)
        if not (k <= order and m == math.comb(n, k)):  # else logits are taken as they are
            read[:n, :n] = one * np.eye(n)
            read[:n, n:] = two * (2 * k - n) / (n * max(n - 2, 1)) * touches
            read[:n] = (read[:n] - read[:n].mean(0)) * (n / (n - 1)) * shares[k - 1]
            # The mean over all subsequences of k elements, less that over the pool.
            read[n, n:] = -two * spread / (n - 1)
            read[n] = (read[n] - offsets[k - 1]) / n_scales
            given[n] = 1 / (m * n_scales)
            if all_parts:
                given[:n] = _direct_response(rows, k, n_scales)
                given[:n] -= given[:n].mean(1, keepdims=True)
                read[:n] -= given[:n] @ z
        solved.append(read @ inverse)
        direct.append(given)
    pulled = (dtype(stretch**2) * np.sum(solved, axis=0)) @ common
    responses = [
        (mine + pulled @ inverse) @ z.T / dtype(NOISE) + given
        for mine, inverse, z, given in zip(solved, own, tables, direct, strict=True)
    ]
    return own, common, leverages, responses


def _inverse(a: np.ndarray) -> np.ndarray:
    """Inverse of a positive definite matrix by its Schur complement: products, for the most part.

    Half the time of `np.linalg.inv` for thousands of rows.
    """
    p = len(a)
    if p <= 256:
        return np.linalg.inv(a)
    half = p // 2
    first = _inverse(a[:half, :half])
    across = first @ a[:half, half:]
    last = _inverse(a[half:, half:] - across.T @ a[:half, half:])
    corner = across @ last
    return np.block([[first + corner @ across.T, -corner], [-corner.T, last]])


def _size_shares(n: int, n_scales: int) -> np.ndarray:
    """Weight (K, n - 1) of head k's effects in those of f^ms at size s: k / (s min(s, K))."""
    s, k = np.arange(1, n), np.arange(1, n_scales + 1)[:, None]
    return np.where(k <= s, k / (s * np.minimum(s, n_scales)), 0.0)


def _direct_response(rows: np.ndarray, k: int, n_scales: int) -> np.ndarray:
    """Effects (n, m), summed over sizes, of one logit more on each of the subsequences (m, n)."""
    n = rows.shape[1]
    inside = outside = 0.0
    for s in range(k, n):
        share = 1 / (min(s, n_scales) * math.comb(s, k))
        inside += share * math.comb(n - k, s - k) / math.comb(n - 1, s - 1)
        if k < n:
            with_it = math.comb(n - k - 1, s - k - 1) / math.comb(n - 1, s - 1) if s > k else 0.0
            outside += share * (with_it - math.comb(n - k - 1, s - k) / math.comb(n - 1, s))
    return np.where(rows.T, inside, outside)
