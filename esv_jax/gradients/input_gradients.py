"""Attributions from gradients with respect to the input: at it, around it and on a path to it."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from esv_jax.checks import (
    expect,
    expect_choice,
    expect_finite,
    expect_floating,
    expect_int,
    expect_key,
    is_concrete,
    message,
    wider,
)
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    Target,
    classes_last,
    expect_finite_result,
    prepare,
    summed_gradients,
    weighted_gradient,
)

Rule = Literal[
    "gausslegendre",
    "trapezoid",
    "riemann_trapezoid",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
]
RULES: tuple[Rule, ...] = get_args(Rule)
Nodes: TypeAlias = tuple[ArrayLike, ArrayLike]
"""Points in 0..1 and their weights, (steps,) each."""
Reduction = Literal["mean", "sum"]


def gradient(fn: ScoreFunction, x: ArrayLike, target: Target = None) -> Array:
    """Gradient of class scores with respect to the input.

    Source: Simonyan et al. (2014), who show its magnitude.

    Args:
      fn: x -> scores (C,), in JAX, or an object or dict with `logits`.
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
    fn, x, weights = prepare(fn, x, target)
    found = classes_last(weighted_gradient(fn, x, weights), weights)
    return expect_finite_result("gradient", found)


def gradient_x_input(fn: ScoreFunction, x: ArrayLike, target: Target = None) -> Array:
    """The input times its `gradient`: a first-order estimate of what each number adds from zero.

    Equals Integrated Gradients from zero, and LRP-0, on ReLU networks without biases.
    Source: Shrikumar et al. (2016).

    Args, returns, raises and cost: see `gradient`.
    """
    fn, x, weights = prepare(fn, x, target)
    at = x if weights.ndim == 1 else x[None]
    found = classes_last(at * weighted_gradient(fn, x, weights), weights)
    return expect_finite_result("gradient_x_input", found)


def smooth_grad(
    fn: ScoreFunction,
    x: ArrayLike,
    target: Target = None,
    *,
    key: Array,
    sigma: ArrayLike,
    samples: int = 50,
    batch_size: int | None = None,
) -> Array:
    """SmoothGrad: the mean `gradient` over inputs with normal noise added.

    Source: Smilkov et al. (2017); they use sigma = 0.1 to 0.2 times x.max() - x.min().

    Args:
      fn, x, target: see `gradient`.
      key: `jax.random.key(seed)`; consumed. The noise does not depend on the batch size.
      sigma: standard deviation of the noise in units of x, >= 0; a number, or an array that
        broadcasts to x.
      samples: noisy inputs, >= 1.
      batch_size: noisy inputs per batch; default about a million numbers.
    Returns:
      Like x for one class, otherwise (..., K) or (..., C).
    Raises:
      As `gradient`; ValueError: sigma negative or of another shape, samples < 1.
    Cost: `samples` forward passes and as many backward passes per class.
    """
    fn, x, weights = prepare(fn, x, target)
    key, samples = expect_key("key", key), expect_int("samples", samples, 1)
    spread = _like_input("sigma", sigma, x)
    valid = not is_concrete(spread) or bool(spread.min() >= 0)
    expect(valid, "sigma", "standard deviations >= 0", spread.min())

    def noisy(noise_key: Array) -> Array:
        return x + spread * jax.random.normal(noise_key, x.shape, x.dtype)

    keys = jax.random.split(key, samples)
    shares = np.full(samples, 1 / samples)
    mean = summed_gradients(fn, weights, keys, shares, noisy, x, batch_size)
    return expect_finite_result("smooth_grad", classes_last(mean.astype(x.dtype), weights))


