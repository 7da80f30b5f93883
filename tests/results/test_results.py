"""Files of explanations: round trips, tables, errors."""

import dataclasses
import json
import os
import subprocess
import sys

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import esv_jax as ej
from esv_jax import results
from esv_jax.attribution import Attribution

C = 4
LENGTHS = (1, 5, 3)
UIDS = ("a/1", "b 2", "ç3")


def _record(rng, n, *, c=C, exact=True, prior=None) -> Attribution:
    values = rng.normal(size=(n, c)).astype(np.float32)
    prior = np.full(c, 1 / c, np.float32) if prior is None else prior
    return Attribution(
        values=jnp.asarray(values),
        scores=jnp.asarray(prior + values.sum(0)),
        prior=jnp.asarray(prior),
        marginals=jnp.asarray(rng.normal(size=(n, n, c)).astype(np.float32)),
        std_error=None if exact else jnp.asarray(rng.random((n, c)).astype(np.float32)),
        coverage=None if exact else jnp.ones((n, n), jnp.int32),
        n_evaluations=2**n - 1 if exact else jnp.asarray(17),
        exact=exact,
    )


@pytest.fixture
def records(rng):
    return [_record(rng, n, exact=n != 5) for n in LENGTHS]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.nc"


def test_records_come_back_bit_for_bit(records, path):
    assert results.save(path, records, uids=UIDS, marginals=True) == path
    with results.open(path) as dataset:
        for uid, record in zip(UIDS, records, strict=True):
            back = results.load_attribution(dataset, uid)
            for name in ("values", "scores", "prior", "marginals", "std_error"):
                expected, got = getattr(record, name), getattr(back, name)
                assert (expected is None) == (got is None), name
                if expected is not None:
                    assert got.dtype == jnp.float32
                    np.testing.assert_array_equal(got, expected, err_msg=name)
            assert back.exact == record.exact
            assert back.n_evaluations == int(record.n_evaluations)
            assert back.coverage is None and back.lengths is None


def test_the_file_describes_itself(records, path):
    settings = {"estimator": "exact", "seed": 3, "model": {"n_max": 2}}
    index = [[4], [0, 2, 4, 6, 8], [1, 3, 5]]
    names = ["up", "down", "left", "a long name, with a comma"]
    labels = np.array([0, -1, 3])
    results.save(
        path,
        records,
        uids=UIDS,
        class_names=names,
        labels=labels,
        element_index=index,
        settings=settings,
    )
    with xarray.open_dataset(path, engine="h5netcdf") as dataset:
        assert dict(dataset.sizes) == {"video": 3, "element": 5, "class": C, "scale": 5}
        assert dataset["esv"].dims == ("video", "element", "class")
        assert dataset["esv"].dtype == np.float32
        assert dataset["prior"].dims == ("class",)
        assert dataset["video"].values.tolist() == list(UIDS)
        assert dataset["class"].values.tolist() == names
        assert dataset["scale"].values.tolist() == [1, 2, 3, 4, 5]
        assert dataset["length"].values.tolist() == list(LENGTHS)
        assert dataset["label"].values.tolist() == [0, -1, 3]
        assert dataset["exact"].values.tolist() == [True, False, True]
        assert dataset["n_evaluations"].values.tolist() == [1, 17, 7]
        assert np.issubdtype(dataset["element_index"].dtype, np.integer)
        assert dataset["element_index"].values[2].tolist() == [1, 3, 5, -1, -1]
        assert np.isnan(dataset["esv"].values[0, 1:]).all()
        assert np.isfinite(dataset["esv"].values[1]).all()
        assert np.isnan(dataset["std_error"].values[[0, 2]]).all()
        assert "marginals" not in dataset
        expected = [int(jnp.argmax(record.scores)) for record in records]
        assert dataset["prediction"].values.tolist() == expected
        gap = [np.abs(np.asarray(record.efficiency_gap())).max() for record in records]
        np.testing.assert_allclose(dataset["efficiency_gap"], gap, atol=1e-6)
        assert json.loads(dataset.attrs["settings"]) == settings
        assert dataset.attrs["title"] == "Element Shapley Values"
        assert dataset.attrs["created"].endswith("+00:00")
        assert dataset.attrs["device"].startswith("cpu")
        for name in ("esv_jax_version", "jax_version", "python_version"):
            assert dataset.attrs[name][0].isdigit(), name
        assert all({"long_name", "units"} <= set(v.attrs) for v in dataset.data_vars.values())
        by_name = dataset["esv"].sel(video="b 2", **{"class": "down"})
        np.testing.assert_array_equal(by_name, records[1].for_class(1))


