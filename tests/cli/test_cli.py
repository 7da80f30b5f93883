"""The command line: outputs, messages, exit codes."""

import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pandas
import pytest

import esv_jax as ej
from esv_jax.cli import COMMANDS, command_class, main
from tests.games_for_tests import as_float32, random_heads

N_CLASSES = 3


def ts_text(sequences, labels, names=("still", "walk", "run")):
    lines = ["@problemName toy", "@univariate false", "@dimensions 3"]
    lines += ["@classLabel true " + " ".join(names), "@data"]
    for x, label in zip(sequences, labels, strict=True):
        channels = [",".join(f"{v:.6f}" for v in channel) for channel in x.T]
        lines.append(":".join([*channels, names[label]]))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and sequences in every format the commands take."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_CLASSES, 24)
    lengths = rng.integers(4, 8, 24)
    sequences = [
        (rng.normal(size=(n, 3)) + 2 * np.eye(3)[label]).astype(np.float32)
        for n, label in zip(lengths, labels, strict=True)
    ]
    (folder / "toy.ts").write_text(ts_text(sequences, labels))
    rows = [
        (f"v{i}", x, {"action": int(c), "source": "made"})
        for i, (x, c) in enumerate(zip(sequences, labels, strict=True))
    ]
    ej.data.write_features(folder / "toy.hdf", rows, 3)
    np.save(folder / "one.npy", sequences[0])
    np.save(folder / "many.npy", np.stack([x[:4] for x in sequences[:3]]))
    heads = ej.models.stack_heads(as_float32(random_heads(rng, 3, c=N_CLASSES)))
    model = ej.models.TrainedModel(heads, np.full(3, 1 / 3), ("still", "walk", "run"))
    ej.models.save_model(folder / "model.safetensors", model)
    return folder


def explain(folder, data, out, *options):
    arguments = [str(folder / data), "--model", str(folder / "model.safetensors")]
    return main(["explain", *arguments, "--out", str(out), *options])


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"esv-jax {ej.__version__}\n"


