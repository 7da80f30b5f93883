"""`esv-jax perturb`: from video files to masks, pictures and numbers."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.cli import main
from esv_jax.maps.networks import probabilities
from esv_jax.models.clip_model import clip_model_digest
from esv_jax.perturbation import Core, Masking, perturb, pyramid
from esv_jax.results.volumes import open_volumes
from tests.clips_for_tests import tiny_network

pytest.importorskip("av", reason="needs the video extra")

T = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips, a truncated one, one with too few frames, and a tiny network."""
    folder = tmp_path_factory.mktemp("videos")
    made = ej.data.synthetic_videos(2, seed=5, n_frames=12)
    for name, clip in zip("ab", made.clips, strict=True):
        ej.data.write_video(folder / f"{name}.mp4", clip, 12)
    content = (folder / "a.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(content[: len(content) // 2])
    ej.data.write_video(folder / "few.mp4", list(made.clips[0][:5]), 12)
    ej.models.save_clip_model(folder / "m.safetensors", tiny_network(("left", "right", "up")))
    return folder


class Spy:
    """`step` that records its arguments and results, and can be made to fail."""

    def __init__(self, step):
        self.step, self.calls, self.results = step, [], []

    def __call__(self, fn, clip, target, **options):
        self.calls.append((clip, int(target), options))
        if len(self.results) < len(self.calls):
            self.results.append(self.step(fn, clip, target, **options))
        return self.results[len(self.calls) - 1]


@pytest.fixture
def spy(monkeypatch):
    spy = Spy(ej.perturbation.step)
    monkeypatch.setattr(ej.perturbation, "step", spy)
    return spy


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """One run on all videos with two areas: exit code, folder, arguments of `step`."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(ej.perturbation.step)
        patch.setattr(ej.perturbation, "step", spy)
        options = ["--areas", "0.1", "0.3", "--iterations", "4", "--out", str(out)]
        code = main(["perturb", str(folder), "--model", str(folder / "m.safetensors"), *options])
    return code, out, spy


def pyramid_of(clip, masking):
    m = masking
    return pyramid(clip, m.perturbation, m.levels, m.max_blur, m.edge)


def errors_of(capsys) -> list[str]:
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith("esv-jax:")]


def test_files_hold_the_results_of_step(folder, run):
    _, out, spy = run
    model = ej.models.load_clip_model(folder / "m.safetensors")
    fn = probabilities(model)
    assert len(spy.results) == 2
    for name, (clip, target, options), result in zip("ab", spy.calls, spy.results, strict=True):
        index = ej.data.segment_centres(12, T)
        wanted = model.prepare(ej.data.decode_frames(folder / f"{name}.mp4", indices=index))
        np.testing.assert_array_equal(clip, wanted)
        p = fn(clip[None])[0]
        assert target == int(p.argmax())
        assert options["areas"] == (0.1, 0.3) and options["mode"] == "preserve"
        assert options["masking"] == Masking() and options["core"] is None
        assert "dropout" not in options
        key = ej.video_key(jax.random.key(0), name)
        assert jax.random.key_data(options["key"]).tolist() == jax.random.key_data(key).tolist()
        with open_volumes(out / f"{name}.nc") as dataset:
            assert list(dataset.part.values) == ["saliency", "area 0.1", "area 0.3"]
            assert dataset.attrs["title"] == "Masks of a clip"
            assert dataset.relevance.attrs["long_name"].startswith("mask of a pixel")
            stored = dataset.relevance.values
            np.testing.assert_array_equal(dataset.frame_index, index)
            np.testing.assert_array_equal(stored[1:], result.masks)
            np.testing.assert_array_equal(stored[0], result.saliency)
            assert dataset.attrs["class_name"] == model.class_names[target]
            assert dataset.attrs["mode"] == "preserve"
            np.testing.assert_array_equal(dataset.attrs["areas"], [0.1, 0.3])
            np.testing.assert_allclose(dataset.attrs["energies"], result.energy[:, -1])
            assert dataset.attrs["score"] == pytest.approx(float(p[target]), rel=1e-5)
            masked = perturb(pyramid_of(clip, options["masking"]), stored[2])
            kept = float(fn(masked[None])[0, target])  # from the file alone
            assert dataset.attrs["probabilities"][1] == pytest.approx(kept, rel=1e-4)
            settings = json.loads(dataset.attrs["settings"])
            assert settings["command"] == "perturb" and settings["iterations"] == 4
            assert settings["model_digest"] == clip_model_digest(model)


def test_traces_pictures_and_the_table(run):
    _, out, spy = run
    with (out / "perturbation.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["uid"], row["area"]) for row in table] == [
        (uid, area) for uid in "ab" for area in ("0.1", "0.3")
    ]
    for uid, result, rows in zip("ab", spy.results, (table[:2], table[2:]), strict=True):
        for k, row in enumerate(rows):
            mask = np.asarray(result.masks[k])
            assert float(row["probability"]) == pytest.approx(float(result.probability[k]))
            assert float(row["share_above_half"]) == pytest.approx((mask > 0.5).mean())
            top = ej.data.segment_centres(12, T)[mask.sum((1, 2)).argmax()]
            assert int(row["top_frame"]) == top and row["failed_at"] == "-1"
        with (out / f"{uid}_trace.csv").open() as file:
            trace = list(csv.DictReader(file))
        assert [int(row["iteration"]) for row in trace] == [0, 1, 2, 3] * 2
        assert [float(row["area"]) for row in trace] == [0.1] * 4 + [0.3] * 4
        for name in ("energy", "reward"):
            values = [float(row[name]) for row in trace]
            np.testing.assert_allclose(values, getattr(result, name).ravel(), rtol=1e-5)
        for name in ("strip", "trace"):
            assert (out / f"{uid}_{name}.png").stat().st_size > 1000
        for name, width in (("overlay", 3 * 64 + 2 * 4), ("perturbed", 2 * 64 + 4)):
            info = ej.data.probe_video(out / f"{uid}_{name}.mp4")
            assert info.frames == T and info.width == 4 * width


def test_the_perturbed_video_shows_the_network_input(folder, run):
    _, out, spy = run
    model = ej.models.load_clip_model(folder / "m.safetensors")
    clip, _, options = spy.calls[0]
    shown = ej.data.decode_frames(out / "a_perturbed.mp4", n=None)[:, 2::4, 2::4].astype(int)
    levels = pyramid_of(clip, options["masking"])
    wanted = model.pictures(perturb(levels, spy.results[0].masks[1]))
    assert np.abs(shown[:, :, 68:132] - wanted).mean() < 6  # of 255; compression blurs edges
    assert np.abs(shown[:, :, :64] - wanted).mean() > np.abs(shown[:, :, 68:132] - wanted).mean()


def test_pictures_of_prepared_clips_are_those_of_the_model(folder):
    model = ej.models.load_clip_model(folder / "m.safetensors")
    frames = ej.data.decode_frames(folder / "a.mp4", n=T)
    found = model.pictures(model.prepare(frames))
    np.testing.assert_array_equal(found, model.shown(frames))


def test_a_failing_video_does_not_stop_the_others(folder, spy, run, tmp_path, capsys):
    assert run[0] == 2
    spy.results = run[2].results
    model = str(folder / "m.safetensors")
    args = ["perturb", str(folder), "--model", model, "--out", str(tmp_path), "--overlay", "none"]
    options = ["--areas", "0.1", "0.3", "--class", "up"]
    assert main([*args, *options]) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("esv-jax:")]
    assert len(errors) == 2 and "broken" in errors[0]
    assert "few.mp4: expected at least 8 frames, for the network, got 5" in errors[1]
    assert "Masks (preserve)" in printed.out and "Masks of 2 videos" in printed.out
    assert [call[1] for call in spy.calls] == [2, 2]
    assert main([*args, *options]) == 2  # nothing is replaced unasked
    (line,) = errors_of(capsys)
    assert "a.nc" in line and "--overwrite" in line and len(spy.calls) == 2


def test_deletion_shows_the_clip_without_the_mask(folder, tmp_path, spy, run, capsys):
    found = dataclasses.replace(run[2].results[0], mode="delete")
    spy.results = [found]
    options = ["--mode", "delete", "--perturbation", "fade", "--areas", "0.1", "0.3"]
    options += ["--model", str(folder / "m.safetensors"), "--out", str(tmp_path)]
    assert main(["perturb", str(folder / "a.mp4"), *options, "--overlay", "gif"]) == 0
    ((clip, _, _),) = spy.calls
    model = ej.models.load_clip_model(folder / "m.safetensors")
    wanted = model.pictures(perturb(pyramid(clip, "fade"), 1 - found.masks[0]))
    shown = ej.data.decode_frames(tmp_path / "a_perturbed.gif", n=None)[:, 2::4, 2:256:4]
    assert np.abs(shown.astype(int) - wanted).mean() < 10  # a GIF has 256 colours
    with open_volumes(tmp_path / "a.nc") as dataset:
        assert dataset.attrs["mode"] == "delete"
    printed = capsys.readouterr().out
    assert "Masks (delete)" in printed and "left" in printed and "kept" not in printed


def test_all_options_reach_step(folder, tmp_path, spy, run):
    spy.results = run[2].results
    options = ["--areas", "0.1", "0.3", "--mode", "dual", "--iterations", "4", "--patience", "2"]
    options += ["--core", "cylinder", "--core-frames", "3", "--core-size", "9", "--difference"]
    options += ["--per-frame", "--perturbation", "fade", "--edge", "zero", "--mask-step", "8"]
    options += ["--seed", "7", "--dropout", "0.5", "--overlay", "none", "--out", str(tmp_path)]
    options += ["--model", str(folder / "m.safetensors")]
    assert main(["perturb", str(folder / "a.mp4"), *options]) == 0
    ((_, _, asked),) = spy.calls
    key = ej.video_key(jax.random.key(7), "a")
    assert jax.random.key_data(asked.pop("key")).tolist() == jax.random.key_data(key).tolist()
    asked.pop("on_progress")
    assert asked == {
        "areas": (0.1, 0.3),
        "mode": "dual",
        "iterations": 4,
        "patience": 2,
        "core": Core("cylinder", 3, 9),
        "difference": True,
        "per_frame": True,
        "dropout": 0.5,
        "masking": dataclasses.replace(Masking(), perturbation="fade", edge="zero", step=8),
    }


def test_a_failed_mask_is_stored_and_reported(folder, tmp_path, spy, run, capsys):
    found = run[2].results[0]
    reward = found.reward.at[1, 2:].set(jnp.nan)
    failed_at = jnp.array([-1, 2], jnp.int32)
    spy.results = [dataclasses.replace(found, reward=reward, energy=reward, failed_at=failed_at)]
    options = ["--model", str(folder / "m.safetensors"), "--out", str(tmp_path)]
    options += ["--areas", "0.1", "0.3", "--overlay", "none"]
    assert main(["perturb", str(folder / "a.mp4"), *options]) == 2
    printed = capsys.readouterr()
    (line,) = (line for line in printed.err.splitlines() if line.startswith("esv-jax:"))
    assert "a.mp4, area 0.3: the energy was not finite at iteration 2" in line
    assert "Masks of 1 videos" in printed.out
    with open_volumes(tmp_path / "a.nc") as dataset:
        np.testing.assert_array_equal(dataset.relevance[1:], found.masks)
        np.testing.assert_array_equal(dataset.attrs["failed_at"], [-1, 2])
        assert np.isnan(dataset.attrs["energies"][1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--areas", "0.1", "1.5"], "areas: expected shares of the volume in (0, 1), got 1.5"),
        (["--areas", "0"], "areas: expected shares of the volume in (0, 1), got 0"),
        (["--areas", "0.1", "0.1"], "areas: expected each once"),
        (["--class", "upp"], "class: expected a name or an id in 0..2, got 'upp'. Did you mean"),
        (["--mask-step", "65"], "a.mp4, clip: expected frames of 65 pixels, the mask step"),
        (["--mask-step", "0"], "mask-step: expected a number >= 1, got 0"),
        (["--core", "ellipsoid", "--core-frames", "9"], "a.mp4, clip: expected at least 9 frames"),
        (["--core", "ellipsoid", "--core-size", "0"], "size: expected an integer >= 1, got 0"),
        (["--iterations", "0"], "iterations: expected a number >= 1, got 0"),
        (["--dropout", "1"], "dropout: expected a share in [0, 1), got 1"),
        (["--patience", "0"], "patience: expected a number >= 1, got 0"),
        (["--limit", "0"], "limit: expected a number >= 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder, tmp_path, capsys, options, text):
    given = ["--model", str(folder / "m.safetensors"), "--out", str(tmp_path / "out")]
    assert main(["perturb", str(folder / "a.mp4"), *given, *options]) == 2
    (line,) = errors_of(capsys)
    assert text in line
    assert not list(tmp_path.rglob("*.nc"))
