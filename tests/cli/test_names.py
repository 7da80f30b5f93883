"""Names of files: distinct and valid for uids of any length and characters."""

import csv
import re

import numpy as np
import pytest

import esv_jax as ej
from esv_jax.cli import main
from esv_jax.cli.options import file_name
from esv_jax.results.volumes import open_volumes
from tests.clips_for_tests import tiny_network
from tests.games_for_tests import as_float32, random_heads

LONG = ("a" * 299 + "b", "a" * 300, "ვიდეო" * 60, "ვიდეო 1" * 20)  # letters of three bytes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Sequences of long names, and a model of their features."""
    folder = tmp_path_factory.mktemp("names")
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(4, 4, 3)).astype(np.float32)
    rows = [(uid, x, {"action": 1}) for uid, x in zip(LONG, xs, strict=True)]
    ej.data.write_features(folder / "long.hdf", rows, 3)
    heads = ej.models.stack_heads(as_float32(random_heads(rng, 3, c=3)))
    model = ej.models.TrainedModel(heads, np.full(3, 1 / 3), ("still", "walk", "run"))
    ej.models.save_model(folder / "m.safetensors", model)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A list that gives two clips long names, and a tiny network."""
    pytest.importorskip("av", reason="needs the video extra")
    folder = tmp_path_factory.mktemp("clips")
    made = ej.data.synthetic_videos(2, seed=5, n_frames=8)
    paths = ej.data.synthetic_video.write_synthetic_videos(folder, made)
    with open(folder / "list.csv", "w", encoding="utf-8", newline="") as file:
        rows = [(path.name, uid) for path, uid in zip(paths, LONG[1:3], strict=True)]
        csv.writer(file).writerows([("path", "uid"), *rows])
    ej.models.save_clip_model(folder / "m.safetensors", tiny_network(("left", "right", "up")))
    return folder


def test_file_names_of_uids():
    for uid in ("clip-1_a.b", "ü", "x" * 120):
        assert file_name(uid) == uid
    for uid, start in {"a b/ü$": "a_b_ü_", "..": "_..", "": "_", "a b": "a_b"}.items():
        assert re.fullmatch(rf"{start}-[0-9a-f]{{8}}", file_name(uid))
    assert len({file_name(uid) for uid in ("a b", "a_b", "a/b", "a\\b", "a?b")}) == 5
    names = [file_name(uid) for uid in LONG]
    assert len(set(names)) == len(LONG)
    for uid, name in zip(LONG, names, strict=True):
        assert re.fullmatch(r"\w{34,}-[0-9a-f]{8}", name), name
        assert uid.replace(" ", "_").startswith(name[:-9]) and len(name.encode()) <= 120
    assert file_name(LONG[0][:150]) != file_name(LONG[1][:151])  # one beginning, other lengths
    assert len(file_name("𝄞𐌰" * 80).encode()) <= 120  # four bytes a letter
    assert file_name("\udcff" * 300) != file_name("\udcfe" * 300)


def test_explain_sweep_and_report(store, tmp_path, capsys):
    model = ["--model", str(store / "m.safetensors")]
    out = tmp_path / "explained"
    assert main(["explain", str(store / "long.hdf"), *model, "--out", str(out)]) == 0
    figures = {path.name for path in (out / "figures").iterdir()}
    assert figures == {f"{file_name(uid)}.png" for uid in LONG}
    with open(out / "table.csv", encoding="utf-8", newline="") as file:
        assert {row["uid"] for row in csv.DictReader(file)} == set(LONG)
    assert main(["sweep", str(store / "long.hdf"), *model, "--out", str(tmp_path / "swept")]) == 0
    for results in (out, tmp_path / "swept"):
        with ej.results.open(results) as dataset:
            assert set(dataset["video"].values) == set(LONG)
        page = tmp_path / f"{results.name}.html"
        assert main(["report", str(results), "--out", str(page), "--uids", LONG[3]]) == 0
        assert LONG[3] in page.read_text("utf-8")
        assert main(["results", str(results), "--csv", str(page.with_suffix(".csv"))]) == 0
        assert LONG[2] in page.with_suffix(".csv").read_text("utf-8")


@pytest.mark.slow  # two commands
def test_relevance_and_perturb(clips, tmp_path, capsys):
    data = [str(clips / "list.csv"), "--model", str(clips / "m.safetensors")]
    out = tmp_path / "relevance"
    assert main(["relevance", *data, "--overlay", "gif", "--out", str(out)]) == 0
    names = [file_name(uid) for uid in LONG[1:3]]
    ends = (".nc", "_strip.png", "_overlay.gif")
    written = {path.name for path in out.iterdir()}
    assert written == {name + end for name in names for end in ends} | {"relevance.csv"}
    with open_volumes(out / f"{names[0]}.nc") as volumes:
        assert volumes.attrs["uid"] == LONG[1]
    assert main(["relevance", *data, "--out", str(out)]) == 2
    assert "Add --overwrite" in capsys.readouterr().err

    out = tmp_path / "perturb"
    options = ["--areas", "0.1", "--iterations", "2", "--out", str(out)]
    assert main(["perturb", *data, "--overlay", "mp4", *options]) == 0
    ends = (".nc", "_trace.csv", "_strip.png", "_trace.png", "_overlay.mp4", "_perturbed.mp4")
    written = {path.name for path in out.iterdir()}
    assert written == {name + end for name in names for end in ends} | {"perturbation.csv"}
    with open(out / "perturbation.csv", encoding="utf-8", newline="") as file:
        assert {row["uid"] for row in csv.DictReader(file)} == set(LONG[1:3])


def test_evaluate(clips, tmp_path):
    options = ["--methods", "random", "--steps", "2", "--out", str(tmp_path)]
    data = [str(clips / "list.csv"), "--model", str(clips / "m.safetensors")]
    assert main(["evaluate", *data, *options]) == 0
    with open(tmp_path / "evaluation.csv", encoding="utf-8", newline="") as file:
        assert {row["uid"] for row in csv.DictReader(file)} == set(LONG[1:3])


def test_explain_videos(clips, tmp_path):
    options = ["--frames", "4", "--overlay", "gif", "--out", str(tmp_path)]
    assert main(["explain", str(clips / "list.csv"), *options]) == 0
    names = [file_name(uid) for uid in LONG[1:3]]
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {n + end for n in names for end in (".png", "_strip.png", "_overlay.gif")}
