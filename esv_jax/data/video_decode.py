"""Decoding of videos: frames by number from a video file or a folder of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from esv_jax.checks import expect, expect_int, message
from esv_jax.data.images import ImageFolder, RgbConverter, open_image_folder, orientation_of
from esv_jax.data.preprocessing import resize_frame, segment_centres
from esv_jax.data.video_files import (
    FrameIndex,
    codec_of,
    damage_error,
    decode_stream,
    index_by_decoding,
    index_video,
    open_stream,
)
from esv_jax.extras import require

if TYPE_CHECKING:
    import av

T = TypeVar("T")

_MIN_SEEK = 8  # frames: seeking to a keyframe takes about as long as decoding this many


class IndexDisagreesError(ValueError):
    """The decoded frames differ from the index; see `with_reader`."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
      frames: number of decoded frames, n >= 1; counted, not taken from a header.
      height, width: of a returned frame, in pixels, upright.
      fps: mean frames per second, or None without timestamps.
      duration: seconds from the first frame to the end of the last, or None.
      rotation: clockwise rotation of the stored pixels in degrees: 0, 90, 180 or 270.
      codec: e.g. "h264".
    """

    frames: int
    height: int
    width: int
    fps: float | None
    duration: float | None
    rotation: int
    codec: str


def decode_frames(
    path: str | PathLike[str],
    n: int | Literal["all"] | None = 8,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    size: int | None = None,
) -> np.ndarray:
    """Decode frames of a video file or of a folder of images.

        decode_frames("clip.mp4", n=8)                      # at the centres of 8 equal segments
        decode_frames("clip.mp4", indices=[20, 3, 3])       # in this order
        decode_frames("frames/", n=None, size=256)          # all, short side 256

    Frames count from 0 in display order, whatever the order, timestamps or header of the file.
    Each is identical to the frame that decoding from the beginning gives. Rotations and flips
    stored in the file are applied. Non-square pixels are not rescaled, transparency is dropped.

    Args:
      path: a video in any format that FFmpeg decodes, GIF included, or a folder of .jpg, .jpeg
        and .png files, in natural order of their names (2 before 10).
      n: number of frames, at `segment_centres`; None or "all" for every frame.
      indices: frame numbers in any order, in place of n; repeats are allowed.
      size: short side in pixels to resize each frame to, bilinear. Default: as stored.
    Returns:
      (n, h, w, 3) uint8, RGB.
    Raises:
      FileNotFoundError, OSError: no such file, or one that cannot be read.
      ValueError: fewer frames than requested, indices out of range, frames that differ in size; a
        file without video or frames, truncated or damaged (the frame is named). Damage after the
        last requested frame may not be detected.
      TypeError: indices that are not integers.
      ImportError: PyAV is not installed.
    Cost: reads the file once to count frames, decodes up to the last requested frame, from
      keyframes where that is less. Codecs whose packets do not give the number of frames (e.g.
      MPEG-4 part 2) are decoded once more, as is a file that disagrees with its packets. Memory:
      the returned frames and the one being decoded.
    """
    if size is not None:
        size = expect_int("size", size, minimum=1)

    def decode(reader: FrameReader) -> np.ndarray:
        numbers, inverse = np.unique(_requested(reader, n, indices), return_inverse=True)
        return gather(reader.name, reader.frames(numbers.tolist()), numbers, inverse, size)

    return with_reader(path, decode)


def probe_video(path: str | PathLike[str]) -> VideoInfo:
    """Properties of a video file or a folder of images. Arguments and errors as `decode_frames`.

    Cost: reads the file and decodes its first frame; decodes all of it where packets do not give
      the number of frames.
    """

    def probe(reader: FrameReader) -> VideoInfo:
        n, duration = len(reader), reader.duration
        frame, codec = reader.first()
        transpose, flip_rows, flip_columns = orientation_of(frame)
        height, width = (frame.width, frame.height)[:: 1 if transpose else -1]
        rotation = 180 if flip_rows and flip_columns else 0
        if transpose:
            rotation = 90 if flip_columns else 270
        fps = n / duration if duration else None
        return VideoInfo(n, height, width, fps, duration, rotation, codec)

    return with_reader(path, probe)


def open_frames(path: str | PathLike[str]) -> FrameReader:
    """Open a video file, or a folder of images, and count its frames; errors as `decode_frames`."""
    path = Path(path)
    return open_image_folder(path) if path.is_dir() else VideoFile(path, index_video(path))


def with_reader(path: str | PathLike[str], use: Callable[[FrameReader], T]) -> T:
    """Call `use` with the reader of a file, and again if the index of its packets is wrong."""
    try:
        return use(open_frames(path))
    except IndexDisagreesError:
        return use(VideoFile(Path(path), index_by_decoding(Path(path))))


def _requested(
    reader: FrameReader,
    n: int | Literal["all"] | None,
    indices: Sequence[int] | np.ndarray | None,
) -> np.ndarray:
    """Frame numbers to return, (n,)."""
    total = len(reader)
    if indices is None:
        if n is None or n == "all":
            return np.arange(total)
        n = expect_int("n", n, minimum=1, way_out='"all" takes every frame.')
        way_out = "Request fewer, all with n=None, or repeat some with indices=[...]."
        expect(total >= n, reader.name, f"at least n = {n} frames", total, way_out)
        return segment_centres(total, n)
    numbers = np.asarray(indices)
    fits = numbers.ndim == 1 and numbers.size > 0
    expect(fits, "indices", "a list of numbers", repr(indices))
    kind = numbers.dtype.kind
    expect(kind in "iu", "indices", "integers", f"dtype {numbers.dtype}", kind=TypeError)
    outside = numbers[(numbers < 0) | (numbers >= total)]
    if outside.size:
        expected = f"numbers in 0..{total - 1}, the {total} frames of {reader.name}"
        raise ValueError(message("indices", expected, outside[0]))
    return numbers


def gather(
    name: str,
    frames: Iterator[np.ndarray],
    numbers: np.ndarray,
    inverse: np.ndarray | None = None,
    size: int | None = None,
) -> np.ndarray:
    """Take the next frames into one array; beside it, only the one being decoded is held.

    `numbers` are those of the frames to take, in order; `inverse` (n,) is the index into them of
    each frame in the result, by default each once. `size` is a short side to resize to.
    """
    inverse = np.arange(len(numbers)) if inverse is None else inverse
    out = np.empty((0, 0, 0, 3), np.uint8)
    for k, number in enumerate(numbers):
        frame = next(frames) if size is None else resize_frame(next(frames), size)
        if k == 0:
            out = np.empty((len(inverse), *frame.shape), np.uint8)
        expected = f"frames of one size ({out.shape[2]}x{out.shape[1]}, as frame {numbers[0]})"
        got = f"{frame.shape[1]}x{frame.shape[0]} at frame {number}"
        expect(frame.shape == out.shape[1:], name, expected, got)
        out[inverse == k] = frame
    return out


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """Random access to the frames of a video, numbered from 0 in display order.

    Attributes:
      path: the file.
      index: its frames.
    """

    path: Path
    index: FrameIndex

    @property
    def name(self) -> str:
        """Name of the file, for messages."""
        return self.path.name

    @property
    def duration(self) -> float | None:
        """Seconds, or None without timestamps."""
        return self.index.duration

    def __len__(self) -> int:
        return len(self.index.keyframe)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield frames, each (h, w, 3) uint8, RGB and upright.

        Decoding proceeds from frame to frame, and seeks where a keyframe is far enough ahead. The
        timestamp of every decoded frame, requested or not, must match the index.

        Args:
          indices: frame numbers, strictly increasing, within 0..len(self) - 1.
        Raises:
          IndexDisagreesError: the indexed number or timestamps of frames are wrong.
          ValueError: damaged data; names the frame.
        """
        to_rgb = RgbConverter()
        for frame in self._decoded(indices):
            yield to_rgb(frame)

    def first(self) -> tuple[av.VideoFrame, str]:
        """The first frame as decoded, and the codec."""
        with open_stream(self.path) as stream:
            return next(self._decoded([0])), codec_of(stream)

    def _decoded(self, indices: Sequence[int]) -> Iterator[av.VideoFrame]:
        """The requested frames as the decoder returns them."""
        with open_stream(self.path) as stream:
            number = -1
            frames = self._decode_from(0, stream)
            for i in indices:
                keyframe = int(self.index.keyframe[i])
                if keyframe > number + _MIN_SEEK:
                    frames = self._seek(keyframe, stream)
                for number, frame in frames:
                    if number == i:
                        yield frame
                        break
                else:
                    raise self._disagreement()

    def _decode_from(
        self, first: int, stream: av.video.stream.VideoStream
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames from number `first` on, each compared with its timestamp in the index."""
        pts = self.index.pts
        number = first
        skipping = first > 0
        for frame in decode_stream(self.path, stream, first):
            if skipping:  # frames before the keyframe, and those that refer to them
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
                raise damage_error(self.path, number)
            yield number, frame
            number += 1

    def _seek(
        self, keyframe: int, stream: av.video.stream.VideoStream
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames from a keyframe on."""
        assert self.index.pts is not None
        try:
            stream.container.seek(int(self.index.pts[keyframe]), stream=stream)
        except require("av", "video").error.FFmpegError:
            raise self._disagreement() from None
        return self._decode_from(keyframe, stream)

    def _disagreement(self) -> IndexDisagreesError:
        got, way_out = "others", "The file may have changed meanwhile."
        return IndexDisagreesError(message(self.name, "the frames that were counted", got, way_out))


FrameReader = VideoFile | ImageFolder
