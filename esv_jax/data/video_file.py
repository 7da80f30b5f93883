"""Frames of a video file by number, exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esv_jax.checks import message
from esv_jax.data.video_index import FrameIndex, index_by_decoding, index_video
from esv_jax.data.video_pixels import RgbConverter, degrees_clockwise, orientation_of, upright
from esv_jax.data.video_reader import IndexDisagreesError, VideoInfo
from esv_jax.data.video_stream import codec_of, damaged, decoded, open_stream
from esv_jax.extras import require

_WORTH_A_JUMP = 8  # frames: what a jump to a keyframe costs, about, in frames decoded


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video file and its index; a `FrameReader`.

    Attributes:
      path: the file.
      index: its frames, as `index_video` or `index_by_decoding` found them.
    """

    path: Path
    index: FrameIndex

    @property
    def name(self) -> str:
        """Name of the input, for messages."""
        return self.path.name

    def __len__(self) -> int:
        return self.index.n

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames asked for, one at a time, each (h, w, 3) uint8, RGB and upright.

        Decoding runs from frame to frame, and jumps where a keyframe lies far enough ahead. Every
        frame that comes out, wanted or not, must carry the time that the index has for it.

        Args:
          indices: frame numbers, strictly increasing, within 0..len(self) - 1.
        Raises:
          IndexDisagreesError: a frame carries another time; `counted` has the way out.
          ValueError: damaged data, naming the frame reached.
        Cost: decodes from the keyframe before each frame, at most everything up to the last one;
          holds the frame at hand beside those the coding refers to.
        """
        to_rgb = RgbConverter()
        for frame in self._decoded(indices):
            yield to_rgb(frame)

    def info(self) -> VideoInfo:
        """Size, pace and coding. Decodes the first frame."""
        with open_stream(self.path) as (_, stream):
            codec = codec_of(stream)
        frame = next(self._decoded([0]))
        orientation = orientation_of(frame)
        height, width = upright(np.empty((frame.height, frame.width, 0)), orientation).shape[:2]
        duration = self.index.duration
        return VideoInfo(
            frames=len(self),
            height=height,
            width=width,
            fps=len(self) / duration if duration else None,
            duration=duration,
            rotation=degrees_clockwise(orientation),
            codec=codec,
        )

    def counted(self) -> VideoFile:
        """The same file with an index that was made by decoding all of it."""
        return dataclasses.replace(self, index=index_by_decoding(self.path))

    def _decoded(self, indices: Sequence[int]) -> Iterator[Any]:
        """The frames asked for as they leave the decoder."""
        with open_stream(self.path) as (container, stream):
            at = -1
            coming = self._numbered(container, stream, 0)
            for i in indices:
                keyframe = int(self.index.keyframe[i])
                if keyframe > at + _WORTH_A_JUMP:
                    coming = self._after_jump(container, stream, keyframe)
                for at, frame in coming:
                    if at == i:
                        yield frame
                        break
                else:
                    raise self._disagreement()

    def _numbered(self, container: Any, stream: Any, first: int) -> Iterator[tuple[int, Any]]:
        """Frames from number `first` on, each checked against its time."""
        pts = self.index.pts
        number = first
        skipping = first > 0
        for frame in decoded(self.path, container, stream, first):
            if skipping:  # what refers to frames before the jump, and what lies before its goal
                if pts is None or frame.pts is None or frame.pts > pts[first]:
                    raise self._disagreement()
                if frame.pts < pts[first]:
                    continue
                skipping = False
                if not frame.key_frame:
                    raise self._disagreement()
            if pts is not None and (number >= len(pts) or frame.pts != pts[number]):
                raise self._disagreement()
            if frame.is_corrupt:
                raise damaged(self.path, number)
            yield number, frame
            number += 1

    def _after_jump(self, container: Any, stream: Any, first: int) -> Iterator[tuple[int, Any]]:
        """Frames from the keyframe with number `first` on."""
        assert self.index.pts is not None
        av = require("av", "video")
        try:
            container.seek(int(self.index.pts[first]), stream=stream)
        except av.error.FFmpegError:
            raise self._disagreement() from None
        return self._numbered(container, stream, first)

    def _disagreement(self) -> IndexDisagreesError:
        got, way_out = "others", "It may have changed meanwhile."
        expected = "the frames that were counted in it"
        return IndexDisagreesError(message(self.name, expected, got, way_out))


def open_video(path: Path) -> VideoFile:
    """A video file, its frames counted.

    Raises:
      OSError, ValueError, ImportError: as `index_video`.
    Cost: reads the file; see `index_video`.
    """
    return VideoFile(path, index_video(path))
