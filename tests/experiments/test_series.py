"""The experiments on real sequences run from one command and store their findings."""

import json
from pathlib import Path

import numpy as np
import pytest

import esv_jax as ej
from esv_jax.models.heads import head_logits
from esv_jax.models.trained import model_digest
from experiments import basic_motions, japanese_vowels, series
from experiments.statistics import mean_of

N = 4  # elements explained in these runs
TINY = ["--n-elements", str(N), "--n-max", "3", "--max-epochs", "2", "--max-subsequences", "8"]
TINY += ["--iterations", "2", "--n-random", "2", "--n-resamples", "50"]
SCRIPTS = {"japanese_vowels": japanese_vowels, "basic_motions": basic_motions}
KEYS = {
    "experiment", "findings", "seed", "settings", "training", "weights_digest", "data", "n_train",
    "n_test", "lengths", "accuracy_by_elements", "efficiency_gap", "agreement", "discard",
    "versions", "device", "cpu_cores", "wall_seconds",
}  # fmt: skip


def write_ts(path: Path, rng: np.random.Generator, n_sequences: int) -> None:
    """Two classes that differ in the mean of their first channel, lengths 3 to 7."""
    lines = ["@problemName Made", "@dimensions 2", "@classLabel true low high", "@data"]
    for row in range(n_sequences):
        x = rng.normal(size=(2, 3 + row % 5))
        x[0] += 3 * (row % 2)
        channels = [",".join(f"{value:.4f}" for value in channel) for channel in x]
        lines.append(":".join([*channels, ("low", "high")[row % 2]]))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow  # trains
def test_made_sequences_leave_a_complete_consistent_record(tmp_path, rng, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write_ts(data / "BasicMotions_TRAIN.ts", rng, 30)
    write_ts(data / "BasicMotions_TEST.ts", rng, 21)
    args = ["--data", str(data), "--out", str(out), "--seed", "3", *TINY]
    assert basic_motions.main(args) == 0
    check_record(out, data / "BasicMotions_TEST.ts", n_test=21)
    assert "f^ms" in capsys.readouterr().out
    first = read_summary(out)

    assert basic_motions.main(args) == 0  # over the files of the first run
    again = read_summary(out)
    same = KEYS - {"wall_seconds"}
    assert {key: first[key] for key in same} == {key: again[key] for key in same}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow  # trains
@pytest.mark.parametrize(
    ("name", "problem"),
    [("japanese_vowels", "JapaneseVowels"), ("basic_motions", "BasicMotions")],
)
def test_real_sequences_leave_a_complete_consistent_record(shared, tmp_path, name, problem):
    data = shared / "data" / "series"
    if not (data / f"{problem}_TEST.ts").is_file():
        pytest.skip(f"{problem} is not among the shared inputs")
    args = ["--data", str(data), "--out", str(tmp_path), "--limit", "12", *TINY]
    assert SCRIPTS[name].main(args) == 0
    check_record(tmp_path, data / f"{problem}_TEST.ts", n_test=12)


def check_record(out: Path, test_path: Path, n_test: int) -> None:
    summary = read_summary(out)
    assert set(summary) == KEYS
    assert summary["n_test"] == n_test
    assert summary["efficiency_gap"] < 1e-5
    accuracy, *differences, gap = summary["findings"]
    assert accuracy["value"] == 100 * summary["accuracy_by_elements"][-1]["accuracy"]
    assert gap["value"] == summary["efficiency_gap"] and gap["agrees"]
    for row, found in zip(
        differences, summary["discard"]["accuracy_difference"].values(), strict=True
    ):
        assert (row["value"], row["low"]) == (100 * found["mean"], 100 * found["low"])
    for name in ("accuracy_by_elements", "discard", "elements_typical"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    test = ej.data.read_ts(test_path)
    model = ej.models.load_model(out / "model.safetensors")
    assert model_digest(model) == summary["weights_digest"]
    with ej.results.open(out / "exact.nc") as exact:
        exact.load()
    assert exact.sizes["video"] == n_test
    assert bool(exact["exact"].all())
    assert float(exact["efficiency_gap"].max()) < 1e-5
    assert int(exact["length"].max()) == N
    with ej.results.open(out / "sampled.nc") as sampled:
        lengths = dict(zip(test.uids, test.lengths, strict=True))
        assert sampled["length"].values.tolist() == [
            lengths[uid] for uid in sampled["video"].values
        ]
    check_accuracy(summary["accuracy_by_elements"], exact, n_test)
    check_discard(summary["discard"], exact, test, model)


def check_accuracy(rows: list, exact, n_test: int) -> None:
    assert [row["n"] for row in rows] == [1, 2, 3, 4, "all"]
    for row in rows:
        assert row["n_sequences"] + row["left_out"] == n_test
        if row["n"] != "all":
            assert row["n_sequences"] == int((exact["length"] >= row["n"]).sum())
    assert rows[-1]["left_out"] == 0


def check_discard(discard: dict, exact, test: ej.data.ts.Sequences, model) -> None:
    """Curves start at the accuracy of all N elements and end at that of the element left."""
    rows = exact.isel(video=np.flatnonzero(exact["length"].values == N))
    labels = rows["label"].values
    assert discard["n_sequences"] == len(labels)
    whole = (rows["prediction"].values == labels).mean()
    sequences = dict(zip(test.uids, test.sequences, strict=True))
    for curves in (discard["accuracy"], discard["score"]):
        for curve in curves.values():
            mean, low, high = (np.array(curve[name]) for name in ("mean", "low", "high"))
            assert len(mean) == N
            assert (low - 1e-9 <= mean).all() and (mean <= high + 1e-9).all()
    for order, last in (("ascending", np.argmax), ("descending", np.argmin)):
        right = []
        for i, uid in enumerate(rows["video"].values):
            esv = rows["esv"].values[i, :, labels[i]]
            element = rows["element_index"].values[i, last(esv)]
            x = sequences[uid][element][None]  # (1, D)
            logits = head_logits(model.heads, 1, x)
            right.append(int(np.argmax(logits)) == labels[i])
        accuracy = discard["accuracy"][order]["mean"]
        assert accuracy[0] == pytest.approx(whole)
        assert accuracy[-1] == pytest.approx(np.mean(right))


def read_summary(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_missing_data_is_one_line_and_exit_code_2(name, tmp_path, capsys):
    assert SCRIPTS[name].main(["--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "_TRAIN.ts" in captured.err and "none" in captured.err
    assert not list(tmp_path.iterdir())


def test_bootstrap_interval_has_the_width_of_the_normal_one(rng):
    values = rng.normal(size=(400, 2))
    found = mean_of(values, series.Settings(out=Path()))
    low, high = np.array(found["low"]), np.array(found["high"])
    wanted = 2 * 1.96 * values.std(0) / 20
    np.testing.assert_allclose(high - low, wanted, rtol=0.1)
    np.testing.assert_allclose((low + high) / 2, values.mean(0), atol=0.01)
