"""Interface of readers of frames, of one video file or of many images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
      frames: how many frames come out, n >= 1; counted, not taken from a header.
      height, width: of a frame as it is returned, in pixels, turned upright.
      fps: frames per second on average, or None where there is no clock.
      duration: seconds from the first frame to the end of the last, or None.
      rotation: degrees clockwise by which stored pixels are turned: 0, 90, 180 or 270.
      codec: name of the coding, e.g. "h264".
    """

    frames: int
    height: int
    width: int
    fps: float | None
    duration: float | None
    rotation: int
    codec: str


class IndexDisagreesError(ValueError):
    """Other frames came out than a reader had announced; see `FrameReader.counted`."""


class FrameReader(Protocol):
    """Frames by number, counted from 0 in the order in which they are shown."""

    @property
    def name(self) -> str:
        """Name of the input, for messages."""

    def __len__(self) -> int:
        """Number of frames."""

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames asked for, one at a time, each (h, w, 3) uint8, RGB and upright.

        Args:
          indices: frame numbers, strictly increasing, within 0..len(self) - 1.
        Raises:
          IndexDisagreesError: the announced number or times of frames turn out to be wrong.
        """

    def info(self) -> VideoInfo:
        """Size, pace and coding. Raises as `frames`."""

    def counted(self) -> FrameReader:
        """A reader of the same frames that has counted them all, at whatever cost."""
