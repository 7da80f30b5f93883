"""One frame as a small JPEG, for pages."""

from __future__ import annotations

import io

import numpy as np

from esv_jax.checks import expect, expect_int, message
from esv_jax.extras import require


def jpeg_still(
    frame: np.ndarray,
    *,
    quality: int = 85,
    max_height: int | None = None,
    max_width: int | None = None,
) -> bytes:
    """A frame as a JPEG, shrunk in proportion where it is too large, never enlarged.

    Args:
      frame: (h, w, 3) uint8, RGB.
      quality: of JPEG, 1..95.
      max_height, max_width: pixels of the picture at most, >= 1; None for as many as there are.
    Returns:
      The bytes of the file, without metadata; the same for the same frame.
    Raises:
      TypeError: a frame that is not uint8, a number that is none.
      ValueError: a frame of another shape, a quality or size out of range.
      ImportError: Pillow is not installed (extra `video`).
    Cost: well under a millisecond a frame of 160 by 120 pixels.
    """
    frame = np.asarray(frame)
    if frame.dtype != np.uint8:
        raise TypeError(message("frame", "uint8, 0..255", f"dtype {frame.dtype}"))
    fits = frame.ndim == 3 and frame.shape[-1] == 3 and min(frame.shape) >= 1
    expect(fits, "frame", "shape (h, w, 3)", frame.shape)
    quality = expect_int("quality", quality, minimum=1)
    expect(quality <= 95, "quality", "an integer in 1..95", quality)
    h, w = frame.shape[:2]
    high = h if max_height is None else expect_int("max_height", max_height, minimum=1)
    wide = w if max_width is None else expect_int("max_width", max_width, minimum=1)
    picture = require("PIL.Image", "video").fromarray(frame)
    picture.thumbnail((wide, high))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
