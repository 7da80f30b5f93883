"""The command line on videos: values, strips, overlays."""

import json
import shutil

import jax
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.cli import main
from esv_jax.cli.options import load_model
from esv_jax.data.inputs import is_video, open_videos
from esv_jax.models import backbones
from esv_jax.models.frame_encoder import FrameEncoder
from esv_jax.models.video_model import VideoModel, video_model_digest
from tests.conftest import drawn_variables

pytest.importorskip("av", reason="needs the video extra")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of three synthetic clips and a truncated one."""
    folder = tmp_path_factory.mktemp("videos")
    made = ej.data.synthetic_videos(3, key=jax.random.key(5), n_frames=20)
    paths = ej.data.synthetic_video.write_synthetic_videos(folder, made)
    content = paths[0].read_bytes()
    (folder / "broken.mp4").write_bytes(content[: len(content) // 2])
    return folder, made, paths


def test_a_folder_of_videos_with_one_that_is_broken(videos, tmp_path, capsys):
    folder, _, paths = videos
    out = tmp_path / "results"
    status = main(
        ["explain", str(folder), "--frames", "8", "--out", str(out), "--figures", "1"]
        + ["--overlay", "gif"]
    )
    printed = capsys.readouterr()
    assert status == 2  # of the broken one, and only of it
    errors = [line for line in printed.err.splitlines() if line.startswith("esv-jax:")]
    assert len(errors) == 1 and "broken" in errors[0]
    assert "trained on 18 synthetic classes" in printed.out
    assert "Results of 3 of 4 sequences" in printed.out
    model = ej.models.load_synthetic_world()
    index = ej.data.segment_centres(20, 8)
    with ej.results.open(out / "results.nc") as dataset:
        assert dataset.sizes["video"] == 3 and bool(dataset.exact.all())
        np.testing.assert_array_equal(dataset.element_index.values[0], index)
        settings = json.loads(dataset.attrs["settings"])
        assert settings["model_digest"] == video_model_digest(model)
        for path in paths:
            features = model.encoder(ej.data.decode_frames(path, 8))
            game = ej.MultiScale(model.trained.heads)
            wanted = ej.explain(game, features, prior=model.trained.prior).values
            row = dataset["esv"].sel(video=path.stem).values
            np.testing.assert_allclose(row, wanted, atol=1e-6)
    drawn = sorted(path.name for path in (out / "figures").iterdir())
    first = sorted(path.stem for path in paths)[0]
    assert drawn == [f"{first}.png", f"{first}_overlay.gif", f"{first}_strip.png"]
    assert ej.data.probe_video(out / "figures" / f"{first}_overlay.gif").frames == 20


@pytest.mark.slow
def test_all_frames_are_sampled_with_errors(videos, tmp_path):
    _, _, paths = videos
    short = tmp_path / "clip.mp4"
    ej.data.write_video(short, ej.data.decode_frames(paths[1], indices=np.arange(18).repeat(2)))
    out = tmp_path / "results"
    options = ["--frames", "all", "--overlay", "none", "--surrogate.pool", "128"]
    assert main(["explain", str(short), "--out", str(out), *options]) == 0
    with ej.results.open(out / "results.nc") as dataset:
        assert dataset.sizes["element"] == 36 and not bool(dataset.exact.any())
        assert float(np.abs(dataset.efficiency_gap).max()) < 1e-5
    assert not list((out / "figures").glob("*overlay*"))


@pytest.mark.slow
def test_the_demo_goes_from_video_files_to_pictures(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path), "--n-videos", "4"]) == 0
    out = capsys.readouterr().out
    assert "Explaining 8 frames of each exactly, of one video all 48 by sampling" in out
    ranked = float(out.split("ranks above one without in ")[1].split("%")[0])
    assert ranked > 60
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"videos", "results.nc", "esv_strip.png", "esv_overlay.mp4"}
    assert ej.data.probe_video(tmp_path / "all_frames_overlay.mp4").frames == 48
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 4


@pytest.mark.slow
def test_a_backbone_computes_features_for_imported_heads(videos, tmp_path):
    """A model on features and a backbone beside it explain a video."""
    _, _, paths = videos
    name = "resnet50"
    module = backbones.build_backbone(name, n_outputs=6)
    variables = drawn_variables(module, np.zeros((1, 224, 224, 3), np.float32))
    backbone = backbones.save_backbone(tmp_path / "b.safetensors", name, variables)
    rng = np.random.default_rng(0)
    heads = ej.models.stack_heads(
        [
            {
                "w1": rng.normal(size=(6 * s, 4)),
                "b1": np.zeros(4),
                "w2": rng.normal(size=(4, 3)),
                "b2": np.zeros(3),
            }
            for s in (1, 2)
        ]
    )
    trained = ej.models.TrainedModel(heads, np.full(3, 1 / 3), ("a", "b", "c"))
    model = ej.models.save_model(tmp_path / "m.safetensors", trained)
    out = tmp_path / "results"
    options = ["--model", str(model), "--backbone", str(backbone), "--frames", "3"]
    status = main(["explain", str(paths[0]), *options, "--out", str(out), "--figures", "0"])
    assert status == 0
    with ej.results.open(out / "results.nc") as dataset:
        assert dataset.sizes["element"] == 3 and list(dataset["class"].values) == ["a", "b", "c"]
        values = dataset["esv"].values
    encoder = FrameEncoder(name, {"n_outputs": 6}, variables)
    one_file = ej.models.save_video_model(tmp_path / "v.safetensors", VideoModel(encoder, trained))
    again = ["--model", str(one_file), "--frames", "3", "--out", str(tmp_path / "again")]
    assert main(["explain", str(paths[0]), *again, "--figures", "0"]) == 0
    with ej.results.open(tmp_path / "again" / "results.nc") as dataset:
        np.testing.assert_allclose(dataset["esv"].values, values, atol=1e-5)


def test_messages(videos, tmp_path, capsys):
    _, _, paths = videos
    rng = np.random.default_rng(0)
    head = {"w1": rng.normal(size=(6, 4)), "b1": np.zeros(4)}
    head |= {"w2": rng.normal(size=(4, 3)), "b2": np.zeros(3)}
    trained = ej.models.TrainedModel(
        ej.models.stack_heads([head]), np.full(3, 1 / 3), ("a", "b", "c")
    )
    model = ej.models.save_model(tmp_path / "m.safetensors", trained)
    with pytest.raises(
        ValueError, match=r"model: expected one that takes frames, got .*--backbone"
    ):
        load_model(model, None, videos=True)
    with pytest.raises(
        ValueError, match=r"model: expected a file of weights \(--model\), got none"
    ):
        load_model(None, None, videos=False)
    with pytest.raises(ValueError, match="backbone: expected a --model beside it, got none"):
        load_model(None, tmp_path / "b.pth", videos=True)
    video_model = ej.models.save_video_model(
        tmp_path / "v.safetensors", ej.models.load_synthetic_world()
    )
    assert load_model(video_model, None, videos=True).encoder is not None
    with pytest.raises(ValueError, match="backbone: expected none beside a model with an encoder"):
        load_model(video_model, tmp_path / "b.pth", videos=True)
    assert is_video(paths[0]) and is_video(tmp_path)
    with pytest.raises(ValueError, match=r"data: expected videos or a .* got no such file"):
        is_video(tmp_path / "nothing.mp4")
    with pytest.raises(FileNotFoundError, match=r"nowhere.mp4: expected a video.*got no such file"):
        open_videos(tmp_path / "nowhere.mp4", len)
    sound = tmp_path / "text.mp4"
    sound.write_text("not a video")
    assert main(["explain", str(sound), "--out", str(tmp_path / "r")]) == 2
    assert "text.mp4" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "r", ignore_errors=True)
