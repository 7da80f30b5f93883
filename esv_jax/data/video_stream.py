"""The video stream of a file, opened, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esv_jax.checks import expect, message
from esv_jax.extras import require


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container of a file and its first video stream, of pictures that follow in time.

    Decodes in the calling thread alone: clips are decoded side by side, not parts of one clip, and
    an error then comes at the same frame every time. Nothing but the file itself is opened,
    also where it is a playlist.

    Raises:
      FileNotFoundError: no such file.
      OSError: a file that cannot be read.
      ValueError: a file of no known format, without video, or in an unknown coding.
      ImportError: PyAV is not installed.
    """
    av = require("av", "video")
    expect(path.exists(), "path", "a video", f"no {str(path)!r}", kind=FileNotFoundError)
    expect(path.is_file(), path.name, "a file", "a device or pipe")
    expect(path.stat().st_size > 0, path.name, "a video", "an empty file")
    local = {"protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", container_options=local)
    except (av.error.FFmpegError, UnicodeError) as error:
        raise _refusal(path, error) from error
    with container:
        yield container, _pick(container, path)


def _refusal(path: Path, error: Exception) -> Exception:
    """What to raise for a file that the library would not open."""
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        return OSError(message(path.name, "a video that can be read", reason))
    way_out = "It may be cut short, or of another kind."
    return ValueError(message(path.name, "a video", "a file of no known video format", way_out))


def _pick(container: Any, path: Path) -> Any:
    """The first stream of moving pictures; a cover picture of a piece of music is none."""
    cover = require("av.stream", "video").Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
    expect(bool(streams), path.name, "a video stream", f"a file that holds {kinds}")
    stream = streams[0]
    known = stream.codec_context is not None
    expect(known, path.name, "a coding that can be decoded", f"an unknown one ({stream.codec_tag})")
    stream.codec_context.thread_count = 1
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