def test_without_arguments_the_help_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    assert "Start with: esv-jax demo" in capsys.readouterr().out


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "import sys\nfrom esv_jax.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    print(end.code)\n"
        "print({'jax', 'numpy', 'flax'} & {name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["0", "set()"], done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_listed_with_the_first_lines_of_their_help(name):
    assert COMMANDS[name] == command_class(name).__doc__.splitlines()[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_defaults_and_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert f"esv-jax {command}" in out.split("options")[0] and f": esv-jax {command}" in out
    assert "(default:" in out
    drawn = command in ("demo", "train", "explain", "sweep", "perturb", "evaluate")
    assert drawn == ("--seed" in out or "--config.seed" in out)


@pytest.mark.slow  # trains
def test_demo_of_sequences(tmp_path, capsys):
    what = ["--what", "sequences", "--n-train", "512"]
    assert main(["demo", "--out", str(tmp_path), *what]) == 0
    out = capsys.readouterr().out
    assert "Test accuracy" in out
    accuracy = float(out.split("Test accuracy ")[1].split("%")[0])
    ranked = float(out.split("ranks above one that does not: ")[1].split("%")[0])
    error = float(out.split("mean relative error: ")[1].split("%")[0])
    assert accuracy > 90
    assert ranked > 75
    assert 0 < error < 40
    assert {p.name for p in tmp_path.iterdir()} == {"esv.png", "model.safetensors", "results.nc"}
    with ej.results.open(tmp_path / "results.nc") as dataset:
        assert dataset.sizes["video"] == 128
        assert float(dataset.efficiency_gap.max()) < 1e-5


@pytest.mark.slow  # trains
def test_train_then_explain(folder, tmp_path, capsys):
    model = tmp_path / "deep" / "model.safetensors"
    data = str(folder / "toy.ts")
    options = ["--n-max", "3", "--hidden-dim", "16", "--max-epochs", "40", "--dropout", "0.1"]
    status = main(
        ["train", data, "--test", data, "--out", str(model), "--validation-fraction", "0.3"]
        + ["--checkpoint-dir", str(tmp_path / "state"), *options]
    )
    assert status == 0
    out = capsys.readouterr().out
    assert "Test accuracy" in out
    trained = ej.models.load_model(model)
    assert trained.class_names == ("still", "walk", "run")
    assert trained.config.hidden_dim == 16
    assert any((tmp_path / "state").iterdir())

    results = tmp_path / "results"
    assert main(["explain", data, "--model", str(model), "--out", str(results)]) == 0
    with ej.results.open(results / "results.nc") as dataset:
        assert dataset.sizes["video"] == 24
        assert bool(dataset.exact.all())
        accuracy = float((dataset.label == dataset.prediction).mean())
        assert accuracy > 0.6
        settings = json.loads(dataset.attrs["settings"])
        assert settings["command"] == "explain"
        assert len(settings["model_digest"]) >= 16


@pytest.mark.parametrize(
    ("n_per_class", "fraction", "text"),
    [
        (2, None, "Validation accuracy"),
        ((1, 4, 1), None, "None held out of 2 classes that have one sequence: still, run"),
        (1, None, "No sequences were held out, since no class has two: pass some by --validation."),
        (2, "0", "No sequences were held out, as requested. Weights are those of the last epoch."),
        (2, "0.1", None),
    ],
)
def test_training_with_few_sequences_of_each_class(tmp_path, capsys, n_per_class, fraction, text):
    labels = np.repeat(np.arange(3), n_per_class)
    sequences = list(np.random.default_rng(0).normal(size=(len(labels), 2, 3)))
    (tmp_path / "few.ts").write_text(ts_text(sequences, labels))
    options = ["--n-max", "2", "--max-epochs", "2", "--hidden-dim", "4"]
    options += [] if fraction is None else ["--validation-fraction", fraction]
    out = tmp_path / "m.safetensors"
    status = main(["train", str(tmp_path / "few.ts"), "--out", str(out), *options])
    printed = capsys.readouterr()
    if text is None:
        assert status == 2 and not out.exists()
        assert "validation_fraction: expected a share that holds out at least" in printed.err
    else:
        assert status == 0 and text in printed.out
        assert ej.models.load_model(out).class_names == ("still", "walk", "run")
        before, again = out.read_bytes(), ["train", str(tmp_path / "few.ts"), "--out", str(out)]
        assert main([*again, *options]) == 2 and out.read_bytes() == before
        assert "Add --overwrite." in capsys.readouterr().err
        assert main([*again, *options, "--max-epochs", "1", "--overwrite"]) == 0
        assert out.read_bytes() != before


@pytest.mark.slow  # trains
def test_average_consensus_trains_and_explains(folder, tmp_path):
    model = tmp_path / "tsn.safetensors"
    data = str(folder / "toy.hdf")
    options = ["--kind", "average-consensus", "--n-max", "3", "--max-epochs", "5"]
    assert main(["train", data, "--out", str(model), *options]) == 0
    status = main(["explain", data, "--model", str(model), "--out", str(tmp_path / "r")])
    assert status == 0
    with ej.results.open(tmp_path / "r" / "results.nc") as dataset:
        assert list(dataset["video"].values[:2]) == ["v0", "v1"]


def test_explain_writes_what_explain_returns(folder, tmp_path, capsys):
    assert explain(folder, "toy.ts", tmp_path / "r", "--frames", "5", "--limit", "4") == 0
    assert "toy-0" in capsys.readouterr().out
    sequences = ej.data.read_ts(folder / "toy.ts")
    model = ej.models.load_model(folder / "model.safetensors")
    game = ej.MultiScale(model.heads)
    with ej.results.open(tmp_path / "r" / "results.nc") as dataset:
        for uid, x in zip(sequences.uids[:4], sequences.sequences, strict=False):
            if len(x) > 5:
                index = ej.data.segment_centres(len(x), 5)
                x = x[index]
                np.testing.assert_array_equal(dataset.element_index.sel(video=uid)[:5], index)
            expected = ej.explain(game, x, prior=model.prior)
            stored = ej.results.load_attribution(dataset, uid)
            np.testing.assert_allclose(stored.values, expected.values, atol=1e-6)
    table = pandas.read_csv(tmp_path / "r" / "table.csv")
    assert list(table.columns) == ["uid", "element", "element_index", "class", "esv"]
    assert set(table["uid"]) == set(sequences.uids[:4])
    figures = sorted(p.name for p in (tmp_path / "r" / "figures").iterdir())
    assert figures == [f"toy-{i}.png" for i in range(4)]


@pytest.mark.parametrize(
    ("data", "options", "n_videos"),
    [
        ("toy.hdf", ["--uids", "v3", "v1", "--class", "walk"], 2),
        ("one.npy", ["--class", "2"], 1),
        ("many.npy", ["--contrast", "pred", "still"], 3),
        ("toy.ts", ["--class", "pred", "--figures", "0", "--limit", "3"], 3),
    ],
)
def test_explain_takes_every_format(folder, tmp_path, data, options, n_videos):
    assert explain(folder, data, tmp_path / "r", *options) == 0
    with ej.results.open(tmp_path / "r" / "results.nc") as dataset:
        assert dataset.sizes["video"] == n_videos
        if "--uids" in options:
            assert list(dataset["video"].values) == ["v3", "v1"]


def test_sampling_depends_on_seed_and_uid_alone(folder, tmp_path):
    sampled = ["--estimator", "constructive", "--constructive.max-subsequences", "4"]
    sampled += ["--figures", "0"]
    for name, options in {
        "a": ["--limit", "6"],
        "b": ["--uids", "toy-5", "toy-2"],
        "c": ["--uids", "toy-2", "--seed", "1"],
    }.items():
        assert explain(folder, "toy.ts", tmp_path / name, *sampled, *options) == 0
    values = {}
    for name in "abc":
        with ej.results.open(tmp_path / name / "results.nc") as dataset:
            values[name] = np.asarray(ej.results.load_attribution(dataset, "toy-2").values)
    np.testing.assert_array_equal(values["a"], values["b"])
    assert np.abs(values["a"] - values["c"]).max() > 1e-4


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            "none.ts",
            [],
            "data: expected videos or a .ts, .npy, .hdf, .hdf5 or .h5 file, got no such file",
        ),
        (
            "model.safetensors",
            [],
            "data: expected videos or a .ts, .npy, .hdf, .hdf5 or .h5 file, got",
        ),
        ("toy.ts", ["--class", "wolk"], "got 'wolk'. Did you mean 'walk'?"),
        ("toy.ts", ["--contrast", "gt", "9"], "class: expected a name or an id in 0..2, got '9'"),
        ("toy.hdf", ["--uids", "v33"], "uids: expected uids of the data, got 'v33'. Did you mean"),
        ("toy.hdf", ["--label", "actoin"], "got 'actoin'. Did you mean 'action'?"),
        ("toy.hdf", ["--label", "source"], "labels/source: expected whole numbers, one per class"),
        ("toy.ts", ["--frames", "0"], "frames: expected a number >= 1 or all, got 0"),
        ("toy.ts", ["--limit", "0"], "data: expected at least one sequence to explain, got none"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder, tmp_path, capsys, data, options, message):
    assert explain(folder, data, tmp_path / "r", *options) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("esv-jax: ")
    assert message in last
    assert "Traceback" not in captured.err
    assert not (tmp_path / "r" / "results.nc").exists()


