"""Agreement between two methods, and of one method with itself under a jitter of the frames."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, expect_finite, expect_floating, wider
from esv_jax.metrics.support import present_elements


class MethodAgreement(NamedTuple):
    """Pearson correlations of two methods' values over the elements of a sequence, in -1..1.

    NaN where either method gives all elements the same value; the means leave these out.

    Attributes:
      pearson: (V, C) for each sequence and class.
      by_class: (C,) means over sequences. by_video: (V,) means over classes.
      mean: () over both.
    """

    pearson: Array
    by_class: Array
    by_video: Array
    mean: Array


class Smoothness(NamedTuple):
    """Similarity of the values before and after a jitter, (...) each.

    Attributes:
      pearson: correlation over elements, in -1..1; 1 where only scale and offset changed. NaN
        where either is constant.
      change: sum |jittered - original| / sum |original|, >= 0; 0 where nothing changed. Infinite
        or NaN where the original is all zero.
    """

    pearson: Array
    change: Array


def method_agreement(a: Any, b: Any, lengths: Any = None) -> MethodAgreement:
    """Pearson correlation of two methods' attributions, per class and video.

    Over the elements of one video for one class, as Price & Damen (2020) compare ESVs with other
    values; a method may thus differ in scale and offset.

    Args:
      a, b: (V, N, C) values of V videos, padded at the ends. Of one class, (V, N, 1).
      lengths: (V,) int, elements in each; default N.
    Returns:
      `MethodAgreement`. May be called under `jit`.
    Raises:
      ValueError: shapes that differ, no elements, values that are not finite, lengths that do not
      fit. TypeError: not floating point, lengths that are no integers.
    """
    a, b = _alike("a", a, "b", b)
    expect(a.ndim == 3, "a", "shape (V, N, C)", a.shape, "Add axes of one video or one class.")
    present = present_elements(a.shape[:2], lengths)
    for name, values in (("a", a), ("b", b)):
        expect_finite(name, jnp.where(present[..., None], values, 0))
    every = jnp.broadcast_to(present[:, None], (a.shape[0], a.shape[2], a.shape[1]))
    r = _pearson(a.swapaxes(1, 2), b.swapaxes(1, 2), every)
    return MethodAgreement(r, _mean(r, 0), _mean(r, 1), _mean(r, (0, 1)))


def smoothness(values_original: Any, values_jittered: Any, lengths: Any = None) -> Smoothness:
    """Temporal smoothness: how little values change when every frame is taken slightly elsewhere.

    Explain a video on frames at some indices, then on frames at the same indices moved by one
    (`values_jittered[i]` belongs to the frame that took the place of frame i). Frames one apart
    show nearly the same, so a method that sees what they show gives nearly the same values.

    Args:
      values_original, values_jittered: (..., N), one class's values per row.
      lengths: (...) int, elements in each row; default N.
    Returns:
      `Smoothness` of (...). May be called under `jit`.
    Raises:
      ValueError: shapes that differ, no elements, values that are not finite, lengths that do not
      fit. TypeError: not floating point, lengths that are no integers.
    """
    original, jittered = _alike(
        "values_original", values_original, "values_jittered", values_jittered
    )
    present = present_elements(original.shape, lengths)
    for name, values in (("values_original", original), ("values_jittered", jittered)):
        expect_finite(name, jnp.where(present, values, 0))
    moved = jnp.where(present, jnp.abs(jittered - original), 0).sum(-1)
    scale = jnp.where(present, jnp.abs(original), 0).sum(-1)
    return Smoothness(_pearson(original, jittered, present), moved / scale)


def _alike(name: str, a: Any, other: str, b: Any) -> tuple[Array, Array]:
    a, b = expect_floating(name, a), expect_floating(other, b)
    expect(a.shape == b.shape, name, f"the shape of {other}, {b.shape}", a.shape)
    dtype = wider(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _pearson(a: Array, b: Array, present: Array) -> Array:
    """Correlation over the last axis where present; NaN where either is constant there."""
    a, varies_a = _centred(a, present)
    b, varies_b = _centred(b, present)
    r = (a * b).sum(-1) / jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return jnp.where(varies_a & varies_b, r, jnp.nan)


def _centred(a: Array, present: Array) -> tuple[Array, Array]:
    """a minus its mean over what is present, scaled to 1, zero elsewhere; whether it varies."""
    n = present.sum(-1, keepdims=True).astype(a.dtype)
    high = jnp.where(present, a, -jnp.inf).max(-1)
    low = jnp.where(present, a, jnp.inf).min(-1)
    varies = high > low
    mean = jnp.where(present, a, 0).sum(-1, keepdims=True) / n
    spread = jnp.where(varies, high - low, 1)  # rows of tiny values square to nothing otherwise
    return jnp.where(present, (a - mean) / spread[..., None], 0), varies


def _mean(r: Array, axis: int | tuple[int, ...]) -> Array:
    """Mean of what is not NaN; NaN of nothing."""
    known = ~jnp.isnan(r)
    return jnp.where(known, r, 0).sum(axis) / known.sum(axis).astype(r.dtype)
