"""Number of frames of a video, and their timestamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esv_jax.checks import expect, message
from esv_jax.data.video_complete import expect_complete
from esv_jax.data.video_stream import codec_of, damaged, decoded, open_stream
from esv_jax.extras import require

# Codings of which every packet gives one frame. Others may pack or hide frames.
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vp9", "av1", "gif", "mjpeg", "png"}


class FrameIndex(NamedTuple):
    """The frames of a video in the order in which they are shown.

    Attributes:
      n: how many.
      duration: seconds, or None.
      pts: (n,) int64, strictly increasing: when each frame is shown, in units of the stream. None
        where the file's times cannot be relied on and only the order is known.
      keyframe: (n,) int64: the last frame, at or before each, from which decoding can start.
    """

    n: int
    duration: float | None
    pts: np.ndarray | None
    keyframe: np.ndarray


def index_video(path: Path) -> FrameIndex:
    """Count the frames of a video, the cheap way where that can be relied on.

    A header's claim may be wrong or missing and is not looked at. Where the coding has one frame a
    packet, and every packet its own time, packets are counted without being decoded; who decodes
    checks each frame against the times found here. Otherwise all frames are decoded once.

    Raises:
      ValueError: no frames, data that is damaged or cut short; or as `open_stream`.
    Cost: reads the file; decodes it once where packets do not tell.
    """
    with open_stream(path) as (container, stream):
        expect_complete(path, container.format.name)
        one_each = codec_of(stream) in _ONE_FRAME_A_PACKET
        packets = list(_packets(path, container, stream))
        unit = float(stream.time_base or 0)
    times = [packet.pts for packet in packets if packet.pts is not None]
    if not one_each or len(times) < max(len(packets), 1) or len(set(times)) < len(times):
        return index_by_decoding(path)
    order = np.argsort(times)
    pts = np.array(times, np.int64)[order]
    is_key = np.array([packet.is_key for packet in packets])[order]
    keyframe = np.maximum.accumulate(np.where(is_key, np.arange(len(pts)), 0))
    length = packets[order[-1]].length
    duration = _seconds(times[order[0]], times[order[-1]], length, len(pts), unit)
    return FrameIndex(len(pts), duration, pts, keyframe)


def index_by_decoding(path: Path) -> FrameIndex:
    """Count the frames of a video by decoding all of it.

    Decoders give frames in the order in which they are shown. Where the times that come with them
    say otherwise, the times are wrong: some containers do not store them.

    Raises:
      ValueError: no frames, damaged data; or as `open_stream`.
    Cost: decodes the whole video, holding one frame.
    """
    n, first, last, length = 0, None, None, 0
    with open_stream(path) as (container, stream):
        for frame in decoded(path, container, stream):
            if frame.is_corrupt:
                raise damaged(path, n)
            n += 1
            if frame.pts is not None:
                first = frame.pts if first is None else min(first, frame.pts)
                last = frame.pts if last is None else max(last, frame.pts)
                length = frame.duration or 0
        unit = float(stream.time_base or 0)
    expect(n > 0, path.name, "a video with frames", "one without any")
    duration = None if first is None or last is None else _seconds(first, last, length, n, unit)
    return FrameIndex(n, duration, None, np.zeros(n, np.int64))


class _Packet(NamedTuple):
    """When a coded frame is shown and for how long, and whether decoding can start from it."""

    pts: int | None
    length: int
    is_key: bool


def _packets(path: Path, container: Any, stream: Any) -> Iterator[_Packet]:
    """The packets of frames that are shown, in the order in which they are stored."""
    av = require("av", "video")
    k = 0
    try:
        for packet in container.demux(stream):
            expect(not packet.is_corrupt, path.name, "a complete file", f"a part of packet {k}")
            if packet.size and not packet.is_discard:
                yield _Packet(packet.pts, packet.duration or 0, packet.is_keyframe)
                k += 1
    except av.error.FFmpegError as error:
        got = f"one that ends or breaks at packet {k}"
        raise ValueError(message(path.name, "a complete file", got)) from error


def _seconds(first: int, last: int, length: int, n: int, unit: float) -> float | None:
    """From the first of n frames to the end of the last, which lasts as the mean if untold."""
    span = int(last - first)
    total = span + length if length or n == 1 else span * n / (n - 1)
    return total * unit or None
