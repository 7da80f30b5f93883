"""`esv-jax extract`: features of videos, continuation, errors."""

import os

import numpy as np
import pytest

import esv_jax as ej
from esv_jax.cli import extract as command
from esv_jax.cli import main
from esv_jax.data.classes import read_labels
from esv_jax.data.preprocessing import TSN_RESNET50, preprocess
from esv_jax.data.video_decode import decode_frames
from esv_jax.data.video_files import find_videos
from esv_jax.data.video_writer import write_video
from esv_jax.models import backbones
from tests.models.test_backbones import rule_state
from tests.sweeps_for_tests import run_killer

pytest.importorskip("av")

F = 6
LENGTHS = {"a": 5, "b": 2, "c": 7}


def film(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, three clips of different lengths and a truncated one."""
    folder = tmp_path_factory.mktemp("extract")
    variables = backbones.from_state_dict("resnet50", rule_state("resnet50", F))
    backbones.save_backbone(folder / "weights.safetensors", "resnet50", variables)
    (folder / "clips" / "deeper").mkdir(parents=True)
    for seed, (uid, n) in enumerate(LENGTHS.items()):
        place = folder / "clips" / ("deeper" if uid == "c" else "")
        write_video(place / f"{uid}.mp4", film(n, seed))
    (folder / "clips" / "notes.md").write_text("no video")
    (folder / "broken.mp4").write_bytes((folder / "clips" / "a.mp4").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    _, variables = backbones.load_backbone(folder / "weights.safetensors")
    network = backbones.extractor("resnet50", variables)
    features = {}
    for path in sorted((folder / "clips").rglob("*.mp4")):
        frames = preprocess(decode_frames(path, None), TSN_RESNET50)
        frames = np.concatenate([frames, np.zeros((8 - len(frames), 224, 224, 3), np.float32)])
        features[path.stem] = np.asarray(network(frames))[: LENGTHS[path.stem]]
    return features


def run(folder, out, *sources, options=()):
    arguments = [*map(str, sources), "--backbone", str(folder / "weights.safetensors")]
    return main(["extract", *arguments, "--out", str(out), "--batch-size", "8", *options])


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.fixture
def decoded(monkeypatch):
    """Names of the decoded videos, one per call."""
    names = []

    def spy(path, *args, **kwargs):
        names.append(path.stem)
        return decode_frames(path, *args, **kwargs)

    monkeypatch.setattr(command, "decode_frames", spy)
    return names


def test_a_folder_of_videos_with_labels(folder, expected, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("uid,class\na,lift\nb,1\nc,drop\nz,drop\n")
    (tmp_path / "classes.csv").write_text("name,id\ndrop,0\nlift,1\n")
    options = ["--labels", str(tmp_path / "labels.csv"), "--classes", str(tmp_path / "classes.csv")]
    out = tmp_path / "new" / "f.hdf"
    assert run(folder, out, folder / "clips", options=[*options, "--split", "train"]) == 0
    assert f"Features of 3 videos in {out}" in " ".join(capsys.readouterr().out.split())
    with ej.data.FeatureStore(out) as store:
        assert store.split == "train" and store.uids == ("a", "b", "c")
        for uid, label in zip("abc", (1, 1, 0), strict=True):
            features, labels = store[uid]
            assert features.shape == (LENGTHS[uid], F) and labels == {"action": label}
            assert_close(features, expected[uid])
        assert store.settings["backbone"] == "resnet50" and store.settings["frames"] == "all"
        assert len(store.settings["digest"]) == 64


def test_stored_videos_are_skipped(folder, expected, tmp_path, capsys, decoded):
    clips, out = folder / "clips", tmp_path / "f.hdf"
    assert run(folder, out, clips / "b.mp4") == 0
    assert run(folder, out, clips) == 0
    assert sorted(decoded) == ["a", "b", "c"]
    assert "1 of 3 videos were in the store" in capsys.readouterr().out
    before = out.read_bytes()
    assert run(folder, out, clips) == 0
    assert sorted(decoded) == ["a", "b", "c"] and out.read_bytes() == before
    with ej.data.FeatureStore(out) as store:
        assert store.uids == ("b", "a", "c")
        assert_close(store["c"][0], expected["c"])
    assert run(folder, out, clips, options=["--frames", "2"]) == 2
    assert "frames': 2}, got {'frames': 'all'}. Choose another file" in capsys.readouterr().err
    write_video(tmp_path / "d.mp4", film(1, 3))
    (tmp_path / "labels.csv").write_text("uid,class\nd,1\n")
    assert run(folder, out, tmp_path, options=["--labels", str(tmp_path / "labels.csv")]) == 2
    assert "labels of 'd': expected none, as in the first video" in capsys.readouterr().err
    assert sorted(decoded) == ["a", "b", "c"]


@pytest.mark.slow
def test_an_interrupted_run_is_continued(folder, tmp_path, capsys, decoded, monkeypatch):
    out, spied = tmp_path / "f.hdf", command.decode_frames

    def interrupted(path, *args, **kwargs):
        if path.stem == "c":
            raise KeyboardInterrupt
        return spied(path, *args, **kwargs)

    monkeypatch.setattr(command, "decode_frames", interrupted)
    options = ["--batch-size", "1"]
    assert run(folder, out, folder / "clips", options=options) == 130
    assert "interrupted" in capsys.readouterr().err
    with ej.data.FeatureStore(out) as store:
        assert store.uids == ("a",)
    monkeypatch.setattr(command, "decode_frames", spied)
    assert run(folder, out, folder / "clips", options=options) == 0
    assert sorted(decoded) == ["a", "b", "b", "c"]
    assert ej.data.FeatureStore(out).uids == ("a", "b", "c")
    assert list(tmp_path.iterdir()) == [out]


KILLER = """
    # Extraction over and over in children that are killed; loaded once, forked before JAX starts.
    import json, os, random, signal, sys, threading, time
    from pathlib import Path
    import av, h5py, numpy as np
    from esv_jax.cli import main, extract

    folder, seed, wanted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    paths = [str(path) for path in sorted((folder / "films").iterdir())]

    def means(frames):  # in place of a network: six means of each frame
        time.sleep(0.01)
        return np.asarray(frames).reshape(len(frames), 6, -1).mean(2)

    extract.backbones.extractor = lambda *args: means

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def dies_while(kind, k):
        # Killed while a file is written, around a rename, or while the folder is cleared.
        write, replace, unlink, seen = np.savez, os.replace, os.unlink, [0, 0]

        def written(file, **arrays):
            seen[0] += 1
            write(file, **arrays)
            if seen[0] == k:
                content = file.read_bytes()
                file.write_bytes(content[: len(content) * k // 5])
                die()

        def replaced(source, target, **options):
            seen[1] += 1
            dies = seen[1] == k or str(target).endswith(".hdf")
            if dies and k % 2 == 0:
                die()
            replace(source, target, **options)
            if dies:
                die()

        def removed(path, *args, **options):
            if os.path.basename(path).removesuffix(".npz").isdecimal():
                die()
            unlink(path, *args, **options)

        if kind == "write":
            np.savez = written
        elif kind == "replace":
            os.replace = replaced
        elif kind == "unlink":
            os.unlink = removed

    def extracting(out, n, kind, k=0):
        child = os.fork()
        if child:
            return child
        try:
            dies_while(kind, k)
            arguments = ["--backbone", str(folder / "weights.safetensors"), "--batch-size", "4"]
            code = main(["extract", *paths[:n], *arguments, "--out", str(folder / out)])
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 3
        os._exit(code)

    def ended(child):
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
            sys.exit("an extraction failed")
        return os.WIFSIGNALED(status)

    ended(extracting("whole.hdf", len(paths), "none"))
    partial = folder / "killed.hdf.partial"
    kinds, kills, n = [], 0, 1
    while kills < wanted:
        kind = ("time", "write", "time", "replace", "unlink")[kills % 5]
        n += rng.randint(1, 2)  # few new ones, so that some runs come to their end
        if n >= len(paths):
            sys.exit("too few were killed")
        child = extracting("killed.hdf", n, kind, rng.randint(1, 4))
        if kind == "time":
            until = time.monotonic() + 30
            while not partial.exists() and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.3))
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if ended(child):
            kinds.append(kind)
            kills += 1
    ended(extracting("killed.hdf", len(paths), "none"))
    print(json.dumps(kinds))
"""


@pytest.mark.slow
def test_killed_at_random_moments(folder, tmp_path):
    """The final store equals that of an uninterrupted run."""
    os.symlink(folder / "weights.safetensors", tmp_path / "weights.safetensors")
    (tmp_path / "films").mkdir()
    for seed in range(40):
        write_video(tmp_path / "films" / f"{seed:02}.mp4", film(1 + seed % 5, seed))
    kinds = run_killer(KILLER, tmp_path, 10, timeout=300)
    assert len(kinds) == 10 and set(kinds) == {"time", "write", "replace", "unlink"}
    whole, killed = tmp_path / "whole.hdf", tmp_path / "killed.hdf"
    with ej.data.FeatureStore(whole) as one, ej.data.FeatureStore(killed) as other:
        assert one.uids == other.uids == tuple(f"{seed:02}" for seed in range(40))
        assert one.settings == other.settings
        for uid in one.uids:
            np.testing.assert_array_equal(one[uid][0], other[uid][0])
    assert whole.read_bytes() == killed.read_bytes()
    assert not (tmp_path / "killed.hdf.partial").exists()


def test_bad_videos_are_reported_and_the_others_extracted(folder, expected, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("not a video")
    lines = [folder / "clips" / "a.mp4", "gone.mp4", folder / "broken.mp4", "", "text.mp4"]
    lines += [folder / "clips" / "b.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, lines)))
    out = tmp_path / "f.hdf"
    assert run(folder, out, tmp_path / "list.txt") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("esv-jax:")]
    assert len(said) == 3
    for line, uid in zip(sorted(said), ("broken", "gone", "text"), strict=True):
        assert line.startswith(f"esv-jax: {uid} left out: ") and f"{uid}.mp4" in line
    with ej.data.FeatureStore(out) as store:
        assert store.uids == ("a", "b")
        assert_close(store["b"][0], expected["b"])

    assert run(folder, tmp_path / "none.hdf", folder / "broken.mp4") == 2
    assert not (tmp_path / "none.hdf").exists()
    assert not (tmp_path / "none.hdf.partial").exists()


@pytest.mark.slow
def test_sampled_frames_chunks_and_bfloat16(folder, expected, tmp_path, monkeypatch):
    clips, out = folder / "clips", tmp_path / "f.hdf"
    monkeypatch.setattr(command, "_CHUNK", 3)
    assert run(folder, out, clips, options=["--frames", "4", "--bf16"]) == 0
    with ej.data.FeatureStore(out) as store:
        assert store.lengths().tolist() == [4, 2, 4]
        assert store.settings["dtype"] == "bfloat16"
        theirs = expected["c"][ej.data.segment_centres(7, 4)]
        assert 0 < np.abs(store["c"][0] - theirs).max() < 0.03 * np.abs(theirs).max()


def test_a_video_damaged_beyond_the_first_chunk_is_omitted(folder, tmp_path, monkeypatch, capsys):
    def damaged(path, *, indices, size):
        if path.stem == "c" and 6 in indices:
            raise ValueError("c.mp4: damaged")
        return decode_frames(path, indices=indices, size=size)

    monkeypatch.setattr(command, "decode_frames", damaged)
    monkeypatch.setattr(command, "_CHUNK", 3)
    assert run(folder, tmp_path / "f.hdf", folder / "clips") == 2
    assert "esv-jax: c left out: c.mp4: damaged" in capsys.readouterr().err
    assert ej.data.FeatureStore(tmp_path / "f.hdf").uids == ("a", "b")


@pytest.mark.slow
def test_pytorch_weights_with_pooled_features(folder, tmp_path, monkeypatch, capsys):
    state = {f"module.base_model.{k}": v for k, v in rule_state("resnet50", F).items()}
    files = {"good": state, "other": {"model.1.weight": np.zeros((2, 2))}}
    files["short"] = {k: v for k, v in state.items() if not k.endswith("layer4.2.bn3.bias")}
    read = {str(tmp_path / f"{name}.pth"): state for name, state in files.items()}
    monkeypatch.setattr("esv_jax.cli.options.load_torch", lambda path: read[str(path)])

    def extract(name):
        out = tmp_path / "f.hdf"
        arguments = [str(folder / "clips" / "b.mp4"), "--backbone", str(tmp_path / name)]
        options = ["--batch-size", "8", "--pooled"]
        return main(["extract", *arguments, "--out", str(out), *options])

    assert extract("other.pth") == 2
    assert "other.pth, state dict: expected a state dict of bninception" in capsys.readouterr().err
    assert extract("short.pth") == 2
    assert "an entry for every layer, got no layer4.2.bn3.bias" in capsys.readouterr().err
    assert extract("good.pth") == 0
    assert ej.data.FeatureStore(tmp_path / "f.hdf")["b"][0].shape == (2, 2048)


def test_bad_arguments(folder, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("uid,class\na,1\n")
    (tmp_path / "empty").mkdir()
    clips = folder / "clips"
    for sources, options, text in [
        (
            [tmp_path / "gone.mp4"],
            [],
            "expected a video, a folder of videos or a list, got no such",
        ),
        ([tmp_path / "empty"], [], "expected videos, got a folder without any"),
        ([clips], ["--frames", "0"], "frames: expected an integer >= 1"),
        ([clips], ["--batch-size", "0"], "batch_size: expected an integer >= 1"),
        ([clips], ["--workers", "0"], "workers: expected an integer >= 1"),
        ([clips], ["--labels", str(tmp_path / "labels.csv")], "for every video, got none for 'b'"),
        ([clips], ["--classes", "c.csv"], "classes: expected a file of labels beside"),
        ([clips], ["--backbone", str(clips / "a.safetensors")], "got no such file"),
    ]:
        assert run(folder, tmp_path / "f.hdf", *sources, options=options) == 2
        assert text in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "f.hdf").exists() and not (tmp_path / "f.hdf.partial").exists()


# Lists and labels


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_sources(tmp_path):
    touch(tmp_path, "d/2.webm", "d/1.MP4", "d/x.txt", "d/images/2.jpg", "e/clip", "frames/1.png")
    found = find_videos([tmp_path / "d", tmp_path / "e" / "clip", tmp_path / "frames"])
    assert list(found) == ["1", "2", "images", "clip", "frames"]
    assert found["images"] == tmp_path / "d" / "images"
    (tmp_path / "l.csv").write_text("n,path,uid\n3,d/1.MP4,first\n\n4,e/clip,\n")
    assert find_videos([tmp_path / "l.csv"]) == {
        "first": tmp_path / "d" / "1.MP4",
        "clip": tmp_path / "e" / "clip",
    }
    assert len(find_videos([tmp_path / "d", tmp_path / "d" / "1.MP4"])) == 3
    touch(tmp_path, "e/1.avi")
    with pytest.raises(
        ValueError, match=r"uid '1': expected one video, got .*1\.MP4' and .*1\.avi"
    ):
        find_videos([tmp_path / "d", tmp_path / "e"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"l\.csv: expected a header with the columns 'path', got an empty file"),
        ("file\na\n", r"l\.csv: expected a header with the columns 'path', got 'file'"),
        ("path,uid\na\n", r"l\.csv, line 2: expected 2 cells, got 1"),
        ("path\n \n", r"l\.csv, line 2: expected a path, got an empty cell"),
        ('path\n"a\n', r"l\.csv, line 2: expected comma-separated values, got an error"),
        ("path\n", "videos: expected at least one, got none"),
        ("path\n\xff", r"l\.csv: expected UTF-8 text, got other bytes"),
    ],
)
def test_malformed_lists(tmp_path, text, says):
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=says):
        find_videos([tmp_path / "l.csv"])


@pytest.mark.parametrize(
    ("rows", "names", "says"),
    [
        ("a,1\na,1\n", None, "line 3: expected each uid once, got 'a' again"),
        ("a,lift\n", None, "got 'lift'. Names need --classes"),
        ("a,lit\n", "drop,0\nlift,1\n", "a known name, got 'lit'. Did you mean 'lift'"),
        ("a,2\n", "drop,0\nlift,1\n", "expected a class id below 2, got 2"),
        ("a,-1\n", None, "a class id or a known name, got '-1'"),
    ],
)
def test_bad_labels(tmp_path, rows, names, says):
    (tmp_path / "l.csv").write_text("uid,class\n" + rows)
    if names:
        (tmp_path / "c.csv").write_text("name,id\n" + names)
    with pytest.raises(ValueError, match=says):
        read_labels(tmp_path / "l.csv", tmp_path / "c.csv" if names else None)
