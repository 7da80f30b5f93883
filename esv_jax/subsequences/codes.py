"""Subsequences as integers: bit i of a code says whether element i is in.

Codes are host tables (NumPy); nothing here is traced. Subsequences keep temporal order, so a set
of elements and a subsequence are the same thing.
"""

from __future__ import annotations

import functools

import numpy as np

from esv_jax.checks import expect, expect_int


def _read_only(*tables: np.ndarray) -> tuple[np.ndarray, ...]:
    for table in tables:
        table.setflags(write=False)  # cached and shared
    return tables


def popcount(codes: np.ndarray) -> np.ndarray:
    """Number of elements in each subsequence, the shape of `codes`."""
    return np.bitwise_count(np.asarray(codes, np.int64)).astype(np.int64)


def membership(codes: np.ndarray, n: int) -> np.ndarray:
    """Boolean membership (..., n) of codes (...): entry i says whether element i is in."""
    codes = np.asarray(codes, np.int64)
    return (codes[..., None] >> np.arange(n)) & 1 > 0


@functools.cache
def scale_ordered_codes(n: int) -> np.ndarray:
    """All 2**n codes, short subsequences first, ascending within a scale; (2**n,), read-only.

    Cost: 2**n integers, sorted once per n and cached.
    """
    expect_int("n", n, 0)
    expect(n <= 24, "n", "at most 24 elements for a table of all subsequences", n)
    codes = np.arange(2**n, dtype=np.int64)
    return _read_only(codes[np.argsort(popcount(codes), kind="stable")])[0]


@functools.cache
def scale_offsets(n: int) -> np.ndarray:
    """Row where each scale starts among `scale_ordered_codes(n)`; (n + 2,), the last is 2**n."""
    sizes = np.bincount(popcount(scale_ordered_codes(n)), minlength=n + 1)
    return _read_only(np.concatenate([[0], np.cumsum(sizes)]))[0]


def parents(code: int) -> list[int]:
    """Codes of the subsequences one element shorter: each set bit cleared once, lowest first."""
    return [code & ~(1 << i) for i in range(code.bit_length()) if code >> i & 1]


def padded_index(member: np.ndarray, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Element indices of each subsequence in temporal order, padded, with their mask.

    Args:
      member: (m, n) bool.
      width: positions to pad to; default n.
    Returns:
      index (m, width) int32, 0 where padded, and mask (m, width) bool, True where an element is.
    Raises:
      ValueError: if a subsequence has more than `width` elements.
    """
    member = np.asarray(member, bool)
    width = member.shape[-1] if width is None else width
    longest = int(member.sum(-1).max(initial=0))
    expect(longest <= width, "width", f"at least {longest}, the longest subsequence", width)
    order = np.argsort(~member, axis=-1, kind="stable")[..., :width]
    index = np.zeros((*member.shape[:-1], width), np.int32)
    index[..., : order.shape[-1]] = order
    mask = np.arange(width) < member.sum(-1)[..., None]
    return np.where(mask, index, 0).astype(np.int32), mask
