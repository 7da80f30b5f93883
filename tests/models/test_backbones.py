"""Image backbones: reference outputs, blocks against loops, state dicts, files, streams."""

import itertools
import json
import operator
import zlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from esv_jax.data import preprocessing
from esv_jax.models import backbones, load_model
from esv_jax.models.networks import Bottleneck, InceptionBlock, Widths
from esv_jax.models.state_dicts import torch_name, torch_shape, variables_from_state
from esv_jax.models.tensor_files import digest_of

NAMES = tuple(backbones.BACKBONES)
POOLED = {"bninception": 1024, "resnet50": 2048}


def by_rule(name, shape):
    """The weights of an entry, which follow from its name (README of the parity fixtures)."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), 1])
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = rng.normal(0, 0.1, shape)
    elif len(shape) > 1:
        values = rng.normal(0, 1, shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


def rule_state(name, n_outputs=256):
    """Names and rule-made weights of a backbone, as our own module has them."""
    leaves = flax.traverse_util.flatten_dict(backbones._shapes(name, n_outputs))
    shapes = {torch_name(p): torch_shape(x.shape) for p, x in leaves.items()}
    return {key: by_rule(key, shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def states():
    return {name: rule_state(name) for name in NAMES}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key])


# Reference outputs


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_public_code(shared, states, name):
    folder = shared / "fixtures" / "architectures"
    if not folder.is_dir():
        pytest.skip("the architectures are not among the shared fixtures")
    entries = json.loads((folder / f"{name}.json").read_text())
    public = {key: by_rule(key, tuple(shape)) for key, shape in entries.items()}
    counters = {key for key in public if key.endswith("num_batches_tracked")}
    assert_same({k: v for k, v in public.items() if k not in counters}, states[name])

    with np.load(folder / f"{name}.npz") as arrays:
        frames = jnp.asarray(arrays["input"].transpose(0, 2, 3, 1))
        expected = arrays["output_f64"]
    assert backbones.recognise(public) == name
    variables = backbones.from_state_dict(name, public)
    features = backbones.extractor(name, variables)(frames)
    assert features.shape == (2, 256) and features.dtype == jnp.float32
    assert np.abs(features - expected).max() < 1e-5 * np.abs(expected).max()  # required: 1e-4
    if name == "resnet50":
        short = backbones.extractor(name, variables, dtype=jnp.bfloat16)(frames)
        assert short.dtype == jnp.float32
        assert 0 < np.abs(short - expected).max() < 2e-2 * np.abs(expected).max()


def test_preprocessing_is_that_of_the_published_weights():
    records = {name: backbone.preprocessing for name, backbone in backbones.BACKBONES.items()}
    assert records["bninception"] is preprocessing.TRN_BNINCEPTION
    assert records["resnet50"] is preprocessing.TSN_RESNET50


# Plain twins, in loops and double precision


def conv_twin(x, weight, bias, stride):
    """Cross-correlation of x (c, h, w) with weight (out, c, k, k), padded by k // 2."""
    k = weight.shape[-1]
    x = np.pad(x, [(0, 0), (k // 2, k // 2), (k // 2, k // 2)])
    rows, columns = ((side - k) // stride + 1 for side in x.shape[1:])
    out = np.empty((len(weight), rows, columns))
    for o, i, j in np.ndindex(out.shape):
        patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
        out[o, i, j] = (patch * weight[o]).sum() + bias[o]
    return out


def layer_twin(x, state, conv, norm, stride=1, relu=True):
    weight = state[f"{conv}.weight"].astype(np.float64)
    y = conv_twin(x, weight, state.get(f"{conv}.bias", np.zeros(len(weight))), stride)
    mean, var, gain, shift = (
        state[f"{norm}.{key}"].astype(np.float64)[:, None, None]
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    y = (y - mean) / np.sqrt(var + 1e-5) * gain + shift
    return np.maximum(y, 0) if relu else y


def pool_twin(x, kind):
    """3 x 3 windows of x (c, h, w): "mean" or "max" padded by one at every place, or "halve"."""
    c, h, w = x.shape
    if kind == "halve":  # windows start at 0, 2, ... and the last may hang over the edge
        rows, columns = (range(0, side - 1, 2) for side in (h, w))
        return np.array(
            [[[x[o, i : i + 3, j : j + 3].max() for j in columns] for i in rows] for o in range(c)]
        )
    fill = 0.0 if kind == "mean" else -np.inf
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1)], constant_values=fill)
    reduce = {"mean": np.mean, "max": np.max}[kind]
    out = np.empty_like(x)
    for o, i, j in np.ndindex(out.shape):
        out[o, i, j] = reduce(padded[o, i : i + 3, j : j + 3])
    return out


def inception_twin(x, state, max_pooled):
    def layer(x, name, stride=1):
        return layer_twin(x, state, name, f"{name}_bn", stride)

    halves = "1x1.weight" not in state
    stride = 2 if halves else 1
    three = layer(layer(x, "3x3_reduce"), "3x3", stride)
    double = layer(layer(layer(x, "double_3x3_reduce"), "double_3x3_1"), "double_3x3_2", stride)
    if halves:
        return np.concatenate([three, double, pool_twin(x, "halve")])
    pooled = pool_twin(x, "max" if max_pooled else "mean")
    return np.concatenate([layer(x, "1x1"), three, double, layer(pooled, "pool_proj")])


def bottleneck_twin(x, state, stride):
    y = layer_twin(x, state, "conv1", "bn1")
    y = layer_twin(y, state, "conv2", "bn2", stride)
    y = layer_twin(y, state, "conv3", "bn3", relu=False)
    if "downsample.0.weight" in state:
        x = layer_twin(x, state, "downsample.0", "downsample.1", stride, relu=False)
    return np.maximum(x + y, 0)


def run_block(module, x):
    """Output of a block (c, h, w) for x (c, h, w), and the weights it had, by public name."""
    frames = jnp.asarray(x.transpose(1, 2, 0)[None], jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), frames)
    leaves = flax.traverse_util.flatten_dict(shapes)
    names = [torch_name(path) for path in leaves]
    state = {
        name: by_rule(name, torch_shape(leaf.shape))
        for name, leaf in zip(names, leaves.values(), strict=True)
    }
    variables = variables_from_state(shapes, state)
    return np.asarray(module.apply(variables, frames))[0].transpose(2, 0, 1), state


@pytest.mark.parametrize(
    ("widths", "max_pooled"),
    [
        (Widths(2, 3, 4, 2, 3, 2), False),
        (Widths(2, 3, 4, 2, 3, 2), True),
        (Widths(0, 3, 4, 2, 3, 0), False),
    ],
)
@pytest.mark.parametrize("size", [(6, 4), (5, 6)])
def test_inception_blocks_against_loops(rng, widths, max_pooled, size):
    if widths.one == 0 and size[0] % 2:
        size = (4, 6)  # blocks that halve have even sides only
    x = rng.normal(size=(3, *size)).astype(np.float32)
    ours, state = run_block(InceptionBlock(widths, max_pooled), x)
    expected = inception_twin(x.astype(np.float64), state, max_pooled)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stride", "projects", "channels"), [(1, False, 8), (2, True, 3)])
@pytest.mark.parametrize("size", [(6, 4), (5, 6)])
def test_bottlenecks_against_loops(rng, stride, projects, channels, size):
    x = rng.normal(size=(channels, *size)).astype(np.float32)
    ours, state = run_block(Bottleneck(2, stride, projects), x)
    expected = bottleneck_twin(x.astype(np.float64), state, stride)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


# State dicts


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_round_trip(states, name):
    variables = backbones.from_state_dict(name, states[name])
    assert_same(backbones.to_state_dict(variables), states[name])
    assert backbones.n_features(name, variables) == 256
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_names_are_those_of_the_public_models(states):
    assert {
        "conv1_7x7_s2.bias",
        "inception_3a_double_3x3_1_bn.running_var",
        "inception_5b_pool_proj.weight",
        "last_linear.weight",
    } <= states["bninception"].keys()
    assert {
        "conv1.weight",
        "layer1.0.downsample.1.running_mean",
        "layer4.2.bn3.weight",
        "last_linear.bias",
    } <= states["resnet50"].keys()
    assert (len(states["bninception"]), len(states["resnet50"])) == (6 * 69 + 2, 5 * 53 + 2)


@pytest.mark.parametrize("prefix", ["module.", "base_model.", "module.base_model.", "backbone."])
def test_prefixes_of_wrappers_are_removed(states, prefix):
    wrapped = {prefix + key: array for key, array in states["resnet50"].items()}
    assert backbones.recognise(wrapped) == "resnet50"
    variables = backbones.from_state_dict("resnet50", wrapped)
    assert_same(backbones.to_state_dict(variables), states["resnet50"])


@pytest.mark.parametrize("last", ["fc", "new_fc"])
def test_parts_of_other_models_around_the_backbone_are_ignored(states, last):
    state = {f"module.base_model.{key}": array for key, array in states["resnet50"].items()}
    for leaf in ("weight", "bias"):
        state[f"module.{last}.{leaf}"] = state.pop(f"module.base_model.last_linear.{leaf}")
    state["module.consensus.classifier.weight"] = np.zeros((174, 256), np.float32)
    state["temporal_module.model.1.weight"] = np.zeros((256, 2048), np.float32)
    state["module.base_model.bn1.num_batches_tracked"] = np.zeros((), np.int64)
    variables = backbones.from_state_dict("resnet50", state)
    assert_same(backbones.to_state_dict(variables), states["resnet50"])


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_may_be_absent_or_left_out(states, name):
    without = {k: v for k, v in states[name].items() if not k.startswith("last_linear")}
    refused = backbones.from_state_dict(name, states[name], last_layer=False)
    absent = backbones.from_state_dict(name, without)
    assert backbones.n_features(name, absent) == POOLED[name]
    assert jax.tree.all(jax.tree.map(np.array_equal, absent, refused))


def test_pooled_features_are_the_input_of_the_last_layer(states):
    name, frames = "resnet50", jnp.ones((1, 224, 224, 3))
    with_last = backbones.from_state_dict(name, states[name])
    pooled = backbones.extractor(
        name, backbones.from_state_dict(name, states[name], last_layer=False)
    )
    last = states[name]["last_linear.weight"], states[name]["last_linear.bias"]
    features = np.asarray(pooled(frames), np.float64)
    assert features.shape == (1, 2048)
    ours = np.asarray(backbones.extractor(name, with_last)(frames))
    np.testing.assert_allclose(ours, features @ last[0].T + last[1], rtol=1e-4, atol=1e-4)


def changed(state, **changes):
    state = dict(state) | {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"bn1__bias": None}, ValueError, r"an entry for every layer, got no bn1\.bias\."),
        ({"last_linear__bias": None}, ValueError, r"got no last_linear\.bias"),
        ({"last_linear__weight": None}, ValueError, r"got no last_linear\.weight"),
        ({"layer9__bias": np.zeros(3)}, ValueError, r"names of this model, got layer9\.bias"),
        (
            {"conv1__weight": np.zeros((64, 3, 3, 3), np.float32)},
            ValueError,
            r"conv1\.weight \(64, 3, 3, 3\) for \(64, 3, 7, 7\)",
        ),
        (
            {"last_linear__weight": np.zeros((9, 2048), np.float32)},
            ValueError,
            r"last_linear\.weight \(9, 2048\) for \(256, 2048\)",
        ),
        ({"bn1__bias": np.zeros(64, int)}, TypeError, r"bn1\.bias: expected floating-point weig"),
        ({"bn1__bias": np.full(64, np.nan, "f4")}, ValueError, r"bn1\.bias: expected finite"),
        (
            {"fc__bias": np.zeros(256, "f4")},
            ValueError,
            r"one entry for 'last_linear\.bias', got 'last_linear\.bias' and 'fc\.bias'",
        ),
    ],
)
def test_bad_state_dicts_are_refused(states, changes, kind, text):
    with pytest.raises(kind, match=text):
        backbones.from_state_dict("resnet50", changed(states["resnet50"], **changes))


