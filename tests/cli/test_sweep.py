"""`esv-jax sweep` and `esv-jax results`."""

import json
import os

import jax
import numpy as np
import pandas
import pytest
import xarray
from jax.experimental.compilation_cache import compilation_cache

import esv_jax as ej
from esv_jax.cli import main
from esv_jax.cli import sweep as command
from esv_jax.models.trained import model_digest
from esv_jax.results import store
from esv_jax.sweeps.run import Progress
from tests.conftest import PROGRAMS
from tests.sweeps_for_tests import (
    LENGTHS,
    N_CLASSES,
    make_model,
    make_sequences,
    run_sweep,
    shards_of,
    write_set,
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A folder with a set and the sweep of the command in `out`."""
    folder = tmp_path_factory.mktemp("commands")
    write_set(folder)
    assert run(folder) == 0
    return folder


def run(folder, *options, out="out", data="features.hdf"):
    model = str(folder / "model.safetensors")
    return main(
        ["sweep", str(folder / data), "--model", model, "--out", str(folder / out), *options]
    )


def error_of(capsys):
    """The one line of an error, without a traceback."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("esv-jax:")]
    assert len(lines) == 1
    return lines[0]


def test_the_command_equals_the_function(swept):
    ej.sweep(
        swept / "features.hdf",
        swept / "model.safetensors",
        swept / "function",
        key=jax.random.key(0),
    )
    assert shards_of(swept / "out") == shards_of(swept / "function")
    with ej.results.open(swept / "out") as dataset:
        settings = json.loads(dataset.attrs["settings"])
        assert settings["command"] == "sweep"
        assert settings["seed"] == 0
        assert dataset.attrs["model_digest"] == model_digest(make_model())
    with xarray.open_dataset(swept / "out" / "results.nc", engine="h5netcdf") as plain:
        assert plain["esv"].shape == (len(LENGTHS), max(LENGTHS), N_CLASSES)


def test_printed_summary_and_progress(swept, capsys, monkeypatch):
    assert run(swept) == 0
    text = capsys.readouterr().out
    assert f"explained before: {len(LENGTHS)}" in text
    monkeypatch.setattr(command, "_EVERY", 0.0)
    assert run(swept, "--shard-size", "4", "--marginals", out="lines") == 0
    printed = capsys.readouterr()
    assert f"explained now:    {len(LENGTHS)}" in printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("host 1/1: ")]
    assert len(lines) == len(store.read_manifest(swept / "lines")["shards"])
    assert lines[-1].startswith(f"host 1/1: {len(LENGTHS)} of {len(LENGTHS)} videos, ")
    assert lines[-1].endswith(" 0:00:00 left, 0 failed")


def test_a_bar_at_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with command._ProgressReport() as watch:
        watch(Progress(3, 10, 0, 0, 1))
        watch(Progress(10, 10, 2, 0, 1))
    text = capsys.readouterr().err
    assert "Sweeping: 100%" in text
    assert "2 failed" in text


def test_progress_lines_estimate_the_time_left(capsys):
    now = [0.0]
    watch = command._ProgressReport(clock=lambda: now[0])
    now[0] = 100.0
    watch(Progress(10, 400, 1, 1, 4))
    now[0] = 105.0
    watch(Progress(20, 400, 1, 1, 4))  # too soon
    assert capsys.readouterr().err == (
        "host 2/4: 10 of 400 videos, 0.1 videos/s, 1:05:00 left, 1 failed\n"
    )


def test_failures_are_printed_and_other_videos_stored(tmp_path, capsys):
    write_set(tmp_path)
    assert run(tmp_path, "--min-elements", "3", "--classes", "gt,pred") == 2
    printed = capsys.readouterr()
    n = LENGTHS.count(2)
    assert f"failed:           {n}" in printed.out
    assert "video-2: length: expected at least 3 elements, got 2." in printed.err
    assert main(["results", str(tmp_path / "out")]) == 0
    assert "failed: video-2: length" in capsys.readouterr().out


