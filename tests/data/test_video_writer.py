"""Writing of videos: round trip, reproducible bytes, atomicity."""

import numpy as np
import pytest

from esv_jax.data import decode_frames, probe_video, synthetic_videos, write_video

av = pytest.importorskip("av", reason="needs the video extra")


def film(n=10, h=48, w=64):
    """A bright spot that moves over a colour gradient."""
    rows, columns = np.mgrid[:h, :w]
    slope = np.stack([rows * 2, columns * 2, 120 + rows - columns], -1)
    spots = [np.exp(-((rows - 20) ** 2 + (columns - 4 * k - 8) ** 2) / 60) for k in range(n)]
    return np.stack([np.clip(slope + 90 * s[..., None], 0, 255) for s in spots]).astype(np.uint8)


def mean_difference(frames, others):
    return np.abs(frames.astype(int) - others).mean((1, 2, 3))


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".gif", "gif"), (".GIF", "gif")])
def test_written_frames_are_read_back(tmp_path, suffix, codec):
    frames = film()
    assert write_video(tmp_path / f"a{suffix}", frames, fps=12.5) == 10
    back = decode_frames(tmp_path / f"a{suffix}", n=None)
    assert back.shape == frames.shape
    assert mean_difference(back, frames).max() < 6
    nearest = [int(np.argmin(mean_difference(frames, frame[None]))) for frame in back]
    assert nearest == list(range(10))
    info = probe_video(tmp_path / f"a{suffix}")
    assert info.codec == codec and info.fps == pytest.approx(12.5)


def test_colours_are_preserved(tmp_path):
    colours = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230], [128, 128, 128]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 32, 32, 3))
    for name in ("a.mp4", "a.gif"):
        write_video(tmp_path / name, frames)
        back = decode_frames(tmp_path / name, n=None)
        assert np.abs(back.astype(int) - frames).max() <= 6


@pytest.mark.parametrize(("h", "w"), [(33, 50), (32, 51), (33, 51)])
def test_odd_sizes_are_extended_in_mp4_only(tmp_path, h, w):
    frames = film(h=h, w=w)
    write_video(tmp_path / "a.mp4", frames)
    back = decode_frames(tmp_path / "a.mp4", n=None)
    assert back.shape[1:3] == (h + h % 2, w + w % 2)
    assert mean_difference(back[:, :h, :w], frames).max() < 6
    write_video(tmp_path / "a.gif", frames)
    assert decode_frames(tmp_path / "a.gif", n=None).shape == frames.shape


@pytest.mark.parametrize(("suffix", "repeats"), [(".mp4", 10), (".gif", 2)])
def test_the_same_frames_give_the_same_bytes(tmp_path, suffix, repeats):
    frames = synthetic_videos(1, seed=1).clips[0][::-1]
    contents = set()
    for _ in range(repeats):
        write_video(tmp_path / f"a{suffix}", iter(frames))
        contents.add((tmp_path / f"a{suffix}").read_bytes())
    assert len(contents) == 1


def test_frames_are_taken_one_at_a_time(tmp_path):
    def frames():
        yield from film(5)

    assert write_video(tmp_path / "a.mp4", frames()) == 5
    assert probe_video(tmp_path / "a.mp4").frames == 5


@pytest.mark.parametrize("fps", [50, 30, 29.97, 7, 0.5])
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_frame_rate(tmp_path, suffix, fps):
    write_video(tmp_path / f"a{suffix}", film(30), fps=fps)
    info = probe_video(tmp_path / f"a{suffix}")
    assert info.frames == 30
    assert info.fps == pytest.approx(fps, rel=0.02)


def test_fallback_codec_without_h264(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    write_video(tmp_path / "a.mp4", film())
    assert probe_video(tmp_path / "a.mp4").codec == "mpeg4"
    assert mean_difference(decode_frames(tmp_path / "a.mp4", n=None), film()).max() < 8


def test_a_failure_keeps_the_existing_file(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, film())
    before = path.read_bytes()

    def broken():
        yield from film(3)
        raise RuntimeError("the source dried up")

    with pytest.raises(RuntimeError, match="dried up"):
        write_video(path, broken())
    with pytest.raises(ValueError, match=r"frame 1: expected shape \(48, 64, 3\), as frame 0"):
        write_video(path, [film()[0], film(h=50)[0]])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_video(path, film(), overwrite=False)


def test_bad_input(tmp_path, capfd):
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match=r"suffix of path: expected one of '\.mp4', '\.gif'"):
        write_video(tmp_path / "a.avi", film())
    with pytest.raises(ValueError, match="frames: expected at least one frame, got none"):
        write_video(path, [])
    with pytest.raises(TypeError, match="frame 0: expected uint8"):
        write_video(path, film().astype(np.float32))
    with pytest.raises(ValueError, match=r"frame 0: expected shape \(h, w, 3\)"):
        write_video(path, film()[..., :2])
    for fps in (0, -1, 2000, float("nan"), 1e-9):
        with pytest.raises(ValueError, match="fps: expected"):
            write_video(path, film(), fps=fps)
    with pytest.raises(ValueError, match=r"<= 50 for \.gif, got 60"):
        write_video(tmp_path / "a.gif", film(), fps=60)
    with pytest.raises(FileNotFoundError, match="Make it first"):
        write_video(tmp_path / "none" / "a.mp4", film())
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
