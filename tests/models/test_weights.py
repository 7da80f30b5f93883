"""Files of trained models: round trips, digests, refused files."""

import json
import subprocess
import sys
from dataclasses import replace

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax import models
from esv_jax.models import backbones
from esv_jax.models.heads import TsnHead
from esv_jax.models.trained import History, model_digest

safetensors_numpy = pytest.importorskip("safetensors.numpy")

D, H, C = 3, 4, 2


def make_model(kind="multi_scale", n_hidden=1, dtype=np.float32):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    if kind == "average_consensus":
        heads = TsnHead(w=jnp.asarray(normal(D, C)), b=jnp.asarray(normal(C)), input_relu=True)
    else:
        hidden = [{"w": normal(H, H), "b": normal(H)}] * n_hidden
        heads = models.stack_heads(
            [
                {
                    "w1": normal(s * D, H),
                    "b1": normal(H),
                    "w2": normal(H, C),
                    "b2": normal(C),
                    "hidden": hidden,
                }
                for s in (1, 2)
            ]
        )
    history = History(
        train_loss=np.array([[0.5, 0.25]]),
        validation_accuracy=np.array([0.1 + 0.2]),
        validation_loss=np.array([1.0]),
        validation_scale_accuracy=np.array([[1.0, np.nan]]),
        best_epoch=1,
        interrupted=True,
    )
    return models.TrainedModel(
        heads=heads,
        prior=np.array([0.1, 0.9]),
        class_names=("up", "déjà vu"),
        history=history,
        config=models.TrainConfig(n_max=2, hidden_dim=H),
    )


@pytest.mark.parametrize("kind", ["multi_scale", "average_consensus"])
def test_saving_and_loading_preserve_a_model(tmp_path, kind):
    model = make_model(kind)
    path = models.save_model(tmp_path / "deep" / "model.safetensors", model)
    back = models.load_model(path)
    chex.assert_trees_all_equal(back.heads, model.heads)
    assert type(back.heads) is type(model.heads)
    assert back.heads.input_relu == model.heads.input_relu
    assert back.prior.dtype == np.float64
    np.testing.assert_array_equal(back.prior, model.prior)
    assert back.class_names == model.class_names
    assert back.config == model.config
    np.testing.assert_equal(vars(back.history), vars(model.history))
    assert model_digest(back) == model_digest(model)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]  # no leftovers


def test_a_model_trained_elsewhere_has_no_history(tmp_path):
    model = make_model(n_hidden=0)
    bare = models.TrainedModel(model.heads, model.prior, model.class_names)
    back = models.load_model(models.save_model(tmp_path / "m", bare))
    assert back.history is None
    assert back.config is None
    chex.assert_trees_all_equal(back.heads, model.heads)


def test_double_precision_is_preserved_in_x64_mode(tmp_path, x64):
    model = make_model(dtype=np.float64)
    back = models.load_model(models.save_model(tmp_path / "m", model))
    assert back.heads.w1.dtype == np.float64
    chex.assert_trees_all_equal(back.heads, model.heads)


def test_bytes_are_reproducible_and_digests_differ_between_models(tmp_path):
    one = models.save_model(tmp_path / "one", make_model()).read_bytes()
    assert one == models.save_model(tmp_path / "two", make_model()).read_bytes()
    model = make_model()
    digest = model_digest(model)
    assert len(digest) == 64
    other = models.TrainedModel(model.heads, np.array([0.9, 0.1]), model.class_names)
    heads = replace(model.heads, b2=model.heads.b2.at[0, 0].add(1))
    another = models.TrainedModel(heads, model.prior, model.class_names)
    assert len({digest, model_digest(other), model_digest(another)}) == 3


def test_a_failed_write_leaves_the_former_file(tmp_path, monkeypatch):
    path = models.save_model(tmp_path / "m", make_model())
    before = path.read_bytes()

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        models.save_model(path, make_model("average_consensus"))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def rewritten(path, change):
    """The file with its header changed."""
    tensors = safetensors_numpy.load(path.read_bytes())
    header = header_of(path)
    change(header, tensors)
    path.write_bytes(safetensors_numpy.save(tensors, metadata={"esv_jax": json.dumps(header)}))


def header_of(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["esv_jax"])


def test_the_header_has_kind_and_format(tmp_path):
    header = header_of(models.save_model(tmp_path / "m", make_model()))
    assert (header["kind"], header["n_max"], header["format"]) == ("multi_scale", 2, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda h, t: h.update(kind="forest"),
            "got format 1, kind 'forest'. It may come from a newer",
        ),
        (
            lambda h, t: h.update(format=2),
            "got format 2, kind 'multi_scale'. It may come from a newer",
        ),
        (
            lambda h, t: h.pop("class_names"),
            "expected a model written by save_model, got no entry 'cl",
        ),
        (lambda h, t: h.clear(), "got no entry 'format'"),
        (lambda h, t: t.pop("b2"), "got no entry 'b2'"),
        (lambda h, t: t["b2"].__setitem__((0, 0), 7), "got arrays that differ from the digest"),
        (lambda h, t: h.update(class_names=3), "got a header and arrays that do not go together"),
        (lambda h, t: h.update(config={"n_max": "x"}), "got a header and arrays that do not go"),
        (lambda h, t: t.update(prior=np.ones(5)), "got a header and arrays that do not go togeth"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, says):
    path = models.save_model(tmp_path / "m", make_model())
    rewritten(path, change)
    with pytest.raises(ValueError, match=says) as caught:
        models.load_model(path)
    assert str(caught.value).startswith(f"{path}: expected a model written by save_model")


@pytest.mark.parametrize(
    ("load", "written_by", "header"),
    [
        (models.load_model, "save_model", "esv_jax"),
        (backbones.load_backbone, "save_backbone", "esv_jax"),
        (models.load_clip_model, "save_clip_model", "esv_jax.clip_model"),
        (models.load_video_model, "save_video_model", "esv_jax.video_model"),
    ],
)
def test_other_files_are_refused(tmp_path, load, written_by, header):
    path, said = tmp_path / "m", rf"m: expected a (model|backbone) written by {written_by}, got "
    with pytest.raises(FileNotFoundError, match=f"{said}no such file"):
        load(path)
    whole = safetensors_numpy.save({"w1": np.ones(2)})
    for content in (b"", b"\0" * 40, b"not one of ours", whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{said}a damaged or foreign file"):
            load(path)
    for metadata in (None, {"other": "{}"}):
        path.write_bytes(safetensors_numpy.save({"w1": np.ones(2)}, metadata=metadata))
        with pytest.raises(ValueError, match=f"{said}tensors without the header '{header}'"):
            load(path)
    for text in ("", "{", "[]", "3", "[" * 100_000):
        path.write_bytes(safetensors_numpy.save({"w1": np.ones(2)}, metadata={header: text}))
        with pytest.raises(ValueError, match=rf"{said}a damaged header '{header}'\.$"):
            load(path)


def test_prior_and_names_must_have_one_entry_per_class():
    model = make_model()
    with pytest.raises(ValueError, match=r"prior: expected shape \(C,\) = \(2,\), got \(3,\)"):
        models.TrainedModel(model.heads, np.ones(3), model.class_names)
    with pytest.raises(ValueError, match="class_names: expected 2 names, got 1"):
        models.TrainedModel(model.heads, model.prior, ("up",))


def test_the_functions_for_files_import_no_optional_library():
    program = (
        "import sys\nfrom esv_jax.models import TrainedModel, load_model, save_model\n"
        "libraries = {'flax', 'optax', 'orbax', 'safetensors', 'tqdm', 'torch'}\n"
        "print(sorted(libraries & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
