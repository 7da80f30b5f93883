"""The coefficients of the multi-scale recurrence, Eq. (9)."""

from __future__ import annotations

import numpy as np

from esv_jax.subsequences import Lattice


def own_share(s: np.ndarray, n_max: int) -> np.ndarray:
    """Share of f^s(X) in f^ms(X), |X| = s: 1/s up to n_max, 0 beyond (and for s = 0)."""
    s = np.asarray(s)
    return np.where((s >= 1) & (s <= n_max), 1 / np.maximum(s, 1), 0.0)


def parent_share(s: np.ndarray, n_max: int) -> np.ndarray:
    """Share in f^ms(X), |X| = s, of **each** of its s parents' f^ms.

    Their mean counts (s - 1)/s up to n_max and wholly beyond, where no head adds to it:
    Price & Damen (2020), Eq. (9). (Their Algorithm 1, line 11, prints (s - 1)/s there too.)
    """
    s = np.asarray(s)
    per_parent = 1 / np.maximum(s, 1)
    return np.where(s <= 1, 0.0, np.where(s <= n_max, (s - 1) * per_parent**2, per_parent))


def low_incidence(lattice: Lattice) -> list[np.ndarray]:
    """For sizes p = 1..n_low of the low, which lows of size p - 1 are parents of which of size p.

    0/1 matrices (binomial(n_low, p), binomial(n_low, p - 1)): row j sums over the parents of the
    j-th low of its size that lack one element of the low.
    """
    low, size = lattice.low_codes, lattice.low_scale
    tables = []
    for p in range(1, lattice.n_low + 1):
        child, parent = low[size == p], low[size == p - 1]
        tables.append((child[:, None] & parent[None, :]) == parent[None, :])
    return tables
