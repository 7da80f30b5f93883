"""Video files: search, opening, index of their frames."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esv_jax.checks import expect, message
from esv_jax.data.classes import read_csv, read_text
from esv_jax.extras import require

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

# FFmpeg demuxers that read nothing but the file itself. Playlists, lists of files, numbered
# images, scripts and devices, which make the library open other files, are left out.
_VIDEO_FORMATS = (
    *("mov", "matroska", "avi", "gif", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "rm"),
    *("nut", "mxf", "dv", "wtv", "ivf", "obu", "av1", "h264", "hevc", "vvc", "h263", "h261", "m4v"),
    *("vc1", "mjpeg", "mpjpeg", "yuv4mpegpipe", "dhav", "flic", "nsv", "cine", "amv"),
)
_IMAGE_FORMATS = (
    *("jpeg_pipe", "png_pipe", "apng", "webp_pipe", "webp", "bmp_pipe", "gif_pipe", "tiff_pipe"),
    "jpegxl_pipe",
)
# Opened so that the message can tell that the file holds no video.
_AUDIO_FORMATS = ("wav", "w64", "aiff", "au", "caf", "mp3", "flac", "aac", "ac3", "amr")

# Codecs with exactly one frame per packet. Others may pack or hide frames.
_ONE_FRAME_PER_PACKET = {"h264", "hevc", "vp9", "av1", "gif", "mjpeg", "png"}

_TIMEOUT = 20.0  # seconds, for opening a file and for each of its packets
_MAX_PIXELS = 2**27  # of a frame; more than 16K video has


def find_videos(sources: Iterable[Path]) -> dict[str, Path]:
    """Find video files.

    Args:
      sources: video files; folders, searched recursively for files of the usual suffixes and for
        folders of images, each of which is one video; lists, `.txt` with one path per line or
        `.csv` with a column `path` and optionally `uid`. Paths in a list are relative to the
        folder of the list, and need not exist.
    Returns:
      Paths by uid, the file name without suffix; in the order of `sources`, folders in
      alphabetical order.
    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: nothing found, one uid for two files, a malformed list.
    """
    found: dict[str, Path] = {}
    for source in sources:
        before = len(found)
        for uid, path in _videos_in(source):
            if found.get(uid, path).absolute() != path.absolute():
                got = f"{str(found[uid])!r} and {str(path)!r}"
                way_out = "A .csv list with the columns path and uid can name them."
                raise ValueError(message(f"uid {uid!r}", "one video", got, way_out))
            found[uid] = path
        is_empty = len(found) == before and not source.is_file()
        expect(not is_empty, str(source), "videos", "a folder without any")
    expect(len(found) > 0, "videos", "at least one", "none")
    return found


def _videos_in(source: Path) -> Iterator[tuple[str, Path]]:
    """Uids and paths of the videos of one source."""
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file())
        videos = {path for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
        folders = {path.parent for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
        for path in sorted(videos | folders):
            yield path.stem if path in videos else path.absolute().name, path
    elif not source.is_file():
        expected = "a video, a folder of videos or a list"
        raise FileNotFoundError(message(str(source), expected, "no such file"))
    elif source.suffix.lower() == ".txt":
        for line in filter(None, map(str.strip, read_text(source, "a text file").splitlines())):
            yield Path(line).stem, source.parent / line
    elif source.suffix.lower() == ".csv":
        for where, row in read_csv(source, ("path",)):
            cell = row["path"].strip()
            expect(cell != "", where, "a path", "an empty cell")
            yield row.get("uid", "").strip() or Path(cell).stem, source.parent / cell
    else:
        yield source.stem, source


def open_container(
    file: Path | io.BytesIO, name: str, expected: str = "a video"
) -> av.container.InputContainer:
    """Open a container of pictures or sound. No other file is opened, whatever it refers to.

    Args:
      file: its path, or its content.
      name, expected: for messages.
    Raises:
      OSError: the file cannot be read.
      ValueError: an unknown format, a playlist, or opening takes more than 20 seconds.
    """
    av = require("av", "video")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(_VIDEO_FORMATS + _IMAGE_FORMATS + _AUDIO_FORMATS),
        "max_pixels": str(_MAX_PIXELS),
    }
    source = f"file:{file}" if isinstance(file, Path) else file
    try:
        return av.open(source, options=options, timeout=(_TIMEOUT, _TIMEOUT))
    except av.error.ExitError as error:
        got = f"one that takes longer than {_TIMEOUT:.0f} seconds"
        raise ValueError(message(name, f"{expected} that can be opened", got)) from error
    except av.error.ArgumentError as error:
        got, way_out = "a list of files, or another kind of file", "Pass the listed files."
        raise ValueError(message(name, expected, got, way_out)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(message(name, f"{expected} that can be read", reason)) from error
    except (av.error.FFmpegError, UnicodeError) as error:
        got, way_out = "a file of unknown format", "It may be cut short, or of another kind."
        raise ValueError(message(name, expected, got, way_out)) from error


@contextmanager
def open_stream(path: Path) -> Iterator[av.video.stream.VideoStream]:
    """Open a file, whose `container` is closed on leaving, and select its video stream.

    Raises:
      FileNotFoundError, OSError: no such file, or one that cannot be read.
      ValueError: as `open_container` and `select_stream`; an empty file, a device or a pipe.
    """
    require("av", "video")
    missing = f"no {str(path)!r}"
    expect(path.exists(), "path", "a video", missing, kind=FileNotFoundError)
    expect(path.is_file(), path.name, "a file", "a device or pipe")
    expect(path.stat().st_size > 0, path.name, "a video", "an empty file")
    with open_container(path, path.name) as container:
        yield select_stream(container, path.name)


def select_stream(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    """Select the video stream to decode with FFmpeg's `av_find_best_stream`.

    It prefers the default stream, then the one with more frames at its beginning, then the higher
    bit rate, so that a still picture beside a video is not selected. Cover pictures of audio files
    are never selected, nor is an unknown codec where there is another. ValueError: no video, an
    unknown codec, frames of more than `_MAX_PIXELS`.
    """
    cover = require("av.stream", "video").Disposition.attached_pic
    moving = [s for s in container.streams.video if not s.disposition & cover]
    kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
    expect(len(moving) > 0, name, "a video stream", f"a file that holds {kinds}")
    known = [s for s in moving if s.codec_context is not None]
    expect(len(known) > 0, name, "a codec that can be decoded", "an unknown one")
    best = container.streams.best("video")
    stream = next((s for s in known if best is not None and s.index == best.index), known[0])
    context = stream.codec_context
    n_pixels = context.width * context.height  # 0 if unknown or too large for the library
    got = f"{context.width}x{context.height}" if n_pixels else "more, or an unknown size"
    expected, way_out = f"frames of at most {_MAX_PIXELS:,} pixels", "Make them smaller first."
    expect(0 < n_pixels <= _MAX_PIXELS, name, expected, got, way_out)
    context.thread_count = 1  # an error is raised at the same frame every time
    context.options = {"max_pixels": str(_MAX_PIXELS)}  # for frames that change size midway
    return stream


def codec_of(stream: av.video.stream.VideoStream) -> str:
    """Canonical name of a stream's codec, independent of the decoder in use."""
    return str(stream.codec_context.codec.canonical_name)


