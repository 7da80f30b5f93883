"""Probabilities of clips of which some voxels are removed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from esv_jax.blur import Edge, gaussian_blur
from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_finite,
    expect_floating,
    expect_int,
    is_concrete,
    wider,
)
from esv_jax.metrics.probabilities import checked_probabilities, scores_of_targets

_AT_ONCE = 2**25  # numbers put to fn at once, where no batch size is given


def fills_of(clips: Array, remove: Any, blur_sigma: float, edge: Edge) -> Array:
    """Return the content of clips (V, t, h, w, c) where voxels are removed; see `insertion`."""
    if isinstance(remove, str):
        known = remove in ("blur", "fade")
        expect(known, "remove", "'blur', 'fade' or an array like the clip", repr(remove))
        return jnp.zeros_like(clips) if remove == "fade" else _blurred(clips, blur_sigma, edge)
    fill = expect_floating("remove", remove, "Choose 'blur' or 'fade', or give the fill.")
    expect_finite("remove", fill)
    try:
        fits = np.broadcast_shapes(fill.shape, clips.shape) == clips.shape
    except ValueError:
        fits = False
    like = f"a shape that broadcasts to that of a clip, {clips.shape[1:]}"
    expect(fits, "remove", like, fill.shape)
    return jnp.broadcast_to(fill.astype(clips.dtype), clips.shape)


_blurred = jax.jit(gaussian_blur, static_argnums=(1, 2))


def target_probabilities(
    fn: ScoresOf,
    clips: Array,
    fills: Array,
    order: Array,
    targets: Array,
    switched: np.ndarray,
    reveals: np.ndarray,
    batch_size: int | None = None,
) -> Array:
    """Probabilities of the targets with voxels shown or removed in K ways, (V, K).

    Args:
      clips, fills: (V, t, h, w, c).
      order: (V, t, h, w), from `switching_order`.
      targets: (V,) int; a traced one that is no class gives NaN.
      switched: (V, K), units switched. reveals: (K,), whether these are shown, else removed.
      batch_size: clips put to fn at once; default as many as make 33 million numbers.
    Cost: V * K evaluations, in batches of one size: one after the other from the host where values
      are known, a compiled loop where they are traced.
    """
    if batch_size is None:
        batch_size = max(1, _AT_ONCE * len(clips) // clips.size)
    n = switched.size
    n_batches = -(-n // expect_int("batch_size", batch_size, 1))
    width = -(-n // n_batches)
    places = np.arange(n_batches * width, dtype=np.int32).reshape(n_batches, width).clip(max=n - 1)

    def of(place: Any) -> Array:
        found = fn(_blended(clips, fills, order, switched, reveals, place))
        return _chosen(checked_probabilities(found, targets), targets, place // len(reveals))

    if n_batches == 1:
        found = of(places[0])
    elif all(map(is_concrete, (clips, fills, order, targets))):
        found = jnp.concatenate(list(map(of, places)))
    else:
        found = lax.map(of, places).reshape(-1)
    return found[:n].reshape(switched.shape)


@jax.jit
def _blended(
    clips: Array, fills: Array, order: Array, switched: Array, reveals: Array, place: Array
) -> Array:
    """The clips at places (B,) of all V * K in a row, (B, t, h, w, c)."""
    i, way = place // len(reveals), place % len(reveals)
    n_switched, reveal = (row[:, None, None, None] for row in (switched[i, way], reveals[way]))
    shown = (order[i] < n_switched) == reveal
    return jnp.where(shown[..., None], clips[i], fills[i])


@jax.jit
def _chosen(found: Array, targets: Array, i: Array) -> Array:
    """Probabilities (B,) of the targets of clips i (B,), float32 at least; NaN of no class."""
    return scores_of_targets(found.astype(wider(found.dtype)), targets[i])
