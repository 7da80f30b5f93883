"""Feature stores, `.npy` inputs and CSV files of classes: round trips, damage, messages."""

import struct
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esv_jax.data import FeatureStore, open_inputs, write_features
from esv_jax.data.classes import read_class_priors, read_classes
from esv_jax.data.features import UnknownUidError

UIDS = ("51525", "20075", "2226", "14652", "29426", "127169", "71477")
LENGTHS = (5, 20, 8, 13, 3, 17, 11)
ACTIONS = (127, 66, 86, 142, 10, 14, 80)


def video(uid="a", n=2, dim=3, **labels):
    return uid, np.full((n, dim), n, np.float32), labels


def make_file(path, split="validation", **changes):
    """Write a file in the layout of a feature store; None leaves a dataset out."""
    row = h5py.vlen_dtype(np.float32)
    rows = np.empty(2, dtype=object)
    rows[:] = [np.arange(6, dtype=np.float32), np.arange(3, dtype=np.float32)]
    parts = {"features": (rows, row), "uids": (["a", "b"], h5py.string_dtype()), "feature_dim": 3}
    parts |= {"labels/action": ([4, 5], "i8")} | changes
    with h5py.File(path, "a") as file:
        group = file.require_group(split)
        feature_dim = parts.pop("feature_dim")
        for name, part in parts.items():
            if part is not None:
                group.create_dataset(name, data=part[0], dtype=part[1])
        if feature_dim is not None and "features" in group:
            group["features"].attrs["feature_dim"] = feature_dim
    return path


# Files written by play-fair


@pytest.mark.parametrize("name", ["trn", "tsn"])
def test_play_fair_files(fixtures, name):
    with FeatureStore(fixtures / "play_fair_project" / f"{name}.hdf") as store:
        assert store.split == "validation"
        assert store.feature_dim == 32
        assert len(store) == 7 and tuple(store) == store.uids == UIDS
        np.testing.assert_array_equal(store.lengths(), LENGTHS)
        for uid, n, action in zip(UIDS, LENGTHS, ACTIONS, strict=True):
            features, labels = store[uid]
            assert features.shape == (n, 32) and features.dtype == np.float32
            assert np.isfinite(features).all()
            assert labels == {"action": action, "label": action, "uid": uid}
            assert type(labels["action"]) is int and type(labels["uid"]) is str


def test_the_two_files_hold_different_features_of_the_same_videos(fixtures):
    folder = fixtures / "play_fair_project"
    with FeatureStore(folder / "trn.hdf") as trn, FeatureStore(folder / "tsn.hdf") as tsn:
        assert trn.uids == tsn.uids
        assert (trn["2226"][0] != tsn["2226"][0]).any()


def test_rewriting_a_play_fair_file_changes_nothing(fixtures, tmp_path):
    with FeatureStore(fixtures / "play_fair_project" / "trn.hdf") as store:
        written = write_features(tmp_path / "new.hdf", ((uid, *store[uid]) for uid in store), 32)
        assert written == 7
        with FeatureStore(tmp_path / "new.hdf") as new:
            assert new.uids == store.uids
            np.testing.assert_array_equal(new.lengths(), store.lengths())
            for uid in store:
                np.testing.assert_array_equal(new[uid][0], store[uid][0])
                assert new[uid][1] == store[uid][1]


def test_written_files_have_the_layout_of_play_fair(tmp_path):
    write_features(tmp_path / "new.hdf", [video("a", action=3), video("b", n=1, action=4)], 3)
    with h5py.File(tmp_path / "new.hdf", "r") as file:
        group = file["validation"]
        assert group["features"].attrs["feature_dim"] == 3
        assert h5py.check_vlen_dtype(group["features"].dtype) == np.float32
        np.testing.assert_array_equal(group["features"][0], np.full(6, 2))
        assert list(group["uids"].asstr()) == ["a", "b"]
        np.testing.assert_array_equal(group["labels/action"], [3, 4])
        np.testing.assert_array_equal(group["lengths"], [2, 1])


# Round trips


