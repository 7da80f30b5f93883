"""Attribution by perturbation: the smallest part of a clip that preserves or destroys a prediction.

    r = step(fn, clip, target, areas=(0.05, 0.1), key=key)    # r.masks (A, t, h, w), r.saliency

`fn` maps clips (B, t, h, w, c) to probabilities (B, C), in JAX, by softmax or independent sigmoids.
"""

from esv_jax.perturbation.masks import Masking, perturb, pyramid
from esv_jax.perturbation.occlusion import occlusion
from esv_jax.perturbation.regularisers import Core
from esv_jax.perturbation.step import step

__all__ = ["Core", "Masking", "occlusion", "perturb", "pyramid", "step"]
