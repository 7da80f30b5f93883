"""`esv-jax explain`: continuation of interrupted runs."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import esv_jax as ej
from esv_jax.cli import explain as command
from esv_jax.cli import main
from esv_jax.files import locked_folder
from tests.conftest import ROOT
from tests.games_for_tests import as_float32, random_heads

LENGTHS = (24, 3, 5, 23, 3, 5)  # too many elements for exact values, and few, by turns
SAMPLED = ("--estimator", "constructive", "--constructive.max-subsequences", "4")
SAMPLED += ("--constructive.iterations", "3")


def write(path, sequences, labels):
    rows = [
        (f"v{i}", x, {"action": int(c)})
        for i, (x, c) in enumerate(zip(sequences, labels, strict=True))
    ]
    ej.data.write_features(path, rows, 3, overwrite=True)


def write_model(path, seed):
    rng = np.random.default_rng(seed)
    heads = ej.models.stack_heads(as_float32(random_heads(rng, 3, c=3)))
    model = ej.models.TrainedModel(heads, np.full(3, 1 / 3), ("still", "walk", "run"))
    ej.models.save_model(path, model)


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 3)).astype(np.float32) for n in LENGTHS]


@pytest.fixture
def folder(tmp_path, sequences):
    """A model and a store of sequences."""
    write(tmp_path / "toy.hdf", sequences, [0, 1, 2, 0, 1, 2])
    write_model(tmp_path / "m.safetensors", 1)
    return tmp_path


def explain(folder, out, *options):
    arguments = ["explain", str(folder / "toy.hdf"), "--model", str(folder / "m.safetensors")]
    return main([*arguments, "--figures", "1", "--out", str(folder / out), *options])


def stop_after(monkeypatch, n_calls):
    """Interrupt `explain` after some calls of `explain_batch`, two sequences at most each."""
    real, calls = ej.explain_batch, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > n_calls:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(command, "_TOGETHER", 2)
    monkeypatch.setattr(command, "explain_batch", interrupted)
    return calls


def uids_of(out):
    with ej.results.open(out) as dataset:
        return dataset["video"].values.tolist()


def assert_same(out, other):
    """Assert equal results files, except for the folder and the time, and equal tables."""
    stored = []
    for path in (out, other):
        with ej.results.open(path) as dataset:
            whole = dataset.load()
            settings = json.loads(whole.attrs.pop("settings"))
            del whole.attrs["created"], settings["out"]
            stored.append((whole, settings))
    assert stored[0][0].identical(stored[1][0]) and stored[0][1] == stored[1][1]
    tables = [(path / "table.csv").read_bytes() for path in (out, other)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("options", "n_calls"),
    [
        ((), 2),  # exact and sampled in one file
        (("--tolerance", "0.02", "--surrogate.pool", "64"), 3),
        ((*SAMPLED, "--frames", "4", "--methods", "leave_one_out"), 2),
    ],
)
def test_a_continued_run_equals_an_uninterrupted_one(folder, capsys, monkeypatch, options, n_calls):
    assert explain(folder, "whole", *options) == 0
    shown = capsys.readouterr().out.splitlines()[:-1]
    with monkeypatch.context() as patch:
        stop_after(patch, n_calls)
        assert explain(folder, "out", *options) == 130
        begun = uids_of(folder / "out")
        assert 0 < len(begun) < 6
        capsys.readouterr()
        calls = stop_after(patch, 9)
        assert explain(folder, "out", *options) == 0
        assert 0 < len(calls) <= 6 - len(begun)
    again = capsys.readouterr().out.splitlines()[:-1]
    assert again == [f"{len(begun)} of 6 sequences were explained before", *shown]
    assert uids_of(folder / "out") == [f"v{i}" for i in range(6)]
    assert_same(folder / "out", folder / "whole")


def test_exact_values_stay_exact_beside_sampled_ones(folder):
    assert explain(folder, "out") == 0
    with ej.results.open(folder / "out") as dataset:
        assert dataset["exact"].values.tolist() == [n <= 20 for n in LENGTHS]
        missing = np.isnan(dataset["std_error"].values).all((1, 2))
        assert missing.tolist() == [n <= 20 for n in LENGTHS]


def test_further_sequences_join_those_of_an_earlier_run(folder, capsys, monkeypatch):
    assert explain(folder, "whole", *SAMPLED) == 0
    assert explain(folder, "out", *SAMPLED, "--uids", "v4", "v0") == 0
    assert uids_of(folder / "out") == ["v4", "v0"]
    assert explain(folder, "out", *SAMPLED, "--limit", "5") == 0
    assert "2 of 5 sequences were explained before" in capsys.readouterr().out
    assert explain(folder, "out", *SAMPLED) == 0
    assert_same(folder / "out", folder / "whole")

    # Nothing is missing: nothing is computed and the file stays; another class can be shown.
    before = (folder / "out" / "results.nc").read_bytes()
    calls = stop_after(monkeypatch, 0)
    capsys.readouterr()
    assert explain(folder, "out", *SAMPLED, "--class", "still") == 0
    out = capsys.readouterr().out
    assert "6 of 6 sequences were explained before" in out and "│ still │" in out
    assert not calls and (folder / "out" / "results.nc").read_bytes() == before


def test_other_settings_models_and_inputs_are_refused(folder, sequences, capsys):
    assert explain(folder, "out", "--limit", "3") == 0
    file = folder / "out" / "results.nc"
    before = file.read_bytes()

    def refused(text, *options):
        capsys.readouterr()
        assert explain(folder, "out", *options) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert text in line, line
        assert line.endswith("Choose another folder, or add --overwrite.")
        assert file.read_bytes() == before

    refused("(seed: 0 there, 1 here)", "--seed", "1")
    refused("(frames: all there, 2 here)", "--frames", "2")
    refused("methods: [] there, ['leave_one_in'] here", "--methods", "leave_one_in")
    refused("surrogate: {", "--surrogate.pool", "32")
    refused("got inputs without 'v0', 'v2'.", "--uids", "v1")
    (folder / "classes.csv").write_text("name,id\na,0\nb,1\nc,2\n")
    refused("(classes: 3 (", "--classes", str(folder / "classes.csv"))

    write_model(folder / "m.safetensors", 2)
    refused("(model_digest: ")
    write_model(folder / "m.safetensors", 1)
    write(folder / "toy.hdf", sequences, [0, 1, 1, 0, 1, 2])
    refused("got others, with new classes of 'v2'.")
    changed = [sequences[0] + np.float32(1e-3), *sequences[1:]]
    write(folder / "toy.hdf", changed, [0, 1, 2, 0, 1, 2])
    refused(f"data: expected the inputs of {file}, got others, with new content of 'v0'.")
    assert explain(folder, "new") == 0
    assert explain(folder, "out", "--overwrite") == 0
    with ej.results.open(folder / "new") as new, ej.results.open(folder / "out") as out:
        np.testing.assert_array_equal(new["esv"].values, out["esv"].values)

    write(folder / "toy.hdf", changed, [0, 1, 2, 0, 1, 2])  # written again, the same content
    assert explain(folder, "new") == 0


def test_files_of_other_origin_are_refused(folder, capsys):
    (folder / "out").mkdir()
    file = folder / "out" / "results.nc"

    def refused(text):
        before = file.read_bytes()
        assert explain(folder, "out") == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert text in line and line.endswith("or add --overwrite."), line
        assert file.read_bytes() == before

    file.write_text("mine")
    refused("which cannot be read")
    assert explain(folder, "out", "--overwrite", "--limit", "2") == 0
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused("which cannot be read")

    # Results of an earlier version have no digests of their inputs.
    file.write_bytes(content)
    with ej.results.open(file) as dataset:
        whole = dataset.load().drop_vars(["content", "stamp"])
    whole.to_netcdf(file, engine="h5netcdf")
    refused("without digests of its inputs")
    whole.assign_attrs(esv_jax_version="0.0.1").to_netcdf(file, engine="h5netcdf")
    refused("(esv_jax: 0.0.1 there, ")

    sweep = ["sweep", str(folder / "toy.hdf"), "--model", str(folder / "m.safetensors")]
    assert main([*sweep, "--limit", "2", "--frames", "3", "--out", str(folder / "swept")]) == 0
    shutil.rmtree(folder / "out")
    shutil.move(folder / "swept", folder / "out")
    refused("results.nc of esv-jax sweep. Choose")


@pytest.mark.slow  # videos
def test_a_run_on_videos_is_continued_unless_their_files_changed(tmp_path, capsys, monkeypatch):
    pytest.importorskip("av", reason="needs the video extra")
    made = ej.data.synthetic_videos(5, seed=5, n_frames=12)
    clips = tmp_path / "clips"
    clips.mkdir()
    paths = ej.data.synthetic_video.write_synthetic_videos(clips, made)
    (tmp_path / "later.mp4").write_bytes(paths[4].read_bytes())
    paths[4].unlink()

    def run(out, *options):
        arguments = ["explain", str(clips), "--frames", "5", "--figures", "1", "--overlay", "none"]
        return main([*arguments, "--out", str(tmp_path / out), *options])

    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert run("out") == 130
    assert len(uids_of(tmp_path / "out")) == 2
    os.utime(paths[0])  # another time, the same content
    assert run("out") == 0
    assert "2 of 4 videos were explained before" in capsys.readouterr().out
    assert run("whole") == 0

    def without_stamps(out):
        with ej.results.open(tmp_path / out) as dataset:
            return dataset.load().drop_vars("stamp").drop_attrs()

    assert without_stamps("out").identical(without_stamps("whole"))
    shutil.move(tmp_path / "later.mp4", paths[4])
    (clips / "broken.mp4").write_bytes(paths[0].read_bytes()[:900])
    assert run("out") == 2  # of the broken one
    printed = capsys.readouterr()
    assert "4 of 6 videos were explained before" in printed.out
    assert "Results of 5 of 6 sequences" in printed.out and "broken" in printed.err
    (clips / "broken.mp4").unlink()
    before = (tmp_path / "out" / "results.nc").read_bytes()
    ej.data.write_video(paths[2], made.clips[1], 12)
    assert run("out") == 2
    assert f"with new content of {paths[2].stem!r}. Choose" in capsys.readouterr().err
    paths[2].unlink()
    assert run("out") == 2
    assert f"got inputs without {paths[2].stem!r}. Choose" in capsys.readouterr().err
    assert (tmp_path / "out" / "results.nc").read_bytes() == before


def test_a_file_that_changes_while_it_is_read_is_omitted(tmp_path, capsys, monkeypatch):
    pytest.importorskip("av", reason="needs the video extra")
    from esv_jax.data import inputs

    made = ej.data.synthetic_videos(2, seed=5, n_frames=12)
    paths = ej.data.synthetic_video.write_synthetic_videos(tmp_path, made)
    real = inputs.with_reader

    def growing(path, use):
        frames = real(path, use)
        if path == paths[0]:
            with path.open("ab") as file:
                file.write(b"\0")
        return frames

    monkeypatch.setattr(inputs, "with_reader", growing)
    options = ["--frames", "4", "--figures", "0", "--out", str(tmp_path / "out")]
    assert main(["explain", str(tmp_path), *options]) == 2
    said = capsys.readouterr().err
    assert f"{paths[0].stem}: expected a file that stays as it is" in said
    assert uids_of(tmp_path / "out") == [paths[1].stem]


SLOWLY = """
import sys, time
from esv_jax.cli import explain, main
real = explain.explain_batch
def slow(*args, **kwargs):
    time.sleep(0.1)
    return real(*args, **kwargs)