def test_state_dicts_of_other_networks_are_refused(states):
    with pytest.raises(ValueError, match=r"every layer, got no .* and \d+ more"):
        backbones.from_state_dict("bninception", states["resnet50"])
    with pytest.raises(
        ValueError, match=r"a state dict of bninception or resnet50, got model\.1\.w"
    ):
        backbones.recognise({"model.1.weight": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="got an empty one"):
        backbones.recognise({})
    with pytest.raises(ValueError, match="Did you mean 'resnet50'"):
        backbones.from_state_dict("resnet", states["resnet50"])


# The extractor


def test_bad_arguments_are_refused(states):
    variables = backbones.from_state_dict("resnet50", states["resnet50"])
    extract = backbones.extractor("resnet50", variables)
    with pytest.raises(ValueError, match=r"frames: expected shape \(n, 224, 224, 3\), got \(3, 2"):
        extract(jnp.zeros((3, 224, 224)))
    with pytest.raises(TypeError, match="frames: expected a floating-point array, got dtype uint8"):
        extract(np.zeros((1, 224, 224, 3), np.uint8))
    with pytest.raises(ValueError, match="variables: expected those of bninception, got others at"):
        backbones.extractor("bninception", variables)
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16, got float16"):
        backbones.extractor("resnet50", variables, dtype=jnp.float16)
    with pytest.raises(ValueError, match="n_outputs: expected an integer >= 1"):
        backbones.build_backbone("resnet50", 0)
    with pytest.raises(ValueError, match="name: expected one of 'bninception', 'resnet50'"):
        backbones.n_features("c3d", variables)


# Files


def test_files_round_trip(tmp_path, states):
    variables = backbones.from_state_dict("resnet50", states["resnet50"])
    path = backbones.save_backbone(tmp_path / "new" / "b.safetensors", "resnet50", variables)
    first = path.read_bytes()
    name, loaded = backbones.load_backbone(path)
    assert name == "resnet50"
    assert_same(backbones.to_state_dict(loaded), states["resnet50"])
    assert_same(safetensors.numpy.load_file(path), states["resnet50"])  # public names and layout
    backbones.save_backbone(path, name, loaded)
    assert path.read_bytes() == first

    state = changed(states["resnet50"], bn1__bias=np.ones(64, np.float32))
    other = backbones.from_state_dict("resnet50", state)
    assert len(backbones.backbone_digest(other)) == 64
    assert backbones.backbone_digest(other) != backbones.backbone_digest(loaded)
    with pytest.raises(ValueError, match="variables: expected those of bninception"):
        backbones.save_backbone(path, "bninception", loaded)

    metadata = json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])["__metadata__"]
    safetensors.numpy.save_file(state, path, metadata=metadata)
    with pytest.raises(ValueError, match="arrays that differ from the digest in the header"):
        backbones.load_backbone(path)
    with pytest.raises(ValueError, match="kind 'backbone'"):
        load_model(path)


