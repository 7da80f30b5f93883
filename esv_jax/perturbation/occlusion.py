"""Occlusion: what a class's score loses when a part of the clip is covered, window by window."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

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
from esv_jax.metrics.voxels import replacement, scores_of_targets

BatchFunction: TypeAlias = Callable[[Array], Array]
"""Clips (B, t, h, w, c) -> scores (B, C), in JAX."""
Remove: TypeAlias = Literal["blur", "fade"] | Any
"""Content under a window: "blur", "fade", or an array that broadcasts to the clip."""

BLUR_SIGMA = 20.0  # pixels; of 112 x 112 nothing but broad colours is left
_NUMBERS_AT_ONCE = 2**24  # of occluded clips held together, where no batch size is given


def occlusion(
    fn: BatchFunction,
    clip: Any,
    target: int | Array,
    *,
    window: tuple[int, int, int],
    stride: tuple[int, int, int] | None = None,
    remove: Remove = "blur",
    batch_size: int | None = None,
) -> Array:
    """Mean drop of a class's score over the windows that cover each voxel.

        map[v] = mean over windows W that cover v of fn(clip)[target] - fn(clip without W)[target]

    Windows stand `stride` apart from the first voxel on, the last of an axis being cut off where
    the clip ends, so that every voxel is covered. What a mean over windows loses in sharpness it
    gains in evenness: a voxel counts the same however many windows cover it.
    Source: Zeiler & Fergus (2014), section 4.2, with a third axis for time.

    Args:
      fn: clips (B, t, h, w, c) -> scores (B, C), in JAX; of any kind, logits or probabilities. Of
        an output with `logits`, these; (B,) is one column.
      clip: (t, h, w, c), floating point.
      target: a class, 0..C-1.
      window: frames, rows and columns covered at once; more than there are cover all.
      stride: how far windows are apart, each in 1..window; default half a window, rounded up.
      remove: what lies under the window: "blur" the clip, its frames blurred by 20 pixels; "fade"
        zeros; or an array that broadcasts to the clip.
      batch_size: occluded clips put to fn at once; by default as memory for 16 million numbers has
        it.
    Returns:
      (t, h, w) float32, higher where the class hangs on it, in units of the scores.
    Raises:
      TypeError: clip or scores that are not floating point, sizes that are no integers. ValueError:
      another shape, a clip or scores that are not finite, a window below 1, a stride that leaves
      gaps, a target out of range (NaN where traced), another `remove`.
    Cost: one forward pass, and one for each window: `n_windows` says how many.
    """
    clip = expect_floating("clip", clip, "Convert it, e.g. frames.astype(jnp.float32).")
    fits = clip.ndim == 4 and clip.size > 0
    expect(fits, "clip", "shape (t, h, w, c)", clip.shape)
    expect_finite("clip", clip)
    scores_of = ScoresOf(fn, "clips")
    n_classes = scores_of.traced(
        clip[None], "For a function of the host, use metrics.insertion."
    ).shape[1]
    target = jnp.asarray(expect_classes("target", target, n_classes))
    expect(target.ndim == 0, "target", "one class", f"shape {target.shape}")
    filled = replacement(clip[None], remove, BLUR_SIGMA, EDGE)[0]
    axes = axis_windows(clip.shape[:3], window, stride)
    counts = tuple(len(axis) for axis in axes)

    def score(clips: Array) -> Array:
        scores = scores_of(clips).astype(jnp.float32)
        return scores_of_targets(scores, jnp.broadcast_to(target, scores.shape[:1]))

    def without(places: Array) -> Array:
        """The score of the clip without each of B windows, (B,)."""
        rows = [
            jnp.asarray(axis)[index]
            for axis, index in zip(axes, jnp.unravel_index(places, counts), strict=True)
        ]
        covered = rows[0][:, :, None, None] & rows[1][:, None, :, None] & rows[2][:, None, None, :]
        return score(jnp.where(covered[..., None], filled[None], clip[None]))

    drops = score(clip[None]) - _in_batches(without, math.prod(counts), clip.size, batch_size)
    found = _mean_over_windows(drops.reshape(counts), axes)
    expect_finite("occlusion", found, "Scores of clips with voxels removed must be finite, too.")
    return found


def n_windows(
    shape: tuple[int, ...],
    window: tuple[int, int, int],
    stride: tuple[int, int, int] | None = None,
) -> int:
    """Number of windows of `occlusion` over a clip of shape (t, h, w, ...)."""
    return math.prod(len(axis) for axis in axis_windows(tuple(shape)[:3], window, stride))


def axis_windows(
    shape: tuple[int, ...], window: Any, stride: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the coverage of windows per axis: (N_t, t), (N_h, h) and (N_w, w) bool.

    Raises:
      As `occlusion`.
    """
    window = _three("window", window)
    stride = tuple(-(-size // 2) for size in window) if stride is None else _three("stride", stride)
    fits = all(step <= size for step, size in zip(stride, window, strict=True))
    expect(fits, "stride", f"at most the window {window}", stride, "Voxels would lie between.")
    t, h, w = (
        _axis(size, length, step) for size, length, step in zip(shape, window, stride, strict=True)
    )
    return t, h, w


def _axis(size: int, length: int, step: int) -> np.ndarray:
    """Windows (N, size) bool of one axis: the last begins where the one before leaves a rest."""
    n = -(-max(size - length, 0) // step) + 1
    away = np.arange(size) - step * np.arange(n)[:, None]
    covered: np.ndarray = (away >= 0) & (away < length)
    return covered


def _mean_over_windows(drops: Array, axes: tuple[np.ndarray, ...]) -> Array:
    """The mean over the windows that cover each voxel, axis after axis; float32."""
    shares = (jnp.asarray(axis / axis.sum(0), jnp.float32) for axis in axes)
    return jnp.einsum("abc,at,bh,cw->thw", drops, *shares, precision="highest")


def _in_batches(fn: Callable[[Array], Array], n: int, size: int, batch_size: int | None) -> Array:
    """fn of the numbers 0..n - 1, (n,), some at once; what comes of each is `size` numbers."""
    if batch_size is None:
        batch_size = max(1, _NUMBERS_AT_ONCE // size)
    n_batches = -(-n // expect_int("batch_size", batch_size, 1))
    width = -(-n // n_batches)
    places = np.minimum(np.arange(n_batches * width), n - 1).reshape(n_batches, width)
    if n_batches == 1:
        return fn(jnp.asarray(places[0]))
    # Forward passes of 16 clips or more are as fast in a loop, on CPUs too, and compile once.
    return lax.map(fn, jnp.asarray(places)).reshape(-1)[:n]


def _three(name: str, value: Any) -> tuple[int, int, int]:
    """Frames, rows and columns, whole numbers from 1 on."""
    expected = "three integers, (t, h, w)"
    if not isinstance(value, tuple | list):
        raise TypeError(message(name, expected, repr(value)))
    expect(len(value) == 3, name, expected, value)
    t, h, w = (expect_int(name, number, 1) for number in value)
    return t, h, w
