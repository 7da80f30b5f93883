"""Heads with random weights, where results or run times do not depend on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import esv_jax as ej
from esv_jax.models.heads import HeadStack


def random_heads(seed: int, n_max: int, d: int, h: int, c: int, gain: float = 1.0) -> HeadStack:
    """Heads of scales 1 to n_max, of d features, h hidden units and c classes."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    return ej.models.stack_heads(
        [
            {
                "w1": weights(s * d, h),
                "b1": np.zeros(h, np.float32),
                "w2": gain * weights(h, c),
                "b2": np.zeros(c, np.float32),
            }
            for s in range(1, n_max + 1)
        ]
    )


def with_names(heads: HeadStack, names: Sequence[str]) -> ej.models.TrainedModel:
    """A model with a uniform prior."""
    prior = np.full(len(names), 1 / len(names), np.float32)
    return ej.models.TrainedModel(heads, prior, tuple(names))
