"""Synthetic videos: reproducibility, ground truth, reversed pairs."""

import json

import jax
import numpy as np
import pytest

from esv_jax.data import segment_centres
from esv_jax.data.synthetic_drawing import Stroke, draw
from esv_jax.data.synthetic_video import (
    SYNTHETIC_VIDEO_CLASSES,
    synthetic_videos,
    write_synthetic_videos,
)

C = len(SYNTHETIC_VIDEO_CLASSES)


def same(a, b, rows=slice(None)):
    for name in ("clips", "labels", "evidence_frames", "evidence_mask"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[rows])
    assert a.uids == b.uids[rows]


@pytest.fixture(scope="module")
def videos():
    return synthetic_videos(2 * C, seed=4, n_frames=24)


def test_shapes_dtypes_and_names(videos):
    assert C >= 12 and C % 2 == 0
    assert videos.clips.shape == (2 * C, 24, 64, 64, 3) and videos.clips.dtype == np.uint8
    assert videos.labels.shape == (2 * C,) and videos.labels.dtype == np.int64
    assert videos.evidence_frames.shape == (2 * C, 24) and videos.evidence_frames.dtype == bool
    assert videos.evidence_mask.shape == (2 * C, 24, 64, 64) and videos.evidence_mask.dtype == bool
    assert videos.class_names == SYNTHETIC_VIDEO_CLASSES
    assert len({*videos.class_names}) == C and len({*videos.uids}) == len(videos) == 2 * C


# The same from the same key


def test_a_key_and_a_number_determine_a_clip(videos):
    same(synthetic_videos(2 * C, key=jax.random.key(4), n_frames=24), videos)
    same(synthetic_videos(3, seed=4, n_frames=24), videos, slice(3))
    same(synthetic_videos(5, seed=4, n_frames=24, first=C - 2), videos, slice(C - 2, C + 3))


def test_other_keys_and_numbers_give_other_clips(videos):
    other = synthetic_videos(2 * C, seed=5, n_frames=24)
    assert not {*other.uids} & {*videos.uids}
    for clips in (videos.clips, other.clips):
        assert len({clip.tobytes() for clip in clips}) == len(clips)
    assert not {clip.tobytes() for clip in other.clips} & {c.tobytes() for c in videos.clips}
    assert (other.labels != videos.labels).any()


def test_frames_can_be_rendered_alone(videos):
    at = segment_centres(24, 8)
    some = synthetic_videos(6, seed=4, n_frames=24, frames=at)
    np.testing.assert_array_equal(some.clips, videos.clips[:6, at])
    np.testing.assert_array_equal(some.evidence_frames, videos.evidence_frames[:6, at])
    np.testing.assert_array_equal(some.evidence_mask, videos.evidence_mask[:6, at])


def test_clips_do_not_change_between_versions():
    """Stored results depend on these clips."""
    clip = synthetic_videos(1, seed=0, n_frames=8, size=16)
    assert clip.uids == ("synthetic-00000000-00000",)
    assert clip.class_names[clip.labels[0]] == RECORD["class"]
    assert clip.evidence_frames[0].nonzero()[0].tolist() == RECORD["evidence"]
    assert clip.clips.mean() == pytest.approx(RECORD["mean"], abs=0.01)


RECORD = {"class": "closing", "evidence": [3, 4, 5, 6], "mean": 126.61}


# Classes


@pytest.mark.parametrize("n", [1, 7, C, C + 5])
def test_classes_are_balanced(n):
    labels = synthetic_videos(n, seed=1, n_frames=8, size=16).labels
    counts = np.bincount(labels, minlength=C)
    assert counts.max() - counts.min() <= 1
    assert (labels < C).all() and (labels >= 0).all()


def test_labels_index_the_requested_classes():
    names = ("closing", "moving apart")
    some = synthetic_videos(6, seed=2, n_frames=8, size=16, classes=names)
    assert some.class_names == names
    assert np.bincount(some.labels).tolist() == [3, 3]
    for row, label in enumerate(some.labels):
        one = synthetic_videos(1, seed=2, n_frames=8, size=16, classes=[names[label]], first=row)
        np.testing.assert_array_equal(one.clips[0], some.clips[row])


