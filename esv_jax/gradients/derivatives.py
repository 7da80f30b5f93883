"""Derivatives of chosen class scores: what every method of this room is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.checks import expect, expect_finite, expect_floating, expect_int, is_concrete, wider

ScoreFunction: TypeAlias = Callable[[Array], Array]
"""One input of any shape -> scores (C,), in JAX."""
Target: TypeAlias = int | Sequence[int] | Array | np.ndarray | None
"""A class, K classes, or None for all C."""

_INPUTS_AT_ONCE = 2**20  # numbers put to the model at once, where no batch size is given
_GRADIENTS_AT_ONCE = 2**24  # numbers that come back


def expect_input(x: Any) -> Array:
    """x as a floating-point array; refuses integers, emptiness, NaN and infinity."""
    x = expect_floating("x", x, "Convert it, e.g. frames.astype(jnp.float32).")
    expect(x.size > 0, "x", "at least one number", f"shape {x.shape}")
    expect_finite("x", x)
    return x


def expect_scores(fn: Any, x: Array) -> jax.ShapeDtypeStruct:
    """Shape (C,) and dtype of fn(x), found by tracing; refuses another rank or kind."""
    expect(callable(fn), "fn", "a function of x", type(fn).__name__, kind=TypeError)
    out = jax.eval_shape(fn, jax.ShapeDtypeStruct(x.shape, x.dtype))
    got = f"shape {out.shape}" if hasattr(out, "shape") else type(out).__name__
    way_out = "fn takes one input; batch with jax.vmap."
    fits = hasattr(out, "shape") and len(out.shape) == 1 and out.shape[0] > 0
    expect(fits, "fn", "scores of shape (C,)", got, way_out)
    is_float = jnp.issubdtype(out.dtype, jnp.floating)
    expect(is_float, "fn", "floating-point scores", f"dtype {out.dtype}", kind=TypeError)
    return out


def class_weights(target: Target, scores: jax.ShapeDtypeStruct) -> Array:
    """Rows that pick the chosen classes out of scores: (C,) of one class, (K, C) of K.

    Args:
      target: see `Target`. Classes that are traced cannot be refused: a wrong one is NaN.
      scores: of shape (C,).
    """
    (c,), dtype = scores.shape, scores.dtype
    if target is None:
        return jnp.eye(c, dtype=dtype)
    classes: Any = np.asarray(target) if is_concrete(target) else target
    is_integer = jnp.issubdtype(classes.dtype, jnp.integer)
    got = f"dtype {classes.dtype}"
    expect(is_integer, "target", "a class, classes or None", got, kind=TypeError)
    fits = classes.ndim <= 1 and classes.size > 0
    expect(fits, "target", "one class or shape (K,)", f"shape {classes.shape}")
    if isinstance(classes, np.ndarray):
        wrong = classes[(classes < 0) | (classes >= c)]
        expect(wrong.size == 0, "target", f"classes in 0..{c - 1}", ", ".join(map(str, wrong)))
    classes = jnp.asarray(classes)
    rows = jax.nn.one_hot(classes, c, dtype=dtype)
    is_class = (classes >= 0) & (classes < c)
    return jnp.where(is_class[..., None], rows, jnp.nan)


def weighted_gradient(fn: ScoreFunction, x: Array, weights: Array) -> Array:
    """Derivative of weights @ fn(x) by x: like x for weights (C,), (K, *x.shape) for (K, C)."""
    return pull_rows(jax.vjp(fn, x)[1], weights)


def pull_rows(pull: Callable[[Array], tuple[Array]], weights: Array) -> Array:
    """A pullback of `jax.vjp` applied to weights (C,), or to each row of (K, C)."""
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
      points: (S,) numbers or keys. shares: (S,).
      make_input: a point -> an input like x.
      batch_size: inputs put to fn at once. Default: as many as make a million numbers, or 16
        million numbers of gradients, but one at least.
    Cost: S forward and S (times K classes) backward passes; memory for `batch_size` of them.
    """
    n_points = len(shares)
    if batch_size is None:
        of_gradients = _GRADIENTS_AT_ONCE // (weights.size // weights.shape[-1])
        batch_size = max(1, min(_INPUTS_AT_ONCE, of_gradients) // x.size)
    n_batches = -(-n_points // expect_int("batch_size", batch_size, 1))
    width = -(-n_points // n_batches)
    place = np.arange(n_batches * width).reshape(n_batches, width)
    dtype = wider(x.dtype)
    share = jnp.asarray(np.where(place < n_points, shares[np.minimum(place, n_points - 1)], 0))
    batches = (points[np.minimum(place, n_points - 1)], share.astype(dtype))  # repeats count 0

    def add(total: Array, batch: tuple[Array, Array]) -> tuple[Array, None]:
        at, share = batch
        each = jax.vmap(lambda point: weighted_gradient(fn, make_input(point), weights))(at)
        return total + jnp.tensordot(share, each.astype(dtype), 1, precision="highest"), None

    total = jnp.zeros((*weights.shape[:-1], *x.shape), dtype)
    if n_batches == 1:
        return add(total, jax.tree.map(lambda leaf: leaf[0], batches))[0]
    return lax.scan(add, total, batches)[0]


def classes_last(values: Array, weights: Array) -> Array:
    """(K, ...) to (..., K), the classes where results have them; of one class, as it is."""
    return values if weights.ndim == 1 else jnp.moveaxis(values, 0, -1)