def integrated_gradients(
    fn: ScoreFunction,
    x: ArrayLike,
    target: Target = None,
    *,
    baseline: ArrayLike | None = None,
    steps: int = 50,
    rule: Rule | Nodes = "gausslegendre",
    batch_size: int | None = None,
) -> Array:
    """Integrated Gradients of class scores, signed.

        a = (x - baseline) * sum over k of w_k * dF/dx(baseline + t_k (x - baseline))

    With enough steps their sum is F(x) - F(baseline); `completeness_gap` returns the difference.
    ReLUs, whose gradients jump, need more steps than smooth functions.
    Source: Sundararajan et al. (2017), Eqs. (1) and (3).

    Args:
      fn, x, target: see `gradient`; the scores may be logits or probabilities.
      baseline: the reference input: a number or an array that broadcasts to x; default zeros.
        Price & Damen (2020) use the mean feature of a data set, (D,).
      steps: points on the path, >= 1.
      rule: points and weights by name, see `integration_rule`; or a pair of arrays, points in
        0..1 and weights, which replaces name and steps.
      batch_size: points per batch; default about a million numbers of inputs.
    Returns:
      Like x for one class, otherwise with the classes as a last axis, (..., K) or (..., C).
    Raises:
      As `gradient`; ValueError: an unknown rule, steps < 1, a baseline that does not broadcast
      or is not finite.
    Cost: `steps` forward passes and as many backward passes per class, in batches.
    """
    points, shares = integration_rule(rule, steps) if isinstance(rule, str) else _check_nodes(rule)
    fn, x, weights = prepare(fn, x, target)
    start = _like_input("baseline", 0 if baseline is None else baseline, x)
    change = x - start

    def between(t: Array) -> Array:
        return start + t * change

    at = jnp.asarray(points).astype(x.dtype)
    mean = summed_gradients(fn, weights, at, shares, between, x, batch_size)
    found = (change if weights.ndim == 1 else change[None]).astype(mean.dtype) * mean
    attributions = classes_last(found.astype(x.dtype), weights)
    return expect_finite_result("integrated_gradients", attributions)


def completeness_gap(
    fn: ScoreFunction,
    x: ArrayLike,
    attributions: ArrayLike,
    target: Target = None,
    *,
    baseline: ArrayLike | None = None,
) -> Array:
    """Change of the score that attributions do not account for: F(x) - F(baseline) - their sum.

    It measures the error of the integral in `integrated_gradients`, whose result and arguments it
    takes. Other libraries report its negative. Returns () for one class, else (K,) or (C,).
    Cost: two forward passes.
    """
    fn, x, weights = prepare(fn, x, target)
    attributions = expect_floating("attributions", attributions)
    shape = (*x.shape, *weights.shape[:-1])
    expect(attributions.shape == shape, "attributions", f"shape {shape}", attributions.shape)
    start = _like_input("baseline", 0 if baseline is None else baseline, x)
    change = jnp.matmul(weights, fn(x) - fn(start), precision="highest")
    dtype = wider(change.dtype, attributions.dtype)
    gap = change.astype(dtype) - attributions.astype(dtype).sum(tuple(range(x.ndim)))
    expect_finite("completeness_gap", gap, "Scores of x and of the baseline must be.")
    return gap