@pytest.mark.parametrize("pair", range(C // 2))
def test_the_second_class_of_a_pair_is_the_first_run_backwards(pair):
    forward, backward = SYNTHETIC_VIDEO_CLASSES[2 * pair : 2 * pair + 2]
    a = synthetic_videos(3, seed=6, n_frames=16, size=32, classes=[forward])
    b = synthetic_videos(3, seed=6, n_frames=16, size=32, classes=[backward])
    np.testing.assert_array_equal(a.clips, b.clips[:, ::-1])
    np.testing.assert_array_equal(a.evidence_frames, b.evidence_frames[:, ::-1])
    np.testing.assert_array_equal(a.evidence_mask, b.evidence_mask[:, ::-1])
    assert (a.clips != b.clips).any()


# Truth


def test_evidence_pixels_lie_in_evidence_frames(videos):
    shows = videos.evidence_mask.any((2, 3))
    np.testing.assert_array_equal(shows, videos.evidence_frames)
    size = videos.evidence_mask[videos.evidence_frames].mean((1, 2))
    assert size.min() > 0.003 and size.max() < 0.6


@pytest.mark.parametrize("n_frames", [8, 32])
def test_every_clip_has_evidence_and_something_else(n_frames):
    clips = synthetic_videos(200, seed=7, n_frames=n_frames, size=16)
    share = clips.evidence_frames.mean(1)
    assert clips.evidence_frames.sum(1).min() >= 2
    assert share.min() >= 0.2 and share.max() <= 0.8


@pytest.mark.parametrize("name", SYNTHETIC_VIDEO_CLASSES[::2])
def test_frames_without_evidence_do_not_depend_on_the_class(name):
    """Clips of two pairs with the same number share all frames without evidence."""
    forward = SYNTHETIC_VIDEO_CLASSES[::2]
    other = forward[(forward.index(name) + 1) % len(forward)]
    a = synthetic_videos(4, seed=8, n_frames=16, size=32, classes=[name])
    b = synthetic_videos(4, seed=8, n_frames=16, size=32, classes=[other])
    np.testing.assert_array_equal(a.evidence_frames, b.evidence_frames)
    np.testing.assert_array_equal(a.clips[~a.evidence_frames], b.clips[~a.evidence_frames])
    differs = (a.clips != b.clips).any((2, 3, 4))
    assert (differs == a.evidence_frames).mean() > 0.95


def test_the_evidence_mask_covers_all_differences():
    """Clips of two pairs share the scene and differ only where one of them has evidence."""
    quiet = {"noise": 0.0, "jitter": 0.0, "n_frames": 16}
    a = synthetic_videos(6, seed=9, classes=["moving apart"], **quiet)
    b = synthetic_videos(6, seed=9, classes=["coming closer"], **quiet)
    marked = a.evidence_mask | b.evidence_mask
    step = np.abs(a.clips.astype(int) - b.clips).max(-1)
    edge = marked.copy()  # soft edges reach a pixel further
    for axis in (2, 3):
        edge |= np.roll(edge, 1, axis) | np.roll(edge, -1, axis)
    assert not (step > 0)[~edge].any()
    only = a.evidence_mask ^ b.evidence_mask
    assert (step[only] > 0).mean() > 0.95


def test_without_jitter_the_scene_is_static():
    clip = synthetic_videos(1, seed=3, n_frames=32, noise=0.0, jitter=0.0, classes=["opening"])
    shown = clip.clips[0][clip.evidence_frames[0]].astype(float)
    corner = shown[:, :4, :4] / shown[:, :4, :4].mean((1, 2, 3), keepdims=True)  # flicker aside
    assert corner.std(0).max() < 0.02
    shaken = synthetic_videos(1, seed=3, n_frames=32, noise=5.0, classes=["opening"])
    assert shaken.clips[0][clip.evidence_frames[0], :4, :4].std(0).max() > 2


def test_a_stroke_covers_the_pixels_of_its_definition():
    """Compare with the distance to the segment, pixel by pixel."""
    start, end, radius = np.array([[0.2, 0.3]]), np.array([[0.7, 0.6]]), np.array([0.12])
    for square in (False, True):
        picture, seen = np.zeros((3, 1, 20, 20), np.float32), np.zeros((1, 20, 20), bool)
        draw(picture, Stroke(start, end, radius, np.array([200, 100, 50]), square=square), seen)
        a, b = start[0] * 20, end[0] * 20
        length = np.hypot(*(b - a))
        for row in range(20):
            for column in range(20):
                p = np.array([column + 0.5, row + 0.5]) - a
                along = p @ (b - a) / length
                aside = abs(p[0] * (b - a)[1] - p[1] * (b - a)[0]) / length
                past = max(-along, along - length)
                depth = min(2.4 - aside, -past) if square else 2.4 - np.hypot(max(past, 0), aside)
                if abs(depth) > 1e-3:
                    assert seen[0, row, column] == (depth > 0), (square, row, column)
                assert (picture[0, 0, row, column] > 0) == (depth > -0.5)
        inner = picture[:, 0, seen[0]]
        np.testing.assert_allclose(inner[0], 2 * inner[1], rtol=1e-5)


# Files


def test_clips_as_video_files(tmp_path):
    av = pytest.importorskip("av")
    videos = synthetic_videos(2, seed=1, n_frames=8)
    paths = write_synthetic_videos(tmp_path / "clips", videos)
    for path, clip in zip(paths, videos.clips, strict=True):
        with av.open(str(path)) as container:
            frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        assert frames.shape == clip.shape
        assert np.abs(frames.astype(int) - clip).mean() < 12
    about = json.loads((tmp_path / "clips" / "clips.json").read_text())
    assert about["class_names"] == list(videos.class_names)
    assert [clip["uid"] for clip in about["clips"]] == [path.stem for path in paths]
    assert [clip["label"] for clip in about["clips"]] == videos.labels.tolist()
    for clip, truth in zip(about["clips"], videos.evidence_frames, strict=True):
        assert clip["evidence_frames"] == truth.nonzero()[0].tolist()
    with np.load(tmp_path / "clips" / "evidence.npz", allow_pickle=False) as masks:
        for uid, mask in zip(videos.uids, videos.evidence_mask, strict=True):
            np.testing.assert_array_equal(masks[uid], mask)


# What is refused


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"n": 0}, ValueError, "n: expected an integer >= 1"),
        ({"n": 2.0}, TypeError, "n: expected an integer"),
        ({"n_frames": 7}, ValueError, "n_frames: expected an integer >= 8"),
        ({"size": 8}, ValueError, "size: expected an integer >= 16"),
        ({"first": -1}, ValueError, "first: expected"),
        ({"seed": None}, ValueError, "key, seed: expected one of the two, got neither"),
        ({"key": jax.random.key(0)}, ValueError, "got both"),
        ({"seed": None, "key": jax.random.PRNGKey(0)}, TypeError, "key: expected a typed PRNG key"),
        ({"seed": -1}, ValueError, "seed: expected"),
        ({"classes": []}, ValueError, "classes: expected at least one name"),
        ({"classes": "opening"}, TypeError, "classes: expected a list of names"),
        ({"classes": ["openin"]}, ValueError, "Did you mean 'opening'"),
        ({"classes": ["opening", "opening"]}, ValueError, "each name once"),
        ({"frames": [8]}, ValueError, "frames: expected indices in 0..7"),
        ({"frames": [-1]}, ValueError, "frames: expected indices in 0..7"),
        ({"frames": []}, (TypeError, ValueError), "frames"),
        ({"frames": [0.5]}, TypeError, "frames: expected integers"),
        ({"noise": -1.0}, ValueError, "noise: expected a finite number >= 0"),
        ({"jitter": np.nan}, ValueError, "jitter: expected a finite number >= 0"),
    ],
)
def test_bad_arguments_are_refused(wrong, error, says):
    arguments = {"n": 1, "seed": 0, "n_frames": 8, "size": 16} | wrong
    with pytest.raises(error, match=says):
        synthetic_videos(arguments.pop("n"), **arguments)
