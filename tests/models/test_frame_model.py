"""Video models: the packaged one, encoders, files."""

import dataclasses
import importlib.resources
import itertools
import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.models import (
    TrainConfig,
    TrainedModel,
    load_synthetic_world,
    load_video_model,
    save_video_model,
    stack_heads,
)
from esv_jax.models.frame_encoder import (
    FrameCNN,
    FrameEncoder,
    prepare_frames,
    register_frame_encoder,
)
from esv_jax.models.heads import TsnHead
from esv_jax.models.video_model import VideoModel, video_model_digest
from experiments import synthetic_evidence, synthetic_world
from tests.conftest import drawn_variables

WIDTHS = [4, 4, 4, 4]


@pytest.fixture(scope="module")
def world():
    return load_synthetic_world()


def small_model(rng, n_max=2, n_hidden=0, tsn=False):
    settings = {"feature_dim": 5, "widths": WIDTHS}
    module = FrameCNN(5, tuple(WIDTHS))
    variables = drawn_variables(module, jnp.zeros((1, 64, 64, 3)))

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    if tsn:
        heads = TsnHead(w=jnp.asarray(draw(5, 3)), b=jnp.asarray(draw(3)), input_relu=True)
    else:
        layers = [
            {"w1": draw(5 * s, 4), "b1": draw(4), "w2": draw(4, 3), "b2": draw(3)}
            | {"hidden": [{"w": draw(4, 4), "b": draw(4)} for _ in range(n_hidden)]}
            for s in range(1, n_max + 1)
        ]
        heads = stack_heads(layers)
    trained = TrainedModel(heads, np.array([0.2, 0.3, 0.5]), ("a", "b", "c"), None, TrainConfig())
    return VideoModel(FrameEncoder("frame_cnn", settings, variables), trained, {"note": [1, "x"]})


def assert_same(a, b, **tolerance):
    assert a.encoder.name == b.encoder.name and a.encoder.settings == b.encoder.settings
    assert jax.tree.structure(a.encoder.variables) == jax.tree.structure(b.encoder.variables)
    assert jax.tree.structure(a.trained.heads) == jax.tree.structure(b.trained.heads)
    pairs = [(a.encoder.variables, b.encoder.variables), (a.trained.heads, b.trained.heads)]
    for x, y in zip(*map(jax.tree.leaves, zip(*pairs, strict=True)), strict=True):
        np.testing.assert_allclose(x, y, **({"rtol": 0} | tolerance))
    np.testing.assert_array_equal(a.trained.prior, b.trained.prior)
    assert a.trained.class_names == b.trained.class_names
    assert a.trained.config == b.trained.config and a.about == b.about


# The model in the package


def test_the_package_holds_the_model():
    file = importlib.resources.files("esv_jax.models") / "assets" / "synthetic_world.safetensors"
    assert file.is_file()
    assert 100_000 < len(file.read_bytes()) < 1_500_000


def test_the_model_has_its_documented_properties(world):
    assert world.encoder.name == "frame_cnn"
    assert world.trained.class_names == ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
    assert world.trained.heads.n_max == 8
    assert world.trained.prior.sum() == pytest.approx(1)
    assert world.about["world"] == "esv_jax.data.synthetic_videos"
    assert world.about["held_out_accuracy"] >= 0.95
    assert re.fullmatch("[0-9a-f]{64}", video_model_digest(world))
    assert video_model_digest(load_synthetic_world()) == video_model_digest(world)


@pytest.mark.parametrize("n_frames", [8, 32, 45])
def test_the_model_is_accurate_on_held_out_clips(world, n_frames):
    """Neither seed is one of training or of the numbers recorded with the model."""
    at = ej.data.segment_centres(n_frames, 8)
    clips = ej.data.synthetic_videos(108, seed=777, n_frames=n_frames, frames=at)
    features = world.encoder(clips.clips.reshape(-1, 64, 64, 3)).reshape(108, 8, -1)
    game = ej.MultiScale(world.trained.heads)
    batch = ej.explain_batch(game, features, prior=world.trained.prior, estimator=ej.Exact())
    right = np.asarray(batch.scores).argmax(-1) == clips.labels
    assert right.mean() >= 0.9


