"""The coefficients of the multi-scale recurrence, Eq. (9), and its solution within a top."""

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


def low_solution(lattice: Lattice, n_max: int) -> np.ndarray:
    """Matrices that carry the recurrence through the lows of a top, (n_top + 1, R, R) float64.

    Within a top of u elements the recurrence reads f = g + diag(share) N f, where N sums over a
    low's parents and g holds what comes from heads and from other tops. N is nilpotent, so
    f = (I - diag(share) N)^-1 g, one triangular product for all scales of the top.
    """
    low, scale = lattice.low_codes, lattice.low_scale
    is_parent = (low[:, None] & low[None, :]) == low[None, :]
    is_parent &= scale[:, None] == scale[None, :] + 1
    identity = np.eye(len(low))
    share = parent_share(np.arange(lattice.n_top + 1)[:, None] + scale[None, :], n_max)
    return np.linalg.inv(identity - share[:, :, None] * is_parent)