TENSORS = {"w": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"kind": "multi_scale", "format": 1}, "got format 1, kind 'multi_scale'. It may"),
        ({"kind": "backbone", "format": 2}, "got format 2, kind 'backbone'. It may come from a"),
        (
            {"kind": "backbone", "format": 1, "architecture": "x", "digest": digest_of(TENSORS)},
            "header and arrays that do not go together .name: expected one of 'bninception'",
        ),
        ({"kind": "backbone", "format": 1, "architecture": "resnet50"}, "no entry 'digest'"),
    ],
)
def test_files_with_other_headers_are_refused(tmp_path, header, text):
    path = tmp_path / "b.safetensors"
    safetensors.numpy.save_file(TENSORS, path, metadata={"esv_jax": json.dumps(header)})
    with pytest.raises(
        ValueError, match=rf"b\.safetensors: expected a backbone written by.*{text}"
    ):
        backbones.load_backbone(path)


# Streams


@given(
    videos=st.lists(st.lists(st.integers(0, 7), max_size=3), max_size=5),
    batch_size=st.integers(1, 9),
)
def test_streams_agree_with_one_video_at_a_time(videos, batch_size):
    """`videos` are the lengths of the pieces in which each comes."""
    rng, sizes = np.random.default_rng(0), []
    frames = [[rng.normal(size=(k, 2, 2, 3)).astype(np.float32) for k in ks] for ks in videos]

    def extract(batch):
        sizes.append(len(batch))
        return batch.sum(axis=(1, 2))

    pieces = [(key, piece) for key, parts in enumerate(frames) for piece in parts]
    stream = backbones.extract_stream(extract, pieces, batch_size)
    ours = {
        key: np.concatenate([part for _, part in parts])
        for key, parts in itertools.groupby(stream, operator.itemgetter(0))
    }
    expected = {
        key: np.concatenate(parts).sum(axis=(1, 2))
        for key, parts in enumerate(frames)
        if sum(map(len, parts))
    }
    assert ours.keys() == expected.keys()
    for key, features in expected.items():
        np.testing.assert_allclose(ours[key], features, rtol=1e-5, atol=1e-5)
    n_frames = sum(map(sum, videos))
    assert sizes == [batch_size] * -(-n_frames // batch_size)


def test_streams_refuse_frames_of_another_shape():
    pieces = [("a", np.zeros((1, 2, 2, 3))), ("b", np.zeros((1, 2, 4, 3)))]
    with pytest.raises(
        ValueError, match=r"frames of 'b': expected shape \(k, 2, 2, 3\), as before"
    ):
        list(backbones.extract_stream(lambda x: x.sum(axis=(1, 2)), pieces))
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1"):
        list(backbones.extract_stream(lambda x: x, pieces, 0))
