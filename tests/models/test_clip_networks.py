"""Published 3D networks: reference outputs and state dicts."""

import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax.models.clip_model import CLIP_NETWORKS, clip_network_from_state_dict
from esv_jax.models.networks import factored_width
from esv_jax.models.state_dicts import recognise_network, to_state_dict
from tests.conftest import SHARED
from tests.models.test_backbones import by_rule


@pytest.fixture(scope="module", params=list(CLIP_NETWORKS))
def case(request):
    folder = SHARED / "fixtures" / "architectures"
    if not folder.is_dir():
        pytest.skip("shared inputs are not present beside the checkout")
    shapes = json.loads((folder / f"{request.param}.json").read_text())
    state = {name: by_rule(name, tuple(shape)) for name, shape in shapes.items()}
    return request.param, state, np.load(folder / f"{request.param}.npz")


def test_outputs_are_those_of_pytorch(case):
    name, state, z = case
    assert recognise_network(state, CLIP_NETWORKS) == name
    module, variables = clip_network_from_state_dict(name, state)
    clips = jnp.asarray(np.moveaxis(z["input"], 1, -1))
    found = np.asarray(jax.jit(module.apply)(variables, clips))
    assert np.abs(found - z["output_f64"]).max() < 1e-5 * np.abs(z["output_f64"]).max()


def test_state_dicts_round_trip_without_their_wrappers(case):
    name, state, _ = case
    wrapped = {f"module.{key}": array for key, array in state.items()}
    _, variables = clip_network_from_state_dict(name, wrapped)
    back = to_state_dict(variables)
    assert set(back) == {key for key in state if not key.endswith("num_batches_tracked")}
    assert all(np.array_equal(back[key], state[key]) for key in back)


def test_bad_state_dicts_are_refused(case):
    name, state, _ = case
    last = CLIP_NETWORKS[name].last
    less = {key: array for key, array in state.items() if key != f"{last}.weight"}
    with pytest.raises(ValueError, match=rf"an entry for every layer, got no {last}\.weight"):
        clip_network_from_state_dict(name, less)
    with pytest.raises(ValueError, match="names of this model, got extra"):
        clip_network_from_state_dict(name, state | {"extra": np.zeros(2)})
    with pytest.raises(ValueError, match="shapes of this model"):
        clip_network_from_state_dict(name, state | {f"{last}.weight": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="a state dict of r2plus1d_18 or c3d"):
        recognise_network({"layer.weight": np.zeros(2)}, CLIP_NETWORKS)
    with pytest.raises(ValueError, match="name"):
        clip_network_from_state_dict("i3d", state)


@pytest.mark.parametrize("name", list(CLIP_NETWORKS))
def test_modules_have_the_published_number_of_weights(name):
    n_classes, known = {"r2plus1d_18": (400, 31_505_325), "c3d": (101, 78_409_573)}[name]
    network = CLIP_NETWORKS[name]
    side = network.preprocessing.crop
    clip = jax.ShapeDtypeStruct((1, network.n_frames, side, side, 3), jnp.float32)
    module = network.module(n_classes=n_classes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), clip)
    leaves = flax.traverse_util.flatten_dict(shapes["params"])
    assert sum(leaf.size for leaf in leaves.values()) == known


def test_factored_width_preserves_the_number_of_weights():
    assert [factored_width(*pair) for pair in ((64, 64), (64, 128), (512, 512))] == [144, 230, 1152]
