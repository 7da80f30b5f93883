"""Occlusion: the drop of a class's score when windows of the clip are covered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from esv_jax.blur import EDGE
from esv_jax.checks import (
    ScoresOf,
    expect,
    expect_classes,
    expect_finite,
    expect_floating,
    expect_int,
    message,
)
from esv_jax.metrics.voxels import Remove, in_batches, replacement, scores_of_targets

BLUR_SIGMA = 20.0  # pixels; leaves only coarse colours of 112 x 112 pixels
_NUMBERS_AT_ONCE = 2**24  # of occluded clips in memory, by default


def occlusion(
    fn: Callable[[Array], Any],
    clip: ArrayLike,
    target: ArrayLike,
    *,
    window: tuple[int, int, int],
    stride: tuple[int, int, int] | None = None,
    remove: Remove = "blur",
    batch_size: int | None = None,
) -> Array:
    """Mean drop of a class's score over the windows that cover each voxel.

        map[v] = mean over windows W that cover v of fn(clip)[target] - fn(clip without W)[target]

    Windows are `stride` apart from the first voxel on; the last one of an axis is cut off at the
    border, so that every voxel is covered.
    Source: Zeiler & Fergus (2014), section 4.2, with a third axis for time.

    Args:
      fn: clips (B, t, h, w, c) -> scores (B, C), in JAX, logits or probabilities, (B,) being one
        column; or one clip -> logits (C,), or an object with such `logits`, for probabilities.
      clip: (t, h, w, c), floating point.
      target: a class, 0..C-1.
      window: frames, rows and columns, clipped to the size of the clip.
      stride: of the windows, each in 1..window; default half a window, rounded up.
      remove: content under the window: "blur", the clip blurred by 20 pixels; "fade", zeros; or an
        array that broadcasts to the clip.
      batch_size: occluded clips in one call of fn; default as many as make 16 million numbers.
    Returns:
      (t, h, w) float32, in units of the scores; high where the class depends on the voxel.
    Raises:
      TypeError: clip or scores not floating point, sizes that are not integers. ValueError:
      another shape, a clip or scores that are not finite, a window below 1, a stride that leaves
      gaps, a target out of range (NaN where traced), another `remove`.
    Cost: one forward pass for the clip and one for each window.
    """
    clip = expect_floating("clip", clip, "Convert it, e.g. frames.astype(jnp.float32).")
    fits = clip.ndim == 4 and clip.size > 0
    expect(fits, "clip", "shape (t, h, w, c)", clip.shape)
    expect_finite("clip", clip)
    scores_of = ScoresOf(fn, "clips")
    n_classes = scores_of.traced(
        clip[None], "For a function of the host, use metrics.insertion."
    ).shape[1]
    index = jnp.asarray(expect_classes("target", target, n_classes))
    expect(index.ndim == 0, "target", "one class", f"shape {index.shape}")
    filled = replacement(clip[None], remove, BLUR_SIGMA, EDGE)[0]
    axes = _axis_windows(clip.shape[:3], window, stride)
    counts = tuple(len(axis) for axis in axes)
    n = math.prod(counts)

    def score(clips: Array) -> Array:
        scores = scores_of(clips).astype(jnp.float32)
        return scores_of_targets(scores, jnp.broadcast_to(index, scores.shape[:1]))

    def occluded_score(windows: Array) -> Array:
        """The score of the clip without each of B windows, (B,)."""
        places = jnp.unravel_index(windows, counts)
        t, y, x = (jnp.asarray(axis)[at] for axis, at in zip(axes, places, strict=True))
        covered = t[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :]
        return score(jnp.where(covered[..., None], filled[None], clip[None]))

    if batch_size is None:
        batch_size = max(1, _NUMBERS_AT_ONCE // clip.size)
    batches = jnp.asarray(in_batches(n, batch_size))
    if len(batches) == 1:
        scores = occluded_score(batches[0])
    else:  # passes of 16 clips or more are as fast in a loop, on CPUs too, and compile once
        scores = lax.map(occluded_score, batches).reshape(-1)[:n]
    drops = (score(clip[None]) - scores).reshape(counts)
    shares = (jnp.asarray(axis / axis.sum(0), jnp.float32) for axis in axes)
    found = jnp.einsum("abc,at,bh,cw->thw", drops, *shares, precision="highest")
    expect_finite("occlusion", found, "Scores of clips with voxels removed must be finite, too.")
    return found


def _axis_windows(
    shape: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...] | None
) -> list[np.ndarray]:
    """Coverage of the windows along each axis: (N_t, t), (N_h, h) and (N_w, w) bool."""
    window = _three_sizes("window", window)
    half = tuple(-(-size // 2) for size in window)
    stride = half if stride is None else _three_sizes("stride", stride)
    fits = all(step <= size for step, size in zip(stride, window, strict=True))
    expect(fits, "stride", f"at most the window {window}", stride, "It would leave gaps.")
    axes = []
    for size, length, step in zip(shape, window, stride, strict=True):
        n = -(-max(size - length, 0) // step) + 1
        away = np.arange(size) - step * np.arange(n)[:, None]
        axes.append((away >= 0) & (away < length))
    return axes


def _three_sizes(name: str, value: object) -> tuple[int, ...]:
    expected = "three integers, (t, h, w)"
    if not isinstance(value, tuple | list):
        raise TypeError(message(name, expected, repr(value)))
    expect(len(value) == 3, name, expected, value)
    return tuple(expect_int(name, number, 1) for number in value)
