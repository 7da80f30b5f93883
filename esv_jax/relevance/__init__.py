"""Layer-wise relevance propagation through any JAX model.

    relevance = lrp(fn, clip, target, composite=by_layer([ZBox(0, 1), ZPlus(), Epsilon()]))

`fn` maps one input to scores (C,). Functions are not compiled: wrap a call in `jax.jit`.
"""

from esv_jax.relevance.composites import (
    by_kind,
    by_layer,
    by_name,
    for_transformers,
    preset,
    uniform,
)
from esv_jax.relevance.lrp import layers, lrp
from esv_jax.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus
from esv_jax.relevance.temporal import discriminative, selective

__all__ = [
    "AlphaBeta",
    "Epsilon",
    "Flat",
    "Gamma",
    "WSquare",
    "ZBox",
    "ZPlus",
    "by_kind",
    "by_layer",
    "by_name",
    "discriminative",
    "for_transformers",
    "layers",
    "lrp",
    "preset",
    "selective",
    "uniform",
]