def decode_stream(
    path: Path, stream: av.video.stream.VideoStream, first: int = 0
) -> Iterator[av.VideoFrame]:
    """Decode frames in display order; errors count frames from `first`."""
    av = require("av", "video")
    number = first
    try:
        for frame in stream.container.decode(stream):
            yield frame
            number += 1
    except av.error.FFmpegError as error:
        raise damage_error(path, number) from error


def damage_error(path: Path, number: int) -> ValueError:
    """The error for a frame that cannot be decoded."""
    got = f"damaged data at frame {number}"
    way_out = "Frames before it can be read with indices=[...]." if number else ""
    return ValueError(message(path.name, "a video that can be decoded", got, way_out))


class FrameIndex(NamedTuple):
    """The frames of a video in display order.

    Attributes:
      duration: seconds, or None.
      pts: presentation timestamps (n,) int64, strictly increasing, in units of the stream's time
        base. None if the file's timestamps are unreliable.
      keyframe: (n,) int64: the last frame, at or before each, from which decoding can start.
    """

    duration: float | None
    pts: np.ndarray | None
    keyframe: np.ndarray


def index_video(path: Path) -> FrameIndex:
    """Index the frames of a video, from its packets where these are reliable.

    Frame counts in headers may be wrong or missing and are ignored. If the codec has one frame per
    packet, and every packet its own timestamp, packets are counted without decoding; the decoder
    later compares each frame with the timestamps found here. Otherwise all frames are decoded.

    Raises:
      ValueError: no frames, damaged or truncated data; or as `open_stream`.
    Cost: reads the file; decodes it once where packets are not reliable.
    """
    with open_stream(path) as stream:
        _expect_complete(path, stream.container.format.name)
        one_each = codec_of(stream) in _ONE_FRAME_PER_PACKET
        packets = list(_packets(path, stream))
        unit = float(stream.time_base or 0)
    times = {packet.pts for packet in packets if packet.pts is not None}
    if not one_each or not packets or len(times) < len(packets):
        return index_by_decoding(path)
    packets.sort()
    pts = np.array([packet.pts for packet in packets], np.int64)
    is_key = [packet.is_key for packet in packets]
    keyframe = np.maximum.accumulate(np.where(is_key, np.arange(len(pts)), 0))
    return FrameIndex(_seconds(pts[0], pts[-1], packets[-1].length, len(pts), unit), pts, keyframe)