@pytest.mark.slow
@given(
    videos=st.dictionaries(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
        st.tuples(
            hnp.arrays(
                np.float32,
                st.tuples(st.integers(1, 5), st.just(3)),
                elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
            ),
            st.fixed_dictionaries(
                {
                    "action": st.integers(-(2**63), 2**63 - 1),
                    "name": st.text(st.characters(exclude_characters="\0", codec="utf-8")),
                    "seconds": st.floats(allow_nan=False),
                    "flipped": st.booleans(),
                }
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_round_trip(tmp_path_factory, videos):
    path = tmp_path_factory.mktemp("store") / "features.hdf"
    assert write_features(path, ((u, x, y) for u, (x, y) in videos.items()), 3) == len(videos)
    with FeatureStore(path) as store:
        assert store.uids == tuple(videos)
        np.testing.assert_array_equal(store.lengths(), [len(x) for x, _ in videos.values()])
        for uid, (x, labels) in videos.items():
            np.testing.assert_array_equal(store[uid][0], x)
            assert store[uid][1] == labels


def test_rows_in_several_blocks(tmp_path):
    n = np.arange(600) % 5 + 1
    write_features(tmp_path / "f.hdf", (video(str(i), n[i], index=i) for i in range(600)), 3)
    with h5py.File(tmp_path / "f.hdf", "a") as file:
        del file["validation/lengths"]  # as in files of play-fair
    with FeatureStore(tmp_path / "f.hdf") as store:
        np.testing.assert_array_equal(store.lengths(), n)
        assert store["433"][1] == {"index": 433}
        np.testing.assert_array_equal(store["433"][0], video(n=n[433])[1])


def test_videos_without_labels_and_other_float_widths(tmp_path):
    x = np.array([[0.5, 1.0, 1.5]])
    write_features(tmp_path / "f.hdf", [("a", x, {}), ("b", x.astype(np.float16), {})], 3)
    with FeatureStore(tmp_path / "f.hdf") as store:
        for uid in "ab":
            np.testing.assert_array_equal(store[uid][0], x.astype(np.float32))
            assert store[uid][1] == {}


def test_labels_group_may_be_absent(tmp_path):
    with FeatureStore(make_file(tmp_path / "f.hdf", **{"labels/action": None})) as store:
        assert store["a"][1] == {}


def test_returned_arrays_are_copies(tmp_path):
    with FeatureStore(make_file(tmp_path / "f.hdf")) as store:
        store["a"][0][:] = 0
        store.lengths()[:] = 0
        np.testing.assert_array_equal(store["a"][0], np.arange(6).reshape(2, 3))
        np.testing.assert_array_equal(store.lengths(), [2, 1])


# Opening, closing, choosing a split


def test_membership(tmp_path):
    with FeatureStore(make_file(tmp_path / "f.hdf")) as store:
        assert "a" in store and "c" not in store and 1 not in store


def test_closed_and_opened_again(tmp_path):
    path = make_file(tmp_path / "f.hdf")
    with FeatureStore(path) as store, FeatureStore(path) as other:
        store.close()
        store.close()
        assert other["b"][0].shape == (1, 3)
    with pytest.raises(ValueError, match="store: expected an open file, got a closed one"):
        store["a"]
    with pytest.raises(ValueError, match="store: expected an open file"):
        store.lengths()
    assert FeatureStore(path)["a"][0].shape == (2, 3)


def test_splits(tmp_path):
    path = make_file(make_file(tmp_path / "f.hdf"), split="train", uids=(["c", "d"], "S1"))
    assert FeatureStore(path, split="train").uids == ("c", "d")
    with pytest.raises(ValueError, match=r"f\.hdf: expected one group, got 'train', 'validation'"):
        FeatureStore(path)
    with pytest.raises(ValueError, match=r"split: expected a group of f\.hdf: 'train', .*, got 't"):
        FeatureStore(path, split="trian")
    with pytest.raises(ValueError, match="Did you mean 'train'"):
        FeatureStore(path, split="trian")


def test_a_failed_opening_leaves_the_file_free(tmp_path):
    path = make_file(tmp_path / "f.hdf", feature_dim=None)
    with pytest.raises(ValueError):
        FeatureStore(path)
    with h5py.File(path, "a") as file:
        file["validation/features"].attrs["feature_dim"] = 3
    assert len(FeatureStore(path)) == 2


# Damage and messages


def test_no_such_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"none\.hdf: expected an HDF5 file, got no such file"
    ):
        FeatureStore(tmp_path / "none.hdf")


@pytest.mark.parametrize("content", [b"", b"name,id\n", "half"])
def test_no_hdf5_file(tmp_path, fixtures, content):
    path = tmp_path / "broken.hdf"
    if content == "half":
        whole = (fixtures / "play_fair_project" / "trn.hdf").read_bytes()
        content = whole[: len(whole) // 2]
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"broken\.hdf: expected an HDF5 file, got one that cannot"
    ):
        FeatureStore(path)


def test_no_groups(tmp_path):
    h5py.File(tmp_path / "f.hdf", "w").close()
    with pytest.raises(ValueError, match=r"f\.hdf: expected one group, got none"):
        FeatureStore(tmp_path / "f.hdf")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"uids": None}, "group 'validation': expected a dataset 'uids', got features, labels"),
        ({"features": None}, "group 'validation': expected a dataset 'features', got labels, uids"),
        ({"feature_dim": None}, "features: expected an attribute 'feature_dim', got none"),
        ({"feature_dim": 0}, "feature_dim: expected at least 1, got 0"),
        (
            {"features": (np.zeros((2, 3), np.float32), "f4")},
            r"variable-length rows of floats, got dtype float32 and shape \(2, 3\)",
        ),
        ({"uids": (["a", "b", "c"], "S1")}, "uids: expected 2, one per row of features, got 3"),
        ({"labels/action": ([1], "i8")}, "labels/action: expected 2, one per row .*, got 1"),
        ({"lengths": ([1], "i8")}, "lengths: expected 2, one per row of features, got 1"),
        ({"uids": (["a", "a"], "S1")}, "uids: expected distinct uids, got 'a' twice"),
        ({"uids": ([["a"], ["b"]], "S1")}, r"uids: expected 2, one per row .*, got \(2, 1\)"),
        (
            {"uids": (np.array(["a", "\xe9".encode("latin-1")], "S1"), "S1")},
            r"uids, entry 1: expected UTF-8 text, got the bytes b'\\xe9'. Write it again as UTF-8",
        ),
        (
            {"labels/kind": (np.array([b"a", b"\xff"], object), h5py.string_dtype())},
            r"labels/kind, entry 1: expected UTF-8 text, got the bytes b'\\xff'",
        ),
        (
            {"labels/z": (np.ones(2, complex), complex)},
            "labels/z: expected numbers or strings, got dtype c",
        ),
        ({"lengths": ([1.5, 2], "f8")}, "lengths: expected whole numbers, got dtype float64"),
        ({"lengths": ([-1, 2], "i8")}, "lengths: expected numbers >= 0, got -1"),
        ({"features/x": ([1], "i8"), "features": None}, "features: expected a dataset, got a g"),
        ({"uids/x": ([1], "i8"), "uids": None}, "uids: expected a dataset, got a group"),
        (
            {"labels": ([1, 2], "i8"), "labels/action": None},
            "labels: expected a group of datasets, got a dataset",
        ),
        ({"labels/action/x": ([1], "i8"), "labels/action": None}, "expected a dataset, got a gr"),
        *(
            ({"feature_dim": value}, f"feature_dim: expected one whole number, got {got}")
            for value, got in (
                (np.inf, "inf"),
                (np.nan, "nan"),
                (2.5, "2.5"),
                ("3", "'3'"),
                (np.array([3, 3]), r"\[3, 3\]"),
                (np.array([], int), r"\[\]"),
                (h5py.Empty("i8"), ""),
            )
        ),
    ],
)
def test_incomplete_files(tmp_path, changes, text):
    with pytest.raises(ValueError, match=r"f\.hdf, group 'validation'.*" + text.split(": ", 1)[-1]):
        FeatureStore(make_file(tmp_path / "f.hdf", **changes))


