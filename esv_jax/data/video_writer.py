"""Writing of MP4 and GIF files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from esv_jax.checks import expect, expect_choice, message
from esv_jax.data.preprocessing import expect_pixels
from esv_jax.extras import require
from esv_jax.files import atomic_path

if TYPE_CHECKING:
    import av

Convert = Callable[[np.ndarray, int], "av.VideoFrame"]
"""An image (h, w, 3) uint8 and its number to a frame in the format of the stream."""

_MAX_GIF_FPS = 50  # delays are multiples of 1/100 s, and viewers slow down below 2/100 s


def write_video(
    path: str | PathLike[str],
    frames: Iterable[ArrayLike],
    fps: float = 25.0,
    *,
    overwrite: bool = True,
) -> int:
    """Write frames as an MP4 or GIF file, atomically.

    MP4 holds H.264 (MPEG-4 part 2 where the encoder is missing) in yuv420p, which every player
    supports. It needs even sizes: the last row or column of an odd one is repeated. GIF holds 256
    colours per frame. The same frames give the same bytes, with the same version of the library.

    Args:
      path: ends in .mp4 or .gif.
      frames: (n, h, w, 3) uint8 RGB, n >= 1, or an iterator over (h, w, 3), of which one is held.
      fps: frames per second, > 0; at most 50 for GIF, whose delays are rounded to 1/100 s.
      overwrite: whether an existing file may be replaced.
    Returns:
      n, the number of frames written.
    Raises:
      ValueError: another suffix, no frames, a shape that is not (h, w, 3) or differs from that of
        the first frame, fps out of range.
      TypeError: frames that are not uint8.
      FileExistsError, OSError: as `atomic_path`.
      ImportError: PyAV is not installed.
    """
    av = require("av", "video")
    suffix = Path(path).suffix.lower()
    expect_choice("suffix of path", suffix, (".mp4", ".gif"))
    is_gif = suffix == ".gif"
    limit = _MAX_GIF_FPS if is_gif else 1000
    expect(0 < fps <= limit, "fps", f"a number > 0 and <= {limit} for {suffix}", fps)
    rate = Fraction(fps).limit_denominator(1001)
    expect(rate > 0, "fps", "at least 1/1000", fps)
    images = _checked(frames)
    first = next(images, None)
    if first is None:
        raise ValueError(message("frames", "at least one frame", "none"))
    options = {"fflags": "+bitexact"} | ({} if is_gif else {"movflags": "+faststart"})
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        av.open(f"file:{temporary}", "w", suffix[1:], container_options=options) as container,
    ):
        add_stream = _add_gif if is_gif else _add_mp4
        stream, convert = add_stream(container, first.shape[:2], rate)
        n = 0
        for n, image in enumerate(chain([first], images), start=1):
            container.mux(stream.encode(convert(image, n - 1)))
        container.mux(stream.encode())
        return n


def _add_mp4(
    container: av.container.OutputContainer, shape: tuple[int, int], rate: Fraction
) -> tuple[av.video.stream.VideoStream, Convert]:
    """Add the stream of an MP4 file."""
    pad = [(0, shape[0] % 2), (0, shape[1] % 2), (0, 0)]
    if "libx264" in require("av", "video").codecs_available:
        # With AVX-512, macroblock trees of x264 make the bytes vary from call to call.
        options = {"crf": "18", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
    else:
        stream = container.add_stream("mpeg4", rate=rate, options={"qscale": "3"})
    stream.height, stream.width = shape[0] + pad[0][1], shape[1] + pad[1][1]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = 1  # the bytes may depend on the number of threads
    context.colorspace, context.color_range = 6, 1  # BT.601 in 16..235, as below
    colours = {"format": "yuv420p", "dst_colorspace": "ITU601", "dst_color_range": "MPEG"}

    def convert(image: np.ndarray, k: int) -> av.VideoFrame:
        return _frame(np.pad(image, pad, mode="edge"), k, rate, colours)

    return stream, convert


def _add_gif(
    container: av.container.OutputContainer, shape: tuple[int, int], rate: Fraction
) -> tuple[av.video.stream.VideoStream, Convert]:
    """Add the stream of a GIF file."""
    stream = container.add_stream("gif", rate=rate)
    stream.height, stream.width = shape
    stream.pix_fmt = "pal8"
    stream.codec_context.time_base = Fraction(1, 100)
    graph = require("av", "video").filter.Graph()  # gives each frame a palette of its own
    source = graph.add_buffer(
        width=shape[1], height=shape[0], format="bgra", time_base=1 / rate, name="in"
    )
    split = graph.add("split")
    choose = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=bayer")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(choose, 1, 0)
    choose.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()

    def convert(image: np.ndarray, k: int) -> av.VideoFrame:
        graph.push(_frame(image, k, rate, {"format": "bgra"}))
        reduced = graph.pull()
        reduced.pts, reduced.time_base = round(k * 100 / rate), Fraction(1, 100)
        return reduced

    return stream, convert


def _frame(image: np.ndarray, k: int, rate: Fraction, colours: dict[str, str]) -> av.VideoFrame:
    """Frame k of a video."""
    frame = require("av", "video").VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
    frame = frame.reformat(**colours, threads=1)
    frame.pts, frame.time_base = k, 1 / rate
    return frame


def _checked(frames: Iterable[ArrayLike]) -> Iterator[np.ndarray]:
    """Frames as arrays, each of the shape of the first."""
    shape: tuple[int, ...] | None = None
    for k, frame in enumerate(frames):
        image = expect_pixels(f"frame {k}", frame, "(h, w, 3)")
        shape = shape or image.shape
        expect(image.shape == shape, f"frame {k}", f"shape {shape}, as frame 0", image.shape)
        yield image
