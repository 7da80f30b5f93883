"""Derivatives of chosen class scores: shared by all methods of this subpackage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

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

_INPUTS_AT_ONCE = 2**20  # numbers put to the model at once, where no batch size is given
_GRADIENTS_AT_ONCE = 2**24  # numbers that come back


def expect_input(x: Any) -> Array:
    """x as a floating-point array; refuses integers, emptiness, NaN and infinity."""
    x = expect_floating("x", x, "Convert it, e.g. frames.astype(jnp.float32).")
    expect(x.size > 0, "x", "at least one number", f"shape {x.shape}")
    expect_finite("x", x)
    return x


def expect_scores(fn: Any, x: Array) -> jax.ShapeDtypeStruct:
    """Shape (C,) and dtype of fn(x), found by tracing; refuses all but an array of scores."""
    run = ScoresOf(fn).fn

    def plain(x: Array) -> Any:
        out = run(x)
        got, way_out = type(out).__name__, "Return its logits alone."
        expect(hasattr(out, "shape"), "fn", "scores of shape (C,)", got, way_out)
        return out

    return ScoresOf(plain).traced(x)


def class_weights(target: Target, scores: jax.ShapeDtypeStruct) -> Array:
    """Rows that pick the chosen classes out of scores: (C,) of one class, (K, C) of K.

    Args:
      target: see `Target`. Classes that are traced cannot be refused: a wrong one is NaN.
      scores: of shape (C,).
    """
    (c,), dtype = scores.shape, scores.dtype
    if target is None:
        return jnp.eye(c, dtype=dtype)
    classes = expect_classes("target", target, c, "a class, classes or None", "classes")
    fits = classes.ndim <= 1
    expect(fits, "target", "one class or shape (K,)", f"shape {classes.shape}")
    classes = jnp.asarray(classes)
    rows = jax.nn.one_hot(classes, c, dtype=dtype)
    is_class = (classes >= 0) & (classes < c)
    return jnp.where(is_class[..., None], rows, jnp.nan)


def expect_finite_result(method: str, values: Array) -> Array:
    """Return what a method found; refuse NaN and infinity. Skipped while tracing."""
    way_out = (
        "A norm or a root has no gradient at 0: add a small number inside it, or select the"
        " input before it with jnp.where and the result after it."
    )
    expect_finite(method, values, way_out)
    return values


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
