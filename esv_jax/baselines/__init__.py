"""Trivial baselines of element attributions: by position alone, or by few scores of the model.

Any method worth its cost should do better than these on the measures in `metrics`.
"""

from esv_jax.baselines.few_scores import leave_one_in, leave_one_out, occlusion
from esv_jax.baselines.positions import centre_out, edges_in, random, uniform

__all__ = [
    "centre_out",
    "edges_in",
    "leave_one_in",
    "leave_one_out",
    "occlusion",
    "random",
    "uniform",
]
