"""Temporal grounding: how well attributions find the frames that hold the evidence."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from esv_jax.checks import expect, expect_array, expect_finite, expect_floating, expect_int, wider


def temporal_grounding(
    values: Any, evidence: Any, k: int | None = None, *, interval: bool = False
) -> Array:
    """Intersection over union of the k highest frames with those of the evidence.

    Of equal frames, or intervals, the first count.

    Args:
      values: (..., n), one per frame; or maps (..., n, h, w), whose positive values are summed
        over each frame.
      evidence: (..., n) bool, the frames that show it.
      k: frames to choose, 1..n; default as many as are evidence, clip by clip.
      interval: whether to choose the k neighbouring frames of the largest sum instead.
    Returns:
      (...), in 0..1; NaN where a clip has no evidence.
    Raises:
      ValueError: shapes that differ, values not finite, k out of range. TypeError: values not
      floating point, evidence not bool.
    """
    values = expect_floating("values", values)
    evidence = jnp.asarray(expect_array("evidence", evidence))
    is_bool = evidence.dtype == jnp.bool_
    expect(is_bool, "evidence", "bool", f"dtype {evidence.dtype}", "Compare it.", kind=TypeError)
    expect(evidence.ndim >= 1 and evidence.size > 0, "evidence", "shape (..., n)", evidence.shape)
    fits = evidence.shape in (values.shape, values.shape[:-2])
    expect(fits, "values", f"shape {evidence.shape} like evidence, or with (h, w)", values.shape)
    expect_finite("values", values)
    n = evidence.shape[-1]
    if k is not None:
        expect(expect_int("k", k, 1) <= n, "k", f"1..{n} frames", k)
    return _grounding(values, evidence, k, bool(interval))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _grounding(values: Array, evidence: Array, k: int | None, interval: bool) -> Array:
    values = values.astype(wider(values.dtype))
    if values.shape != evidence.shape:
        values = jnp.maximum(values, 0).sum((-2, -1))
    n_evidence = evidence.sum(-1, keepdims=True)
    n_chosen = n_evidence if k is None else jnp.full_like(n_evidence, k)
    chosen = (_best_interval if interval else _highest)(values, n_chosen)
    both = (chosen & evidence).sum(-1).astype(values.dtype)
    either = (chosen | evidence).sum(-1).astype(values.dtype)
    return jnp.where(evidence.any(-1), both / jnp.maximum(either, 1), jnp.nan)


def _highest(values: Array, k: Array) -> Array:
    """The k (..., 1) highest of values (..., n), bool."""
    order = jnp.argsort(-values, axis=-1)
    return jnp.argsort(order, axis=-1) < k


def _best_interval(values: Array, k: Array) -> Array:
    """The k (..., 1) neighbours of largest sum among values (..., n), bool."""
    place = jnp.arange(values.shape[-1]).reshape((1,) * (values.ndim - 1) + (-1,))
    start, frame = place[..., :, None], place[..., None, :]
    within = (frame >= start) & (frame < start + k[..., None])  # (..., starts, n)
    sums = jnp.where(within, values[..., None, :], 0).sum(-1)
    sums = jnp.where(place + k <= values.shape[-1], sums, -jnp.inf)
    first = jnp.argmax(sums, axis=-1, keepdims=True)
    return (place >= first) & (place < first + k)
