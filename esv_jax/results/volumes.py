"""Relevance, or masks, of the pixels of one clip: a netCDF-4 file that opens with xarray.

Dimensions: part (e.g. spatial, temporal), frame, y, x. Needs the `files` extra.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_finite
from esv_jax.extras import require
from esv_jax.files import atomic_path
from esv_jax.results.layout import compressed, open_format, provenance, write_dataset

if TYPE_CHECKING:
    import xarray

FORMAT = "esv_jax relevance, version 1"
_RELEVANCE = "relevance of a pixel, channels summed; of one unit with the score"


def save_volumes(
    path: str | os.PathLike[str],
    parts: Mapping[str, ArrayLike],
    *,
    frame_index: ArrayLike | None = None,
    settings: Mapping[str, object] | None = None,
    meaning: str = _RELEVANCE,
    overwrite: bool = False,
    **about: str | float | Sequence[float],
) -> Path:
    """Write volumes of one clip, relevance or masks, to one file, complete or not at all.

    Args:
      path: the file, e.g. "clip.nc", in a folder that exists.
      parts: names -> relevance (t, h, w), or (t, h, w, c), whose channels are summed; of one shape.
      frame_index: numbers of the t frames in the video; default 0..t-1.
      settings: of the computation (method, model, ...), as JSON.
      meaning: description of the variable `relevance`.
      overwrite: replace an existing file.
      **about: further attributes of the file, e.g. `uid`, `class_name`, `score`, `title`.
    Returns:
      The path.
    Raises:
      ValueError: no parts, shapes that differ, values that are not finite, a wrong number of frame
        numbers, a path that is a folder.
      TypeError: settings that JSON cannot hold.
      FileExistsError, FileNotFoundError, OSError: a path that is taken, whose folder is missing,
        or that cannot be written.
    """
    xarray = require("xarray", "files")
    expect(len(parts) > 0, "parts", "at least one volume", "none")
    volumes: list[np.ndarray] = []
    for name, part in parts.items():
        volume = np.asarray(part, np.float32)
        fits = volume.ndim in (3, 4) and volume.size > 0
        expect(fits, name, "shape (t, h, w) or (t, h, w, c)", volume.shape)
        expect_finite(name, volume)
        volumes.append(volume if volume.ndim == 3 else volume.sum(-1))
        same = volumes[0].shape
        expect(volumes[-1].shape == same, name, f"{same} as the first part", volumes[-1].shape)
    array = np.stack(volumes)
    t = array.shape[1]
    index = np.arange(t) if frame_index is None else np.asarray(frame_index)
    expect(index.shape == (t,), "frame_index", f"{t} frame numbers", index.shape)
    with atomic_path(path, overwrite=overwrite) as temporary:
        sums = {"long_name": "sum over the pixels of a frame"}
        of_frame = array.sum((2, 3), dtype=np.float64)
        dataset = xarray.Dataset(
            {
                "relevance": (("part", "frame", "y", "x"), array, {"long_name": meaning}),
                "by_frame": (("part", "frame"), of_frame, sums),
                "frame_index": (("frame",), index.astype(np.int64)),
            },
            {"part": np.array([*parts], object)},
            provenance("Relevance of pixels", FORMAT, next(iter(parts.values())), settings) | about,
        )
        encoding = {"relevance": compressed((1, 1, *array.shape[2:]))}
        write_dataset(temporary, dataset, encoding)
    return Path(path)


def open_volumes(path: str | os.PathLike[str]) -> xarray.Dataset:
    """Open a file written by `save_volumes`; variables are read when they are used.

    Close it, or use it as a context manager.

    Raises:
      ValueError: a file that is missing, empty, truncated, or of another format.
    """
    return open_format(path, FORMAT, "results.save_volumes")
