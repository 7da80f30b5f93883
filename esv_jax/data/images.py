"""Images: folders of image files, RGB conversion, JPEG."""

from __future__ import annotations

import dataclasses
import io
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esv_jax.checks import expect, message
from esv_jax.data.video_files import IMAGE_SUFFIXES, codec_of, open_container, select_stream
from esv_jax.extras import require

if TYPE_CHECKING:
    import av

Orientation = tuple[bool, bool, bool]
"""Flags: swap rows and columns, then flip rows, then flip columns."""


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The image files of a folder, in order, as the frames of a video; see `VideoFile`."""

    path: Path
    images: tuple[Path, ...]
    duration = None

    @property
    def name(self) -> str:
        """Name of the folder, for messages."""
        return f"{self.path.name}/"

    def __len__(self) -> int:
        return len(self.images)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames; an OSError or ValueError names the image that cannot be read."""
        to_rgb = RgbConverter()
        for i in indices:
            yield to_rgb(_decode_image(self.images[i])[0])

    def first(self) -> tuple[av.VideoFrame, str]:
        """The first image as decoded, and its codec."""
        return _decode_image(self.images[0])


def _decode_image(path: Path) -> tuple[av.VideoFrame, str]:
    """The picture and the codec of an image file."""
    av = require("av", "video")
    try:
        with open_container(io.BytesIO(path.read_bytes()), path.name, "an image") as container:
            stream = select_stream(container, path.name)
            frame, codec = next(container.decode(stream)), codec_of(stream)
    except (av.error.FFmpegError, StopIteration) as error:
        raise ValueError(message(path.name, "an image", "one that cannot be decoded")) from error
    expect(not frame.is_corrupt, path.name, "an image", "one that is damaged")
    return frame, codec


def open_image_folder(path: Path) -> ImageFolder:
    """Open a folder of images; hidden and other files are ignored. ValueError without images."""
    files = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    got = f"none among {len(files)} files" if files else "an empty folder"
    expect(len(images) > 0, f"{path.name}/", f"images ({', '.join(IMAGE_SUFFIXES)})", got)
    return ImageFolder(path, tuple(sorted(images, key=_natural_order)))


def _natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key with img_2 before img_10; otherwise equal names are sorted by their letters."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(int(p), "") if k % 2 else (0, p) for k, p in enumerate(parts)], path.name


class RgbConverter:
    """Conversion of the frames of one clip to RGB arrays; reuses the library's buffers."""

    def __init__(self) -> None:
        reformatter = require("av.video.reformatter", "video")
        kinds = reformatter.Interpolation
        self._reformatter = reformatter.VideoReformatter()
        # Chroma at full resolution, accurate rounding, the same result on every processor.
        self._flags = int(
            kinds.BILINEAR | kinds.ACCURATE_RND | kinds.FULL_CHR_H_INT | kinds.BITEXACT
        )

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """One frame, (h, w, 3) uint8, RGB, upright."""
        rgb = self._reformatter.reformat(
            frame, format="rgb24", interpolation=self._flags, threads=1
        )
        return upright(rgb.to_ndarray(), orientation_of(frame))


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Orientation of the stored pixels, from the display matrix of a frame.

    The matrix [[a, b, u], [c, d, v], [x, y, w]] maps column p and row q to column a p + c q + x
    and row b p + d q + y. Its rotation is rounded to quarter turns.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def upright(image: np.ndarray, orientation: Orientation) -> np.ndarray:
    """A view of an image (h, w, 3) in the given orientation."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        image = image.swapaxes(0, 1)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def jpeg_still(
    frame: np.ndarray,
    *,
    quality: int = 85,
    max_height: int | None = None,
    max_width: int | None = None,
) -> bytes:
    """Encode a frame (h, w, 3) uint8 as JPEG, reduced in proportion to the maximum size.

    The bytes, without metadata, are the same for the same frame. ImportError without Pillow.
    """
    h, w = frame.shape[:2]
    picture = require("PIL.Image", "video").fromarray(frame)
    picture.thumbnail((max_width or w, max_height or h))  # never enlarges
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