def test_results_as_summary_and_table(swept, tmp_path, capsys):
    assert main(["results", str(swept / "out"), "--verify"]) == 0
    text = capsys.readouterr().out
    assert f"videos:           {len(LENGTHS)}" in text
    assert "shards are intact" in text
    table = tmp_path / "table.csv"
    options = ["--csv", str(table), "--classes", "gt", "kind 1", "pred"]
    assert main(["results", str(swept / "out"), *options]) == 0
    frame = pandas.read_csv(table)
    with ej.results.open(swept / "out") as dataset:
        expected = ej.results.to_dataframe(dataset, ["gt", "kind 1", "pred"])
        classes = zip(dataset["label"].values, dataset["prediction"].values, strict=True)
        n_rows = [len({1, *own}) for own in classes] @ dataset["length"].values
    assert len(frame) == n_rows
    assert not frame.duplicated(["video", "element", "class"]).any()
    np.testing.assert_allclose(frame["esv"], expected["esv"], rtol=1e-6)


def test_several_results_are_collated(swept, tmp_path, capsys):
    run_sweep(swept, "few", uids=["video-3", "video-1"], frames=2)
    both = tmp_path / "both.nc"
    paths = [str(swept / "out"), str(swept / "few")]
    assert main(["results", *paths, "--out", str(both)]) == 0
    assert "in common: 2 videos" in capsys.readouterr().out
    with xarray.open_dataset(both, engine="h5netcdf") as dataset:
        assert dataset["sweep"].values.tolist() == paths
        assert set(dataset["video"].values) == {"video-1", "video-3"}
    assert main(["results", *paths, "--out", str(both)]) == 2
    assert "overwrite" in error_of(capsys)


def test_verify_checks_view_shards_and_data(tmp_path, capsys):
    """The view has a checksum, and the data are compared with their digests."""
    write_set(tmp_path, make_sequences((3, 3, 3)))
    assert run(tmp_path) == 0
    verify = ["results", str(tmp_path / "out"), "--verify"]
    assert main(verify) == 0
    assert f"3 videos compared with the data at {tmp_path}" in capsys.readouterr().out
    view = tmp_path / "out" / store.VIEW
    content = view.read_bytes()
    view.write_bytes(content.replace(b"video-1", b"video-7"))
    assert main(verify) == 2
    assert "out: results.nc is damaged; the sweep's command restores it" in error_of(capsys)
    assert main(["results", str(tmp_path / "out")]) == 2
    assert "damaged results.nc. The sweep's command restores it." in error_of(capsys)
    assert run(tmp_path) == 0
    assert main(verify) == 0
    capsys.readouterr()
    sequences = make_sequences((3, 3, 3))
    write_set(tmp_path, sequences | {"video-2": -sequences["video-2"]})
    assert main(verify) == 2
    assert "1 videos have changed since they were explained: video-2" in error_of(capsys)
    assert run(tmp_path) == 2
    assert "got others for 1 videos that are explained ('video-2')" in error_of(capsys)
    (tmp_path / "features.hdf").rename(tmp_path / "moved.hdf")
    assert main(verify) == 0
    assert "features.hdf: not compared." in capsys.readouterr().out


