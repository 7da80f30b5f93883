"""`esv-jax relevance`: from video files to volumes, pictures and numbers."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax import relevance as rules
from esv_jax.cli import main
from esv_jax.models.clip_model import clip_model_digest
from esv_jax.results.volumes import open_volumes
from tests.clips_for_tests import tiny_network

pytest.importorskip("av", reason="needs the video extra")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two synthetic clips, a truncated one, one with too few frames."""
    folder = tmp_path_factory.mktemp("videos")
    made = ej.data.synthetic_videos(2, seed=5, n_frames=20)
    paths = ej.data.synthetic_video.write_synthetic_videos(folder, made)
    content = paths[0].read_bytes()
    (folder / "broken.mp4").write_bytes(content[: len(content) // 2])
    ej.data.write_video(folder / "few.mp4", list(made.clips[0][:9]), 12)
    return folder, paths


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("lrp", marks=pytest.mark.slow),  # a part of the next
        "selective",
        pytest.param("discriminative", marks=pytest.mark.slow),
    ],
)
def test_files_hold_the_results_of_the_functions(videos, tmp_path, capsys, method):
    _, paths = videos
    options = ["--method", method, "--overlay", "gif", "--out", str(tmp_path)]
    options += ["--sigma", "1"] * (method == "selective")
    assert main(["relevance", str(paths[0]), *options]) == 0
    printed = capsys.readouterr().out
    assert "trained on 18 synthetic classes" in printed and f"Relevance ({method})" in printed
    model = ej.models.load_synthetic_clips()
    index = ej.data.segment_centres(20, 16)
    clip = model.prepare(ej.data.decode_frames(paths[0], indices=index))
    logits = jax.jit(model.logits)(clip)
    c = int(logits.argmax())
    composite = rules.preset("epsilon_plus", *model.bounds)
    whole = jax.jit(lambda clip: rules.lrp(model.logits, clip, c, composite=composite))(clip)
    if method == "discriminative":
        found = rules.discriminative(model.logits, clip, c, composite=composite)
        wanted = {"spatial": found.spatial, "temporal": found.temporal}
    elif method == "selective":
        wanted = {"relevance": whole, "motion": rules.selective(whole, 1.0)}
    else:
        wanted = {"relevance": whole}
    uid = paths[0].stem
    with open_volumes(tmp_path / f"{uid}.nc") as dataset:
        assert list(dataset.part.values) == list(wanted)
        np.testing.assert_array_equal(dataset.frame_index, index)
        for name, volume in wanted.items():
            row = dataset["relevance"].sel(part=name)
            atol = 1e-4 * float(jnp.abs(whole.sum(-1)).max())
            if name == "motion":  # places at the threshold may fall on either side
                near = np.isclose(row, volume.sum(-1), atol=atol).mean()
                assert near > 0.999
                continue
            np.testing.assert_allclose(row, volume.sum(-1), atol=atol)
            sums = dataset["by_frame"].sel(part=name)
            np.testing.assert_allclose(sums, row.sum(("y", "x")), atol=1e-4)
        assert dataset.attrs["class_name"] == model.class_names[c]
        assert dataset.attrs["score"] == pytest.approx(float(logits[c]), rel=1e-4)
        settings = json.loads(dataset.attrs["settings"])
        assert settings["model_digest"] == clip_model_digest(model)
        stored = dataset["by_frame"].values
    with (tmp_path / "relevance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["uid"] for row in rows] == [uid] * 16
    table = [[float(row[name]) for row in rows] for name in wanted]
    np.testing.assert_allclose(table, stored, atol=1e-4)
    assert ej.data.probe_video(tmp_path / f"{uid}_overlay.gif").frames == 16
    assert (tmp_path / f"{uid}_strip.png").stat().st_size > 1000


def test_a_failing_video_does_not_stop_the_others(videos, tmp_path, capsys):
    folder, paths = videos
    options = ["--class", "covering", "--overlay", "none", "--out", str(tmp_path)]
    assert main(["relevance", str(folder), *options]) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("esv-jax:")]
    assert len(errors) == 2 and "broken" in errors[0]
    assert "few.mp4: expected at least 16 frames, for the network, got 9" in errors[1]
    assert "Relevance of 2 videos" in printed.out
    for path in paths:
        with open_volumes(tmp_path / f"{path.stem}.nc") as dataset:
            assert dataset.attrs["class_name"] == "covering"