def test_priors_of_each_video_are_stored(rng, path):
    priors = [np.eye(C, dtype=np.float32)[i] for i in range(2)]
    pair = [_record(rng, 2, prior=prior) for prior in priors]
    results.save(path, pair, uids="pq")
    with results.open(path) as dataset:
        assert dataset["prior"].dims == ("video", "class")
        assert dataset["class"].values.tolist() == [0, 1, 2, 3]
        assert "std_error" not in dataset and "element_index" not in dataset
        for uid, prior in zip("pq", priors, strict=True):
            np.testing.assert_array_equal(results.load_attribution(dataset, uid).prior, prior)
        assert "0.0 %" not in results.tables.summary(dataset)
        assert "no labels" in results.tables.summary(dataset)


def test_numpy_and_double_precision_records_are_stored_in_single(x64, rng, path):
    record = _record(rng, 3)
    values = rng.normal(size=(3, C))
    record = dataclasses.replace(record, values=values, scores=values.sum(0) + 0.25)
    results.save(path, [record], uids=["v"])
    with results.open(path) as dataset:
        back = results.load_attribution(dataset, "v")
    np.testing.assert_array_equal(back.values, values.astype(np.float32))


def test_a_larger_set_spans_several_chunks(rng, path):
    shape = (200, 20, 100)
    values = rng.normal(size=shape).astype(np.float32)
    zeros = np.zeros(shape[2], np.float32)
    records = [Attribution(values=v, scores=v.sum(0), prior=zeros) for v in values]
    results.save(path, records, uids=[str(i) for i in range(200)])
    with results.open(path) as dataset:
        assert dataset["esv"].encoding["chunksizes"][0] == 32
        np.testing.assert_array_equal(dataset["esv"], values)


def test_variables_are_read_when_used(records, path):
    results.save(path, records, uids=UIDS)
    with results.open(path) as dataset:
        assert not dataset["esv"].variable._in_memory
        results.load_attribution(dataset, "b 2")
        assert not dataset["esv"].variable._in_memory


def test_records_of_a_selection_of_videos(records, path):
    results.save(path, records, uids=UIDS)
    with results.open(path) as dataset:
        chosen = dataset.sel(video=["ç3"]).load()
    np.testing.assert_array_equal(
        results.load_attribution(chosen, "ç3").values, np.asarray(records[2].values)
    )


def test_summary_states_the_numbers(records, path):
    prediction = [int(jnp.argmax(record.scores)) for record in records]
    labels = [prediction[0], -1, (prediction[2] + 1) % C]
    results.save(path, records, uids=UIDS, labels=labels, settings={"estimator": "Exact()"})
    with results.open(path) as dataset:
        text = results.tables.summary(dataset)
    evidence = [float(r.evidential_score(p)) for r, p in zip(records, prediction, strict=True)]
    for part in (
        "videos:           3",
        "1 / 3 / 5",
        "Exact() (2 of 3 exact)",
        "50.0 % of 2 labelled videos",
        f"{np.mean(evidence):.4f}",
    ):
        assert part in text
    assert len(text.splitlines()) == 7


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attributions": []}, "attributions: expected at least one record, got none"),
        ({"uids": UIDS[:2]}, "uids: expected 3 names, got 2"),
        ({"uids": ("a", "b", "a")}, "uids: expected distinct names, got 'a' 2 times"),
        ({"class_names": ["x"]}, "class_names: expected 4 names, got 1"),
        ({"labels": [0, 1]}, "labels: expected 3 integers"),
        ({"labels": [0, 1, C]}, r"labels: expected -1\.\.3, got 0\.\.4"),
        ({"element_index": [[0]]}, "element_index: expected 3 rows, got 1"),
        ({"element_index": [[0], [1, 2], [0, 1, 2]]}, r"element_index\[1\]: expected 5 integers"),
    ],
)
def test_bad_arguments_are_named(records, path, change, named):
    arguments = {"attributions": records, "uids": UIDS} | change
    with pytest.raises(ValueError, match=named):
        results.save(path, **arguments)
    assert not list(path.parent.iterdir())


