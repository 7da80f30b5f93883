"""A folder of images as the frames of a video."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esv_jax.checks import expect, message
from esv_jax.data.video_pixels import RgbConverter, degrees_clockwise, orientation_of
from esv_jax.data.video_reader import VideoInfo
from esv_jax.data.video_stream import open_container, pick_stream
from esv_jax.extras import require

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Images in the order of their names, numbers within them by size; a `FrameReader`.

    Attributes:
      path: the folder.
      images: its images, n >= 1.
    """

    path: Path
    images: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Name of the input, for messages."""
        return f"{self.path.name}/"

    def __len__(self) -> int:
        return len(self.images)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The images asked for, one at a time, each (h, w, 3) uint8, RGB and upright.

        Args:
          indices: image numbers within 0..len(self) - 1.
        Raises:
          OSError, ValueError: an image that cannot be read, named.
        """
        to_rgb = RgbConverter()
        for i in indices:
            yield to_rgb(_decode(self.images[i])[0])

    def info(self) -> VideoInfo:
        """Size and coding of the first image; a folder has no clock."""
        frame, codec = _decode(self.images[0])
        height, width = RgbConverter()(frame).shape[:2]
        rotation = degrees_clockwise(orientation_of(frame))
        return VideoInfo(len(self), height, width, None, None, rotation, codec)

    def counted(self) -> ImageFolder:
        """The folder itself: its images are counted."""
        return self


def open_image_folder(path: Path) -> ImageFolder:
    """The images (.jpg, .jpeg, .png) of a folder; hidden and other files are passed over.

    Raises:
      ValueError: no images.
    Cost: lists the folder.
    """
    files = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    images = [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    got = f"none among {len(files)} files" if files else "an empty folder"
    expect(bool(images), f"{path.name}/", f"images ({', '.join(SUFFIXES)})", got)
    return ImageFolder(path, tuple(sorted(images, key=_natural)))


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts img_2 before img_10; names that differ in nothing else by their letters."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(int(p), "") if k % 2 else (0, p) for k, p in enumerate(parts)], path.name


def _decode(path: Path) -> tuple[Any, str]:
    """The picture of an image file, and the name of its coding."""
    av = require("av", "video")
    try:
        with open_container(io.BytesIO(path.read_bytes()), path.name, "an image") as container:
            stream = pick_stream(container, path.name)
            frame = next(container.decode(stream))
            damage = frame.is_corrupt
            codec = str(stream.codec_context.codec.canonical_name)
    except (av.error.FFmpegError, StopIteration) as error:
        raise ValueError(message(path.name, "an image", "one that cannot be decoded")) from error
    expect(not damage, path.name, "an image", "one that is damaged")
    return frame, codec
