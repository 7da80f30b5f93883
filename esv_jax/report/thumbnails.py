"""Small pictures of the frames that were explained, as data: addresses for a page."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from esv_jax import data
from esv_jax.data.video_files import find_videos
from esv_jax.extras import require

HIGHEST = 96  # pixels
_WIDEST = 4 * HIGHEST
_QUALITY = 80  # of JPEG


def videos_by_uid(source: str | os.PathLike[str]) -> dict[str, Path]:
    """Files of videos by uid, as the commands find them.

    Raises:
      ImportError: the `video` extra is not installed. OSError, ValueError: see `find_videos`.
    """
    require("PIL.Image", "video")
    require("av", "video")
    return find_videos([Path(source)])


def thumbnails(
    files: Mapping[str, Path], uid: str, indices: np.ndarray
) -> tuple[tuple[str, ...], str]:
    """Pictures of some frames of one video, and a note where there are none.

    Args:
      files: videos by uid. indices: (k,) numbers of the frames.
    Returns:
      k `data:image/jpeg` addresses, at most 96 pixels high, and ""; or none, and the reason.
    Cost: decodes the video up to the last frame asked for.
    """
    if uid not in files:
        return (), "No thumbnails: no video of this name was found."
    try:
        frames = data.decode_frames(files[uid], indices=indices, size=HIGHEST)
    except (OSError, ValueError) as error:
        return (), f"No thumbnails: {' '.join(str(error).split())}"
    return tuple(map(jpeg_address, frames)), ""


def jpeg_address(frame: np.ndarray) -> str:
    """A frame (h, w, 3) uint8 as a JPEG within an address, shrunk where it is higher than 96."""
    still = data.jpeg_still(frame, quality=_QUALITY, max_height=HIGHEST, max_width=_WIDEST)
    return f"data:image/jpeg;base64,{base64.b64encode(still).decode('ascii')}"
