"""Growing a feature store: what ends a run early, and what the next run finds."""

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


KEPT = {}  # journals of runs without a store, by lengths: a process takes half a second


def left_behind(path, *lengths):
    """What a run leaves that is killed after some videos."""
    journal = path.with_name(f"{path.name}.partial")
    is_new = not any(path.parent.iterdir())
    if is_new and lengths in KEPT:
        journal.write_bytes(KEPT[lengths])
        return journal
    code = (
        "import os, signal, sys; from tests.test_data_appending import *\n"
        f"store = FeatureAppender({str(path)!r}, 3)\n"
        f"for n in {lengths!r}: store.append(f'v{{n}}', features(n), {{'n': n}})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=os.getcwd(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    if is_new and [*path.parent.iterdir()] == [journal]:
        KEPT[lengths] = journal.read_bytes()
    return journal


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
def test_what_was_appended_survives_an_error(tmp_path, error):
    path = tmp_path / "f.hdf"
    with pytest.raises(error), FeatureAppender(path, 3) as store:
        store.append("v2", features(2), {"n": 2})
        raise error
    assert stored(path) == ("v2",) and list(tmp_path.iterdir()) == [path]


def test_what_was_appended_survives_a_kill(tmp_path):
    path = tmp_path / "f.hdf"
    fill(path, 4)
    journal = left_behind(path, 1, 2)
    assert stored(path) == ("v4",) and journal.exists()
    with FeatureAppender(path, 3) as store:
        assert all(uid in store for uid in ("v4", "v1", "v2"))
        store.append("v3", features(3), {"n": 3})
    assert stored(path) == ("v4", "v1", "v2", "v3") and not journal.exists()


@pytest.mark.parametrize("cut", [1, 15, 40, 60])
def test_a_record_that_breaks_off_is_done_again(tmp_path, cut):
    path = tmp_path / "f.hdf"
    journal = left_behind(path, 1, 2)
    journal.write_bytes(journal.read_bytes()[:-cut])
    with FeatureAppender(path, 3) as store:
        assert "v1" in store and "v2" not in store
        store.append("v2", features(2), {"n": 2})
    assert stored(path) == ("v1", "v2")


def test_a_spoilt_record_is_done_again(tmp_path):
    journal = left_behind(tmp_path / "f.hdf", 1, 2)
    content = bytearray(journal.read_bytes())
    content[-1] ^= 1
    journal.write_bytes(content)
    with FeatureAppender(tmp_path / "f.hdf", 3) as store:
        assert "v1" in store and "v2" not in store


@pytest.mark.parametrize(
    "entry",
    ['{"uid": "v2"}', '{"uid": "v2", "n": 4e9, "labels": {}, "crc": 0}']
    + [f'{{"uid": "v2", "n": {n}, "labels": {{}}, "crc": 0}}' for n in (10**12, -1, '"2"')],
)
def test_a_record_that_says_something_else_ends_the_journal(tmp_path, entry):
    path = tmp_path / "f.hdf"
    journal = left_behind(path, 1)
    journal.write_bytes(journal.read_bytes() + entry.encode() + b"\n" + bytes(24))
    with FeatureAppender(path, 3) as store:
        assert "v1" in store and "v2" not in store
    assert stored(path) == ("v1",)


def test_a_journal_that_breaks_off_in_its_first_line(tmp_path):
    (tmp_path / "f.hdf.partial").write_bytes(b'{"format": 1, "fea')
    fill(tmp_path / "f.hdf", 2)
    assert stored(tmp_path / "f.hdf") == ("v2",)


def test_a_kill_between_the_new_store_and_the_end_of_the_journal(tmp_path):
    path = tmp_path / "f.hdf"
    journal = left_behind(path, 1, 2)
    content = journal.read_bytes()
    fill(path, 3)
    journal.write_bytes(content)
    fill(path, 4)
    assert stored(path) == ("v1", "v2", "v3", "v4")


def test_a_full_disk_leaves_whole_records(tmp_path, monkeypatch):
    path = tmp_path / "f.hdf"
    with FeatureAppender(path, 3) as store:
        store.append("v1", features(1), {"n": 1})
        whole = store.journal.stat().st_size

        class Full:
            def __init__(self, file):
                self.seek, self.truncate, self.file = file.seek, file.truncate, file

            def write(self, content):
                self.file.write(content[:10])
                raise OSError(28, "No space left on device")

        kept = store._file
        monkeypatch.setattr(store, "_file", Full(kept))
        with pytest.raises(OSError, match="No space"):
            store.append("v2", features(2), {"n": 2})
        monkeypatch.setattr(store, "_file", kept)
        assert store.journal.stat().st_size == whole and "v2" not in store
        store.append("v2", features(2), {"n": 2})
    assert stored(path) == ("v1", "v2")


def test_settings_travel_with_the_features(tmp_path):
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
@pytest.mark.parametrize("name", ["f.hdf", "f.hdf.partial"])
def test_stores_and_journals_of_another_kind_are_refused(tmp_path, options, text, name):
    path = tmp_path / "f.hdf"
    if name == "f.hdf":
        fill(path, 1)
    else:
        left_behind(path, 1)
    with pytest.raises(ValueError, match=rf"{name}, {text}"):
        FeatureAppender(path, **({"feature_dim": 3} | options))
    assert (tmp_path / name).exists()


def test_foreign_files_are_refused_and_kept(tmp_path):
    (tmp_path / "a.hdf").write_text("not HDF5")
    with pytest.raises(ValueError, match=r"a\.hdf: expected an HDF5 file"):
        FeatureAppender(tmp_path / "a.hdf", 3)
    (tmp_path / "b.hdf.partial").write_text("some\nlines\n")
    with pytest.raises(ValueError, match=r"b\.hdf\.partial, feature_dim: expected 3, got None"):
        FeatureAppender(tmp_path / "b.hdf", 3)
    assert (tmp_path / "b.hdf.partial").read_text() == "some\nlines\n"
    for content in (b"one line", b"\x89\x00" * 99):
        (tmp_path / "b.hdf.partial").write_bytes(content)
        with pytest.raises(ValueError, match=r"b\.hdf\.partial: expected the journal of a store"):
            FeatureAppender(tmp_path / "b.hdf", 3)
        assert (tmp_path / "b.hdf.partial").read_bytes() == content
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
        ("b", features(1) * np.nan, {"n": 1}, ValueError, "expected finite float32 values"),
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


def test_the_journal_is_readable_text_and_numbers(tmp_path):
    journal = left_behind(tmp_path / "f.hdf", 2)
    head, record, values = journal.read_bytes().split(b"\n", 2)
    assert json.loads(head)["feature_dim"] == 3
    assert json.loads(record)["labels"] == {"n": 2}
    np.testing.assert_array_equal(np.frombuffer(values, "<f4").reshape(2, 3), features(2))