explain.explain_batch, explain._TOGETHER, explain._SAVE_EVERY = slow, 1, 0.0
sys.exit(main(sys.argv[1:]))
"""


def test_two_runs_in_one_folder_and_leftovers_of_a_killed_one(folder, capsys):
    writing = folder / "r" / command.WRITING
    writing.parent.mkdir()
    with locked_folder(writing, "out", "nobody else"):
        assert explain(folder, "r", "--limit", "2") == 2
        assert "a folder that no other explain is writing to" in capsys.readouterr().err
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    writing.mkdir()
    host = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())
    (writing / f"{host}.{ended.pid}.0123abcd.nc").write_bytes(b"half")
    assert explain(folder, "r", "--limit", "2") == 0
    assert not writing.exists()


@pytest.mark.slow
def test_killed_at_random_moments(folder):
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, 7, 40)
    write(
        folder / "toy.hdf",
        [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths],
        lengths % 3,
    )
    assert explain(folder, "whole", *SAMPLED) == 0
    arguments = ["explain", str(folder / "toy.hdf"), "--model", str(folder / "m.safetensors")]
    arguments += ["--figures", "1", "--out", str(folder / "out"), *SAMPLED]
    moments, stored, file = random.Random(2), 0, folder / "out" / "results.nc"
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOWLY, *arguments],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        began = file.stat().st_mtime_ns if file.exists() else 0
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if file.exists() and file.stat().st_mtime_ns != began:
                time.sleep(moments.uniform(0, 0.6))
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        n = len(uids_of(folder / "out"))
        assert stored < n < 40
        stored = n
    assert explain(folder, "out", *SAMPLED) == 0
    assert_same(folder / "out", folder / "whole")
