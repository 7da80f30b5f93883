"""Clip models: the packaged one, preprocessing, files, training."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.models import load_clip_model, load_synthetic_clips, save_clip_model
from esv_jax.models.clip_model import (
    CLIP_NETWORKS,
    ClipCNN,
    ClipModel,
    clip_model_digest,
    clip_model_from_state_dict,
)
from esv_jax.models.state_dicts import to_state_dict
from experiments import synthetic_clips
from tests.conftest import drawn_variables


@pytest.fixture(scope="module")
def shipped():
    return load_synthetic_clips()


def small(**changes):
    """A model of two classes, with random weights."""
    module = ClipCNN(n_classes=2, widths=(2, 3, 4, 5))
    variables = drawn_variables(module, jnp.zeros((1, 4, 64, 64, 3)))
    settings = {"n_classes": 2, "widths": [2, 3, 4, 5]}
    return ClipModel("clip_cnn", settings, variables, ("a", "b"), 4, **changes)


def test_the_packaged_model_is_accurate(shipped):
    settings = synthetic_clips.Settings(n_test=72)
    measured = synthetic_clips.accuracy(shipped, 32, settings)
    assert shipped.about["held_out_accuracy"] >= 0.95
    assert measured["n_clips"] == 72 and measured["accuracy"] >= 0.9
    assert (
        shipped.class_names == ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
        and shipped.n_frames == 16
    )
    assert synthetic_clips.STUDY.packaged.stat().st_size < 3e6


def test_clips_are_prepared_within_bounds(shipped, rng):
    frames = rng.integers(0, 256, (16, 70, 90, 3)).astype(np.uint8)
    clip = np.asarray(shipped.prepare(frames))
    low, high = shipped.bounds
    assert clip.shape == (16, 64, 64, 3) and (clip >= low).all() and (clip <= high).all()
    logits = shipped.logits(clip)
    np.testing.assert_allclose(
        jax.jit(shipped.logits)(clip),
        shipped.module.apply(shipped.variables, clip[None])[0],
        atol=1e-4,
    )
    assert logits.shape == (18,)
    seen = shipped.shown(frames)
    assert seen.dtype == np.uint8
    np.testing.assert_allclose(seen / 255, clip, atol=0.5 / 255 + 1e-6)


def test_clips_of_another_size_are_refused(shipped):
    short = jnp.full((4, 64, 64, 3), 0.5)
    match = r"clip: expected shape \(16, s, s, 3\), as prepare\(\) gives it, got \(4, 64, 64, 3\)"
    with pytest.raises(ValueError, match=match):
        shipped.logits(short)
    with pytest.raises(ValueError, match=match):
        ej.relevance.lrp(shipped.logits, short, 2)


@pytest.mark.parametrize("name", list(CLIP_NETWORKS))
def test_published_networks_invert_their_preprocessing_for_pictures(name, rng):
    # Weights do not matter here, so that no network is built.
    model = ClipModel(name, {"n_classes": 3}, {}, ("a", "b", "c"))
    frames = rng.integers(0, 256, (2, 128, 171, 3)).astype(np.uint8)
    clip, (low, high) = np.asarray(model.prepare(frames)), model.bounds
    assert clip.shape == (2, 112, 112, 3)
    assert (clip >= low - 1e-4).all() and (clip <= high + 1e-4).all()
    np.testing.assert_array_equal(model.shown(frames), frames[:, 8:120, 30:142])  # 59 / 2 to even


def test_files_round_trip(tmp_path):
    model = small(about={"seed": 3})
    path = save_clip_model(tmp_path / "m.safetensors", model)
    read = load_clip_model(path)
    assert clip_model_digest(read) == clip_model_digest(model)
    assert (read.class_names, read.n_frames, read.about) == (("a", "b"), 4, {"seed": 3})
    clip = jnp.full((4, 64, 64, 3), 0.5)
    np.testing.assert_array_equal(read.logits(clip), model.logits(clip))
    assert save_clip_model(tmp_path / "n.safetensors", read).read_bytes() == path.read_bytes()
    half = save_clip_model(tmp_path / "h.safetensors", model, half=True)
    assert half.stat().st_size < 0.7 * path.stat().st_size
    np.testing.assert_allclose(load_clip_model(half).logits(clip), model.logits(clip), atol=2e-2)


def test_a_model_from_a_pytorch_state_dict():
    shapes = jax.eval_shape(
        CLIP_NETWORKS["r2plus1d_18"].module(n_classes=3).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 16, 112, 112, 3), jnp.float32),
    )
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes)
    state = to_state_dict(variables)
    model = clip_model_from_state_dict(state, ("a", "b", "c"))
    assert (model.network, model.n_frames, model.class_names) == (
        "r2plus1d_18",
        16,
        ("a", "b", "c"),
    )
    assert clip_model_from_state_dict(state).class_names == ("0", "1", "2")
    with pytest.raises(ValueError, match="class_names: expected 3, got 2"):
        clip_model_from_state_dict(state, ("a", "b"))


def test_bad_files_and_settings_are_refused(tmp_path):
    path = save_clip_model(tmp_path / "m.safetensors", small())
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match="arrays that differ from the digest"):
        load_clip_model(path)
    with pytest.raises(ValueError, match="network: expected one of 'clip_cnn'"):
        replace(small(), network="c4d")
    with pytest.raises(ValueError, match="class_names: expected 2, got 1"):
        replace(small(), class_names=("a",))
    with pytest.raises(ValueError, match=r"clips: expected shape \(B, t, h, w, 3\)"):
        small().module.init(jax.random.key(0), jnp.zeros((1, 4, 64, 64)))


def test_training_by_patches_has_the_logits_of_the_network(rng):
    model = small()
    clips = jnp.asarray(rng.random((2, 5, 30, 34, 3)), jnp.float32)  # odd sizes, so odd borders
    variables = drawn_variables(model.module, clips, seed=1)
    np.testing.assert_allclose(
        jax.jit(synthetic_clips.logits_by_patches)(variables, clips),
        jax.jit(model.module.apply)(variables, clips),
        atol=1e-5,
    )


@pytest.mark.slow  # trains
def test_the_experiment_trains_measures_and_stores(tmp_path, capsys):
    args = ["--out", str(tmp_path), "--n-steps", "2", "--batch-size", "2", "--n-test", "18"]
    assert synthetic_clips.main([*args, "--widths", "2", "2", "2", "2"]) == 0
    assert "accuracy from 16 frames" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    model = load_clip_model(tmp_path / "model.safetensors")
    assert summary["weights_digest"] == clip_model_digest(model)
    assert summary["accuracy"] == model.about["held_out_accuracy"]
    assert set(summary["accuracy_by_length"]) == {"20", "32", "57"}