@pytest.mark.parametrize("width", [np.array([3]), np.array([[3]]), np.float32(3), np.uint8(3)])
def test_feature_dim_in_other_dtypes_and_shapes(tmp_path, width):
    with FeatureStore(make_file(tmp_path / "f.hdf", feature_dim=width)) as store:
        assert store.feature_dim == 3 and type(store.feature_dim) is int
        np.testing.assert_array_equal(store["a"][0], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "u1", "?"])
def test_classes_may_be_stored_as_floats(tmp_path, dtype):
    path = make_file(tmp_path / "f.hdf", **{"labels/action": ([1, 0], dtype)})
    labels = open_inputs(path).labels
    assert labels.dtype == np.int64 and labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "got"),
    [([1.5, 2], "1.5"), ([1, np.nan], "nan"), ([1, np.inf], "inf"), (["a", "b"], "'a'")],
)
def test_labels_that_are_not_class_numbers(tmp_path, values, got):
    kind = h5py.string_dtype() if got == "'a'" else "f8"
    path = make_file(tmp_path / "f.hdf", **{"labels/action": (values, kind)})
    expected = r"^f\.hdf, labels/action: expected whole numbers, one per class, got "
    with pytest.raises(ValueError, match=expected + got):
        open_inputs(path)
    assert FeatureStore(path).labels["action"][1] == values[1] or got == "nan"


