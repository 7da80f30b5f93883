"""Integrated Gradients: gradients averaged on the straight way from a baseline to the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

import jax.numpy as jnp
import numpy as np
from jax import Array

from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_choice,
    expect_finite,
    expect_floating,
    expect_int,
    wider,
)
from esv_jax.gradients.derivatives import (
    ScoreFunction,
    Target,
    class_weights,
    classes_last,
    expect_finite_result,
    expect_input,
    summed_gradients,
)
from esv_jax.gradients.local import like_input

Rule = Literal[
    "gausslegendre",
    "trapezoid",
    "riemann_trapezoid",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
]
RULES: tuple[Rule, ...] = get_args(Rule)


@overload
def integrated_gradients(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    baseline: Any = None,
    steps: int = 50,
    rule: Rule | tuple[Any, Any] = "gausslegendre",
    batch_size: int | None = None,
    return_gap: Literal[False] = False,
) -> Array: ...


@overload
def integrated_gradients(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    baseline: Any = None,
    steps: int = 50,
    rule: Rule | tuple[Any, Any] = "gausslegendre",
    batch_size: int | None = None,
    return_gap: Literal[True],
) -> tuple[Array, Array]: ...


def integrated_gradients(
    fn: ScoreFunction,
    x: Any,
    target: Target = None,
    *,
    baseline: Any = None,
    steps: int = 50,
    rule: Rule | tuple[Any, Any] = "gausslegendre",
    batch_size: int | None = None,
    return_gap: bool = False,
) -> Array | tuple[Array, Array]:
    """Integrated Gradients of class scores, signed, by every number of the input.

        a = (x - baseline) * sum over k of w_k * dF/dx(baseline + t_k (x - baseline))

    With enough steps their sum is F(x) - F(baseline); ReLUs, whose gradients jump, need more than
    smooth functions. Source: Sundararajan et al. (2017), Eqs. (1) and (3).

    Args:
      fn: x -> scores (C,), in JAX: logits or probabilities, whichever is to be explained; of an
        output with `logits`, these.
      x: one input of any shape, floating point.
      target: a class, K classes, or None for all.
      baseline: the input that stands for nothing: a number or an array that broadcasts to x;
        default zeros. Price & Damen (2020) take the mean feature: `mean_baseline`.
      steps: points on the way, >= 1.
      rule: where they lie and what they count, by name, see `integration_rule`; or a pair of
        arrays, points in 0..1 and weights, in the place of name and steps.
      batch_size: points put to fn at once; default as memory for a million input numbers has it.
      return_gap: whether to return the convergence gap as well.
    Returns:
      Attributions, like x for one class, otherwise with the classes as a last axis, (..., K) or
      (..., C). With `return_gap` also F(x) - F(baseline) - (their sum), () or (K,): what they do
      not account for. (Other programs report its negative.)
    Raises:
      TypeError: x, fn, target or baseline of another kind. ValueError: an unknown rule, steps < 1,
      a baseline that does not broadcast, fn without a vector of scores, a target out of range
      (NaN where traced), numbers that are not finite, in x or in the result (not checked while
      tracing).
    Cost: `steps` forward passes and as many backward passes per class, in batches; two forward
      passes for the gap.
    """
    points, shares = integration_rule(rule, steps) if isinstance(rule, str) else _pair(rule)
    x, fn = expect_input(x), ScoresOf(fn)
    weights = class_weights(target, fn.traced(x))
    start = jnp.zeros_like(x) if baseline is None else like_input("baseline", baseline, x)
    way = x - start

    def between(t: Array) -> Array:
        return start + t * way

    at = jnp.asarray(points).astype(x.dtype)
    mean = summed_gradients(fn, weights, at, shares, between, x, batch_size)
    way = way if weights.ndim == 1 else way[None]
    exact = way.astype(mean.dtype) * mean
    attributions = classes_last(exact.astype(x.dtype), weights)
    expect_finite_result("integrated_gradients", attributions)
    if not return_gap:
        return attributions
    gain = jnp.matmul(weights, fn(x) - fn(start), precision="highest")  # () or (K,)
    dtype = wider(gain.dtype, exact.dtype)
    covered = exact.sum(tuple(range(weights.ndim - 1, exact.ndim)))
    gap = gain.astype(dtype) - covered.astype(dtype)
    expect_finite("integrated_gradients, gap", gap, "Scores of x and of the baseline must be.")
    return attributions, gap


def integration_rule(
    rule: Rule, steps: int, *, exact: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Points t in 0..1 and weights w, (steps,) float64 each, of a rule for an integral over 0..1.

    "gausslegendre": exact for polynomials up to degree 2 steps - 1. "riemann_left", "_right" and
    "_middle": one point in each of `steps` equal parts. "trapezoid": both ends and equal parts
    between; "riemann_trapezoid" is the same times (steps - 1) / steps, as captum has it: its
    weights do not sum to one, for agreement with published numbers only.

    Args:
      rule: its name. steps: points, >= 1, of trapezoids >= 2.
      exact: by default weights, and the points of equal parts, are numbers of single precision,
        in the way captum 0.9 makes them: its results are met to all digits so, and a sum is off by
        3e-8 of itself at most. True keeps double precision; pass the pair as `rule` then.
    Raises:
      ValueError: an unknown rule, too few steps. TypeError: steps no integer.
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
        points = np.linspace(first, last, steps) if exact else _single_line(first, last, steps)
        weights = np.full(steps, 1 / (steps - 1 if rule == "trapezoid" else steps))
        if has_ends:
            weights[[0, -1]] /= 2
    return points, weights if exact else weights.astype(np.float32).astype(np.float64)


def _single_line(first: float, last: float, steps: int) -> np.ndarray:
    """Equal parts in single precision, counted from both ends by one rounded width."""
    low, high = np.float32(first), np.float32(last)
    width = np.float64((high - low) / np.float32(max(steps - 1, 1)))
    k = np.arange(steps)
    line = np.where(k < steps // 2, low + width * k, high - width * (steps - 1 - k))
    return line.astype(np.float32).astype(np.float64)


def _pair(rule: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights as given."""
    fits = isinstance(rule, tuple) and len(rule) == 2
    expect(fits, "rule", "a name or a pair (points, weights)", type(rule).__name__, kind=TypeError)
    points, weights = (np.asarray(part, np.float64) for part in rule)
    got = (points.shape, weights.shape)
    fits = points.ndim == 1 and points.size > 0 and points.shape == weights.shape
    expect(fits, "rule", "points and weights of one shape (steps,)", got)
    expect_finite("rule", (points, weights))
    return points, weights


def mean_baseline(features: Any) -> Array:
    """The mean feature (D,) of a bank of frames, for use as a baseline of every element.

    Source: Price & Damen (2020), who explain frame features against their mean.

    Args:
      features: (..., D), or a list of such arrays, e.g. sequences (n_i, D) of several lengths;
        every frame counts the same.
    Raises:
      TypeError: not floating point. ValueError: no frames, widths that differ, values that are not
      finite.
    """
    parts = features if isinstance(features, Sequence) else [features]
    expect(len(parts) > 0, "features", "at least one frame", "none")
    rows = []
    for part in parts:
        part = expect_floating("features", part)
        expect_finite("features", part)
        expect(part.ndim >= 1 and part.size > 0, "features", "shape (..., D)", part.shape)
        rows.append(part.reshape(-1, part.shape[-1]))
    widths = {part.shape[1] for part in rows}
    expect(len(widths) == 1, "features", "one width D", sorted(widths))
    return jnp.concatenate(rows).mean(0)
