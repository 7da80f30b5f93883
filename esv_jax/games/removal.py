"""What a clip is without some of its frames: the removal policies of a black box.

Every policy is a table of frames and, for each subsequence, the rows of that table that make its
clip. Host arrays (NumPy): the model that sees the clips is no JAX program.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from esv_jax.checks import expect

Removal = Literal["drop", "freeze", "mean", "zeros", "blur"]
REMOVALS: tuple[Removal, ...] = ("drop", "freeze", "mean", "zeros", "blur")

_BLUR_SIGMA = 0.1  # standard deviation of the blur, in shorter sides of the frame


def expect_removable(removal: Removal, shape: tuple[int, ...]) -> None:
    """Raise ValueError where frames of a clip of this shape cannot be removed so."""
    expect(
        removal != "blur" or len(shape) >= 3,
        "x",
        "frames with rows and columns, (n, h, w, ...), to blur",
        f"shape {shape}",
        "Use another removal, e.g. 'mean'.",
    )


def frame_table(removal: Removal, clip: np.ndarray) -> np.ndarray:
    """Frames (F, ...) that clips of subsequences of `clip` (n, ...) are made of.

    Rows 0..n-1 are the clip's own. What follows stands for missing frames: their mean ("mean"),
    one frame of zeros ("zeros"), or n blurred frames ("blur"), a Gaussian over rows and columns,
    the axes 1 and 2, of a tenth of the shorter side, edges replicated. In the dtype of `clip`,
    rounded where that is of integers.
    """
    if removal == "mean":
        mean = clip.mean(0, keepdims=True, dtype=np.float64)
        return np.concatenate([clip, _cast(mean, clip.dtype)])
    if removal == "zeros":
        return np.concatenate([clip, np.zeros_like(clip[:1])])
    if removal == "blur":
        return np.concatenate([clip, blurred(clip)])
    return clip


def frame_index(removal: Removal, member: np.ndarray) -> np.ndarray:
    """Rows of `frame_table` for each subsequence; (m, s) for "drop", else (m, n).

    Args:
      removal: "drop" keeps the s frames that are in, in temporal order; "freeze" puts the nearest
        kept frame in a missing one's place, the earlier of two as near; the others put the
        table's substitute there.
      member: (m, n) bool, every row with at least one element; for "drop" all rows with as many.
    """
    m, n = member.shape
    own = np.arange(n)
    if removal == "drop":
        return np.nonzero(member)[1].reshape(m, -1)
    if removal == "freeze":
        far = 2 * n
        before = np.maximum.accumulate(np.where(member, own, -far), axis=1)
        after = np.minimum.accumulate(np.where(member, own, 2 * far)[:, ::-1], axis=1)[:, ::-1]
        return np.where(own - before <= after - own, before, after)
    substitute = own + n if removal == "blur" else np.full(n, n)
    return np.where(member, own, substitute)


def blurred(clip: np.ndarray) -> np.ndarray:
    """Every frame of (n, h, w, ...) under a separable Gaussian, edges replicated."""
    sigma = max(_BLUR_SIGMA * min(clip.shape[1:3]), 1e-3)
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    out = clip.astype(np.float64)
    for axis in (1, 2):
        size = out.shape[axis]
        total = np.zeros_like(out)
        for shift, weight in zip(range(-reach, reach + 1), kernel, strict=True):
            place = np.clip(np.arange(size) + shift, 0, size - 1)
            total += weight * np.take(out, place, axis)
        out = total
    return _cast(out, clip.dtype)


def _cast(frames: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Frames of floating point in another dtype; to the nearest integer, not down to it."""
    return (np.rint(frames) if np.issubdtype(dtype, np.integer) else frames).astype(dtype)