def npy(header, data=b""):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "got an unreadable one"),
        (npy("(" * 5000), "got an unreadable one"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}\n"), "an unreadable one"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (999999, 999, 99)}\n", b"12"),
            "an unreadable one",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 8, 16)}\n"), r"got \(0, 8, 16"),
        (npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1)}\n", bytes(8)), "complex64"),
        (
            npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}\n", b"N."),
            "unreadable one",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n", bytes(4)), r"got \(1,\)"),
    ],
)
def test_malformed_npy_files(tmp_path, content, text):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: expected .*{text}") as caught:
        open_inputs(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "?"])
def test_npy_files_of_any_number_type(tmp_path, order, dtype):
    array = np.asarray(np.arange(24).reshape(2, 4, 3) % 2, dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    inputs = open_inputs(tmp_path / "x.npy")
    assert inputs.uids == ("x-0", "x-1")
    np.testing.assert_array_equal(inputs.read(1, None)[0], array[1].astype(np.float32))


@pytest.mark.parametrize("size", [0, 4])
def test_a_row_whose_length_is_not_a_multiple_of_the_width(tmp_path, size):
    rows = np.empty(2, dtype=object)
    rows[:] = [np.zeros(6, np.float32), np.zeros(size, np.float32)]
    path = make_file(tmp_path / "f.hdf", features=(rows, h5py.vlen_dtype(np.float32)))
    text = rf"f\.hdf, features of 'b': expected a positive multiple of .* = 3 values, got {size}"
    with FeatureStore(path) as store:
        assert store["a"][0].shape == (2, 3)
        for read in (lambda: store["b"], store.lengths):
            with pytest.raises(ValueError, match=text):
                read()


def damage_heaps(path):
    """Damage the heaps of variable-length rows and strings."""
    path.write_bytes(path.read_bytes().replace(b"GCOL", b"XXXX"))
    return path


def test_damaged_rows(tmp_path):
    path = damage_heaps(make_file(tmp_path / "f.hdf", uids=(["a", "b"], "S1")))
    text = r"f\.hdf, features of 'b' or soon after: expected readable rows, got damage\.$"
    with FeatureStore(path) as store, pytest.raises(ValueError, match=text):
        store["b"]


def test_damaged_names(tmp_path):
    path = damage_heaps(make_file(tmp_path / "f.hdf"))
    with pytest.raises(
        ValueError,
        match=r"f\.hdf, group 'validation', uids: expected readable values, got damage\.$",
    ):
        FeatureStore(path)


def test_unknown_uids(fixtures):
    with FeatureStore(fixtures / "play_fair_project" / "trn.hdf") as store:
        with pytest.raises(KeyError) as caught:
            store["2262"]
        assert type(caught.value) is UnknownUidError
        assert str(caught.value) == (
            "uid: expected one of the 7 uids of trn.hdf, got '2262'. Did you mean '2226'?"
        )
        with pytest.raises(TypeError, match=r"uid: expected a string, got int 2226\. Use '2226'"):
            store[2226]


# Writing


def test_an_existing_file_is_kept_without_overwrite(tmp_path):
    path = tmp_path / "f.hdf"
    write_features(path, [video("a")], 3)
    with pytest.raises(FileExistsError, match=r"path: expected a new file, .* Pass overwrite=True"):
        write_features(path, [video("b")], 3)
    assert FeatureStore(path).uids == ("a",)
    write_features(path, [video("b")], 3, overwrite=True)
    assert FeatureStore(path).uids == ("b",)


def test_a_failure_while_writing_keeps_the_existing_file(tmp_path):
    path = tmp_path / "f.hdf"
    write_features(path, [video("a")], 3)

    def interrupted():
        yield video("b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(path, interrupted(), 3, overwrite=True)
    assert FeatureStore(path).uids == ("a",)
    assert list(tmp_path.iterdir()) == [path]


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: expected an existing folder, .*gone'"):
        write_features(tmp_path / "gone" / "f.hdf", [video()], 3)


nan, huge = np.full((2, 3), np.nan, np.float32), np.full((2, 3), 1e39)


@pytest.mark.parametrize(
    ("videos", "kind", "text"),
    [
        ([], ValueError, "features: expected at least one video, got none"),
        ([video("a"), video("a")], ValueError, "uid: expected distinct uids, got 'a' twice"),
        ([(7, nan, {})], TypeError, "uid: expected a string, got int 7"),
        ([video(dim=4)], ValueError, r"of 'a': expected shape \(n, 3\) with n >= 1, got \(2, 4\)"),
        ([video(n=0)], ValueError, r"expected shape \(n, 3\) with n >= 1, got \(0, 3\)"),
        ([("a", np.zeros(3), {})], ValueError, r"expected shape \(n, 3\) .*, got \(3,\)"),
        ([("a", np.zeros((2, 3), int), {})], TypeError, "a floating-point array, got dtype int64"),
        ([("a", nan, {})], ValueError, r"'a': expected finite values, got nan at index \(0, 0\)"),
        ([("a", huge, {})], ValueError, "expected finite values, got inf at .* as float32"),
        ([video(action=[1])], TypeError, r"label 'action' of 'a': expected a number or a string"),
        (
            [video("a", action=1), video("b", action="x")],
            ValueError,
            "labels of 'b': expected action: int, as in the first video, got action: str",
        ),
        ([video("a"), video("b", k=1.0)], ValueError, "expected none, as .* got k: float"),
    ],
)
def test_videos_refused(tmp_path, videos, kind, text):
    with pytest.raises(kind, match=text):
        write_features(tmp_path / "f.hdf", videos, 3)
    assert not list(tmp_path.iterdir())


def test_arguments_refused(tmp_path):
    with pytest.raises(ValueError, match="feature_dim: expected an integer >= 1, got 0"):
        write_features(tmp_path / "f.hdf", [video()], 0)
    with pytest.raises(ValueError, match="split: expected a group name without '/', got 'a/b'"):
        write_features(tmp_path / "f.hdf", [video()], 3, split="a/b")


def test_h5py_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for call in (
        lambda: FeatureStore(tmp_path / "f.hdf"),
        lambda: write_features(tmp_path / "f.hdf", [video()], 3),
    ):
        with pytest.raises(ImportError, match=r"h5py is needed .* pip install 'esv-jax\[files\]'"):
            call()


# Classes and priors


def csv_file(folder, text):
    (folder / "c.csv").write_bytes(text.encode())
    return folder / "c.csv"


def test_real_classes_and_counts(shared):
    names = read_classes(shared / "data" / "ssv2" / "classes.csv")
    priors = read_class_priors(shared / "data" / "ssv2" / "train-action-counts.csv")
    assert len(names) == 174 and names[0] == "Approaching something with your camera"
    assert priors.shape == (174,) and priors.dtype == np.float64
    assert priors.argmax() == 109
    np.testing.assert_allclose(priors.sum(), 1, rtol=1e-12)


def test_play_fair_priors(shared):
    project = shared / "fixtures" / "play_fair_project"
    with np.load(project / "expected.npz") as expected:
        priors = read_class_priors(project / "datasets" / "ssv2" / "class-priors.csv")
        np.testing.assert_allclose(priors, expected["class_priors"], rtol=1e-15)
        names = read_classes(project / "metadata" / "classes.csv")
        assert names == tuple(expected["class_names"].tolist())


def test_classes(tmp_path):
    text = 'name,id\r\n"Putting something, somehow",1\r\n\r\nLifting,0\r\n'
    assert read_classes(csv_file(tmp_path, text)) == ("Lifting", "Putting something, somehow")
    assert read_classes(csv_file(tmp_path, "\ufeffid, name\n0,A\n")) == ("A",)


def test_priors(tmp_path):
    counts = read_class_priors(csv_file(tmp_path, "class,count\n1,3\n0,1\n2,0\n"))
    np.testing.assert_array_equal(counts, [0.25, 0.75, 0])
    priors = read_class_priors(csv_file(tmp_path, "class,prior\n0,0.5\n1,5e-1\n"))
    np.testing.assert_array_equal(priors, [0.5, 0.5])


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (read_classes, "", r"c\.csv: expected the header 'name,id', got an empty file"),
        (read_classes, "name\nA\n", "expected the header 'name,id', got 'name'"),
        (read_classes, "name,id\n", r"c\.csv: expected at least one class, got none"),
        (read_classes, "name,id\nA,0\nB, c,1\n", "line 3: expected 2 cells, got 3. Put quotes"),
        (read_classes, "name,id\nA\n", r"line 2: expected 2 cells, got 1\.$"),
        (read_classes, "name,id\nA,x\n", "line 2: expected a class id of 0 or more, got 'x'"),
        (read_classes, "name,id\nA,-1\n", "line 2: expected a class id of 0 or more, got '-1'"),
        (read_classes, "name,id\n ,0\n", "line 2: expected a class name, got ' '"),
        (read_classes, "name,id\nA,0\n\nB,0\n", "line 4: expected each class id once, got 0 again"),
        (read_classes, "name,id\nA,0\nB,2\n", "expected ids 0 to 1 for 2 classes, got no 1"),
        (read_classes, 'name,id\n"A,0\n', "line 2: expected comma-separated values, got an error"),
        (read_class_priors, "class,share\n0,1\n", "'class,prior' or 'class,count', got 'class,sh"),
        (read_class_priors, "class,count\n0,-1\n", "line 2: expected a count of 0 or more, got '-"),
        (read_class_priors, "class,prior\n0,x\n", "line 2: expected a prior of 0 or more, got 'x'"),
        (
            read_class_priors,
            "class,prior\n0,nan\n",
            "line 2: expected a prior of 0 or more, got 'n",
        ),
        (read_class_priors, "class,count\n0,0\n", r"c\.csv: expected a count above 0, got only"),
        (read_class_priors, "class,count\n0,1\n2,1\n", "got no 1. A class without examples still"),
        (read_class_priors, "class,prior\n0,2\n", "priors that sum to 1, got a sum of 2.0. Name"),
    ],
)
def test_malformed_csv(tmp_path, read, text, says):
    with pytest.raises(ValueError, match=says):
        read(csv_file(tmp_path, text))


