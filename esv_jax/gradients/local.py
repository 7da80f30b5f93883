"""Gradients at the input itself: plain, times the input, and smoothed by noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_finite,
    expect_floating,
    expect_int,
    expect_key,
    is_concrete,
)
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    Target,
    class_weights,
    classes_last,
    expect_finite_result,
    expect_input,
    summed_gradients,
    weighted_gradient,
)


def gradient(fn: ScoreFunction, x: Any, target: Target = None) -> Array:
    """Derivative of class scores by every number of the input.

    Source: Simonyan et al. (2014), who show its magnitude.

    Args:
      fn: x -> scores (C,), in JAX; of an output with `logits`, these.
      x: one input of any shape, floating point.
      target: a class, K classes, or None for all.
    Returns:
      Like x for one class; otherwise with the classes as a last axis, (..., K) or (..., C).
    Raises:
      TypeError: x, fn or target of another kind. ValueError: fn without a vector of scores, a
      target out of range (NaN where traced), x empty or not finite, a result that is not finite
      (not checked while tracing).
    Cost: a forward pass and a backward pass per class.
    """
    x, fn = expect_input(x), ScoresOf(fn)
    weights = class_weights(target, fn.traced(x))
    found = classes_last(weighted_gradient(fn, x, weights), weights)
    return expect_finite_result("gradient", found)


def gradient_x_input(fn: ScoreFunction, x: Any, target: Target = None) -> Array:
    """x times `gradient`: what each number adds if the scores go straight from zero on.

    Equals Integrated Gradients from zero, and LRP-0, on networks of ReLUs without biases.
    Source: Shrikumar et al. (2016).

    Args, returns, raises and cost: see `gradient`.
    """
    x, fn = expect_input(x), ScoresOf(fn)
    weights = class_weights(target, fn.traced(x))
    at = x if weights.ndim == 1 else x[None]
    found = classes_last(at * weighted_gradient(fn, x, weights), weights)
    return expect_finite_result("gradient_x_input", found)


def smooth_grad(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    key: Array,
    sigma: Any,
    samples: int = 50,
    batch_size: int | None = None,
) -> Array:
    """SmoothGrad: the mean of `gradient` over inputs with normal noise added.

    Source: Smilkov et al. (2017); they take sigma as 0.1 to 0.2 times x.max() - x.min().

    Args:
      fn: x -> scores (C,), in JAX; of an output with `logits`, these.
      x: one input of any shape, floating point.
      target: a class, K classes, or None for all.
      key: `jax.random.key(seed)`; consumed. Same key, same noise, whatever the batch size.
      sigma: standard deviation of the noise in units of x, >= 0; a number, or an array that
        broadcasts to x.
      samples: noisy inputs, >= 1.
      batch_size: of them put to fn at once; default as memory for a million input numbers has it.
    Returns:
      Like x for one class, otherwise (..., K) or (..., C).
    Raises:
      As `gradient`; ValueError: sigma negative or of another shape, samples < 1.
    Cost: `samples` forward passes and as many backward passes per class.
    """
    x, fn = expect_input(x), ScoresOf(fn)
    weights = class_weights(target, fn.traced(x))
    key, samples = expect_key("key", key), expect_int("samples", samples, 1)
    spread = like_input("sigma", sigma, x)
    if is_concrete(spread):
        lowest = float(spread.min())
        expect(lowest >= 0, "sigma", "standard deviations >= 0", lowest)

    def noisy(noise_key: Array) -> Array:
        return x + spread * jax.random.normal(noise_key, x.shape, x.dtype)

    keys = jax.random.split(key, samples)
    shares = np.full(samples, 1 / samples)
    mean = summed_gradients(fn, weights, keys, shares, noisy, x, batch_size)
    found = classes_last(mean.astype(x.dtype), weights)
    return expect_finite_result("smooth_grad", found)


def like_input(name: str, value: Any, x: Array) -> Array:
    """A number or array as an array like x; refuses what does not broadcast to its shape."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = float(value)
    value = expect_floating(name, value)
    expect_finite(name, value)
    try:
        fits = np.broadcast_shapes(value.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    expect(fits, name, f"a shape that broadcasts to that of x, {x.shape}", value.shape)
    return jnp.broadcast_to(value.astype(x.dtype), x.shape)
