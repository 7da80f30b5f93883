"""Attributions from gradients of a model's scores: Integrated Gradients, Grad-CAM and their kin.

All take a function of one input and that input:

    fn = score_function(game)                    # features (n, D) -> scores (C,)
    a = integrated_gradients(fn, x, target)      # (n, D); target None gives (n, D, C)
    per_element(a)                               # (n,), averaged over the rest as in the paper

and so from pixels, by composing: `lambda clip: fn(encoder.apply(encoder.variables, clip))`.
Nothing here compiles by itself: wrap a call in `jax.jit`, and batch it with `jax.vmap`, over
inputs, targets, baselines or keys.
"""

from esv_jax.gradients.cam import grad_cam, grad_cam_at
from esv_jax.gradients.elements import per_element
from esv_jax.gradients.integration import (
    RULES,
    integrated_gradients,
    integration_rule,
    mean_baseline,
)
from esv_jax.gradients.local import gradient, gradient_x_input, smooth_grad
from esv_jax.gradients.of_games import score_function

__all__ = [
    "RULES",
    "grad_cam",
    "grad_cam_at",
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "integration_rule",
    "mean_baseline",
    "per_element",
    "score_function",
    "smooth_grad",
]
