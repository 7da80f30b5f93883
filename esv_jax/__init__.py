"""How much did each frame contribute to this prediction?

Element Shapley Values of video and other sequence classifiers, in JAX: exact where that is
possible, sampled where it is not. `explain` is the main function; subpackages such as `data` and
`models` are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esv_jax import (
        baselines,
        checkpoints,
        data,
        gradients,
        maps,
        metrics,
        models,
        perturbation,
        plots,
        relevance,
        results,
    )
    from esv_jax.attribution import Attribution
    from esv_jax.estimators import (
        Constructive,
        Exact,
        PermutationSampling,
        SizeRegression,
        Surrogate,
    )
    from esv_jax.explanations import explain, explain_batch, video_key
    from esv_jax.games import (
        AverageConsensus,
        BlackBox,
        MultiScale,
        VariableLength,
        probe_sensitivity,
    )
    from esv_jax.groups import owen_values
    from esv_jax.inputs import plan_cost
    from esv_jax.interactions import k_sii, pairwise_interactions
    from esv_jax.subsequences import SubsequencePlan
    from esv_jax.sweeps import sweep

__version__ = "0.1.0"

_SUBPACKAGES = (
    *("baselines", "checkpoints", "data", "gradients", "maps", "metrics", "models"),
    *("perturbation", "plots", "relevance", "results"),
)
_NAMES = {
    "Attribution": "attribution",
    "AverageConsensus": "games",
    "BlackBox": "games",
    "Constructive": "estimators",
    "Exact": "estimators",
    "MultiScale": "games",
    "PermutationSampling": "estimators",
    "SizeRegression": "estimators",
    "SubsequencePlan": "subsequences",
    "Surrogate": "estimators",
    "VariableLength": "games",
    "explain": "explanations",
    "explain_batch": "explanations",
    "k_sii": "interactions",
    "owen_values": "groups",
    "pairwise_interactions": "interactions",
    "plan_cost": "inputs",
    "probe_sensitivity": "games",
    "sweep": "sweeps",
    "video_key": "explanations",
}

__all__ = [
    "Attribution",
    "AverageConsensus",
    "BlackBox",
    "Constructive",
    "Exact",
    "MultiScale",
    "PermutationSampling",
    "SizeRegression",
    "SubsequencePlan",
    "Surrogate",
    "VariableLength",
    "__version__",
    "baselines",
    "checkpoints",
    "data",
    "explain",
    "explain_batch",
    "gradients",
    "k_sii",
    "maps",
    "metrics",
    "models",
    "owen_values",
    "pairwise_interactions",
    "perturbation",
    "plan_cost",
    "plots",
    "probe_sensitivity",
    "relevance",
    "results",
    "sweep",
    "video_key",
]


def __getattr__(name: str) -> Any:
    """Import a subpackage or a public name on first use."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"esv_jax.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(f"esv_jax.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'esv_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
