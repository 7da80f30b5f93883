"""Growing samples of subsequences one element at a time, on the device, from a key (Eq. 10)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from esv_jax.subsequences.samples import Samples, flat_bits

_ROUNDS = 4


def grow_samples(key: Array, n: int, m: int, length: Array | int | None = None) -> Samples:
    """Subsequences of every scale, each sample grown from the one before.

    Scale 1 holds all singletons. The candidates at scale s + 1 are the **set** of all one-element
    extensions of the scale-s sample; m of them are drawn uniformly without replacement, or all
    where there are fewer. Source: Price & Damen (2020), Eq. (10), Algorithm 1.

    A candidate's place in the draw is a hash of which elements it holds, so duplicates fall
    together and the m smallest distinct hashes are the sample: no sets, one sort.

    Args:
      key: typed PRNG key, consumed.
      n: elements, padding included.
      m: most subsequences per scale.
      length: elements that are really there, 1..n, possibly traced; the rest is padding and
        scales above `length` stay empty. Default n.
    Returns:
      `Samples` of width max(m, n): same key, same sample on every backend.
    Cost: per scale a partial sort of width * n hashes; memory n * width * n bytes for the result.
    """
    width = max(m, n)
    word_key, salt_key = jax.random.split(key)
    words = flat_bits(word_key, (n, 2))
    salts = flat_bits(salt_key, (max(n - 1, 1), _ROUNDS))
    present = jnp.arange(n) < (n if length is None else length)

    first_member = jnp.zeros((width, n), bool).at[:n].set(jnp.eye(n, dtype=bool) & present[None, :])
    first_valid = jnp.zeros(width, bool).at[:n].set(present)

    def step(state: tuple[Array, Array], salt: Array) -> tuple[tuple[Array, Array], Samples]:
        member, valid = _extend(*state, present, words, salt, m)
        return (member, valid), Samples(member, valid)

    first = Samples(first_member[None], first_valid[None])
    if n == 1:
        return first
    _, rest = lax.scan(step, (first_member, first_valid), salts)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), first, rest)


def _extend(
    member: Array, valid: Array, present: Array, words: Array, salt: Array, m: int
) -> tuple[Array, Array]:
    """The next scale's sample (width, n) and its validity (width,)."""
    width, n = member.shape
    own = jnp.stack(
        [jnp.where(member, words[None, :, k], 0).sum(1, dtype=jnp.uint32) for k in (0, 1)]
    )
    left, right = (own[k][:, None] + words[None, :, k] for k in (0, 1))  # (width, n) each
    left, right = _scramble(left, right, salt)
    allowed = valid[:, None] & ~member & present[None, :]
    left, right, allowed = left.reshape(-1), right.reshape(-1), allowed.reshape(-1)

    # The copies of a candidate share its hash, so the smallest few times m hashes nearly always
    # hold m distinct ones; where they do not, everything is sorted.
    n_smallest = min(width * n, 4 * m + 64)
    short, distinct = _smallest_distinct(left, right, allowed, n_smallest, m)
    if n_smallest < width * n:
        n_allowed = allowed.sum()
        enough = (distinct >= m) | (n_allowed <= n_smallest)
        short, distinct = lax.cond(
            enough,
            lambda: (short, distinct),
            lambda: _smallest_distinct(left, right, allowed, width * n, m),
        )
    row, element = short // n, short % n
    grown = member[row] | (jnp.arange(n, dtype=element.dtype)[None, :] == element[:, None])
    is_there = jnp.arange(m) < distinct
    pad = (0, width - m)
    return jnp.pad(grown & is_there[:, None], (pad, (0, 0))), jnp.pad(is_there, pad)


def _scramble(left: Array, right: Array, salt: Array) -> tuple[Array, Array]:
    """A four-round Feistel network: sums of words alone would order related subsequences alike."""
    for k in range(_ROUNDS):
        mixed = right ^ salt[k]
        mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)  # MurmurHash3's finaliser
        mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
        left, right = right, left ^ mixed ^ (mixed >> 16)
    return left, right


def _smallest_distinct(
    left: Array, right: Array, allowed: Array, n_smallest: int, m: int
) -> tuple[Array, Array]:
    """Positions (m,) of the m smallest distinct hashes among the n_smallest, and their number."""
    index = jnp.arange(left.shape[0], dtype=jnp.int32)
    if n_smallest < left.shape[0]:
        # 30 bits as positive normal floats in the same order: partial sorts of floats are fast.
        rank = lax.bitcast_convert_type((left >> 2) + jnp.uint32(0x00800000), jnp.float32)
        index = lax.top_k(jnp.where(allowed, -rank, -jnp.inf), n_smallest)[1].astype(jnp.int32)
        left, right, allowed = left[index], right[index], allowed[index]
    refused, left, right, index = lax.sort(
        ((~allowed).astype(jnp.uint8), left, right, index), num_keys=3
    )
    differs = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    is_new = jnp.concatenate([jnp.ones(1, bool), differs]) & (refused == 0)
    order = jnp.cumsum(is_new) - 1
    place = jnp.where(is_new & (order < m), order, m)
    chosen = jnp.zeros(m + 1, jnp.int32).at[place].set(index)[:m]
    distinct = jnp.minimum(is_new.sum(), m)
    return jnp.where(jnp.arange(m) < distinct, chosen, 0), distinct