def test_reversed_frames_are_classified_as_the_reversed_class(world):
    """Order matters: no score of a set of frames could tell these classes apart."""
    at = ej.data.segment_centres(32, 8)
    clips = ej.data.synthetic_videos(36, seed=778, n_frames=32, frames=at)
    features = world.encoder(clips.clips.reshape(-1, 64, 64, 3)).reshape(36, 8, -1)
    batch = ej.explain_batch(
        ej.MultiScale(world.trained.heads),
        np.ascontiguousarray(features[:, ::-1]),
        prior=world.trained.prior,
        estimator=ej.Exact(),
    )
    assert (np.asarray(batch.scores).argmax(-1) == (clips.labels ^ 1)).mean() >= 0.85


# Frames to features


def test_features_are_of_each_frame_alone(world, rng):
    frames = rng.integers(0, 256, (70, 64, 64, 3), dtype=np.uint8)
    features = world.encoder(frames)
    assert features.shape == (70, world.trained.heads.feature_dim)
    assert features.dtype == np.float32
    for i in (0, 63, 64, 69):
        np.testing.assert_allclose(world.encoder(frames[i : i + 1])[0], features[i], atol=1e-4)


def test_the_network_agrees_with_a_plain_twin(rng):
    """A plain twin of `FrameCNN`: loops over pixels in double precision."""
    model = small_model(rng)
    p = {k: np.asarray(v, float) for k, v in model.encoder.variables["params"].items()}
    frame = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    x = frame / 255
    squares = [[x[r : r + 4, c : c + 4].ravel() for c in range(0, 64, 4)] for r in range(0, 64, 4)]
    x = np.maximum(np.array(squares) @ p["patch_w"] + p["patch_b"], 0)
    for i, stride in enumerate((2, 1, 2)):
        side = len(x) // stride
        before = max(0, (side - 1) * stride + 3 - len(x)) // 2  # rows of padding above
        padded = np.pad(x, ((before, 3), (before, 3), (0, 0)))
        y = np.empty((side, side, WIDTHS[i + 1]))
        for r in range(side):
            for c in range(side):
                window = padded[r * stride : r * stride + 3, c * stride : c * stride + 3]
                y[r, c] = np.einsum("ijk,ijkl->l", window, p[f"conv_{i}_w"]) + p[f"conv_{i}_b"]
        x = np.maximum(y, 0)
    wanted = x.ravel() @ p["dense_w"] + p["dense_b"]
    np.testing.assert_allclose(model.encoder(frame[None])[0], wanted, rtol=1e-4, atol=1e-5)


def test_frames_of_any_size_are_scaled_and_cropped(rng):
    frames = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(prepare_frames(frames), frames / np.float32(255), rtol=1e-6)
    wide = np.concatenate([np.zeros((2, 64, 20, 3), np.uint8), frames, frames[:, :, :20]], axis=2)
    np.testing.assert_allclose(prepare_frames(wide), frames / np.float32(255), rtol=1e-6)
    doubled = frames.repeat(2, axis=1).repeat(2, axis=2)
    assert prepare_frames(doubled).shape == (2, 64, 64, 3)
    grey = np.full((1, 100, 37, 3), 51, np.uint8)
    np.testing.assert_allclose(prepare_frames(grey), np.full((1, 64, 64, 3), 0.2), atol=1e-6)


def test_the_model_is_accurate_on_clips_of_another_size(world):
    at = ej.data.segment_centres(32, 8)
    clips = ej.data.synthetic_videos(36, seed=779, n_frames=32, frames=at, size=112)
    features = world.encoder(clips.clips.reshape(-1, 112, 112, 3)).reshape(36, 8, -1)
    batch = ej.explain_batch(
        ej.MultiScale(world.trained.heads),
        features,
        prior=world.trained.prior,
        estimator=ej.Exact(),
    )
    assert (np.asarray(batch.scores).argmax(-1) == clips.labels).mean() >= 0.85