@pytest.mark.parametrize(
    "options", [["--constructive.max-subsequences", "0"], ["--frames", "many"], ["--nonsense"]]
)
def test_bad_options_are_code_2(folder, tmp_path, capsys, options):
    with pytest.raises(SystemExit) as stop:
        explain(folder, "toy.ts", tmp_path / "r", *options)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_bad_files_are_one_line_and_code_2(folder, tmp_path, capsys):
    (tmp_path / "cut.ts").write_text((folder / "toy.ts").read_text()[:300] + ":oops")
    (tmp_path / "empty.hdf").touch()
    np.save(tmp_path / "flat.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("no numbers")
    model = ["--model", str(folder / "model.safetensors"), "--out", str(tmp_path / "r")]
    for name, expected in {
        "cut.ts": "cut.ts, line 7: expected 3 channel(s)",
        "empty.hdf": "empty.hdf",
        "flat.npy": "expected an array (n, D), or (V, n, D)",
        "text.npy": "expected a .npy file of numbers",
    }.items():
        assert main(["explain", str(tmp_path / name), *model]) == 2
        err = capsys.readouterr().err.strip()
        assert expected in err.splitlines()[-1], name
        assert "Traceback" not in err
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 40)
    bad_model = ["--model", str(tmp_path / "bad.safetensors"), "--out", str(tmp_path / "r")]
    assert main(["explain", str(folder / "toy.ts"), *bad_model]) == 2
    assert "bad.safetensors" in capsys.readouterr().err