def test_other_models_and_names(videos, tmp_path):
    _, paths = videos
    model = tiny_network(("a", "b"), seed=0)
    path = ej.models.save_clip_model(tmp_path / "m.safetensors", model)
    classes = tmp_path / "classes.csv"
    classes.write_text("name,id\nleft,0\nright,1\n")
    options = ["--model", str(path), "--classes", str(classes), "--class", "right"]
    out = tmp_path / "out"
    args = ["relevance", str(paths[1]), *options, "--overlay", "none", "--out", str(out)]
    assert main(args) == 0
    with open_volumes(out / f"{paths[1].stem}.nc") as dataset:
        assert dataset.attrs["class_name"] == "right" and dataset.sizes["frame"] == 8
    assert main(args) == 2  # nothing is replaced unasked
    assert main([*args, "--overwrite", "--composite", "cplrp"]) == 0
    clip = model.prepare(ej.data.decode_frames(paths[1], indices=ej.data.segment_centres(20, 8)))
    found = rules.lrp(model.logits, clip, 1, composite=rules.preset("cplrp", *model.bounds))
    with open_volumes(out / f"{paths[1].stem}.nc") as dataset:
        np.testing.assert_allclose(dataset.relevance[0], found.sum(-1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--class", "covering up"], "class: expected a name or an id in 0..17"),
        (["--method", "selective", "--sigma", "-1"], "sigma: expected a number >= 0"),
        (["--sigma", "1"], "sigma: expected none beside lrp, got 1.0"),
        (["--method", "selective", "--scale", "clip"], "scale: expected none beside selective"),
        (["--model", "absent.safetensors"], "absent.safetensors: expected a model written by"),
        (["--model", "absent.pth"], "absent.pth"),
    ],
)
def test_bad_input_is_one_line_and_code_2(videos, tmp_path, capsys, options, text):
    _, paths = videos
    assert main(["relevance", str(paths[0]), *options, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and text in lines[0]


def test_a_foreign_file_is_named_once(videos, tmp_path, capsys):
    _, paths = videos
    wrong = tmp_path / "weights.pth"
    wrong.write_bytes(b"no weights")
    args = ["relevance", str(paths[0]), "--model", str(wrong), "--out", str(tmp_path / "out")]
    assert main(args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"esv-jax: {wrong}: expected a torch checkpoint")


def test_volumes_are_checked(tmp_path, rng):
    path = tmp_path / "v.nc"
    volume = rng.normal(size=(3, 4, 5)).astype(np.float32)
    save = ej.results.volumes.save_volumes
    assert save(path, {"a": volume}, settings={"k": 1}, uid="clip") == path
    with open_volumes(path) as dataset:
        np.testing.assert_array_equal(dataset.relevance.sel(part="a"), volume)
        np.testing.assert_array_equal(dataset.frame_index, [0, 1, 2])
        assert dataset.attrs["uid"] == "clip"
    with pytest.raises(FileExistsError):
        save(path, {"a": volume})
    with pytest.raises(ValueError, match="parts: expected at least one volume"):
        save(path, {}, overwrite=True)
    with pytest.raises(ValueError, match=r"b: expected \(3, 4, 5\) as the first part"):
        save(path, {"a": volume, "b": volume[:2]}, overwrite=True)
    with pytest.raises(ValueError, match="a: expected finite values"):
        save(path, {"a": np.full((3, 4, 5), np.inf)}, overwrite=True)
    with pytest.raises(ValueError, match="frame_index: expected 3 frame numbers"):
        save(path, {"a": volume}, frame_index=[1], overwrite=True)
    with pytest.raises(TypeError, match="settings: expected what JSON can hold"):
        save(path, {"a": volume}, settings={"k": object()}, overwrite=True)
    with pytest.raises(ValueError, match=r"a file written by results\.save "):
        ej.results.open(path)
    with pytest.raises(ValueError, match=r"a file written by results\.save_volumes .* no such"):
        open_volumes(tmp_path / "absent.nc")
