"""Video files: search, opening, index of their frames."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esv_jax.checks import message
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
MAX_PIXELS = 2**27
"""Maximum number of pixels of a frame; more than 16K video has."""


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
        if len(found) == before and not source.is_file():
            raise ValueError(message(str(source), "videos", "a folder without any"))
    if not found:
        raise ValueError(message("videos", "at least one", "none"))
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
        for location, row in read_csv(source, ("path",)):
            if not (cell := row["path"].strip()):
                raise ValueError(message(location, "a path", "an empty cell"))
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
      ImportError: PyAV is not installed.
    """
    av = require("av", "video")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(_VIDEO_FORMATS + _IMAGE_FORMATS + _AUDIO_FORMATS),
        "max_pixels": str(MAX_PIXELS),
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
    except (av.error.FFmpegError, UnicodeError) as error:
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
            raise OSError(message(name, f"{expected} that can be read", reason)) from error
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
    if not path.exists():
        raise FileNotFoundError(message("path", "a video", f"no {str(path)!r}"))
    if not path.is_file():
        raise ValueError(message(path.name, "a file", "a device or pipe"))
    if path.stat().st_size == 0:
        raise ValueError(message(path.name, "a video", "an empty file"))
    with open_container(path, path.name) as container:
        yield select_stream(container, path.name)


def select_stream(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    """Select the video stream to decode with FFmpeg's `av_find_best_stream`.

    It prefers the default stream, then the one with more frames at its beginning, then the higher
    bit rate, so that a still picture beside a video is not selected. Cover pictures of audio files
    are never selected, nor is an unknown codec where there is another.

    Raises:
      ValueError: no video, an unknown codec, frames of more than `MAX_PIXELS`.
    """
    cover = require("av.stream", "video").Disposition.attached_pic
    moving = [s for s in container.streams.video if not s.disposition & cover]
    if not moving:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise ValueError(message(name, "a video stream", f"a file that holds {kinds}"))
    known = [s for s in moving if s.codec_context is not None]
    if not known:
        raise ValueError(message(name, "a codec that can be decoded", "an unknown one"))
    best = container.streams.best("video")
    stream = next((s for s in known if best is not None and s.index == best.index), known[0])
    context = stream.codec_context
    n_pixels = context.width * context.height  # 0 if unknown or too large for the library
    if not 0 < n_pixels <= MAX_PIXELS:
        size = f"{context.width}x{context.height}" if n_pixels else "more, or an unknown size"
        expected = f"frames of at most {MAX_PIXELS:,} pixels"
        raise ValueError(message(name, expected, size, "Make them smaller first."))
    context.thread_count = 1  # an error is raised at the same frame every time
    context.options = {"max_pixels": str(MAX_PIXELS)}  # for frames that change size midway
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
      n: number of frames.
      duration: seconds, or None.
      pts: presentation timestamps (n,) int64, strictly increasing, in units of the stream's time
        base. None if the file's timestamps are unreliable.
      keyframe: (n,) int64: the last frame, at or before each, from which decoding can start.
    """

    n: int
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
        _check_complete(path, stream.container.format.name)
        one_each = codec_of(stream) in _ONE_FRAME_PER_PACKET
        packets = list(_packets(path, stream))
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
    """Index the frames of a video by decoding all of it.

    Decoders return frames in display order. Timestamps that contradict this order are wrong, since
    some containers do not store them.

    Raises:
      ValueError: no frames, damaged data; or as `open_stream`.
    Cost: decodes the whole video; memory for one frame.
    """
    n, first, last, length = 0, None, None, 0
    with open_stream(path) as stream:
        for frame in decode_stream(path, stream):
            if frame.is_corrupt:
                raise damage_error(path, n)
            n += 1
            if frame.pts is not None:
                first = frame.pts if first is None else min(first, frame.pts)
                last = frame.pts if last is None else max(last, frame.pts)
                length = frame.duration or 0
        unit = float(stream.time_base or 0)
    if n == 0:
        raise ValueError(message(path.name, "a video with frames", "one without any"))
    duration = None if first is None or last is None else _seconds(first, last, length, n, unit)
    return FrameIndex(n, duration, None, np.zeros(n, np.int64))


class _Packet(NamedTuple):
    """Timestamp and duration of a coded frame, and whether decoding can start from it."""

    pts: int | None
    length: int
    is_key: bool


def _packets(path: Path, stream: av.video.stream.VideoStream) -> Iterator[_Packet]:
    """Packets of displayed frames in storage order."""
    av = require("av", "video")
    k = 0
    try:
        for packet in stream.container.demux(stream):
            if packet.is_corrupt:
                raise ValueError(message(path.name, "a complete file", f"a part of packet {k}"))
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


def _check_complete(path: Path, format_name: str) -> None:
    """Refuse a truncated Matroska, AVI or GIF file, which the library would read without an error.

    A Matroska segment states its size (RFC 8794 and 9559), and so does a RIFF chunk, which AVI is,
    unless written as a live stream. A GIF ends in the byte ';' (GIF89a, section 27), which may be
    followed by zeros.
    """
    size = path.stat().st_size
    got = ""
    with path.open("rb") as file:
        if "matroska" in format_name or format_name == "avi":
            head = file.read(4096)
            end = _riff_end(head) if format_name == "avi" else _segment_end(head)
            if end is not None and size < end:
                got = f"{size} of {end} bytes"
        elif format_name == "gif":
            file.seek(max(0, size - 4096))
            if not file.read().rstrip(b"\0").endswith(b";"):
                got = "one without its end"
    if got:
        way_out = "Download or write it again."
        raise ValueError(message(path.name, "a complete file", got, way_out))


def _riff_end(head: bytes) -> int | None:
    """End of the first chunk of a RIFF file, or None if it is not stated."""
    length = int.from_bytes(head[4:8], "little")
    return 8 + length if head.startswith(b"RIFF") and 0 < length < 2**32 - 1 else None


def _segment_end(head: bytes) -> int | None:
    """End of the segment of a Matroska file, or None if it is not stated."""
    ebml_id, segment_id = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
    if not head.startswith(ebml_id):
        return None
    length, start = _variable_int(head, len(ebml_id))
    at = start + (length or 0)
    if head[at : at + 4] != segment_id:
        return None
    length, start = _variable_int(head, at + len(segment_id))
    return None if length is None else start + length


def _variable_int(data: bytes, at: int) -> tuple[int | None, int]:
    """An EBML size and its end; None if all its bits are set, which means unknown."""
    first = data[at] if at < len(data) else 0
    if first == 0:
        return None, at
    n_bytes = 9 - first.bit_length()
    bits = 7 * n_bytes
    value = int.from_bytes(data[at : at + n_bytes], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), at + n_bytes
