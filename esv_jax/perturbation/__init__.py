"""Attribution by perturbation: the smallest part of a clip that keeps a prediction, or destroys it.

    r = step(fn, clip, target, areas=(0.05, 0.1), key=key)    # r.masks (A, t, h, w), r.saliency

`fn` maps clips (B, t, h, w, c) to probabilities (B, C), in JAX, by softmax or independent sigmoids.
"""

from esv_jax.perturbation.descent import Optimizer, dampened_sgd
from esv_jax.perturbation.masks import MaskGenerator
from esv_jax.perturbation.objective import (
    Masking,
    Weights,
    published_weights,
    ramped_weights,
)
from esv_jax.perturbation.occlusion import n_windows, occlusion
from esv_jax.perturbation.pyramids import perturb, pyramid
from esv_jax.perturbation.regularisers import (
    Core,
    area_loss,
    core_filled,
    core_kernel,
    core_loss,
    difference_loss,
)
from esv_jax.perturbation.step import StepResult, step

__all__ = [
    "Core",
    "MaskGenerator",
    "Masking",
    "Optimizer",
    "StepResult",
    "Weights",
    "area_loss",
    "core_filled",
    "core_kernel",
    "core_loss",
    "dampened_sgd",
    "difference_loss",
    "n_windows",
    "occlusion",
    "perturb",
    "published_weights",
    "pyramid",
    "ramped_weights",
    "step",
]
