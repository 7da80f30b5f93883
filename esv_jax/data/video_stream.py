"""The video stream of a file, opened, with errors that name the file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esv_jax.checks import expect, message
from esv_jax.extras import require

# Containers by the names of FFmpeg's demuxers. Each holds its pictures itself: playlists, lists of
# files, numbered images, scripts and devices, which make the library open other files, are absent.
_VIDEOS = (
    *("mov", "matroska", "avi", "gif", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "rm"),
    *("nut", "mxf", "dv", "wtv", "ivf", "obu", "av1", "h264", "hevc", "vvc", "h263", "h261", "m4v"),
    *("vc1", "mjpeg", "mpjpeg", "yuv4mpegpipe", "dhav", "flic", "nsv", "cine", "amv"),
)
_IMAGES = (
    *("jpeg_pipe", "png_pipe", "apng", "webp_pipe", "webp", "bmp_pipe", "gif_pipe", "tiff_pipe"),
    "jpegxl_pipe",
)
_SOUND = ("wav", "w64", "aiff", "au", "caf", "mp3", "flac", "aac", "ac3", "amr")  # refused by kind

_SECONDS = 20.0  # at most, for opening a file and for each of its packets
MAX_PIXELS = 2**27
"""Largest number of pixels of a frame: above 16K video; larger ones take gigabytes."""


def open_container(file: Path | io.BytesIO, name: str, what: str = "a video") -> Any:
    """A container of pictures or sound; opens nothing but the file, whatever it refers to.

    Args:
      file: its path, or its content. name: how messages call it. what: is expected, for messages.
    Raises:
      OSError: a file that cannot be read.
      ValueError: a file of no known format, a playlist, one that is not opened in 20 seconds.
      ImportError: PyAV is not installed.
    """
    av = require("av", "video")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(_VIDEOS + _IMAGES + _SOUND),
        "max_pixels": str(MAX_PIXELS),
    }
    source = f"file:{file}" if isinstance(file, Path) else file
    try:
        return av.open(source, options=options, timeout=(_SECONDS, _SECONDS))
    except av.error.ExitError as error:
        got = f"one that takes longer than {_SECONDS:.0f} seconds"
        raise ValueError(message(name, f"{what} that can be opened", got)) from error
    except av.error.ArgumentError as error:
        got, way_out = "a list of files, or another kind of file", "Give what is in it."
        raise ValueError(message(name, what, got, way_out)) from error
    except (av.error.FFmpegError, UnicodeError) as error:
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
            raise OSError(message(name, f"{what} that can be read", reason)) from error
        got, way_out = "a file of no known format", "It may be cut short, or of another kind."
        raise ValueError(message(name, what, got, way_out)) from error


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container of a file and the video stream that FFmpeg chooses, of moving pictures.

    Decodes in the calling thread alone: clips are decoded side by side, not parts of one clip, and
    an error then comes at the same frame every time. Nothing but the file itself is opened:
    playlists and lists of files are refused.

    Raises:
      FileNotFoundError: no such file.
      OSError: a file that cannot be read.
      ValueError: a file of no known format, a playlist, without video, in an unknown coding, of
        more than `MAX_PIXELS` a picture, or one that is not opened in 20 seconds.
      ImportError: PyAV is not installed.
    """
    require("av", "video")
    expect(path.exists(), "path", "a video", f"no {str(path)!r}", kind=FileNotFoundError)
    expect(path.is_file(), path.name, "a file", "a device or pipe")
    expect(path.stat().st_size > 0, path.name, "a video", "an empty file")
    with open_container(path, path.name) as container:
        yield container, pick_stream(container, path.name)


def pick_stream(container: Any, name: str) -> Any:
    """The video stream to decode, as FFmpeg chooses it: `av_find_best_stream`.

    Of several the one marked as default, then the one with more frames at its beginning, then the
    one of the higher bit rate: a still picture stored beside the video is none. The cover picture
    of a piece of music is never chosen, nor is an unknown coding where there is another.
    """
    cover = require("av.stream", "video").Disposition.attached_pic
    moving = [s for s in container.streams.video if not s.disposition & cover]
    kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
    expect(bool(moving), name, "a video stream", f"a file that holds {kinds}")
    known = [s for s in moving if s.codec_context is not None]
    expect(bool(known), name, "a coding that can be decoded", "an unknown one")
    best = container.streams.best("video")
    stream = next((s for s in known if best is not None and s.index == best.index), known[0])
    context = stream.codec_context
    n_pixels = context.width * context.height  # 0 where the library finds none, or too many
    got = f"{context.width}x{context.height}" if n_pixels else "more, or none that can be decoded"
    small, way_out = 0 < n_pixels <= MAX_PIXELS, "Make them smaller first."
    expect(small, name, f"pictures of at most {MAX_PIXELS:,} pixels", got, way_out)
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}  # of frames that change their size, too
    return stream


def codec_of(stream: Any) -> str:
    """The name of a stream's coding, whatever the decoder at hand is called."""
    return str(stream.codec_context.codec.canonical_name)


def decoded(path: Path, container: Any, stream: Any, first: int = 0) -> Iterator[Any]:
    """Frames as they come out of the decoder: in the order in which they are shown.

    Args:
      first: number of the first frame that will come, for messages.
    Raises:
      ValueError: data that cannot be decoded, naming the frame reached.
    """
    av = require("av", "video")
    came = first
    try:
        for frame in container.decode(stream):
            yield frame
            came += 1
    except av.error.FFmpegError as error:
        raise damaged(path, came) from error


def damaged(path: Path, reached: int) -> ValueError:
    """The error for a stream whose frame number `reached` cannot be had."""
    got = f"damaged data at frame {reached}"
    way_out = "Frames before it can be had with indices=[...]." if reached else ""
    return ValueError(message(path.name, "a video that can be decoded", got, way_out))