def integration_rule(
    rule: Rule, steps: int, *, exact: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a quadrature rule on 0..1, (steps,) float64 each.

    "gausslegendre": exact for polynomials up to degree 2 steps - 1. "riemann_left", "_right" and
    "_middle": one point in each of `steps` equal intervals. "trapezoid": both ends and equal
    intervals between; "riemann_trapezoid": the same times (steps - 1) / steps, as captum has it:
    its weights do not sum to one, for agreement with published numbers only.

    Args:
      rule: its name. steps: points, >= 1, >= 2 for trapezoids.
      exact: by default the weights and the equally spaced points are rounded to single precision
        as in captum 0.9, so that results agree to all digits; a sum is off by 3e-8 of itself at
        most. True keeps double precision; pass the pair as `rule` then.
    Raises:
      ValueError: an unknown rule, too few steps. TypeError: steps is no integer.
    """
    expect_choice("rule", rule, RULES)
    has_ends = rule.endswith("trapezoid")
    steps = expect_int("steps", steps, 2 if has_ends else 1)
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        points, weights = (1 + nodes) / 2, weights / 2
    else:
        first = {"riemann_right": 1 / steps, "riemann_middle": 0.5 / steps}.get(rule, 0.0)
        last = {"riemann_left": 1 - 1 / steps, "riemann_middle": 1 - 0.5 / steps}.get(rule, 1.0)
        points = np.linspace(first, last, steps) if exact else _float32_line(first, last, steps)
        weights = np.full(steps, 1 / (steps - 1 if rule == "trapezoid" else steps))
        if has_ends:
            weights[[0, -1]] /= 2
    return points, weights if exact else weights.astype(np.float32).astype(np.float64)


def per_element(
    attributions: ArrayLike, how: Reduction = "mean", *, class_axis: bool | None = None
) -> Array:
    """Attributions of elements (n,), or (n, K) with classes: averages over all other axes.

    Source: Price & Damen (2020), who average Integrated Gradients over the features of a frame;
    the sum keeps the units of the scores, so that completeness holds for elements too.

    Args:
      attributions: (n, ...) for one class, or (n, ..., K) for several, from any function of
        `gradients`.
      how: "mean" or "sum".
      class_axis: whether the last axis counts classes (target None or a list). May be omitted
        for (n,) and (n, D), which are then of one class; larger shapes are ambiguous.
    Raises:
      TypeError: not floating point, a `class_axis` that is no bool. ValueError: too few axes, more
      than two axes without `class_axis`, another `how`.
    """
    attributions = expect_floating("attributions", attributions)
    expect_choice("how", how, get_args(Reduction))
    is_bool = class_axis is None or isinstance(class_axis, bool)
    kind = type(class_axis).__name__
    expect(is_bool, "class_axis", "True, False or None", kind, kind=TypeError)
    shape, n_axes = attributions.shape, attributions.ndim
    letters = "(n, ..., K)" if class_axis else "(n, ...)"
    expect(n_axes >= (2 if class_axis else 1), "attributions", f"shape {letters}", shape)
    way_out = "True if the last axis counts classes (target None or a list), else False."
    expected = f"True or False for attributions of shape {shape}"
    expect(n_axes <= 2 or class_axis is not None, "class_axis", expected, "None", way_out)
    rest = tuple(range(1, n_axes - bool(class_axis)))
    return attributions.mean(rest) if how == "mean" else attributions.sum(rest)


def _float32_line(first: float, last: float, steps: int) -> np.ndarray:
    """`linspace` in single precision as PyTorch computes it: from both ends by one rounded step."""
    low, high = np.float32(first), np.float32(last)
    width = np.float64((high - low) / np.float32(max(steps - 1, 1)))
    k = np.arange(steps)
    line = np.where(k < steps // 2, low + width * k, high - width * (steps - 1 - k))
    return line.astype(np.float32).astype(np.float64)


def _check_nodes(rule: Nodes) -> tuple[np.ndarray, np.ndarray]:
    is_pair, kind = isinstance(rule, tuple) and len(rule) == 2, type(rule).__name__
    expect(is_pair, "rule", "a name or a pair (points, weights)", kind, kind=TypeError)
    points, weights = (np.asarray(part, np.float64) for part in rule)
    fits = points.ndim == 1 and points.size > 0 and points.shape == weights.shape
    got = f"{points.shape}, {weights.shape}"
    expect(fits, "rule", "points and weights of one shape (steps,)", got)
    expect_finite("rule", (points, weights))
    return points, weights


def _like_input(name: str, value: ArrayLike, x: Array) -> Array:
    """Broadcast a number or an array to the shape and dtype of x."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = float(value)
    array = expect_floating(name, value)
    expect_finite(name, array)
    try:
        return jnp.broadcast_to(array.astype(x.dtype), x.shape)
    except ValueError:
        expected = f"a shape that broadcasts to that of x, {x.shape}"
        raise ValueError(message(name, expected, array.shape)) from None
