"""Networks that score each subsequence on its own, for judging estimators of such games."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import esv_jax as ej
from experiments.estimators.games import Case, with_exact

_H = 32  # hidden width
_TILE = 4096  # subsequences put to a network at once


def network_case(temporal: Case, seed: int) -> Case:
    """A random tanh network, mean-pooled over elements, on the features of another case."""
    game = _game(_mean_pooled, temporal.xs.shape[-1], len(temporal.prior), (1.0, 2.0, 4.0), seed)
    title = f"tanh network, n = {temporal.n}"
    return with_exact("network", title, game, temporal.xs, temporal.prior)


def rough_network_case(n_sequences: int, seed: int, n: int = 16) -> Case:
    """A random network that pools by the largest, on random features: far from additive."""
    d, c = 32, 20
    game = _game(_max_pooled, d, c, (1.5, 1.5, 3.0), seed)
    xs = np.random.default_rng([seed, 3]).normal(size=(n_sequences, n, d)).astype(np.float32)
    prior = np.full(c, 1 / c, np.float32)
    return with_exact("rough_network", f"rough max-pooled network, n = {n}", game, xs, prior)


def _game(
    network: Callable[..., Array], d: int, c: int, gains: tuple[float, ...], seed: int
) -> ej.VariableLength:
    rng = np.random.default_rng([seed, 2])
    weights = {
        name: (gain * rng.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32)
        for name, gain, a, b in zip(
            ("first", "second", "last"), gains, (d, _H, _H), (_H, _H, c), strict=True
        )
    }
    return ej.VariableLength(jax.tree_util.Partial(network, weights), batch_size=_TILE)


def _mean_pooled(weights: dict[str, Any], features: Array, mask: Array) -> Array:
    """Logits (C,) from features (n, D) and which elements are there (n,)."""
    present = mask.astype(features.dtype)
    pooled = (present @ jnp.tanh(features @ weights["first"])) / present.sum()
    return jnp.tanh(pooled @ weights["second"]) @ weights["last"]


def _max_pooled(weights: dict[str, Any], features: Array, mask: Array) -> Array:
    """The same by the largest hidden value over the elements that are there."""
    hidden = jnp.tanh(features @ weights["first"])
    pooled = jnp.where(mask[:, None], hidden, -1).max(0)
    return jnp.tanh(pooled @ weights["second"]) @ weights["last"]
