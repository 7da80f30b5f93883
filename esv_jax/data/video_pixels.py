"""From a decoded frame to upright RGB."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from esv_jax.extras import require

Orientation = tuple[bool, bool, bool]  # rows and columns change places; then flip rows, columns

UPRIGHT: Orientation = (False, False, False)


class RgbConverter:
    """Turns frames of one clip into arrays; keeps the library's scratch space between them."""

    def __init__(self) -> None:
        reformatter = require("av.video.reformatter", "video")
        kinds = reformatter.Interpolation
        self._reformatter = reformatter.VideoReformatter()
        # Colour at full resolution, rounded well, the same on every processor.
        self._flags = int(
            kinds.BILINEAR | kinds.ACCURATE_RND | kinds.FULL_CHR_H_INT | kinds.BITEXACT
        )

    def __call__(self, frame: Any) -> np.ndarray:
        """One frame, (h, w, 3) uint8, RGB, upright. Transparency is dropped.

        Pixels are those stored: where they are not square, the picture is not stretched.
        """
        rgb = self._reformatter.reformat(
            frame, format="rgb24", interpolation=self._flags, threads=1
        )
        return upright(rgb.to_ndarray(), orientation_of(frame))


def orientation_of(frame: Any) -> Orientation:
    """Return the rotation of stored pixels, from the display matrix of a frame.

    The matrix [[a, b, u], [c, d, v], [x, y, w]] sends column p and row q to column
    a p + c q + x and row b p + d q + y. Of its rotation the nearest quarter turn is taken.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def upright(image: np.ndarray, orientation: Orientation) -> np.ndarray:
    """An image (h, w, 3) turned as `orientation` says; a view where that is enough."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        image = image.swapaxes(0, 1)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def degrees_clockwise(orientation: Orientation) -> int:
    """The quarter turns within an orientation, 0, 90, 180 or 270; a mirror image is not told."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        return 90 if flip_columns else 270
    return 180 if flip_rows and flip_columns else 0
