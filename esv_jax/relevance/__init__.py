"""Layer-wise relevance propagation through any JAX model, and what of its relevance is motion.

    relevance = lrp(fn, clip, target, composite=by_layer([ZBox(0, 1), ZPlus(), Epsilon()]))

`fn` maps one input to scores (C,). Nothing here compiles by itself: wrap a call in `jax.jit`.
"""

from esv_jax.relevance.canonizers import fold_batch_norm
from esv_jax.relevance.composites import (
    by_depth,
    by_kind,
    by_layer,
    by_name,
    for_transformers,
    preset,
    uniform,
)
from esv_jax.relevance.discriminative import Discriminative, discriminative
from esv_jax.relevance.layers import LayerInfo
from esv_jax.relevance.lrp import RelevanceWarning, layers, lrp
from esv_jax.relevance.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Layer,
    Pass,
    Rule,
    WPlus,
    WSquare,
    ZBox,
    ZPlus,
)
from esv_jax.relevance.selective import (
    Selected,
    motion_share,
    select,
    selective,
    temporal_derivative,
)

__all__ = [
    "AlphaBeta",
    "Discriminative",
    "Epsilon",
    "Flat",
    "Gamma",
    "Layer",
    "LayerInfo",
    "Pass",
    "RelevanceWarning",
    "Rule",
    "Selected",
    "WPlus",
    "WSquare",
    "ZBox",
    "ZPlus",
    "by_depth",
    "by_kind",
    "by_layer",
    "by_name",
    "discriminative",
    "fold_batch_norm",
    "for_transformers",
    "layers",
    "lrp",
    "motion_share",
    "preset",
    "select",
    "selective",
    "temporal_derivative",
    "uniform",
]
