"""Removal policies of a black box: what replaces absent frames in a clip.

Every policy is a table of frames and, for each subsequence, the rows of that table that make its
clip. Host arrays (NumPy): the model that gets the clips is no JAX program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from esv_jax.blur import blur_matrices
from esv_jax.checks import expect, message, nearest

NamedRemoval = Literal["drop", "freeze", "mean", "zeros", "blur"]
REMOVALS: tuple[NamedRemoval, ...] = get_args(NamedRemoval)
Removal: TypeAlias = NamedRemoval | Callable[[np.ndarray, np.ndarray], Any]
Layout = Literal["hw", "hwc", "chw"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_BLUR_SIGMA = 0.1  # standard deviation of the blur, in shorter sides of the frame
_MAX_CHANNELS = 4


def check_removal(removal: Any) -> None:
    """Refuse what is neither a policy by name nor a function."""
    if not callable(removal) and removal not in REMOVALS:
        expected = f"one of {', '.join(map(repr, REMOVALS))}, or a function of (frames, kept)"
        raise ValueError(
            message("removal", expected, repr(removal), nearest(str(removal), REMOVALS))
        )


def removal_name(removal: Removal) -> str:
    """The policy's name for results; of a function its own."""
    return getattr(removal, "__name__", type(removal).__name__) if callable(removal) else removal


def frame_axes(shape: tuple[int, ...], layout: Layout | None) -> tuple[int, int]:
    """Axes of rows and columns in a clip (n, ...) of this shape.

    Without a layout, frames of two axes are rows and columns; of three, one axis of at most four
    is the channels where the other end's is larger.

    Raises:
      ValueError: frames without rows and columns; several readings, with the way out.
    """
    n_axes = len(shape) - 1
    if layout is not None:
        expect(n_axes == len(layout), "layout", f"frames of {n_axes} axes", repr(layout))
        return layout.index("h") + 1, layout.index("w") + 1
    way_out = "Use another removal, e.g. 'mean'."
    expected = "frames with rows and columns, (n, h, w), (n, h, w, c) or (n, c, h, w), to blur"
    expect(n_axes in (2, 3), "x", expected, f"shape {shape}", way_out)
    if n_axes == 2:
        return 1, 2
    first, last = shape[1] <= _MAX_CHANNELS, shape[3] <= _MAX_CHANNELS
    way_out = "Give layout='hwc' or layout='chw'."
    expected = "frames whose channels can be told from rows and columns"
    expect(first != last, "x", expected, f"shape {shape}", way_out)
    return (2, 3) if first else (1, 2)


def expect_removable(removal: Removal, shape: tuple[int, ...], layout: Layout | None) -> None:
    """Raise ValueError where frames of a clip of this shape cannot be removed so."""
    if removal == "blur":
        frame_axes(shape, layout)


def frame_table(removal: Removal, clip: np.ndarray, layout: Layout | None = None) -> np.ndarray:
    """Frames (F, ...) that clips of subsequences of `clip` (n, ...) are made of.

    Rows 0..n-1 are the clip's own. Then come the substitutes of absent frames: their mean
    ("mean"), one frame of zeros ("zeros"), or n blurred frames ("blur"), a Gaussian over rows and
    columns of a tenth of the shorter side, edges replicated. In the dtype of `clip`, rounded where
    that is of integers.
    """
    if removal == "mean":
        mean = clip.mean(0, keepdims=True, dtype=np.float64)
        return np.concatenate([clip, _cast(mean, clip.dtype)])
    if removal == "zeros":
        return np.concatenate([clip, np.zeros_like(clip[:1])])
    if removal == "blur":
        return np.concatenate([clip, blurred(clip, frame_axes(clip.shape, layout))])
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


def blurred(clip: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Gaussian blur of every frame over rows and columns, edges replicated."""
    sigma = max(_BLUR_SIGMA * min(clip.shape[axis] for axis in axes), 1e-3)
    out = clip.astype(np.float64)
    for axis in axes:
        (matrix,) = blur_matrices(out.shape[axis], (sigma,), truncate=3.0)
        out = np.moveaxis(np.tensordot(matrix, out, (1, axis)), 0, axis)
    return _cast(out, clip.dtype)


def _cast(frames: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Frames of floating point in another dtype; to the nearest integer, not down to it."""
    return (np.rint(frames) if np.issubdtype(dtype, np.integer) else frames).astype(dtype)