def test_features_are_differentiable_in_the_frames(world, rng):
    frames = world.encoder.prepare(rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8))
    gradient = jax.grad(lambda x: world.encoder.apply(world.encoder.variables, x).sum())(frames)
    assert gradient.shape == frames.shape
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize(
    ("frames", "error", "says"),
    [
        (np.zeros((2, 64, 64), np.uint8), ValueError, "frames: expected shape .n, h, w, 3."),
        (np.zeros((0, 64, 64, 3), np.uint8), ValueError, "frames: expected at least one frame"),
        (np.zeros((1, 0, 64, 3), np.uint8), ValueError, "frames with pixels"),
        (np.zeros((1, 64, 64, 3), np.float32), TypeError, "frames: expected uint8"),
    ],
)
def test_bad_frames_are_refused(world, frames, error, says):
    with pytest.raises(error, match=says):
        world.encoder(frames)


# Encoders by name


def test_an_encoder_can_be_registered(tmp_path, rng):
    def build(settings):
        scale = settings["scale"]
        return jnp.asarray, lambda variables, x: scale * x.mean((1, 2)) @ variables["w"]

    with pytest.raises(ValueError, match="encoder: expected one of 'frame_cnn'"):
        FrameEncoder("mean_colour", {}, {})
    register_frame_encoder("mean_colour", build)
    register_frame_encoder("mean_colour", build)  # registering the same again has no effect
    with pytest.raises(ValueError, match="name: expected a name that is not taken"):
        register_frame_encoder("mean_colour", lambda settings: build(settings))

    w = jnp.asarray(rng.normal(size=(3, 5)).astype(np.float32))
    encoder = FrameEncoder("mean_colour", {"scale": 2.0}, {"w": w})
    frames = rng.integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    wanted = 2 * frames.mean((1, 2)) @ np.asarray(w)
    np.testing.assert_allclose(encoder(frames), wanted, rtol=1e-5, atol=1e-3)
    path = tmp_path / "model.safetensors"
    save_video_model(path, dataclasses.replace(small_model(rng), encoder=encoder))
    np.testing.assert_allclose(load_video_model(path).encoder(frames), wanted, rtol=1e-5, atol=1e-3)


# Files


@pytest.mark.parametrize("kind", [{}, {"n_max": 3, "n_hidden": 2}, {"tsn": True}])
def test_files_round_trip(tmp_path, rng, kind):
    model = small_model(rng, **kind)
    path = save_video_model(tmp_path / "new" / "model.safetensors", model)
    read = load_video_model(path)
    assert_same(read, model)
    assert video_model_digest(read) == video_model_digest(model)
    first = path.read_bytes()
    assert save_video_model(path, read).read_bytes() == first


def test_half_precision_rounds_once(tmp_path, rng):
    model = small_model(rng)
    whole = save_video_model(tmp_path / "whole.safetensors", model)
    half = save_video_model(tmp_path / "half.safetensors", model, half=True)
    assert half.stat().st_size < whole.stat().st_size
    read = load_video_model(half)
    assert_same(read, model, rtol=1e-3, atol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(read.encoder.variables)} == {jnp.dtype("f4")}
    again = save_video_model(tmp_path / "again.safetensors", read, half=True)
    assert again.read_bytes() == half.read_bytes()
    assert video_model_digest(load_video_model(again)) == video_model_digest(read)


def test_digests_differ_between_models(rng):
    model = small_model(rng)
    other = {
        "params": model.encoder.variables["params"]
        | {"dense_b": model.encoder.variables["params"]["dense_b"] + 1}
    }
    settings = {**model.encoder.settings, "feature_dim": 6}
    prior = np.array([0.3, 0.2, 0.5])
    models = [
        model,
        dataclasses.replace(model, encoder=dataclasses.replace(model.encoder, variables=other)),
        dataclasses.replace(model, encoder=dataclasses.replace(model.encoder, settings=settings)),
        dataclasses.replace(model, trained=dataclasses.replace(model.trained, prior=prior)),
    ]
    assert len({video_model_digest(each) for each in models}) == len(models)


