"""How much did each frame contribute to this prediction?

Element Shapley Values of video and other sequence classifiers, in JAX: exact where that is
possible, sampled where it is not. `explain` is the main function; subpackages such as `data` and
`models` are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esv_jax.extras import lazy

if TYPE_CHECKING:
    from esv_jax import baselines as baselines
    from esv_jax import checkpoints as checkpoints
    from esv_jax import data as data
    from esv_jax import gradients as gradients
    from esv_jax import maps as maps
    from esv_jax import metrics as metrics
    from esv_jax import models as models
    from esv_jax import perturbation as perturbation
    from esv_jax import plots as plots
    from esv_jax import relevance as relevance
    from esv_jax import results as results
    from esv_jax.attribution import Attribution as Attribution
    from esv_jax.batches import explain_batch as explain_batch
    from esv_jax.batches import video_key as video_key
    from esv_jax.estimators import Constructive as Constructive
    from esv_jax.estimators import Exact as Exact
    from esv_jax.estimators import PermutationSampling as PermutationSampling
    from esv_jax.estimators import SizeRegression as SizeRegression
    from esv_jax.estimators import Surrogate as Surrogate
    from esv_jax.explanations import explain as explain
    from esv_jax.games import AverageConsensus as AverageConsensus
    from esv_jax.games import BlackBox as BlackBox
    from esv_jax.games import MultiScale as MultiScale
    from esv_jax.games import VariableLength as VariableLength
    from esv_jax.groups import owen_values as owen_values
    from esv_jax.inputs import plan_cost as plan_cost
    from esv_jax.interactions import k_sii as k_sii
    from esv_jax.interactions import pairwise_interactions as pairwise_interactions
    from esv_jax.subsequences import SubsequencePlan as SubsequencePlan
    from esv_jax.sweeps import sweep as sweep

__version__ = "0.1.0"

_NAMES: dict[str, tuple[str, ...]] = {
    "attribution": ("Attribution",),
    "baselines": (),
    "batches": ("explain_batch", "video_key"),
    "checkpoints": (),
    "data": (),
    "estimators": ("Constructive", "Exact", "PermutationSampling", "SizeRegression", "Surrogate"),
    "explanations": ("explain",),
    "games": ("AverageConsensus", "BlackBox", "MultiScale", "VariableLength"),
    "gradients": (),
    "groups": ("owen_values",),
    "inputs": ("plan_cost",),
    "interactions": ("k_sii", "pairwise_interactions"),
    "maps": (),
    "metrics": (),
    "models": (),
    "perturbation": (),
    "plots": (),
    "relevance": (),
    "results": (),
    "subsequences": ("SubsequencePlan",),
    "sweeps": ("sweep",),
}
__getattr__, __dir__, __all__ = lazy(__name__, _NAMES)
__all__ += ["__version__"]