def index_by_decoding(path: Path) -> FrameIndex:
    """Index the frames of a video by decoding all of it.

    Decoders return frames in display order. Timestamps that contradict this order are wrong, since
    some containers do not store them.

    Raises:
      ValueError: no frames, damaged data; or as `open_stream`.
    Cost: decodes the whole video; memory for one frame.
    """
    n, length = 0, 0
    times: list[int] = []
    with open_stream(path) as stream:
        for frame in decode_stream(path, stream):
            if frame.is_corrupt:
                raise damage_error(path, n)
            n += 1
            if frame.pts is not None:
                times.append(frame.pts)
                length = frame.duration or 0
        unit = float(stream.time_base or 0)
    expect(n > 0, path.name, "a video with frames", "one without any")
    duration = _seconds(min(times), max(times), length, n, unit) if times else None
    return FrameIndex(duration, None, np.zeros(n, np.int64))


class _Packet(NamedTuple):
    """A coded frame: its timestamp and duration, and whether decoding can start from it."""

    pts: int | None
    length: int
    is_key: bool


def _packets(path: Path, stream: av.video.stream.VideoStream) -> Iterator[_Packet]:
    """Packets of displayed frames in storage order."""
    av = require("av", "video")
    k = 0
    try:
        for packet in stream.container.demux(stream):
            expect(not packet.is_corrupt, path.name, "a complete file", f"a part of packet {k}")
            if packet.size and not packet.is_discard:
                yield _Packet(packet.pts, packet.duration or 0, packet.is_keyframe)
                k += 1
    except av.error.FFmpegError as error:
        got = f"one that ends or breaks at packet {k}"
        raise ValueError(message(path.name, "a complete file", got)) from error


def _seconds(first: int, last: int, length: int, n: int, unit: float) -> float | None:
    """Seconds from the first of n frames to the end of the last; its length may be unknown, 0."""
    span = int(last - first)
    total = span + length if length or n == 1 else span * n / (n - 1)
    return total * unit or None


def _expect_complete(path: Path, format_name: str) -> None:
    """Refuse a truncated Matroska, AVI or GIF file, which the library would read without an error.

    A Matroska segment states its size (RFC 8794 and 9559), and so does a RIFF chunk, which AVI is,
    unless written as a live stream. A GIF ends in the byte ';' (GIF89a, section 27), which may be
    followed by zeros.
    """
    size, way_out = path.stat().st_size, "Download or write it again."
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(max(0, size - 4096))
        tail = file.read()
    if format_name == "gif":
        ends = tail.rstrip(b"\0").endswith(b";")
        expect(ends, path.name, "a complete file", "one without its end", way_out)
    elif format_name == "avi" or "matroska" in format_name:
        end = _stated_end(head)
        expect(size >= end, path.name, "a complete file", f"{size} of {end} bytes", way_out)


def _stated_end(head: bytes) -> int:
    """End of the RIFF chunk or Matroska segment that begins a file; 0 if it is not stated."""
    if head.startswith(b"RIFF"):
        length = int.from_bytes(head[4:8], "little")
        return 8 + length if 0 < length < 2**32 - 1 else 0
    if not head.startswith(b"\x1a\x45\xdf\xa3"):  # the identifier of EBML
        return 0
    length, start = _variable_int(head, 4)
    at = start + length
    if head[at : at + 4] != b"\x18\x53\x80\x67":  # the identifier of a segment
        return 0
    length, start = _variable_int(head, at + 4)
    return start + length if length else 0


def _variable_int(data: bytes, at: int) -> tuple[int, int]:
    """An EBML size and its end; 0 if all its bits are set, which means unknown."""
    first = data[at] if at < len(data) else 0
    if first == 0:
        return 0, at
    n_bytes = 9 - first.bit_length()
    most = (1 << 7 * n_bytes) - 1
    value = int.from_bytes(data[at : at + n_bytes], "big") & most
    return (0 if value == most else value), at + n_bytes