def test_models_of_other_features_are_refused(folder, tmp_path, capsys):
    np.save(tmp_path / "wide.npy", np.zeros((4, 7), np.float32))
    model = ["--model", str(folder / "model.safetensors"), "--out", str(tmp_path / "r")]
    assert main(["explain", str(tmp_path / "wide.npy"), *model]) == 2
    assert "with the heads' D = 3, got (4, 7)" in capsys.readouterr().err.splitlines()[-1]


def test_outputs_are_replaced_only_with_overwrite(folder, tmp_path, capsys):
    arguments = ["toy.ts", tmp_path / "r", "--limit", "1", "--figures", "0"]
    assert explain(folder, *arguments) == 0
    assert explain(folder, *arguments, "--seed", "1") == 2
    assert "expected a folder without results, or with those of" in capsys.readouterr().err
    assert explain(folder, *arguments, "--seed", "1", "--overwrite") == 0


def test_outputs_that_cannot_be_written_are_refused_first(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert explain(folder, "toy.ts", tmp_path / "file" / "r") == 2
    assert "expected a folder that can be made" in capsys.readouterr().err.splitlines()[-1]
    data = str(folder / "toy.ts")
    assert main(["train", data, "--out", str(tmp_path / "file" / "m.safetensors")]) == 2
    err = capsys.readouterr().err
    assert "expected a folder that can be made" in err
    assert "epoch" not in err
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2


def test_ctrl_c_keeps_finished_sequences(folder, tmp_path, capsys, monkeypatch):
    from esv_jax.cli import explain as command

    calls = []
    real = command.explain_batch

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(command, "explain_batch", interrupted)
    monkeypatch.setattr(command, "_TOGETHER", 10)
    options = ["--frames", "4", "--figures", "1"]  # of one length
    assert explain(folder, "toy.ts", tmp_path / "r", *options) == 130
    captured = capsys.readouterr()
    assert "Results of 10 of 24 sequences" in captured.out
    assert captured.err.strip().endswith("esv-jax: interrupted")
    with ej.results.open(tmp_path / "r" / "results.nc") as dataset:
        assert dataset.sizes["video"] == 10


def test_a_kill_loses_no_block_that_was_written(folder, tmp_path, monkeypatch):
    from esv_jax.cli import explain as command

    seen, real, now = [], command.explain_batch, [0.0]

    def spied(*args, **kwargs):
        if (tmp_path / "r" / "results.nc").exists():  # what a kill would leave
            with ej.results.open(tmp_path / "r" / "results.nc") as dataset:
                seen.append(list(dataset["video"].values))
        now[0] += 40.0
        return real(*args, **kwargs)

    monkeypatch.setattr(command, "explain_batch", spied)
    monkeypatch.setattr(command, "_TOGETHER", 10)
    monkeypatch.setattr(command, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    options = ["--frames", "4", "--figures", "0"]  # of one length
    assert explain(folder, "toy.ts", tmp_path / "r", *options) == 0
    assert [len(uids) for uids in seen] == [10, 20]
    with ej.results.open(tmp_path / "r" / "results.nc") as dataset:
        assert dataset.sizes["video"] == 24 and set(seen[1]) <= set(dataset["video"].values)


def test_slow_reading_ends_a_block(folder, tmp_path, monkeypatch):
    from esv_jax.cli import explain as command

    sizes, real, read, now = [], command.explain_batch, command._read, [0.0]

    def slow(*args):
        now[0] += 3.0
        return read(*args)

    def spied(game, xs, **kwargs):
        sizes.append(len(xs))
        return real(game, xs, **kwargs)

    monkeypatch.setattr(command, "explain_batch", spied)
    monkeypatch.setattr(command, "_read", slow)
    monkeypatch.setattr(command, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    options = ["--frames", "4", "--figures", "0", "--limit", "10"]
    assert explain(folder, "toy.ts", tmp_path / "r", *options) == 0
    assert sizes == [4, 4, 2]


def test_an_error_keeps_finished_sequences(folder, tmp_path, capsys):
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(40, 5, 3)).astype(np.float32)
    xs[37, 2, 1] = np.nan
    np.save(tmp_path / "hole.npy", xs)
    model = ["--model", str(folder / "model.safetensors"), "--out", str(tmp_path / "r")]
    assert main(["explain", str(tmp_path / "hole.npy"), *model, "--figures", "0"]) == 2
    captured = capsys.readouterr()
    assert "Results of 32 of 40 sequences" in captured.out
    assert "hole-37" in captured.err.splitlines()[-1]


@pytest.mark.slow  # trains
def test_ctrl_c_in_training_keeps_the_best_so_far(folder, tmp_path, capsys, monkeypatch):
    from esv_jax import models

    real = models.train_heads

    def stop_after_three(*args, **kwargs):
        def callback(epoch, metrics):
            if epoch == 3:
                raise KeyboardInterrupt

        return real(*args, **kwargs, callback=callback)

    monkeypatch.setattr(models, "train_heads", stop_after_three)
    model = tmp_path / "model.safetensors"
    options = ["--n-max", "3", "--hidden-dim", "8", "--validation-fraction", "0.3"]
    assert main(["train", str(folder / "toy.ts"), "--out", str(model), *options]) == 130
    assert "Interrupted after 3 epochs" in capsys.readouterr().out
    assert ej.models.load_model(model).history.n_epochs == 3


def test_debug_shows_the_traceback(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ESV_JAX_DEBUG", "1")
    with pytest.raises(ValueError, match="expected a name or an id"):
        explain(folder, "toy.ts", tmp_path / "r", "--class", "nobody")


def test_an_interrupt_waits_for_an_import(tmp_path):
    """An exception within the initialisation of a native module would crash the process."""
    (tmp_path / "slow_module.py").write_text(
        "import os, signal, time\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "for _ in range(20): time.sleep(0.01)\n"
        "print('imported', flush=True)\n"
    )
    code = (
        "import signal, time\nfrom esv_jax.cli import interrupt\n"
        "signal.signal(signal.SIGINT, interrupt)\nimport slow_module\n"
        "try:\n    time.sleep(10)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == ["imported", "interrupted"] and done.returncode == 0, done.stderr


def test_an_interrupt_in_a_callback_is_not_lost():
    """Python drops exceptions of weak references' callbacks and of `__del__`."""
    code = (
        "import os, signal, time\nimport esv_jax.cli as cli\n"
        "class Record:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(0)\n"
        "def main():\n"
        "    record = Record()\n    del record\n"
        "    try:\n        time.sleep(10)\n    except KeyboardInterrupt:\n        return 130\n"
        "cli.main = main\ncli.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr


def test_the_console_script_runs(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "from esv_jax.cli import run; run()", "explain", "nothing.ts"]
    done = subprocess.run(
        [*command, "--model", "m"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("esv-jax: data: expected")
    assert jax.__version__


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "esv-jax: Out of memory."),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: allocating 8 bytes\nmore"),
            "esv-jax: Out of memory. RESOURCE_EXHAUSTED: allocating 8 bytes",
        ),
    ],
)
def test_out_of_memory_is_one_line(tmp_path, monkeypatch, capsys, error, said):
    def failing(self):
        raise error

    monkeypatch.setattr("esv_jax.cli.explain.Explain.run", failing)
    assert main(["explain", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip() == said


def test_other_runtime_errors_are_raised(tmp_path, monkeypatch):
    def failing(self):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("esv_jax.cli.explain.Explain.run", failing)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["explain", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_small_address_space_is_a_warning_before_jax_fails():
    code = (
        "import resource\nfrom esv_jax.cli import warn_of_small_memory\nwarn_of_small_memory()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000,) * 2)\nwarn_of_small_memory()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines() == [
        "esv-jax: The address space is limited to 3.0 GB. JAX needs 2 GB or more: a process with "
        "less ends with 'std::bad_alloc'. Raise it with ulimit -v."
    ]
