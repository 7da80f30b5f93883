"""Frames of a video, by number or at segment centres."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from esv_jax.checks import expect, expect_int, message
from esv_jax.data.image_folder import open_image_folder
from esv_jax.data.preprocessing import resize_frame
from esv_jax.data.sampling import segment_centres
from esv_jax.data.video_file import open_video
from esv_jax.data.video_reader import FrameReader, IndexDisagreesError, VideoInfo


def decode_frames(
    path: str | PathLike[str],
    n: int | Literal["all"] | None = 8,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    size: int | None = None,
) -> np.ndarray:
    """Frames of a video file or of a folder of images.

        decode_frames("clip.mp4", n=8)                      # at the centres of 8 equal segments
        decode_frames("clip.mp4", indices=[20, 3, 3])       # in the order asked
        decode_frames("frames/", n=None, size=256)          # all, short side 256

    Frames count from 0 in the order in which they are shown, whatever the order, times or
    claims of the file; each comes out pixel for pixel as if everything before it had been decoded.
    Turns and mirrorings that the file asks for are carried out. Pixels that are not square stay as
    they are stored, transparency is dropped.

    Args:
      path: a video in any container and coding that FFmpeg decodes, GIF included, or a folder of
        .jpg, .jpeg and .png files, taken in the order of their names (2 before 10).
      n: how many frames, at the `segment_centres` of all there are; None or "all" for every frame.
      indices: frame numbers wanted, in any order, in place of n; repeats are allowed.
      size: resize each frame, once decoded, so that its short side has this many pixels, as
        `resize_frames` does. Default: as stored.
    Returns:
      (n, h, w, 3) uint8, RGB.
    Raises:
      FileNotFoundError, OSError: no such file, or one that cannot be read.
      ValueError: fewer frames than asked for, a number that does not exist, frames that differ in
        size; a file without video or frames, cut short or damaged (the frame reached is named).
        Damage after the last frame wanted may go unseen.
      TypeError: numbers that are no integers.
      ImportError: PyAV is not installed.
    Cost: reads the file once to count, decodes up to the last frame wanted, and from keyframes
      where that is less. Codings whose packets do not tell the number of frames (MPEG-4 part 2,
      for one) are decoded once more, as is a file that turns out to disagree with its packets.
      Memory: the frames returned and the one being decoded.
    """
    reader = open_frames(path)
    if size is not None:
        size = expect_int("size", size, minimum=1)
    try:
        return _gather(reader, _wanted(reader, n, indices), size)
    except IndexDisagreesError:
        reader = reader.counted()
    return _gather(reader, _wanted(reader, n, indices), size)


def probe_video(path: str | PathLike[str]) -> VideoInfo:
    """Return the properties of a video file or a folder of images.

    Args:
      path: as for `decode_frames`.
    Returns:
      Number of frames, upright size, pace, rotation and coding.
    Raises:
      OSError, ValueError, ImportError: as `decode_frames`.
    Cost: reads the file and decodes its first frame; decodes all of it where packets do not tell
      the number of frames.
    """
    reader = open_frames(path)
    try:
        return reader.info()
    except IndexDisagreesError:
        return reader.counted().info()


def open_frames(path: str | PathLike[str]) -> FrameReader:
    """The reader for a path: `ImageFolder` for a folder, `VideoFile` for anything else.

    Raises:
      OSError, ValueError, ImportError: as `decode_frames`.
    """
    path = Path(path)
    return open_image_folder(path) if path.is_dir() else open_video(path)


def _wanted(reader: FrameReader, n: Any, indices: Any) -> np.ndarray:
    """Frame numbers to return, (n,) int64."""
    total = len(reader)
    if indices is not None:
        return _checked_indices(reader, indices)
    if n is None or n == "all":
        return np.arange(total)
    n = expect_int("n", n, minimum=1, way_out='"all" takes every frame.')
    way_out = "Ask for fewer, for all with n=None, or repeat some with indices=[...]."
    expect(total >= n, reader.name, f"at least n = {n} frames", total, way_out)
    return segment_centres(total, n)


def _checked_indices(reader: FrameReader, indices: Any) -> np.ndarray:
    wanted, total = np.asarray(indices), len(reader)
    expect(wanted.ndim == 1 and wanted.size > 0, "indices", "a list of numbers", f"{indices!r}")
    if not np.issubdtype(wanted.dtype, np.integer):
        raise TypeError(message("indices", "integers", f"dtype {wanted.dtype}"))
    wrong = wanted[(wanted < 0) | (wanted >= total)]
    if wrong.size:
        expected = f"numbers in 0..{total - 1}, the {total} frames of {reader.name}"
        raise ValueError(message("indices", expected, int(wrong[0])))
    return wanted.astype(np.int64)


def _gather(reader: FrameReader, wanted: np.ndarray, size: int | None) -> np.ndarray:
    """The frames wanted in one array, which is all that is held beside the frame at hand."""
    distinct, place = np.unique(wanted, return_inverse=True)
    out: np.ndarray | None = None
    for k, frame in enumerate(reader.frames(distinct.tolist())):
        if size is not None:
            frame = resize_frame(frame, size)
        if out is None:
            out = np.empty((len(wanted), *frame.shape), np.uint8)
        if frame.shape != out.shape[1:]:
            expected = f"frames of one size ({out.shape[2]}x{out.shape[1]}, as frame {distinct[0]})"
            got = f"{frame.shape[1]}x{frame.shape[0]} at frame {distinct[k]}"
            raise ValueError(message(reader.name, expected, got))
        out[place == k] = frame
    assert out is not None
    return out