def test_a_damaged_shard_is_found(swept, capsys):
    path = store.shard_path(swept / "out", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + bytes(len(whole) - 2000))
    assert main(["results", str(swept / "out"), "--verify"]) == 2
    assert "shard 1 is damaged" in error_of(capsys)
    assert main(["results", str(swept / "out")]) == 2
    assert "a sweep's results, got damage in shards/00001.nc. The sweep's" in error_of(capsys)
    assert run(swept) == 0
    assert "damaged, recomputed: 1 shards" in capsys.readouterr().out
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_sweep_of_videos(tmp_path, capsys):
    clips = ej.data.synthetic_video.write_synthetic_videos(
        tmp_path / "clips", ej.data.synthetic_videos(2, seed=0)
    )
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*clips, tmp_path / "lost.mp4"])))
    labels = tmp_path / "labels.csv"
    labels.write_text(f"uid,class\n{clips[0].stem},3\n")
    options = ["--frames", "4", "--labels", str(labels), "--out", str(tmp_path / "out")]
    assert main(["sweep", str(tmp_path / "list.txt"), *options]) == 2
    assert "lost: " in capsys.readouterr().err
    model = ej.models.load_synthetic_world()
    with ej.results.open(tmp_path / "out") as dataset:
        assert dataset["label"].sel(video=[clip.stem for clip in clips]).values.tolist() == [3, -1]
        assert set(json.loads(dataset.attrs["failures"])) == {"lost"}
        for clip in clips:
            index = ej.data.segment_centres(ej.data.probe_video(clip).frames, 4)
            x = model.encoder(ej.data.decode_frames(clip, indices=index))
            game = ej.MultiScale(model.trained.heads)
            alone = ej.explain(game, x, prior=model.trained.prior)
            found = ej.results.load_attribution(dataset, clip.stem)
            np.testing.assert_allclose(found.values, alone.values, rtol=0, atol=2e-6)
            row = dataset["element_index"].sel(video=clip.stem).values[:4]
            np.testing.assert_array_equal(row, index)


def test_compiled_programs_are_kept_if_asked(tmp_path):
    write_set(tmp_path, make_sequences([4]))
    before = {
        name: getattr(jax.config, name)
        for name in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
            "jax_persistent_cache_min_entry_size_bytes",
        )
    }
    assert before["jax_compilation_cache_dir"] == os.environ[PROGRAMS]  # that of the tests alone
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()  # as a process finds it in which nothing was compiled yet
        assert run(tmp_path, "--compilation-cache", str(tmp_path / "programs")) == 0
        assert list((tmp_path / "programs").iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "best"], "classes: expected all, or some of gt, pred and top1"),
        (["--classes", "top9"], "classes: expected at most top4"),
        (["--frames", "0"], "frames: expected"),
        (["--seed", "1"], "got another sweep (key: [0, 0] there, [0, 1] here)"),
        (["--uids", "video-00"], "Did you mean 'video-0'?"),
        (["--host", "1"], "hosts: expected all of coordinator, hosts and host"),
        (
            ["--coordinator", "a:1", "--hosts", "2", "--host", "2"],
            "host: expected a number in 0..1",
        ),
        (["--cluster", "--host", "1"], "cluster: expected nothing beside it"),
        (["--estimator", "exact", "--labels", "none.csv"], "none.csv"),
    ],
)
def test_bad_options(swept, capsys, options, said):
    assert run(swept, *options) == 2
    assert said in error_of(capsys)


def test_bad_files(swept, tmp_path, capsys):
    assert run(swept, data="nothing.hdf", out="other") == 2
    assert "no such file" in error_of(capsys)
    ej.models.save_model(tmp_path / "other.safetensors", make_model(width=7))
    arguments = ["sweep", str(swept / "features.hdf"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--model", str(tmp_path / "other.safetensors")]) == 2
    assert "data that do not fit the model" in error_of(capsys)
    ej.models.save_model(tmp_path / "fewer.safetensors", make_model(n_classes=2))
    assert main([*arguments, "--model", str(tmp_path / "fewer.safetensors")]) == 2
    assert "labels: expected classes 0..1, as the model has" in error_of(capsys)
    assert main(["results", str(tmp_path)]) == 2
    assert "expected a file written by results.save" in error_of(capsys)
    assert main(["results", str(swept / "out"), "--out", str(tmp_path / "x.nc")]) == 2
    assert "several results to collate" in error_of(capsys)
    assert not (tmp_path / "out").exists()
