"""A miniature project of play-fair, end to end: its checkpoints, frames and ESVs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import esv_jax as ej
from esv_jax import checkpoints
from esv_jax.checkpoints.archives import read_torch
from esv_jax.cli import main
from esv_jax.games.multi_scale import make_game
from esv_jax.models.heads import TsnHead, unstack_heads
from esv_jax.models.trained import model_digest
from tests.conftest import FIXTURES

PROJECT = FIXTURES / "play_fair_project"
FEATURES = "checkpoints/features"
MODEL_OF = {"trn": "mtrn", "tsn": "tsn"}


@pytest.fixture(scope="module")
def expected():
    with np.load(PROJECT / "expected.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def model_of():
    return {kind: checkpoints.import_play_fair(PROJECT, MODEL_OF[kind]) for kind in MODEL_OF}


@pytest.fixture
def project(tmp_path):
    """A copy to spoil."""
    shutil.copytree(PROJECT, tmp_path / "project", copy_function=shutil.copyfile)
    return tmp_path / "project"


def flat(project, folder, names):
    """Some files of a project in one folder."""
    folder.mkdir()
    for name in names:
        shutil.copyfile(next(project.rglob(name)), folder / name)
    return folder


# What is read


@pytest.mark.parametrize("s", [1, 2, 3, 4])
def test_tensors_of_the_heads(s, expected):
    arrays = ej.checkpoints.load_torch(PROJECT / FEATURES / f"trn_{s}_frames.pth")
    assert list(arrays) == ["model.1.weight", "model.1.bias", "model.3.weight", "model.3.bias"]
    for array, name in zip(arrays.values(), ("W1", "b1", "W2", "b2"), strict=True):
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
        np.testing.assert_array_equal(array.T, expected[f"trn{s}_{name}"])


@pytest.mark.parametrize("name", ["tsn", "tsn_legacy"])
def test_tensors_of_both_layouts(name, expected):
    found = read_torch(PROJECT / FEATURES / f"{name}.pth")
    assert found.layout == ("legacy" if "legacy" in name else "zip")
    assert (found.found_under, found.ignored) == ("state_dict", ())
    assert list(found.arrays) == ["classifier.weight", "classifier.bias"]
    np.testing.assert_array_equal(found.arrays["classifier.weight"].T, expected["tsn_W"])
    np.testing.assert_array_equal(found.arrays["classifier.bias"], expected["tsn_b"])


@pytest.mark.parametrize("kind", ["trn", "tsn"])
def test_result_pickles(kind, expected):
    results = checkpoints.load_pickle(PROJECT / f"{MODEL_OF[kind]}-esv-n_frames=4.pkl")
    arrays = {"scores": "scores", "shapley_values": "esvs"}
    same = ("uids", "labels", "sequence_idxs", "sequence_lengths")
    for name, stored in (arrays | {name: name for name in same}).items():
        wanted = expected[f"{kind}_n4_{stored}"]
        assert results[name].dtype == wanted.dtype
        np.testing.assert_array_equal(results[name], wanted)
    assert results["priors"].dtype == np.float64
    np.testing.assert_allclose(results["priors"], expected["class_priors"], rtol=1e-15)
    assert len(results) == 7


def test_the_model_holds_the_tensors_priors_and_names(model_of, expected):
    heads = unstack_heads(model_of["trn"].heads)
    assert len(heads) == 4
    for s, head in enumerate(heads, start=1):
        for ours, theirs in (("w1", "W1"), ("b1", "b1"), ("w2", "W2"), ("b2", "b2")):
            np.testing.assert_array_equal(head[ours], expected[f"trn{s}_{theirs}"])
        assert head["hidden"] == []
    assert not model_of["trn"].heads.input_relu
    tsn = model_of["tsn"].heads
    np.testing.assert_array_equal(tsn.w, expected["tsn_W"])
    np.testing.assert_array_equal(tsn.b, expected["tsn_b"])
    assert tsn.input_relu
    for model in model_of.values():
        np.testing.assert_allclose(model.prior, expected["class_priors"], rtol=1e-15)
        assert model.class_names == tuple(expected["class_names"].tolist())
        assert model.history is None and model.config is None


# End to end


@pytest.mark.parametrize("kind", ["trn", "tsn"])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_frames_scores_and_esvs(kind, n, model_of, expected):
    model = model_of[kind]
    game = make_game(model.heads)
    row = 0
    with ej.data.FeatureStore(PROJECT / f"{kind}.hdf") as store:
        for uid in store:
            features, labels = store[uid]
            if len(features) < n:
                continue
            wanted = {
                name: expected[f"{kind}_n{n}_{name}"][row]
                for name in ("uids", "labels", "sequence_idxs", "sequence_lengths")
            }
            index = ej.data.segment_centres(len(features), n)
            assert (uid, labels["action"]) == (wanted["uids"], wanted["labels"])
            assert len(features) == wanted["sequence_lengths"]
            np.testing.assert_array_equal(index, wanted["sequence_idxs"])
            att = ej.explain(game, features[index], prior=model.prior)
            assert att.exact
            scores, esvs = expected[f"{kind}_n{n}_scores"], expected[f"{kind}_n{n}_esvs"]
            np.testing.assert_allclose(att.scores, scores[row], rtol=0, atol=1e-6)
            np.testing.assert_allclose(att.values, esvs[row], rtol=0, atol=1e-6)
            row += 1
    assert row == len(expected[f"{kind}_n{n}_uids"])


def test_torch_is_not_needed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from esv_jax.checkpoints import import_play_fair\n"
        f"import_play_fair({str(PROJECT)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT.parents[2])


# Which files


def test_a_checkpoint_folder_finds_its_project(model_of):
    for folder in (FEATURES, "checkpoints"):
        model = checkpoints.import_play_fair(PROJECT / folder)
        assert model_digest(model) == model_digest(model_of["trn"])
        assert model.class_names == model_of["trn"].class_names


def test_one_flat_folder_without_names(tmp_path):
    names = ["tsn.pth", "class-priors.csv"]
    model = checkpoints.import_play_fair(flat(PROJECT, tmp_path / "flat", names))
    assert isinstance(model.heads, TsnHead)
    assert model.class_names[:3] == ("0", "1", "2")


def test_counts_as_priors_and_explicit_paths(tmp_path):
    folder = flat(PROJECT, tmp_path / "flat", ["trn_1_frames.pth"])
    counts = "\n".join(["class,count", *(f"{c},{c}" for c in range(174))])
    (folder / "train-action-counts.csv").write_text(counts)
    classes = PROJECT / "metadata" / "classes.csv"
    model = checkpoints.import_play_fair(folder, classes=classes)
    np.testing.assert_allclose(model.prior, np.arange(174) / (173 * 87))
    assert model.class_names[0] != "0" and model.heads.n_max == 1
    priors = PROJECT / "datasets" / "ssv2" / "class-priors.csv"
    model = checkpoints.import_play_fair(folder, priors=priors)
    np.testing.assert_array_equal(model.prior, ej.data.classes.read_class_priors(priors))


def test_fewer_scales(expected):
    found = checkpoints.read_play_fair(PROJECT, n_max=2)
    assert found.model.heads.n_max == found.report.sizes["n_max"] == 2
    head = unstack_heads(found.model.heads)[1]
    np.testing.assert_array_equal(head["w1"], expected["trn2_W1"])


def test_a_missing_scale(project):
    (project / FEATURES / "trn_3_frames.pth").unlink()
    wanted = r"trn_3_frames\.pth: expected .* scale 1\.\.4, got only trn_1.*trn_2.*trn_4.*tsn\.pth"
    with pytest.raises(ValueError, match=wanted + r".*n_max=.*model='tsn'"):
        checkpoints.import_play_fair(project)
    assert checkpoints.import_play_fair(project, n_max=2).heads.n_max == 2
    assert isinstance(checkpoints.import_play_fair(project, "tsn").heads, TsnHead)
    with pytest.raises(ValueError, match=r"trn_3_frames\.pth"):
        checkpoints.import_play_fair(project, n_max=5)


def test_a_head_of_another_scale(project):
    folder = project / FEATURES
    shutil.copyfile(folder / "trn_4_frames.pth", folder / "trn_3_frames.pth")
    said = r"trn_3_frames\.pth: .*\(32, 96\) at scale 3.*\(32, 128\)"
    with pytest.raises(ValueError, match=said):
        checkpoints.import_play_fair(project)


def test_a_head_of_another_kind(project):
    folder = project / FEATURES
    shutil.copyfile(folder / "tsn.pth", folder / "trn_2_frames.pth")
    with pytest.raises(ValueError, match=r"trn_2_frames\.pth: .*model\.<i>.*classifier\.weight"):
        checkpoints.import_play_fair(project)
    shutil.copyfile(folder / "trn_1_frames.pth", folder / "tsn.pth")
    with pytest.raises(ValueError, match=r"tsn\.pth: .*classifier\.weight.*model\.1\.weight"):
        checkpoints.import_play_fair(project, "tsn")


@pytest.mark.parametrize(
    ("table", "header"),
    [("datasets/ssv2/class-priors.csv", "class,count"), ("metadata/classes.csv", "name,id")],
)
def test_another_number_of_classes(project, table, header):
    rows = ["a,0", "b,1"] if header == "name,id" else ["0,1", "1,2"]
    (project / table).write_text("\n".join([header, *rows]))
    name = Path(table).name
    with pytest.raises(ValueError, match=rf"{name}: expected 174 classes, as .*trn_1.*, got 2"):
        checkpoints.import_play_fair(project)


def test_missing_files(project, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checkpoints.import_play_fair(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: expected trn_<s>_frames\.pth.*got nothing"):
        checkpoints.import_play_fair(tmp_path / "empty")
    (project / "datasets" / "ssv2" / "class-priors.csv").unlink()
    with pytest.raises(ValueError, match=r"class-priors\.csv: expected class priors.*priors="):
        checkpoints.import_play_fair(project)
    for other in ("a", "b"):
        (project / "datasets" / other).mkdir()
        (project / "datasets" / other / "class-priors.csv").write_text("class,prior\n0,1\n")
    with pytest.raises(ValueError, match=r"one class-priors\.csv.*datasets/a/.*datasets/b/"):
        checkpoints.import_play_fair(project)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'mtrn'"):
        checkpoints.import_play_fair(PROJECT, "trn")
    with pytest.raises(ValueError, match="n_max"):
        checkpoints.import_play_fair(PROJECT, "tsn", n_max=2)
    with pytest.raises(ValueError, match="n_max"):
        checkpoints.import_play_fair(PROJECT, n_max=0)


# The report


def test_the_report_lists_the_files():
    found = checkpoints.read_play_fair(PROJECT)
    report = found.report
    roles = {record.path: record.role for record in report.files}
    assert roles[f"{FEATURES}/trn_2_frames.pth"] == "head of scale 2"
    assert roles[f"{FEATURES}/tsn.pth"] == "not used"
    assert roles["metadata/classes.csv"] == "class names"
    assert all(len(record.digest) == 64 for record in report.files)
    assert report.sizes == {"n_max": 4, "D": 32, "C": 174, "H": 32}
    assert set(report.parity) == {f"scale {s}" for s in range(1, 5)}
    assert report.faithful and 0 < max(report.parity.values()) < 1e-6
    read_again = json.loads(json.dumps(report.to_json()))
    assert read_again["files"][0]["used"][0] == "model.1.weight"


# The command


def test_the_command(tmp_path, capsys, expected):
    out, report = tmp_path / "new" / "mtrn.safetensors", tmp_path / "report.json"
    results = [f"--results={PROJECT}/mtrn-esv-n_frames=4.pkl", f"--features={PROJECT}/trn.hdf"]
    arguments = [str(PROJECT), "--out", str(out), "--report", str(report), *results]
    assert main(["import-play-fair", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "head of scale 4" in shown and "MTRN, n_max = 4" in shown and str(out) in shown
    model = ej.models.load_model(out)
    np.testing.assert_array_equal(model.heads.w1[0, 0], expected["trn1_W1"])
    assert model.class_names == tuple(expected["class_names"].tolist())
    content = json.loads(report.read_text())
    assert content["model_digest"] == model_digest(model)
    assert 0 <= max(content["results"].values()) <= 1e-6


def test_the_help_of_the_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["import-play-fair", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "Example: esv-jax import-play-fair" in out and "(default: model.safetensors)" in out


def test_the_command_reports_disagreement(tmp_path, capsys):
    out = tmp_path / "tsn.safetensors"
    results = [f"--results={PROJECT}/tsn-esv-n_frames=4.pkl", f"--features={PROJECT}/trn.hdf"]
    arguments = [str(PROJECT), "--model=tsn", f"--out={out}", *results]
    assert main(["import-play-fair", *arguments]) == 1
    assert "do not use" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--results=x.pkl"], "both or none"),
        (["--model=tsn", "--n-max=2"], "n_max"),
        ([f"--results={PROJECT}/README.md", f"--features={PROJECT}/trn.hdf"], "README.md"),
    ],
)
def test_the_command_refuses(options, said, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert main(["import-play-fair", str(PROJECT), f"--out={out}", *options]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
