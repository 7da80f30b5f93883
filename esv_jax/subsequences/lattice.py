"""Subsequences as integer codes, and a layout of all of them for the recurrence of Eq. (9).

A subsequence is split in two: its **top**, the part among the first `n_top` elements, and its
**low**, the part among the last `n_low`. Rows are kept as (low, top) pairs:

* tops come level by level (level = elements in the top), in tiles of equal width, so that one
  loop over tiles visits every subsequence after all its parents;
* a top's parents (one bit cleared) lie in the level before; only two levels are alive at a time,
  at even and odd levels' places of one workspace;
* within a top the 2**n_low lows are in scale order, so that the recurrence runs through them size
  after size.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

from esv_jax.checks import expect_int, message

MAX_ELEMENTS = 24  # 2**24 subsequences; the workspace of 174 classes is then 4 GB


def membership(codes: np.ndarray, n: int) -> np.ndarray:
    """Boolean membership (..., n) of codes (...): entry i says whether element i is in."""
    return (np.asarray(codes, np.int64)[..., None] >> np.arange(n)) & 1 > 0


@functools.cache
def scale_ordered_codes(n: int) -> np.ndarray:
    """All 2**n codes, short subsequences first, ascending within a scale; (2**n,), read-only.

    Bit i of a code says whether element i is in. Subsequences keep temporal order, so a set of
    elements and a subsequence are the same.

    Raises:
      ValueError: more than 24 elements.
    Cost: 2**n integers, sorted once per n and cached.
    """
    if not 0 <= n <= MAX_ELEMENTS:
        raise ValueError(message("n", f"0..{MAX_ELEMENTS} elements for a table of all", n))
    codes = np.arange(2**n, dtype=np.int64)
    codes = codes[np.argsort(np.bitwise_count(codes), kind="stable")]
    codes.setflags(write=False)  # cached and shared
    return codes


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
    """Host tables of the 2**n subsequences of n elements; identity is equality (cached per n).

    Element i < n_top is bit i of the top; element n_top + i is bit i of the low. R = 2**n_low,
    T tiles of B tops each.

    Attributes:
      n, n_low, n_top: elements in all, in the low, in the top.
      low_codes: (R,) codes over the low elements, in scale order.
      low_member: (R, n_low) bool.
      low_scale: (R,) elements in each low.
      tile_level: (T,) elements in each top of the tile.
      tile_start: (T,) workspace slot of the tile's first top.
      tile_code: (T, B) codes over the top elements; padding repeats the level's first top.
      tile_member: (T, B, n_top) bool.
      tile_valid: (T, B) bool, False for padding.
      tile_parents: (T, B, n_top) workspace slots of a top's parents, padded with `n_slots`.
      n_lows, n_tiles, tile_width: R, T and B.
      n_slots: tops the workspace must hold; slot `n_slots` is one more, for padding.
    """

    n: int
    n_low: int
    n_top: int
    low_codes: np.ndarray
    low_member: np.ndarray
    low_scale: np.ndarray
    tile_level: np.ndarray
    tile_start: np.ndarray
    tile_code: np.ndarray
    tile_member: np.ndarray
    tile_valid: np.ndarray
    tile_parents: np.ndarray
    n_slots: int
    n_lows: int
    n_tiles: int
    tile_width: int

    def codes(self) -> np.ndarray:
        """Codes of the rows tile by tile, (T, R, B); -1 where the tile is padded."""
        low = self.low_codes[None, :, None] << self.n_top
        return np.where(self.tile_valid[:, None, :], self.tile_code[:, None, :] | low, -1)


def _tile_width(n_top: int, least: int, most: int) -> int:
    """Width between `least` and `most` that wastes the fewest rows on padding levels."""
    sizes = [math.comb(n_top, level) for level in range(n_top + 1)]
    most = min(most, max(sizes))
    widths = range(min(least, most), most + 1)
    return min(widths, key=lambda width: (sum(-(-size // width) * width for size in sizes), -width))


@functools.cache
def make_lattice(n: int, n_low: int | None = None, tile_width: int | None = None) -> Lattice:
    """The lattice of n elements, built once per (n, n_low, tile_width).

    Args:
      n: elements, 1..24.
      n_low: elements in the low, 1..n. tile_width: tops per tile. Any are correct; the defaults
        ran fastest on a CPU.
    Raises:
      ValueError: if a size is out of range.
    Cost: 2**n_top rows of small integers on the host.
    """
    if not 1 <= n <= MAX_ELEMENTS:
        raise ValueError(message("n", f"1..{MAX_ELEMENTS} elements to enumerate", n))
    if n <= 10:
        low, width = n, 1  # one tile, no loop
    elif n <= 13:
        low, width = n - 7, 7  # seven divides the size of every level but the first and the last
    else:
        low, width = 6, _tile_width(n - 6, least=24, most=42)
    if n_low is not None:
        low = min(expect_int("n_low", n_low, 1), n)
        width = _tile_width(n - low, 4, 40)
    if tile_width is not None:
        width = expect_int("tile_width", tile_width, 1)
    n_top = n - low

    tops = scale_ordered_codes(n_top)
    level_of = np.bitwise_count(tops).astype(np.int64)
    sizes = np.bincount(level_of, minlength=n_top + 1)
    padded = -(-sizes // width) * width
    odd_start = int(padded[0::2].max())
    n_slots = odd_start + int(padded[1::2].max(initial=0))
    level_start = np.where(np.arange(n_top + 1) % 2 == 0, 0, odd_start)

    slot = np.zeros(2**n_top, np.int64)  # by code
    tiles_code, tiles_valid, tiles_start = [], [], []
    for level, start in enumerate(level_start):
        codes = tops[level_of == level]
        place = np.arange(padded[level])
        slot[codes] = start + np.arange(len(codes))
        tiles_code.append(codes[np.where(place < len(codes), place, 0)])
        tiles_valid.append(place < len(codes))
        tiles_start.append(start + place[::width])
    code, valid = (np.concatenate(rows).reshape(-1, width) for rows in (tiles_code, tiles_valid))
    member = membership(code, n_top)
    bits = 1 << np.arange(n_top)
    present = np.argsort(~member, axis=-1, kind="stable")  # set bits first, in temporal order
    parent = slot[code[..., None] & ~bits[present]] if n_top else np.zeros((*code.shape, 0), int)
    is_set = np.arange(n_top) < member.sum(-1)[..., None]
    low_codes = scale_ordered_codes(low)
    return Lattice(
        n=n,
        n_low=low,
        n_top=n_top,
        low_codes=low_codes,
        low_member=membership(low_codes, low),
        low_scale=np.bitwise_count(low_codes).astype(np.int64),
        # 32 bits whatever the precision in force: the tables outlive it.
        tile_level=np.repeat(np.arange(n_top + 1), padded // width).astype(np.int32),
        tile_start=np.concatenate(tiles_start).astype(np.int32),
        tile_code=code,
        tile_member=member,
        tile_valid=valid,
        tile_parents=np.where(is_set, parent, n_slots).astype(np.int32),
        n_slots=n_slots,
        n_lows=len(low_codes),
        n_tiles=len(code),
        tile_width=width,
    )


def recurrence_shares(s: np.ndarray, n_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares in f^ms(X), |X| = s, of f^s(X) and of each of the s parents' f^ms: Eq. (9).

        own = 1/s up to n_max, 0 beyond (and for s = 0)
        parent = (s - 1)/s**2 up to n_max, 1/s beyond, where no head adds to the parents' mean

    Source: Price & Damen (2020), Eq. (9). (Their Algorithm 1, line 11, prints (s - 1)/s beyond
    n_max too.)
    """
    s = np.asarray(s)
    each = 1 / np.maximum(s, 1)
    own = np.where((s >= 1) & (s <= n_max), each, 0.0)
    parent = np.where(s <= 1, 0.0, np.where(s <= n_max, (s - 1) * each**2, each))
    return own, parent


def low_incidence(lattice: Lattice) -> list[np.ndarray]:
    """For sizes p = 1..n_low of the low, which lows of size p - 1 are parents of which of size p.

    0/1 matrices (binomial(n_low, p), binomial(n_low, p - 1)): row j sums over the parents of the
    j-th low of its size that lack one element of the low.
    """
    low, size = lattice.low_codes, lattice.low_scale
    by_size = [low[size == p] for p in range(lattice.n_low + 1)]
    return [
        (child[:, None] & parent[None, :]) == parent[None, :]
        for parent, child in itertools.pairwise(by_size)
    ]