def edited(content: bytes, change) -> bytes:
    """A safetensors file with a change made to its JSON header."""
    (size,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + size])
    header = json.loads(outer["__metadata__"]["esv_jax.video_model"])
    change(header)
    outer["__metadata__"]["esv_jax.video_model"] = json.dumps(header)
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: header.update(format=2), "format 2. It may come from a newer version"),
        (lambda header: header.pop("digest"), "no entry 'digest'"),
        (lambda header: header.update(digest="0" * 64), "differ from the digest"),
        (lambda header: header.update(n_max=3), "no entry 'heads.3.w1'"),
        (lambda header: header.update(encoder="frame_cn"), "Did you mean 'frame_cnn'"),
    ],
)
def test_changed_files_are_refused(tmp_path, rng, change, says):
    path = save_video_model(tmp_path / "model.safetensors", small_model(rng))
    path.write_bytes(edited(path.read_bytes(), change))
    with pytest.raises(ValueError, match=re.escape(says)):
        load_video_model(path)


# The experiments


@pytest.mark.slow  # trains
def test_the_model_is_trained_by_one_command(tmp_path, capsys):
    args = ["--out", str(tmp_path), "--n-steps", "2", "--batch-size", "4", "--hidden-dim", "4"]
    args += ["--feature-dim", "4", "--n-test", "3", "--seed", "5"]
    assert synthetic_world.main(args) == 0
    assert "clip length" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    model = load_video_model(tmp_path / "model.safetensors")
    assert summary["weights_digest"] == video_model_digest(model)
    assert summary["seed"] == model.about["seed"] == 5
    assert summary["accuracy"] == model.about["held_out_accuracy"]
    assert model.about["n_training_clips"] == 8
    assert set(summary["accuracy_by_length"]) == {"8", "20", "32", "57"}
    assert {"jax", "numpy", "python"} <= set(summary["versions"])
    assert synthetic_world.main(args) == 0
    again = load_video_model(tmp_path / "model.safetensors")
    assert video_model_digest(again) == video_model_digest(model)


def test_exact_values_point_at_the_evidence(tmp_path, capsys):
    args = ["--out", str(tmp_path), "--n-clips", "40", "--n-resamples", "200", "--seed", "21"]
    assert synthetic_evidence.main(args) == 0
    assert "centre-out" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["n_clips"] + summary["n_left_out"] == 40
    assert all(row["agrees"] and row["low"] > 0 for row in summary["findings"])
    assert summary["weights_digest"] == video_model_digest(load_synthetic_world())
    for found in summary["measures"].values():
        for row in [*found["methods"].values(), *found["differences"].values()]:
            assert row["low"] <= row["mean"] <= row["high"]
    assert summary["measures"]["Spearman"]["methods"]["uniform"]["mean"] == 0


def test_precision_is_the_expectation_over_orders_of_ties(rng):
    scores = rng.integers(0, 3, (30, 5)).astype(float)
    truth = rng.random((30, 5)) < 0.5
    truth[:, 0] = True
    found = synthetic_evidence.precision_at_k(scores, truth)
    for row, mask, value in zip(scores, truth, found, strict=True):
        k = int(mask.sum())
        shares = []
        for order in itertools.permutations(range(5)):  # each breaks ties in its own way
            ranked = sorted(order, key=lambda i: -row[i])
            shares.append(mask[ranked[:k]].mean())
        assert value == pytest.approx(np.mean(shares))


def test_rank_correlation_is_that_of_scipy(rng):
    stats = pytest.importorskip("scipy.stats")
    scores = rng.integers(0, 4, (30, 6)).astype(float)
    truth = rng.random((30, 6)) < 0.5
    truth[:, 0], truth[:, 1] = True, False
    scores[:, 5] = scores[:, 4] + 1
    wanted = [stats.spearmanr(a, b).statistic for a, b in zip(scores, truth, strict=True)]
    np.testing.assert_allclose(synthetic_evidence.spearman(scores, truth), wanted, atol=1e-12)
    assert (synthetic_evidence.spearman(np.zeros((2, 6)), truth[:2]) == 0).all()
