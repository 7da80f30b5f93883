"""Decoding of videos whose frames show their own numbers."""

import gc
import shutil
import struct
import sys
import weakref
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esv_jax.data import (
    decode_frames,
    inputs,
    open_videos,
    probe_video,
    segment_centres,
    video_decode,
    video_files,
)
from esv_jax.data.images import RgbConverter, orientation_of, upright
from esv_jax.data.preprocessing import resize_frame
from esv_jax.data.video_decode import IndexDisagreesError, VideoFile
from esv_jax.data.video_files import index_by_decoding, index_video

av = pytest.importorskip("av", reason="needs the video extra")

BITS, SIDE = 8, 16  # a frame is two rows of blocks: its number in black and white, and its opposite


@pytest.fixture(autouse=True)
def silence(capfd):
    """The library prints nothing to the standard streams."""
    yield
    assert capfd.readouterr() == ("", "")


# Small videos


def numbered(k, height=2 * SIDE, width=BITS * SIDE):
    """An image (h, w, 3) that shows k in binary, darker to the right to be asymmetric."""
    bits = (k >> np.arange(BITS)) & 1
    blocks = np.stack([bits, 1 - bits]) * 160 + 48
    image = np.kron(blocks, np.ones((SIDE, SIDE))) - np.linspace(0, 40, BITS * SIDE)
    image = np.pad(image, [(0, max(0, height - 2 * SIDE)), (0, max(0, width - BITS * SIDE))])
    return np.repeat(image[:height, :width, None], 3, axis=2).astype(np.uint8)


def number_of(frame):
    """The number that a frame shows."""
    blocks = frame[: 2 * SIDE, : BITS * SIDE].reshape(2, SIDE, BITS, SIDE, 3).mean((1, 3, 4))
    bits = blocks[0] > blocks[1]
    assert np.abs(blocks[0] - blocks[1]).min() > 60
    return int(bits @ (1 << np.arange(BITS)))


def numbers(frames):
    return [number_of(frame) for frame in frames]


def encode(
    path,
    images,
    codec="libx264",
    pix_fmt="yuv420p",
    times=None,
    rotation=None,
    gop=None,
    b_frames=None,
    container_options=None,
    **options,
):
    """Encode images to a file, displayed at `times` (milliseconds; default 40 each)."""
    if codec not in av.codecs_available:
        pytest.skip(f"the library was built without {codec}")
    times = [40 * k for k in range(len(images))] if times is None else times
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(
            codec, rate=25, options={name.replace("_", "-"): v for name, v in options.items()}
        )
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if codec not in ("mpeg4", "mpeg2video"):
            stream.codec_context.time_base = Fraction(1, 1000)
        if gop is not None:
            stream.codec_context.gop_size = gop
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbered_video(path, n=60, **options):
    return encode(path, [numbered(k) for k in range(n)], **options)