@pytest.mark.parametrize("read", [read_classes, read_class_priors])
def test_missing_and_undecodable_csv_files(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"path: expected a CSV file, got '.*none\.csv'"):
        read(tmp_path / "none.csv")
    (tmp_path / "c.csv").write_bytes(b"name,id\n\xff,0\n")
    with pytest.raises(ValueError, match=r"c\.csv: expected UTF-8 text, got other bytes"):
        read(tmp_path / "c.csv")


def test_consecutive_videos_are_read_together(tmp_path):
    path = tmp_path / "f.hdf"
    rng = np.random.default_rng(0)
    made = {f"v{i}": rng.normal(size=(1 + i % 4, 3)).astype(np.float32) for i in range(9)}
    write_features(path, ((uid, x, {"action": 1}) for uid, x in made.items()), 3)
    with FeatureStore(path) as store:
        assert store.labels == {"action": [1] * 9}
        for start, stop in ((0, 9), (3, 5), (8, 9)):
            for uid, x in zip(store.uids[start:stop], store.run(start, stop), strict=True):
                np.testing.assert_array_equal(x, made[uid])
    inputs = open_inputs(path)
    positions = [7, 0, 1, 2, 5, 4, 3]
    for i, found in zip(positions, inputs.read_many(positions, 2), strict=True):
        x, index = inputs.read(i, 2)
        np.testing.assert_array_equal(found[0], x)
        np.testing.assert_array_equal(found[1], index)


def test_a_bad_row_among_consecutive_videos(tmp_path):
    path = tmp_path / "f.hdf"
    rows = np.empty(3, dtype=object)
    rows[:] = [np.arange(6, dtype=np.float32), np.arange(4, dtype=np.float32)] + [
        np.arange(3, dtype=np.float32)
    ]
    strings, numbers = h5py.string_dtype(), "i8"
    make_file(
        path,
        features=(rows, h5py.vlen_dtype(np.float32)),
        uids=(["a", "b", "c"], strings),
        **{"labels/action": ([1, 2, 3], numbers)},
    )
    with FeatureStore(path) as store:
        assert store.lengths(strict=False).tolist() == [2, 0, 1]
        with pytest.raises(ValueError, match=r"features of 'b': expected a positive multiple"):
            store.lengths()
    good, bad, last = open_inputs(path).read_many([0, 1, 2], None)
    assert good[0].shape == (2, 3) and last[0].shape == (1, 3)
    assert "features of 'b'" in str(bad)
