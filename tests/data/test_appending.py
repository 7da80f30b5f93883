"""Incremental writing of a feature store: interruptions, continuation, refusals."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from esv_jax.data import FeatureStore, write_features
from esv_jax.data.appending import FeatureAppender


def features(n):
    return np.arange(3 * n, dtype=np.float32).reshape(n, 3) + n


def stored(path):
    with FeatureStore(path) as store:
        for uid in store:
            np.testing.assert_array_equal(store[uid][0], features(store[uid][1]["n"]))
        return store.uids


def fill(path, *lengths, **options):
    with FeatureAppender(path, 3, **options) as store:
        for n in lengths:
            store.append(f"v{n}", features(n), {"n": n})


KEPT = {}  # files of killed processes without a store, by lengths: starting one takes time


def left_behind(path, *lengths):
    """The folder that a process leaves behind when it is killed after some videos."""
    folder = path.with_name(f"{path.name}.partial")
    is_new = not any(path.parent.iterdir())
    if is_new and lengths in KEPT:
        folder.mkdir()
        for name, content in KEPT[lengths].items():
            (folder / name).write_bytes(content)
        return folder
    code = (
        "import os, signal, sys; from tests.data.test_appending import *\n"
        f"store = FeatureAppender({str(path)!r}, 3)\n"
        f"for n in {lengths!r}: store.append(f'v{{n}}', features(n), {{'n': n}})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=os.getcwd(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    names = [f"{k:08}.npz" for k in range(len(lengths))]
    assert sorted(file.name for file in folder.iterdir()) == [*names, "lock"]
    if is_new and [*path.parent.iterdir()] == [folder]:
        KEPT[lengths] = {file.name: file.read_bytes() for file in folder.iterdir()}
    return folder


def test_a_new_store_then_more(tmp_path):
    path = tmp_path / "f.hdf"
    fill(path, 1, 2)
    assert stored(path) == ("v1", "v2") and list(tmp_path.iterdir()) == [path]
    before = path.read_bytes()
    with FeatureAppender(path, 3) as store:
        assert "v2" in store and "v5" not in store and len(store) == 2
    assert path.read_bytes() == before
    fill(path, 5)
    assert stored(path) == ("v1", "v2", "v5") and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_appended_videos_survive_an_error(tmp_path, error):
    path = tmp_path / "f.hdf"
    with pytest.raises(error), FeatureAppender(path, 3) as store:
        store.append("v2", features(2), {"n": 2})
        raise error
    assert stored(path) == ("v2",) and list(tmp_path.iterdir()) == [path]


def test_appended_videos_survive_a_kill(tmp_path):
    path = tmp_path / "f.hdf"
    fill(path, 4)
    folder = left_behind(path, 1, 2)
    assert stored(path) == ("v4",) and folder.exists()
    with FeatureAppender(path, 3) as store:
        assert all(uid in store for uid in ("v4", "v1", "v2"))
        store.append("v3", features(3), {"n": 3})
    assert stored(path) == ("v4", "v1", "v2", "v3") and list(tmp_path.iterdir()) == [path]


def spoil(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "a bit":
        content[200] ^= 1
    path.write_bytes({"cut": content[:-30], "empty": b"", "foreign": b"notes"}.get(kind, content))


@pytest.mark.parametrize("kind", ["a bit", "cut", "empty", "foreign"])
def test_a_damaged_file_is_kept_and_its_video_added_again(tmp_path, kind):
    path = tmp_path / "f.hdf"
    folder = left_behind(path, 1, 2)
    spoil(folder / "00000000.npz", kind)
    before = (folder / "00000000.npz").read_bytes()
    with FeatureAppender(path, 3) as store:
        assert "v1" not in store and "v2" in store
        store.append("v1", features(1), {"n": 1})
    assert stored(path) == ("v2", "v1")
    assert [file.name for file in folder.iterdir()] == ["00000000.npz"]
    assert (folder / "00000000.npz").read_bytes() == before


def test_all_features_are_checked_for_damage(tmp_path):
    folder = left_behind(tmp_path / "f.hdf", 2)
    part = folder / "00000000.npz"
    content = part.read_bytes()
    start = content.index(features(2).tobytes())
    for k in range(start, start + features(2).nbytes, 5):
        part.write_bytes(content[:k] + bytes([content[k] ^ 4]) + content[k + 1 :])
        with FeatureAppender(tmp_path / "f.hdf", 3) as store:
            assert len(store) == 0
    assert not (tmp_path / "f.hdf").exists()


def test_damage_while_the_store_is_open_keeps_the_other_files(tmp_path):
    folder = tmp_path / "f.hdf.partial"
    store = FeatureAppender(tmp_path / "f.hdf", 3)
    for n in (1, 2):
        store.append(f"v{n}", features(n), {"n": n})
    spoil(folder / "00000000.npz", "cut")
    with pytest.raises(ValueError, match=r"0000\.npz: expected features of a video, got damage"):
        store.close()
    fill(tmp_path / "f.hdf", 3)
    assert stored(tmp_path / "f.hdf") == ("v2", "v3")


def test_foreign_and_hidden_files_in_the_folder_stay(tmp_path):
    path = tmp_path / "f.hdf"
    folder = left_behind(path, 1)
    for name in (".hidden", "notes.txt", "1.npz", "00000000.npz.old"):
        (folder / name).write_text("mine")
    fill(path, 2)
    assert stored(path) == ("v1", "v2")
    assert sorted(file.name for file in folder.iterdir()) == [
        *(".hidden", "00000000.npz.old", "1.npz", "notes.txt")
    ]


def test_a_kill_between_writing_the_store_and_clearing_the_folder(tmp_path):
    path = tmp_path / "f.hdf"
    folder = left_behind(path, 1, 2)
    content = (folder / "00000001.npz").read_bytes()
    fill(path, 3)
    folder.mkdir()
    (folder / "00000001.npz").write_bytes(content)
    fill(path, 4)
    assert stored(path) == ("v1", "v2", "v3", "v4") and list(tmp_path.iterdir()) == [path]


def test_one_writer_at_a_time(tmp_path):
    with FeatureAppender(tmp_path / "f.hdf", 3) as store:
        store.append("v1", features(1), {"n": 1})
        with pytest.raises(FileExistsError, match="path: expected a store with one writer, got pr"):
            FeatureAppender(tmp_path / "f.hdf", 3)
        store.append("v2", features(2), {"n": 2})
    store.close()
    assert stored(tmp_path / "f.hdf") == ("v1", "v2")


def test_a_full_disk_leaves_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "f.hdf"
    with FeatureAppender(path, 3) as store:
        store.append("v1", features(1), {"n": 1})
        before = {file.name: file.stat().st_size for file in store.folder.iterdir()}

        def full(file, **arrays):
            file.write_bytes(b"PK")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(np, "savez", full)
            store.append("v2", features(2), {"n": 2})
        assert {file.name: file.stat().st_size for file in store.folder.iterdir()} == before
        assert "v2" not in store
        store.append("v2", features(2), {"n": 2})
    assert stored(path) == ("v1", "v2")


def test_settings_are_stored_and_compared(tmp_path):
    path = tmp_path / "f.hdf"
    fill(path, 1, settings={"backbone": "b", "frames": 8})
    with FeatureStore(path) as store:
        assert store.settings == {"backbone": "b", "frames": 8}
    fill(path, 2, settings={"frames": 8, "backbone": "b"})
    assert stored(path) == ("v1", "v2")
    with pytest.raises(ValueError, match=r"settings: expected {'frames': 4}, got {'frames': 8}\."):
        FeatureAppender(path, 3, settings={"backbone": "b", "frames": 4})
    write_features(tmp_path / "plain.hdf", [("a", features(1), {})], 3)
    assert FeatureStore(tmp_path / "plain.hdf").settings == {}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"feature_dim": 4}, "feature_dim: expected 4, got 3. Choose another file"),
        ({"split": "train"}, "split: expected train, got validation"),
        ({"settings": {"frames": 8}}, r"settings: expected {'frames': 8}, got {'frames': None}"),
    ],
)
@pytest.mark.parametrize("name", ["f.hdf", "f.hdf.partial/00000000.npz"])
def test_stores_and_folders_of_other_features_are_refused(tmp_path, options, text, name):
    path = tmp_path / "f.hdf"
    fill(path, 1) if name == "f.hdf" else left_behind(path, 1)
    with pytest.raises(ValueError, match=rf"{name}, {text}"):
        FeatureAppender(path, **({"feature_dim": 3} | options))
    assert (tmp_path / name).exists()


def test_foreign_files_are_refused_and_kept(tmp_path):
    (tmp_path / "a.hdf").write_text("not HDF5")
    with pytest.raises(ValueError, match=r"a\.hdf: expected an HDF5 file"):
        FeatureAppender(tmp_path / "a.hdf", 3)
    (tmp_path / "b.hdf.partial").write_text("some\nlines\n")
    with pytest.raises(FileExistsError, match=r"b\.hdf\.partial: expected a folder that can be"):
        FeatureAppender(tmp_path / "b.hdf", 3)
    assert (tmp_path / "b.hdf.partial").read_text() == "some\nlines\n"
    with pytest.raises(FileNotFoundError, match="an existing folder"):
        FeatureAppender(tmp_path / "gone" / "f.hdf", 3)


def test_damaged_settings(tmp_path):
    import h5py

    fill(tmp_path / "f.hdf", 1)
    with h5py.File(tmp_path / "f.hdf", "a") as file:
        file["validation"].attrs["settings"] = "{"
    with pytest.raises(ValueError, match=r"settings: expected a JSON object, got '{'"):
        FeatureStore(tmp_path / "f.hdf")


@pytest.mark.parametrize(
    ("uid", "x", "labels", "kind", "text"),
    [
        ("v1", features(1), {"n": 1}, ValueError, "a new uid, got 'v1', which is stored already"),
        (7, features(1), {"n": 1}, TypeError, "uid: expected a string, got int 7"),
        ("b", features(1)[:, :2], {"n": 1}, ValueError, r"expected shape \(n, 3\)"),
        ("b", features(1) * np.nan, {"n": 1}, ValueError, "expected finite values, got nan"),
        ("b", features(1), {}, ValueError, "expected n: int, as in the first video, got none"),
        ("b", features(1), {"n": 1.0}, ValueError, "expected n: int, .* got n: float"),
    ],
)
def test_videos_refused(tmp_path, uid, x, labels, kind, text):
    fill(tmp_path / "f.hdf", 1)
    with FeatureAppender(tmp_path / "f.hdf", 3) as store:
        with pytest.raises(kind, match=text):
            store.append(uid, x, labels)
        store.append("v2", features(2), {"n": np.int32(2)})
    assert stored(tmp_path / "f.hdf") == ("v1", "v2")


def test_the_files_are_arrays_and_json(tmp_path):
    folder = left_behind(tmp_path / "f.hdf", 2)
    with np.load(folder / "00000000.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["features"], features(2))
        about = json.loads(str(arrays["about"]))
    assert about == {"uid": "v2", "labels": {"n": 2}, "split": "validation", "settings": {}}