def tone(path, codec):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8000)
        for k in range(8):
            samples = np.zeros((1, 1024), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def reference(path):
    """All frames (n, h, w, 3), decoded from the beginning and sorted by timestamp."""
    kinds = av.video.reformatter.Interpolation
    flags = int(kinds.BILINEAR | kinds.ACCURATE_RND | kinds.FULL_CHR_H_INT | kinds.BITEXACT)
    with av.open(str(path)) as container:
        frames = sorted(container.decode(video=0), key=lambda frame: frame.pts)
        return np.stack([f.to_ndarray(format="rgb24", interpolation=flags) for f in frames])


def save_image(path, image):
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    usual = path.with_suffix(path.suffix.lower().replace("jpeg", "jpg"))  # what the library knows
    frame.save(str(usual))
    usual.rename(path)


UNEVEN = np.cumsum([0, *np.random.default_rng(0).integers(5, 200, 59)]).tolist()

KINDS = {
    "h264 with B-frames.mp4": {"b_frames": 3, "gop": 12},
    "h264, variable pace.mkv": {"times": UNEVEN, "b_frames": 3, "gop": 250},
    "h264, late start.mp4": {"times": [2000 + 40 * k for k in range(60)], "b_frames": 2},
    "h264 in pieces.mp4": {"container_options": {"movflags": "frag_keyframe"}, "gop": 12},
    "h264.ts": {"b_frames": 3, "gop": 12},
    "h264.avi": {"b_frames": 0, "gop": 12},
    "hevc.mp4": {"codec": "libx265", "x265_params": "log-level=none", "gop": 12},
    "mpeg4 with B-frames.avi": {"codec": "mpeg4", "b_frames": 2, "gop": 12},
    "mpeg4 with B-frames.mp4": {"codec": "mpeg4", "b_frames": 2, "gop": 12},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2, "gop": 12},
    "vp8 with hidden frames.webm": {
        "codec": "libvpx",
        "auto_alt_ref": "1",
        "lag_in_frames": "16",
        "deadline": "realtime",
    },
    "vp9 with hidden frames.webm": {
        "codec": "libvpx-vp9",
        "auto_alt_ref": "1",
        "lag_in_frames": "16",
        "deadline": "realtime",
    },
    "lossless.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "motion jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "colours.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


@pytest.mark.parametrize("name", KINDS)
def test_requested_frames_of_every_container(tmp_path, name):
    path = numbered_video(tmp_path / name, **KINDS[name])
    assert numbers(decode_frames(path, n=None)) == list(range(60))
    assert numbers(decode_frames(path, n="all", size=2 * SIDE)) == list(range(60))
    assert numbers(decode_frames(path)) == segment_centres(60, 8).tolist()
    asked = [59, 0, 31, 31, 7, 58]
    frames = decode_frames(path, indices=asked)
    assert numbers(frames) == asked
    assert frames.dtype == np.uint8 and frames.shape == (6, 32, 128, 3)
    assert frames.flags.c_contiguous and frames.flags.owndata
    info = probe_video(path)
    assert (info.frames, info.height, info.width, info.rotation) == (60, 32, 128, 0)


def test_pixels_equal_those_of_the_reference(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", b_frames=3, gop=12)
    everything = reference(path)
    np.testing.assert_array_equal(decode_frames(path, n=None), everything)
    np.testing.assert_array_equal(decode_frames(path, indices=[50, 2]), everything[[50, 2]])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Paths and all frames of several clips."""
    folder = tmp_path_factory.mktemp("clips")
    uneven = [int(t) for t in np.cumsum(np.random.default_rng(1).integers(5, 90, 200))]
    paths = [
        numbered_video(folder / "closed.mp4", 200, gop=17, b_frames=3),
        numbered_video(folder / "open.mkv", 200, gop=20, b_frames=3, x264_params="open-gop=1"),
        numbered_video(folder / "uneven.mkv", 200, gop=30, b_frames=2, times=uneven),
        numbered_video(folder / "mpeg4.mp4", 200, codec="mpeg4", gop=15, b_frames=2),
    ]
    return [(path, reference(path)) for path in paths]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_indices_equal_the_reference(clips, data):
    path, everything = clips[data.draw(st.integers(0, len(clips) - 1))]
    indices = data.draw(st.lists(st.integers(0, len(everything) - 1), min_size=1, max_size=6))
    np.testing.assert_array_equal(decode_frames(path, indices=indices), everything[indices])


# Jumping to keyframes


def count_decoded(monkeypatch):
    """A list that grows by one for every decoded frame."""
    seen = []
    plain = video_decode.decode_stream

    def decoded(*args):
        for frame in plain(*args):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_decode, "decode_stream", decoded)
    return seen


def test_a_late_frame_is_reached_from_its_keyframe(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "a.mp4", 240, gop=30, b_frames=2, sc_threshold="0")
    seen = count_decoded(monkeypatch)
    assert numbers(decode_frames(path, indices=[32, 215])) == [32, 215]
    assert len(seen) <= 3 + 6 + 4  # from keyframe 30 and from keyframe 210, and few before them


def test_near_frames_are_reached_without_seeking(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "a.mp4", 60, gop=4)
    monkeypatch.setattr(video_decode.VideoFile, "_seek", None)
    assert numbers(decode_frames(path, indices=[0, 4, 9, 12])) == [0, 4, 9, 12]


@pytest.mark.parametrize("params", ["open-gop=1", "intra-refresh=1", "open-gop=1:bframes=8"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_keyframes_that_do_not_start_afresh(tmp_path, params, suffix):
    path = numbered_video(tmp_path / f"a{suffix}", 120, gop=24, b_frames=3, x264_params=params)
    everything = reference(path)
    for index in (20, 25, 50, 71, 72, 73, 97, 118, 119):
        np.testing.assert_array_equal(decode_frames(path, indices=[index]), everything[[index]])


def test_a_file_that_does_not_begin_with_a_keyframe(tmp_path):
    whole = numbered_video(tmp_path / "whole.ts", 90, gop=30, b_frames=0, sc_threshold="0")
    late = tmp_path / "late.ts"
    with av.open(str(whole)) as source, av.open(str(late), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for k, packet in enumerate(source.demux(video=0)):
            if k >= 10 and packet.size:
                packet.stream = stream
                target.mux(packet)
    came = numbers(decode_frames(late, n=None))
    assert came == list(range(90 - len(came), 90)) and 60 <= len(came) <= 80
    assert probe_video(late).frames == len(came)
    assert numbers(decode_frames(late, n=4)) == [came[i] for i in segment_centres(len(came), 4)]


def test_a_wrong_index_is_detected_and_rebuilt(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "a.mp4", gop=12, b_frames=2)
    right = index_video(path)

    def wrong(change):
        monkeypatch.setattr(video_decode, "index_video", lambda path: change(right))
        return decode_frames(path, indices=[0, 3, 40])

    for change in (
        lambda index: index._replace(pts=index.pts + 1),
        lambda index: index._replace(pts=np.delete(np.append(index.pts, 10**6), 2)),
        lambda index: index._replace(keyframe=np.arange(60)),
        lambda index: index._replace(pts=index.pts[1:], keyframe=index.keyframe[1:]),
    ):
        assert numbers(wrong(change)) == [0, 3, 40]
        assert probe_video(path).frames == 60 or len(change(right).pts) == 60


def test_a_file_that_shrinks_after_indexing_is_an_error(tmp_path):
    path = numbered_video(tmp_path / "a.mp4")
    reader = VideoFile(path, index_by_decoding(path))
    numbered_video(path, 20)
    with pytest.raises(IndexDisagreesError, match=r"a\.mp4: expected the frames that were counted"):
        list(reader.frames([40]))


@pytest.mark.parametrize("name", ["h264 with B-frames.mp4", "h264, variable pace.mkv", "h264.ts"])
def test_packets_and_decoding_give_the_same_index(tmp_path, name):
    path = numbered_video(tmp_path / name, **KINDS[name])
    cheap, sure = index_video(path), index_by_decoding(path)
    assert len(cheap.keyframe) == len(sure.keyframe) == 60
    assert cheap.pts is not None and sure.pts is None
    assert cheap.duration == pytest.approx(sure.duration, rel=0.03)


def test_duplicate_timestamps_are_not_used(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "a.mp4", 12, b_frames=0)
    plain = video_files._packets

    def repeated(*args):
        for k, packet in enumerate(plain(*args)):
            yield packet._replace(pts=0) if k == 5 else packet

    monkeypatch.setattr(video_files, "_packets", repeated)
    assert index_video(path).pts is None
    assert numbers(decode_frames(path, n=None)) == list(range(12))
    monkeypatch.setattr(
        video_files, "_packets", lambda *args: (p._replace(pts=None) for p in plain(*args))
    )
    assert index_video(path).pts is None


# Shape, size, rotation


@pytest.mark.parametrize(("height", "width"), [(33, 129), (35, 128), (32, 131), (49, 201)])
@pytest.mark.parametrize("kind", [{"pix_fmt": "yuv444p"}, {"codec": "ffv1", "pix_fmt": "bgr0"}])
def test_odd_sizes(tmp_path, height, width, kind):
    images = [numbered(k, height, width) for k in range(5)]
    frames = decode_frames(encode(tmp_path / "odd.mkv", images, **kind), n=None)
    assert frames.shape == (5, height, width, 3)
    assert numbers(frames) == list(range(5))
    assert np.abs(frames.astype(int) - np.stack(images)).mean() < 3


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotated_videos_are_returned_upright(tmp_path, degrees):
    """The encoder takes the counterclockwise rotation that a player applies."""
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this version of the library writes no rotation")
    images = [numbered(k) for k in range(3)]
    path = encode(tmp_path / "a.mov", images, codec="png", pix_fmt="rgb24", rotation=degrees)
    frames = decode_frames(path, n=None)
    np.testing.assert_array_equal(frames, np.rot90(np.stack(images), degrees // 90, axes=(1, 2)))
    info = probe_video(path)
    assert (info.height, info.width) == frames.shape[1:3]
    assert info.rotation == -degrees % 360


def test_orientation_follows_the_display_matrix():
    """By definition, pixel (p, q) maps to column a p + c q and row b p + d q."""
    image = np.arange(6).reshape(2, 3, 1)
    for a, b, c, d in [
        *((sx, 0, 0, sy) for sx in (1, -1) for sy in (1, -1)),
        *((0, sy, sx, 0) for sx in (1, -1) for sy in (1, -1)),
    ]:
        matrix = struct.pack("=9i", *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
        frame = type("Frame", (), {"side_data": {"DISPLAYMATRIX": matrix}})
        placed = {}
        for q in range(2):
            for p in range(3):
                placed[b * p + d * q, a * p + c * q] = image[q, p, 0]
        rows, columns = sorted({r for r, _ in placed}), sorted({k for _, k in placed})
        expected = np.array([[placed[r, k] for k in columns] for r in rows])
        np.testing.assert_array_equal(upright(image, orientation_of(frame))[..., 0], expected)


def test_resizing_while_decoding_equals_resizing_afterwards(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 10)
    for size in (20, 32, 45):
        frames = decode_frames(path, n=None, size=size)
        for frame, whole in zip(frames, decode_frames(path, n=None), strict=True):
            np.testing.assert_array_equal(frame, resize_frame(whole, size))
        assert frames.shape[1:3] == (size, 4 * size)


def test_frames_that_change_size(tmp_path):
    for k, width in enumerate((128, 128, 140)):
        save_image(tmp_path / f"{k}.png", numbered(k, width=width))
    assert numbers(decode_frames(tmp_path, indices=[0, 1])) == [0, 1]
    with pytest.raises(
        ValueError, match=r"frames of one size \(128x32, as frame 0\), got 140x32 at frame 2"
    ):
        decode_frames(tmp_path, n=None)


def test_frame_rate_and_duration(tmp_path):
    info = probe_video(numbered_video(tmp_path / "a.mp4", 50))
    assert info.fps == pytest.approx(25) and info.duration == pytest.approx(2)
    assert info.codec == "h264"
    path = numbered_video(tmp_path / "uneven.mkv", times=UNEVEN)
    info = probe_video(path)
    assert info.duration == pytest.approx(UNEVEN[-1] * 60 / 59 / 1000, rel=0.03)
    assert info.fps == pytest.approx(60 / info.duration)
    info = probe_video(numbered_video(tmp_path / "one.gif", 1, codec="gif", pix_fmt="rgb8"))
    assert info.frames == 1


# Memory


class FramesWatched:
    """A reader that counts its frames in memory."""

    name = "watched"

    def __init__(self):
        self.alive = self.most = 0

    def __len__(self):
        return 50

    def frames(self, indices):
        for index in indices:
            frame = np.full((4, 6, 3), index, np.uint8)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(frame, self.leave)
            yield frame
            del frame

    def leave(self):
        self.alive -= 1


def test_only_requested_frames_are_held(monkeypatch):
    reader = FramesWatched()
    monkeypatch.setattr(video_decode, "open_frames", lambda path: reader)
    frames = decode_frames("any", n=20)
    gc.collect()
    assert reader.alive == 0 and reader.most <= 2
    assert frames[:, 0, 0, 0].tolist() == segment_centres(50, 20).tolist()


def test_only_requested_frames_are_converted(tmp_path, monkeypatch):
    converted = []
    plain = RgbConverter.__call__

    def counting(self, frame):
        converted.append(frame.pts)
        return plain(self, frame)

    monkeypatch.setattr(RgbConverter, "__call__", counting)
    decode_frames(numbered_video(tmp_path / "a.mp4"), indices=[3, 50, 3])
    assert len(converted) == 2


def test_a_long_video_is_indexed_once_and_encoded_in_parts(tmp_path, monkeypatch):
    path, indexed, sizes = numbered_video(tmp_path / "a.mp4", 60, gop=12), [], []
    plain = video_decode.index_video
    monkeypatch.setattr(video_decode, "index_video", lambda p: indexed.append(p) or plain(p))
    monkeypatch.setattr(inputs, "_DECODED_AT_ONCE", 16)

    def encoder(frames):
        sizes.append(len(frames))
        return np.array(numbers(frames), np.float32)[:, None]

    features, index = open_videos(path, encoder).read(0, None)
    assert features.ravel().tolist() == index.tolist() == list(range(60))
    assert sizes == [16, 16, 16, 12] and indexed == [path]


# Folders of images


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_a_folder_of_images_in_natural_order(tmp_path, suffix):
    for k in range(12):
        save_image(tmp_path / f"img_{k}{suffix}", numbered(k))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / f"._img_3{suffix}").write_bytes(b"a shadow of another system")
    assert numbers(decode_frames(tmp_path, n=None)) == list(range(12))
    assert numbers(decode_frames(str(tmp_path), indices=[11, 2, 2])) == [11, 2, 2]
    assert numbers(decode_frames(tmp_path)) == segment_centres(12, 8).tolist()
    info = probe_video(tmp_path)
    assert (info.frames, info.height, info.width) == (12, 32, 128)
    assert info.fps is None and info.duration is None
    assert info.codec == {".png": "png"}.get(suffix, "mjpeg")


def test_png_pixels_are_exact(tmp_path, rng):
    image = rng.integers(0, 256, (21, 33, 3), dtype=np.uint8)
    save_image(tmp_path / "a%03d.png", image)
    np.testing.assert_array_equal(decode_frames(tmp_path, n=1)[0], image)


@pytest.mark.parametrize("pix_fmt", ["gray", "rgba", "rgb48be", "monob"])
def test_other_pixel_formats_are_converted_to_rgb(tmp_path, pix_fmt):
    frame = av.VideoFrame.from_ndarray(numbered(37), format="rgb24").reformat(format=pix_fmt)
    frame.save(str(tmp_path / "a.png"))
    frames = decode_frames(tmp_path, n=1)
    assert frames.shape == (1, 32, 128, 3)
    if pix_fmt != "monob":
        assert numbers(frames) == [37]


def test_one_image_is_a_video_of_one_frame(tmp_path):
    save_image(tmp_path / "a.png", numbered(9))
    assert numbers(decode_frames(tmp_path / "a.png", n=1)) == [9]


def test_folders_without_readable_images(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"^frames/: expected images .*, got an empty folder\.$"):
        decode_frames(folder)
    (folder / "notes.txt").write_text("no")
    with pytest.raises(ValueError, match="got none among 1 files"):
        decode_frames(folder)
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^a\.png: expected an image, got a file of unknown"):
        decode_frames(folder, n=1)
    (folder / "a.png").write_text("ffconcat version 1.0\nfile other.mp4\n")
    numbered_video(folder / "other.mp4", 5)
    with pytest.raises(ValueError, match=r"^a\.png: expected an image, got a list of files"):
        decode_frames(folder, n=1)


# Bad input


def raises_one_line(path, match, kind=ValueError, **how):
    for ask in (lambda: decode_frames(path, **how), lambda: probe_video(path)):
        with pytest.raises(kind, match=match) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_files_that_are_not_videos(tmp_path):
    raises_one_line(tmp_path / "no.mp4", "no .*no.mp4", kind=FileNotFoundError)
    (tmp_path / "empty.mp4").touch()
    raises_one_line(tmp_path / "empty.mp4", r"^empty\.mp4: expected a video, got an empty file\.$")
    (tmp_path / "text.mp4").write_text("once upon a time\n" * 99)
    raises_one_line(tmp_path / "text.mp4", r"^text\.mp4: expected a video, got a file of unknown")
    (tmp_path / "song.lrc").write_text("[00:01.00]la\n[00:02.00]la\n")
    raises_one_line(tmp_path / "song.lrc", r"^song\.lrc: expected a video, got a list of files, or")
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    (tmp_path / "a.svg").write_text(svg)
    raises_one_line(tmp_path / "a.svg", r"^a\.svg: expected a video, got a list of files, or")


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", b"avc1"), ("avi", b"H264")])
def test_an_unknown_codec(tmp_path, suffix, codec):
    path = numbered_video(tmp_path / f"a.{suffix}", 5)
    content = path.read_bytes()
    assert codec in content
    path.write_bytes(content.replace(codec, b"zzzz"))
    raises_one_line(path, rf"^a\.{suffix}: expected a codec that can be decoded, got an unknown")


def test_frames_too_large_to_decode(tmp_path):
    path = tmp_path / "a.png"
    save_image(path, numbered(1))
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    raises_one_line(path, r"^a\.png: expected frames of at most 134,217,728 pixels, got more")
    folder = tmp_path / "frames"
    folder.mkdir()
    path.rename(folder / "a.png")
    raises_one_line(folder, r"^a\.png: expected frames of at most", n=1)


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.m4a", "aac")])
def test_audio_files(tmp_path, name, codec):
    raises_one_line(tone(tmp_path / name, codec), "expected a video stream, .* holds audio")


@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "txt", "ffconcat"])
def test_lists_of_files_open_nothing_else(tmp_path, suffix):
    """Under any suffix, even if the listed files exist and can be decoded."""
    numbered_video(tmp_path / "a.ts", 5)
    texts = {
        "a list": "ffconcat version 1.0\nfile a.ts\n",
        "a playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n",
        "of the network": "#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n#EXT-X-ENDLIST\n",
        "a session": "v=0\nm=video 9 RTP/AVP 96\nc=IN IP4 127.0.0.1\na=rtpmap:96 H264/90000\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.{suffix}"
        path.write_text(text)
        raises_one_line(path, rf"^{name}\.{suffix}: expected a video, got a ")


# Several streams


def two_streams(path, still_first):
    """A 16x16 picture beside a numbered video of 20 frames, neither marked as default."""
    with av.open(str(path), "w") as container:
        streams = {}
        for kind in ("still", "film") if still_first else ("film", "still"):
            codec = "mjpeg" if kind == "still" else "libx264"
            stream = streams[kind] = container.add_stream(codec, rate=25)
            stream.pix_fmt = "yuvj420p" if kind == "still" else "yuv420p"
            stream.height, stream.width = (16, 16) if kind == "still" else (2 * SIDE, BITS * SIDE)
        for k in range(20):
            for kind, stream in streams.items():
                if kind == "film" or k == 0:
                    image = np.full((16, 16, 3), 99, np.uint8) if kind == "still" else numbered(k)
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame = frame.reformat(format=stream.pix_fmt)
                    frame.pts = k
                    container.mux(stream.encode(frame))
        for stream in streams.values():
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("still_first", [True, False])
@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".ts"])
def test_a_still_picture_beside_a_video_is_not_selected(tmp_path, suffix, still_first):
    path = two_streams(tmp_path / f"two{suffix}", still_first)
    info = probe_video(path)
    assert (info.frames, info.height, info.width, info.codec) == (20, 2 * SIDE, BITS * SIDE, "h264")
    assert numbers(decode_frames(path, n=None)) == list(range(20))
    assert numbers(decode_frames(path, indices=[17, 2])) == [17, 2]
    assert len(index_by_decoding(path).keyframe) == len(index_video(path).keyframe) == 20
    video = open_videos(path, lambda frames: np.array([[number_of(f)] for f in frames], float))
    assert video.length(0) == 20
    assert video.read(0, 4)[0].ravel().tolist() == segment_centres(20, 4).tolist()


def test_the_default_stream_is_selected(tmp_path):
    """Writers of MP4 mark the first stream of each kind as default."""
    path = two_streams(tmp_path / "two.mp4", still_first=True)
    with av.open(str(path)) as container:
        best = container.streams.best("video")
        assert (best.index, best.width) == (0, 16)
    assert probe_video(path).width == 16


def test_a_video_without_frames(tmp_path):
    path = tmp_path / "none.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 128, "yuv420p"
        container.start_encoding()
    raises_one_line(path, r"none\.avi: expected ")


@pytest.mark.parametrize("share", [0.97, 0.6, 0.3])
@pytest.mark.parametrize("name", ["begin.mp4", "end.mp4", "a.mkv", "a.webm", "a.avi", "a.gif"])
def test_truncated_files(tmp_path, name, share):
    kind = {
        "begin.mp4": {"container_options": {"movflags": "faststart"}},
        "a.webm": {"codec": "libvpx", "deadline": "realtime"},
        "a.avi": {"codec": "mpeg4"},
        "a.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    }.get(name, {})
    path = numbered_video(tmp_path / name, **kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    raises_one_line(path, f"^{name}: expected ")


def test_a_gif_may_be_padded(tmp_path):
    path = numbered_video(tmp_path / "a.gif", codec="gif", pix_fmt="rgb8")
    path.write_bytes(path.read_bytes() + bytes(7))
    assert numbers(decode_frames(path, indices=[59])) == [59]


def test_a_matroska_stream_without_a_size(tmp_path):
    path = numbered_video(tmp_path / "a.mkv", container_options={"live": "1"})
    assert numbers(decode_frames(path, n=None)) == list(range(60))


def test_damage_within_a_file_names_the_frame(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 120, gop=30, b_frames=0, sc_threshold="0")
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][45]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    pattern = (
        r"^a\.mp4: expected a video that can be decoded, got damaged data at frame 45\. Frames"
    )
    with pytest.raises(ValueError, match=pattern):
        decode_frames(path, indices=[50])
    assert numbers(decode_frames(path, indices=[44, 0])) == [44, 0]
    assert numbers(decode_frames(path, indices=[70, 119])) == [70, 119]  # past it by a keyframe
    with pytest.raises(ValueError, match="damaged data at frame 45"):
        decode_frames(path, n="all")


def test_invalid_frame_numbers(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 5)
    with pytest.raises(
        ValueError, match=r"^a\.mp4: expected at least n = 8 frames, got 5\. Request"
    ):
        decode_frames(path)
    with pytest.raises(ValueError, match=r"indices: expected numbers in 0\.\.4, .* got 5\.$"):
        decode_frames(path, indices=[0, 5])
    with pytest.raises(ValueError, match=r"got -1\.$"):
        decode_frames(path, indices=[-1])
    with pytest.raises(ValueError, match="indices: expected a list of numbers"):
        decode_frames(path, indices=[])
    with pytest.raises(TypeError, match="indices: expected integers, got dtype float64"):
        decode_frames(path, indices=[0.5])
    with pytest.raises(TypeError, match="n: expected an integer"):
        decode_frames(path, n="every")
    with pytest.raises(ValueError, match="n: expected an integer >= 1"):
        decode_frames(path, n=0)
    with pytest.raises(ValueError, match="size: expected an integer >= 1"):
        decode_frames(path, size=0)


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    path = numbered_video(tmp_path / "a.mp4", 5)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"esv-jax\[video\]"):
        decode_frames(path)


def test_file_names_that_resemble_urls_or_options(tmp_path):
    path = numbered_video(tmp_path / "a.mp4", 5)
    for name in ("http:b.mp4", "50%d.mp4", "a b.mp4", "-i.mp4", "é.mp4"):
        shutil.copy(path, tmp_path / name)
        assert numbers(decode_frames(tmp_path / name, indices=[4])) == [4]


# Real videos

REAL = {
    "arm_wrestling.mp4": (280, 256, 340, 0, "h264"),
    "flipping_a_pancake.mkv": (310, 240, 426, 0, "h264"),
    "v_CricketShot_g04_c01_rgb.gif": (79, 224, 224, 0, "gif"),
    "test.avi": (164, 240, 320, 0, "mpeg4"),
    "video_90.mov": (3, 568, 320, 90, "h264"),
    "unordered.mov": (4, 50, 50, 0, "h264"),
}


@pytest.fixture
def real(shared):
    folder = shared / "data" / "videos"
    if not folder.is_dir():
        pytest.skip("the real videos are not present")
    return folder


@pytest.mark.parametrize("name", REAL)
def test_real_videos(real, name):
    info = probe_video(real / name)
    found = (info.frames, info.height, info.width, info.rotation, info.codec)
    assert found == REAL[name]
    assert 20 < info.fps < 40 and info.duration == pytest.approx(info.frames / info.fps)
    n = min(8, info.frames)
    assert decode_frames(real / name, n=n).shape == (n, info.height, info.width, 3)


@pytest.mark.parametrize(
    "name", ["arm_wrestling.mp4", "flipping_a_pancake.mkv", "v_CricketShot_g04_c01_rgb.gif"]
)
def test_real_videos_equal_the_reference(real, name, rng):
    everything = reference(real / name)
    indices = rng.integers(0, len(everything), 12)
    frames = decode_frames(real / name, indices=indices)
    np.testing.assert_array_equal(frames, everything[indices])
    last = [len(everything) - 1]
    np.testing.assert_array_equal(decode_frames(real / name, indices=last), everything[last])


def test_frames_stored_out_of_order_are_returned_in_display_order(real):
    np.testing.assert_array_equal(
        decode_frames(real / "unordered.mov", n=None), reference(real / "unordered.mov")
    )


def test_decoding_order_is_right_where_timestamps_contradict_it(real):
    """The timestamps of this AVI are made up by FFmpeg; sorted by them, frames differ more."""

    def unrest(frames):
        return np.abs(np.diff(frames.astype(np.int16), axis=0)).mean()

    frames, by_time = decode_frames(real / "test.avi", n=None), reference(real / "test.avi")
    assert unrest(frames) < 0.75 * unrest(by_time)


def test_a_real_rotated_video_is_upright(real):
    """The top row of the upright picture is the first stored column, reversed."""
    frames = decode_frames(real / "video_90.mov", n=None)
    np.testing.assert_array_equal(
        frames, np.rot90(reference(real / "video_90.mov"), -1, axes=(1, 2))
    )


def test_a_real_damaged_video(real):
    path = real / "corrupted.mp4"
    with pytest.raises(ValueError, match=r"^corrupted\.mp4: .* got damaged data at frame 28\. "):
        decode_frames(path)
    assert decode_frames(path, indices=[0, 27]).shape == (2, 720, 1280, 3)