def test_records_that_do_not_fit_are_named(records, rng, path):
    odd = [*records[:2], _record(rng, 3, c=C + 1)]
    with pytest.raises(ValueError, match=r"attributions\[2\]: expected 4 classes"):
        results.save(path, odd, uids=UIDS)
    batch = dataclasses.replace(records[0], values=jnp.zeros((2, 3, C)), lengths=jnp.array([3, 2]))
    with pytest.raises(ValueError, match=r"attributions\[0\]: expected one sequence, got a batch"):
        results.save(path, [batch], uids=["v"])
    bare = dataclasses.replace(records[1], marginals=None)
    with pytest.raises(ValueError, match=r"attributions\[1\]: expected marginals"):
        results.save(path, [records[0], bare], uids="ab", marginals=True)


@pytest.mark.parametrize("settings", [{"path": object()}, {"x": float("nan")}])
def test_settings_that_json_cannot_hold(records, path, settings):
    with pytest.raises(TypeError, match="settings: expected what JSON can hold"):
        results.save(path, records, uids=UIDS, settings=settings)


def test_labels_of_another_kind(records, path):
    with pytest.raises(TypeError, match="labels: expected integers, got dtype float64"):
        results.save(path, records, uids=UIDS, labels=[0.0, 1.0, 2.0])


def test_an_existing_file_is_kept_without_overwrite(records, path):
    results.save(path, records[:1], uids=UIDS[:1])
    with pytest.raises(FileExistsError, match="overwrite=True"):
        results.save(path, records, uids=UIDS)
    with results.open(path) as before:
        results.save(path, records, uids=UIDS, overwrite=True)
        assert before.sizes["video"] == 1
        assert results.load_attribution(before, UIDS[0]).n == 1
    with results.open(path) as after:
        assert after.sizes["video"] == 3


def test_a_failed_write_leaves_the_old_file_and_nothing_else(records, path, monkeypatch):
    results.save(path, records[:1], uids=UIDS[:1])
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"path: expected a path that can be written.*disk full"):
        results.save(path, records, uids=UIDS, overwrite=True)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_paths_that_cannot_be_written(records, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*absent"):
        results.save(tmp_path / "absent" / "r.nc", records, uids=UIDS)
    with pytest.raises(ValueError, match="path: expected a file, got the folder"):
        results.save(tmp_path, records, uids=UIDS, overwrite=True)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder nobody can write to")
def test_a_folder_without_permission(records):
    with pytest.raises(OSError, match="path: expected a path that can be written"):
        results.save("/proc/self/r.nc", records, uids=UIDS)


def _truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _foreign_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)


def _newer(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "esv_jax results, version 2"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: path.unlink(), "no such file"),
        (
            lambda path: path.write_bytes(b""),
            "got one that cannot be opened. It may be cut short or of another",
        ),
        (
            lambda path: path.write_text("uid,esv\n"),
            "got one that cannot be opened. It may be cut short or of another",
        ),
        (_truncated, "got one that cannot be opened. It may be cut short or of another"),
        (_foreign_hdf5, "another file .format None."),
        (_newer, "another file .format esv_jax results, version 2"),
    ],
)
def test_other_files_are_refused(records, path, spoil, named):
    results.save(path, records, uids=UIDS)
    spoil(path)
    with pytest.raises(ValueError, match=named) as caught:
        results.open(path)
    assert str(path) in str(caught.value)
    assert "a file written by results.save" in str(caught.value)


def test_an_unknown_uid_suggests_the_nearest(records, path):
    results.save(path, records, uids=UIDS)
    with (
        results.open(path) as dataset,
        pytest.raises(ValueError, match=r"uid: expected one of 3.*Did you mean 'b 2'"),
    ):
        results.load_attribution(dataset, "b2")


def test_importing_brings_no_file_libraries():
    code = (
        "import sys, esv_jax.results;"
        "print([m for m in ('xarray', 'h5netcdf', 'h5py', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_warnings_and_removal_are_stored(rng, tmp_path):
    def fn(clips):
        return np.full((len(clips), 2), 0.5)

    att = ej.explain(ej.BlackBox(fn, removal="freeze"), np.zeros((3, 2)), prior=np.full(2, 0.5))
    noted = dataclasses.replace(att, warnings=("Beware.",))
    path = ej.results.save(tmp_path / "r.nc", [att, noted], uids=["a", "b"])
    with ej.results.open(path) as dataset:
        back = ej.results.load_attribution(dataset, "a")
    assert back.warnings == ("Beware.",) and back.removal == "freeze"
