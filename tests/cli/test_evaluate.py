"""`esv-jax evaluate`: tables, files, continuation, bad input."""

import csv
import json

import jax
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.cli import main
from esv_jax.cli.evaluate import Evaluate
from esv_jax.maps import map_metrics, methods
from esv_jax.maps.evaluation import ClipEvaluator, make_evaluator
from esv_jax.maps.evaluation_record import combine_scores
from esv_jax.models.clip_model import clip_model_digest
from tests.clips_for_tests import tiny_network

T = 8
METRICS = ("insertion", "deletion", "pointing", "mass", "coverage", "temporal_grounding")
SHORT = ["--methods", "gradient_x_input", "random", "--steps", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny network with the classes of the synthetic clips, in a file."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    names = ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
    return ej.models.save_clip_model(path, tiny_network(names))


def run(model, out, *options, data=()):
    return main(["evaluate", *data, "--model", str(model), "--out", str(out), *SHORT, *options])


def rows_of(out):
    with (out / "evaluation.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """An undisturbed run on three synthetic clips."""
    out = tmp_path_factory.mktemp("whole")
    assert run(model, out, "--n-clips", "3", "--class", "label") == 0
    return out


def test_files_hold_the_results_of_the_functions(model, whole):
    network = ej.models.load_clip_model(model)
    at = ej.data.segment_centres(32, T)
    made = ej.data.synthetic_videos(3, seed=30000, n_frames=32, frames=at)
    methods = ("gradient_x_input", "random")
    evaluator = make_evaluator(network, methods=methods, metrics=METRICS, steps=2)
    found = [
        evaluator(
            network.prepare(made.clips[i]),
            made.labels[i],
            key=ej.video_key(jax.random.key(0), made.uids[i]),
            evidence=made.evidence_mask[i],
            evidence_frames=made.evidence_frames[i],
        )
        for i in range(3)
    ]
    rows = rows_of(whole)
    keys = [(row["uid"], row["method"], row["metric"]) for row in rows]
    assert keys == [(uid, m, k) for uid in made.uids for m in methods for k in METRICS]
    scores = np.array([row["score"] for row in rows], float).reshape(3, 2, 6)
    wanted = np.stack([one.scores.T for one in found])
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    content = json.loads((whole / "evaluation.json").read_text())
    summary = combine_scores(methods, METRICS, found).summary(key=jax.random.key(0))
    for row, expected in zip(content["summary"], summary.table(), strict=True):
        assert (row["metric"], row["method"]) == (expected["metric"], expected["method"])
        for name in ("mean", "low", "high"):
            assert row[name] == pytest.approx(expected[name], abs=1e-6)
    for row, expected in zip(content["metrics"], summary.metric_table(), strict=True):
        assert row == pytest.approx(expected)
    assert content["n_clips"] == 3 and content["format"] == "esv_jax.evaluation/1"
    settings = content["settings"]
    assert settings["model_digest"] == clip_model_digest(network)
    assert settings["seed"] == 0 and settings["metrics"] == list(METRICS)


def test_tables_are_printed(model, whole, capsys):
    before = (whole / "evaluation.csv").read_text()
    assert run(model, whole, "--n-clips", "3", "--class", "label") == 0  # all of it is known
    assert (whole / "evaluation.csv").read_text() == before
    printed = capsys.readouterr().out
    assert "Means over 3 clips, with 95 % intervals" in printed
    assert "insertion ↑" in printed and "deletion ↓" in printed
    scores = [float(row["score"]) for row in rows_of(whole) if row["metric"] == "coverage"][1::2]
    line = next(line for line in printed.splitlines() if line.startswith("│ random"))
    assert line.split("│")[6].split()[0] == f"{np.mean(scores):.2f}"
    assert "Near 1 a metric ranks the methods alike on every clip" in printed
    assert f"Scores of 3 clips in {whole}" in printed


def test_an_interrupted_run_is_continued(model, whole, tmp_path, monkeypatch, capsys):
    judged = []
    evaluator = ClipEvaluator.__call__

    def counted(self, *args, **options):
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append(1)
        return evaluator(self, *args, **options)

    options = ["--n-clips", "3", "--class", "label"]
    monkeypatch.setattr(ClipEvaluator, "__call__", counted)
    assert run(model, tmp_path, *options) == 130
    assert "Scores of 2 clips" in capsys.readouterr().out and len(rows_of(tmp_path)) == 24
    file = tmp_path / "evaluation_clips.jsonl"
    kept = file.read_text()
    file.write_text(kept[:-40])  # as a sudden end leaves it
    judged.clear()
    assert run(model, tmp_path, *options) == 0
    assert len(judged) == 2  # the clip that was cut, and the third
    assert (tmp_path / "evaluation.csv").read_text() == (whole / "evaluation.csv").read_text()
    old, new = (
        json.loads((folder / "evaluation.json").read_text())["metrics"]
        for folder in (whole, tmp_path)
    )
    assert old == new


def test_scores_of_other_settings_are_refused(model, whole, tmp_path, capsys):
    options = ["--n-clips", "1", "--class", "label"]
    assert run(model, whole, *options, "--seed", "1") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "out: expected a folder without scores of other settings" in line
    assert "(seed 0). Add --overwrite" in line
    file = tmp_path / "evaluation_clips.jsonl"
    file.write_text("something else\n")
    assert run(model, tmp_path, *options) == 2
    assert "expected scores of an earlier run, got another file" in capsys.readouterr().err
    assert run(model, tmp_path, *options, "--metrics", "mass", "--overwrite") == 0
    assert [row["metric"] for row in rows_of(tmp_path)] == ["mass", "mass"]
    printed = capsys.readouterr().out
    assert "Means over 1 clip (" in printed and "[" not in printed.split("Reliab")[0]


def test_maps_without_scores_are_reported_and_stored(model, tmp_path, monkeypatch, capsys):
    evaluator = ClipEvaluator.__call__

    def without(self, *args, **options):
        found = evaluator(self, *args, **options)
        scores = found.scores.copy()
        scores[:, 0] = np.nan
        return found._replace(scores=scores, warnings=("gradient_x_input: 1 value is not finite",))

    monkeypatch.setattr(ClipEvaluator, "__call__", without)
    for _ in range(2):  # the second time from the file
        assert run(model, tmp_path, "--n-clips", "2", "--metrics", "mass", "coverage") == 0
        printed = capsys.readouterr().out
        assert "2 maps had no scores; the first: synthetic-" in printed
        assert [row["score"] == "" for row in rows_of(tmp_path)] == [True, True, False, False] * 2
        content = json.loads((tmp_path / "evaluation.json").read_text())
        assert content["summary"][0]["mean"] is None and content["summary"][1]["mean"] > 0
        assert content["metrics"][0]["reliability"] is None


def test_videos(model, tmp_path, capsys):
    pytest.importorskip("av", reason="needs the video extra")
    folder = tmp_path / "videos"
    folder.mkdir()
    paths = ej.data.synthetic_video.write_synthetic_videos(
        folder, ej.data.synthetic_videos(2, seed=5, n_frames=12)
    )
    (folder / "broken.mp4").write_bytes(paths[0].read_bytes()[:500])
    out = tmp_path / "out"
    assert run(model, out, "--class", "covering", "--metrics", "all", data=[str(folder)]) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("esv-jax:")]
    assert len(errors) == 1 and "broken" in errors[0]
    rows = rows_of(out)
    assert {row["uid"] for row in rows} == {path.stem for path in paths}
    of_videos = {
        name for name, metric in map_metrics.METRICS.items() if metric.takes.endswith("first")
    }
    assert {row["metric"] for row in rows} == of_videos  # without evidence
    network = ej.models.load_clip_model(model)
    index = ej.data.segment_centres(12, T)
    clip = network.prepare(ej.data.decode_frames(paths[0], indices=index))
    c = network.class_names.index("covering")
    own = methods.clip_map("gradient_x_input", network, clip, c)
    fn = jax.jit(lambda clips: jax.nn.softmax(jax.vmap(network.logits)(clips)))
    expected = ej.metrics.insertion(fn, clip, own, c, 2).auc
    first = next(row for row in rows if row["uid"] == paths[0].stem)
    assert float(first["score"]) == pytest.approx(float(expected), abs=1e-6)
    assert run(model, tmp_path, "--metrics", "mass", data=[str(folder)]) == 2
    error = capsys.readouterr().err
    assert "metrics: expected of videos, insertion, deletion, " in error and "'mass'" in error
    assert run(model, tmp_path, "--class", "label", data=[str(folder)]) == 2
    assert "Labels of videos are unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--methods", "lpr"], "methods: expected one of"),
        (["--metrics", "insert"], "metrics: expected one of"),
        (["--class", "covering up"], "class: expected a name or an id in 0..17"),
        (["--n-clips", "0"], "n_clips: expected an integer >= 1, got 0"),
        (["--limit", "0"], "limit: expected a number >= 1, got 0"),
        (["--steps", "0"], "steps: expected an integer >= 1, got 0"),
        (["--iterations", "0"], "iterations: expected an integer >= 1, got 0"),
        (["--seed", "-1"], "seed: expected an integer >= 0, got -1"),
        (["absent"], "absent: expected a video, a folder of videos or a list, got no such file"),
        (["--model", "absent.safetensors"], "absent.safetensors: expected a model written by"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, capsys, options, text):
    assert main(["evaluate", *options, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("esv-jax: ") and text in line
    assert not (tmp_path / "out").exists()


def test_help_names_all_methods_and_metrics(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    printed = capsys.readouterr().out.replace(",", " ").replace(";", " ").split()
    assert {*methods.METHODS, *map_metrics.METRICS} <= {*printed}
    assert {*Evaluate().methods} <= {*methods.METHODS}
