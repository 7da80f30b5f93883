"""Removal policies of a black box: what replaces absent frames in a clip.

Every policy is a table of frames and, for each subsequence, the rows of that table that make its
clip. Host arrays (NumPy): the model that gets the clips is no JAX program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from esv_jax.blur import blur_matrices
from esv_jax.checks import expect, nearest

NamedRemoval = Literal["drop", "freeze", "mean", "zeros", "blur"]
REMOVALS: tuple[NamedRemoval, ...] = get_args(NamedRemoval)
Removal: TypeAlias = NamedRemoval | Callable[[np.ndarray, np.ndarray], Any]
Layout = Literal["hw", "hwc", "chw"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_BLUR_SIGMA = 0.1  # standard deviation of the blur, in shorter sides of the frame
_MAX_CHANNELS = 4


def check_removal(removal: Any) -> None:
    """Refuse what is neither a policy by name nor a function."""
    expected = f"one of {', '.join(map(repr, REMOVALS))}, or a function of (frames, kept)"
    taken, way_out = callable(removal) or removal in REMOVALS, nearest(str(removal), REMOVALS)
    expect(taken, "removal", expected, repr(removal), way_out)


def frame_axes(shape: tuple[int, ...], layout: Layout | None) -> tuple[int, int]:
    """Axes of rows and columns in a clip (n, ...) of this shape.

    Without a layout, frames of two axes are rows and columns; of three, one axis of at most four
    is the channels where the other end's is larger.

    Raises:
      ValueError: frames without rows and columns; several readings, with the way out.
    """
    n_axes = len(shape) - 1
    if layout is None:
        way_out = "Use another removal, e.g. 'mean'."
        expected = "frames with rows and columns, (n, h, w), (n, h, w, c) or (n, c, h, w), to blur"
        expect(n_axes in (2, 3), "x", expected, f"shape {shape}", way_out)
        layout = "hw" if n_axes == 2 else "chw" if shape[1] <= _MAX_CHANNELS else "hwc"
        unclear = n_axes == 3 and (shape[1] <= _MAX_CHANNELS) == (shape[3] <= _MAX_CHANNELS)
        way_out = "Give layout='hwc' or layout='chw'."
        expected = "frames whose channels can be told from rows and columns"
        expect(not unclear, "x", expected, f"shape {shape}", way_out)
    expect(n_axes == len(layout), "layout", f"frames of {n_axes} axes", repr(layout))
    return layout.index("h") + 1, layout.index("w") + 1


def frame_table(removal: Removal, clip: np.ndarray, layout: Layout | None = None) -> np.ndarray:
    """Frames (F, ...) that clips of subsequences of `clip` (n, ...) are made of.

    Rows 0..n-1 are the clip's own. Then come the substitutes of absent frames: their mean
    ("mean"), one frame of zeros ("zeros"), or n blurred frames ("blur"), a Gaussian over rows and
    columns of a tenth of the shorter side, edges replicated. In the dtype of `clip`, rounded where
    that is of integers.
    """
    if removal == "mean":
        substitutes = clip.mean(0, keepdims=True, dtype=np.float64)
    elif removal == "zeros":
        substitutes = np.zeros_like(clip[:1])
    elif removal == "blur":
        substitutes = _blurred(clip, frame_axes(clip.shape, layout))
    else:
        return clip
    if np.issubdtype(clip.dtype, np.integer):
        substitutes = np.rint(substitutes)  # to the nearest integer, not down to it
    return np.concatenate([clip, substitutes.astype(clip.dtype)])


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


def _blurred(clip: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    sigma = max(_BLUR_SIGMA * min(clip.shape[axis] for axis in axes), 1e-3)
    out = clip.astype(np.float64)
    for axis in axes:
        (matrix,) = blur_matrices(out.shape[axis], (sigma,), truncate=3.0)
        out = np.moveaxis(np.tensordot(matrix, out, (1, axis)), 0, axis)
    return out
