"""Derivatives of class scores with respect to an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_classes,
    expect_finite,
    expect_floating,
    expect_int,
    wider,
)

ScoreFunction: TypeAlias = Callable[[Array], Array]
"""One input of any shape -> scores (C,), in JAX; see `checks.class_scores`."""
Target: TypeAlias = int | Sequence[int] | Array | np.ndarray | None
"""A class, K classes, or None for all C."""

_INPUTS_AT_ONCE = 2**20  # numbers in one batch of inputs, where no batch size is given
_GRADIENTS_AT_ONCE = 2**24  # numbers in the gradients of one batch


def expect_input(x: ArrayLike) -> Array:
    """Return x as a floating-point array; refuse integers, empty arrays, NaN and infinity."""
    x = expect_floating("x", x, "Convert it, e.g. frames.astype(jnp.float32).")
    expect(x.size > 0, "x", "at least one number", f"shape {x.shape}")
    expect_finite("x", x)
    return x


def expect_scores(fn: ScoreFunction, x: Array) -> jax.ShapeDtypeStruct:
    """Shape (C,) and dtype of fn(x), by tracing; refuses records of which scores are a part."""
    run = ScoresOf(fn).fn

    def scores(x: Array) -> Array:
        out, way_out = run(x), "Return its logits alone."
        expect(hasattr(out, "shape"), "fn", "scores of shape (C,)", type(out).__name__, way_out)
        return out

    return ScoresOf(scores).traced(x)


def class_weights(target: Target, scores: jax.ShapeDtypeStruct) -> Array:
    """One-hot rows that select the target classes: (C,) for one class, (K, C) for K classes.

    A traced class cannot be refused: where it is out of range, the row is NaN.
    """
    (c,), dtype = scores.shape, scores.dtype
    if target is None:
        return jnp.eye(c, dtype=dtype)
    known = expect_classes("target", target, c, "a class, classes or None", "classes")
    classes = jnp.asarray(known)
    expect(classes.ndim <= 1, "target", "one class or shape (K,)", f"shape {classes.shape}")
    rows = jax.nn.one_hot(classes, c, dtype=dtype)
    is_class = (classes >= 0) & (classes < c)
    return jnp.where(is_class[..., None], rows, jnp.nan)


def prepare(fn: ScoreFunction, x: ArrayLike, target: Target) -> tuple[ScoresOf, Array, Array]:
    """The checked arguments of a gradient method: fn, x and the `class_weights` of the target."""
    x, scores = expect_input(x), ScoresOf(fn)
    return scores, x, class_weights(target, scores.traced(x))


def classes_last(values: Array, weights: Array) -> Array:
    """Move the axis of K classes from first to last; one class has no such axis."""
    return values if weights.ndim == 1 else jnp.moveaxis(values, 0, -1)


def expect_finite_result(method: str, values: Array) -> Array:
    """Return the result of a method; refuse NaN and infinity. Skipped while tracing."""
    way_out = (
        "A norm or a root has no gradient at 0: add a small number inside it, or select the"
        " input before it with jnp.where and the result after it."
    )
    expect_finite(method, values, way_out)
    return values


def weighted_gradient(fn: ScoreFunction, x: Array, weights: Array) -> Array:
    """Gradient of weights @ fn(x): like x for weights (C,), (K, *x.shape) for (K, C)."""
    return pull_rows(jax.vjp(fn, x)[1], weights)


def pull_rows(pull: Callable[[Array], tuple[Array]], weights: Array) -> Array:
    """Apply a pullback of `jax.vjp` to weights (C,), or to each row of (K, C)."""
    if weights.ndim == 1:
        return pull(weights)[0]
    return jax.vmap(lambda row: pull(row)[0])(weights)


def summed_gradients(
    fn: ScoreFunction,
    weights: Array,
    points: Array,
    shares: np.ndarray,
    make_input: Callable[[Array], Array],
    x: Array,
    batch_size: int | None,
) -> Array:
    """sum over k of shares[k] * `weighted_gradient` at make_input(points[k]), float32 at least.

    Args:
      points: (S,) numbers or keys. shares: (S,). make_input: a point -> an input like x.
      batch_size: inputs per batch; default 2**20 numbers of inputs or 2**24 of gradients.
    """
    n_points = len(shares)
    if batch_size is None:
        of_gradients = _GRADIENTS_AT_ONCE // (weights.size // weights.shape[-1])
        batch_size = max(1, min(_INPUTS_AT_ONCE, of_gradients) // x.size)
    n_batches = -(-n_points // expect_int("batch_size", batch_size, 1))
    width = -(-n_points // n_batches)
    index = np.arange(n_batches * width).reshape(n_batches, width)
    dtype = wider(x.dtype)
    share = jnp.asarray(np.where(index < n_points, shares[np.minimum(index, n_points - 1)], 0))
    batches = (points[np.minimum(index, n_points - 1)], share.astype(dtype))  # repeats count 0

    def add(total: Array, batch: tuple[Array, Array]) -> tuple[Array, None]:
        at, share = batch
        each = jax.vmap(lambda point: weighted_gradient(fn, make_input(point), weights))(at)
        return total + jnp.tensordot(share, each.astype(dtype), 1, precision="highest"), None

    total = jnp.zeros((*weights.shape[:-1], *x.shape), dtype)
    if n_batches == 1:
        return add(total, jax.tree.map(lambda leaf: leaf[0], batches))[0]
    return lax.scan(add, total, batches)[0]
