"""Attributions from gradients of a model's scores: Integrated Gradients, Grad-CAM and related.

Each takes a function of one input, and that input:

    fn = score_function(game)                    # features (n, D) -> scores (C,)
    a = integrated_gradients(fn, x, target)      # (n, D); target None gives (n, D, C)
    per_element(a)                               # (n,), averaged over the features

For pixels, compose: `lambda clip: fn(encoder.apply(encoder.variables, clip))`. Functions are not
compiled: wrap a call in `jax.jit`; batch inputs, targets, baselines or keys with `jax.vmap`.
"""

from esv_jax.gradients.cam import grad_cam, grad_cam_at
from esv_jax.gradients.input_gradients import (
    gradient,
    gradient_x_input,
    integrated_gradients,
    per_element,
    smooth_grad,
)
from esv_jax.gradients.score_function import score_function

__all__ = [
    "grad_cam",
    "grad_cam_at",
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "per_element",
    "score_function",
    "smooth_grad",
]
