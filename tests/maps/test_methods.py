"""Maps by name on a tiny network, against direct calls."""

import dataclasses
import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax import gradients, maps, relevance
from esv_jax.games.removal import frame_index
from esv_jax.maps import MapSettings, clip_map
from esv_jax.maps.methods import GRAD_CAM_LAYERS, METHODS, compiled, esv_x_spatial, freeze
from esv_jax.maps.networks import probabilities
from esv_jax.models.clip_model import CLIP_NETWORKS
from esv_jax.perturbation.occlusion import occlusion
from tests.reference import plain

T, SIDE, C = 8, 20, 4
SETTINGS = MapSettings(
    integration_steps=3, noise_samples=2, window=(4, 10, 10), iterations=3, evaluations=40
)
TARGET = 2


@pytest.fixture(scope="module")
def clip():
    return jnp.asarray(np.random.default_rng(0).random((T, SIDE, SIDE, 3)), jnp.float32)


@pytest.fixture(scope="module")
def found(network, clip):
    """Every method's map, each made once."""

    def make(name, seed=0):
        if (name, seed) not in kept:
            key = jax.random.key(seed)
            kept[name, seed] = np.asarray(
                clip_map(name, network, clip, TARGET, key=key, settings=SETTINGS)
            )
        return kept[name, seed]

    kept = {}
    return make


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name == "step"))
        for name in METHODS
        if name != "step_no_core"
    ],
)
def test_every_method_is_reproducible(name, network, clip, found):
    one = found(name)
    chex.assert_shape(one, (T, SIDE, SIDE))
    assert one.dtype == np.float32 and np.isfinite(one).all() and one.std() > 0
    key = jax.random.key(0)
    run = compiled(name, network, dataclasses.replace(SETTINGS))
    assert run is compiled(name, network, SETTINGS)
    np.testing.assert_array_equal(run(clip, jnp.asarray(TARGET), key), one)
    other = run(clip, jnp.asarray(TARGET), jax.random.key(1))
    assert np.array_equal(other, one) != METHODS[name].draws
    faint = ("random", "step")  # so faint a network does not move masks in so few iterations
    assert not np.array_equal(run(clip, jnp.asarray(0), key), one) or name in faint


@pytest.mark.parametrize(
    "name",
    ["lrp", "selective", "discriminative", "discriminative_spatial", "grad_cam", "occlusion"]
    + ["integrated_gradients", "smooth_grad", "gradient_x_input", "random"],
)
def test_maps_equal_direct_calls(name, network, clip, found):
    fn, composite = network.logits, relevance.preset("epsilon_plus", *network.bounds)
    key = jax.random.key(0)

    def whole():
        return relevance.lrp(fn, clip, TARGET, composite=composite)

    def parts():
        return relevance.discriminative(fn, clip, TARGET, composite=composite)

    def cam():
        model, variables = network.module, network.variables
        head = lambda out: out[0]  # noqa: E731
        at = {"layer": "conv_3", "head": head}
        small = gradients.grad_cam_at(model, variables, clip[None], TARGET, **at)
        return jax.image.resize(small[0], (T, SIDE, SIDE), "linear")

    def smooth():
        sigma = 0.15 * (clip.max() - clip.min())
        found = gradients.smooth_grad(fn, clip, TARGET, key=key, sigma=sigma, samples=2)
        return jnp.abs(found).sum(-1)

    direct = {
        "lrp": lambda: whole().sum(-1),
        "selective": lambda: relevance.selective(whole(), 2.0).sum(-1),
        "discriminative": lambda: parts().temporal.sum(-1),
        "discriminative_spatial": lambda: parts().spatial.sum(-1),
        "grad_cam": cam,
        "occlusion": lambda: occlusion(jax.vmap(fn), clip, TARGET, window=(4, 10, 10)),
        "integrated_gradients": lambda: gradients.integrated_gradients(
            fn, clip, TARGET, steps=3
        ).sum(-1),
        "smooth_grad": smooth,
        "gradient_x_input": lambda: gradients.gradient_x_input(fn, clip, TARGET).sum(-1),
        "random": lambda: jax.random.uniform(key, (T, SIDE, SIDE)),
    }
    expected = np.asarray(jax.jit(direct[name])())
    np.testing.assert_allclose(found(name), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "core"), [("step", SETTINGS.core), ("step_no_core", None)])
def test_step_is_called_with_the_settings(name, core, network, clip, monkeypatch):
    """With a stub, because `step` compiles for long."""
    calls = []

    def stub(fn, clip, target, **options):
        calls.append((fn, target, options))
        return SimpleNamespace(saliency=fn(clip[None])[0, target] * clip.sum(-1))

    monkeypatch.setattr(maps.methods, "step", stub)
    key = jax.random.key(5)
    some = [clip_map(name, network, clip, c, key=key, settings=SETTINGS) for c in range(C)]
    np.testing.assert_allclose(sum(some), clip.sum(-1), rtol=1e-5)  # probabilities
    expected = {"areas": (0.05, 0.1, 0.2), "mode": "preserve", "iterations": 3}
    for fn, _, options in calls:
        assert fn is calls[0][0]  # compiled once for each function
        assert options == expected | {"core": core, "key": key}


@functools.partial(jax.jit, static_argnums=0)
def values_in_space(network, clip, spatial):
    """With all subsequences, so the values are exact."""
    key = jax.random.key(3)
    return esv_x_spatial(network.logits, clip, TARGET, spatial, key=key, evaluations=2**T)


def test_esv_x_spatial_equals_values_times_shares(network, clip, found):
    member = np.arange(2**T)[:, None] >> np.arange(T) & 1 > 0
    member[0] = True  # no empty clip is put to the network
    index = frame_index("freeze", member)
    table = np.array(jax.nn.softmax(jax.jit(jax.vmap(network.logits))(clip[index])))
    table[0] = 1 / C
    values = plain.shapley_by_weights(table)[:, TARGET]
    positive = np.maximum(found("lrp"), 0)
    share = positive / positive.sum((1, 2), keepdims=True)
    one = values_in_space(network, clip, found("lrp"))
    np.testing.assert_allclose(one, values[:, None, None] * share, atol=1e-6)


def test_a_frame_without_positive_values_is_uniform(network, clip):
    flat = jnp.zeros((T, SIDE, SIDE)).at[0, 3, 4].set(2.0) - 1
    one = np.asarray(values_in_space(network, clip, flat))
    assert np.count_nonzero(one[0]) == 1 and one[0, 3, 4] != 0
    assert (one[1:] == one[1:, :1, :1]).all() and (one[1:] != 0).all()


def test_freeze_equals_the_removal_of_black_boxes(rng):
    member = rng.random((40, 7)) < 0.4
    member = member[member.any(1)]
    frames = jnp.arange(7.0)
    found = jax.vmap(freeze, (None, 0))(frames, jnp.asarray(member))
    np.testing.assert_array_equal(found, frame_index("freeze", member))


def test_one_program_for_clips_and_targets(network, clip):
    chex.clear_trace_counter()
    logits = chex.assert_max_traces(n=4)(lambda clip: network.logits(clip))
    counted = SimpleNamespace(logits=logits)
    maps_ = [
        clip_map("gradient_x_input", counted, some, target)
        for some, target in ((clip, 0), (clip, 1), (1 - clip, 1))
    ]
    assert not np.array_equal(maps_[0], maps_[1]) and not np.array_equal(maps_[1], maps_[2])


def test_networks_without_bounds_and_layers(network, clip, found):
    plain = SimpleNamespace(logits=network.logits)
    expected = jax.jit(lambda: relevance.lrp(network.logits, clip, 1).sum(-1))()
    one = clip_map("lrp", plain, clip, 1)
    np.testing.assert_allclose(one, expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ValueError, match="network: expected a ClipModel, or a network with module"):
        clip_map("grad_cam", plain, clip, 1)
    parts = SimpleNamespace(
        logits=network.logits, module=network.module, variables=network.variables
    )
    with pytest.raises(ValueError, match=r"MapSettings\(layer=\.\.\.\)"):
        clip_map("grad_cam", parts, clip, 1)
    named = clip_map("grad_cam", parts, clip, TARGET, settings=MapSettings(layer="conv_3"))
    np.testing.assert_allclose(named, found("grad_cam"), atol=1e-6)
    with pytest.raises(ValueError, match=r"layer: expected an output \(1, t, h, w, c\)"):
        clip_map("grad_cam", network, clip, 1, settings=MapSettings(layer="dense"))


@pytest.mark.parametrize("name", list(CLIP_NETWORKS))
def test_grad_cam_layers_of_published_networks(name):
    """By shapes alone."""
    module = CLIP_NETWORKS[name].module(n_classes=2)
    clip = jax.ShapeDtypeStruct((1, 16, 112, 112, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), clip)
    layer = GRAD_CAM_LAYERS[name]

    def cam(variables, clip):
        head = lambda out: out[0]  # noqa: E731
        return gradients.grad_cam_at(module, variables, clip, 0, layer=layer, head=head)

    size = {"c3d": (1, 2, 7, 7), "r2plus1d_18": (1, 2, 7, 7)}[name]
    assert jax.eval_shape(cam, variables, clip).shape == size


@pytest.mark.parametrize(
    ("error", "match", "changed"),
    [
        (ValueError, "name: .* Did you mean 'smooth_grad'?", {"name": "smoothgrad"}),
        (ValueError, "name: .* Did you mean 'grad_cam'?", {"name": "Grad-CAM"}),
        (TypeError, "network: expected one with logits, got int", {"network": 3}),
        (TypeError, "x: expected a floating-point", {"clip": np.zeros((8, 20, 20, 3), np.uint8)}),
        (ValueError, r"clip: expected shape \(t, h, w, c\)", {"clip": np.zeros(3, np.float32)}),
        (
            ValueError,
            r"clip: expected shape \(8, s, s, 3\), as prepare",
            {"clip": np.zeros((8, 40, 40, 3), np.float32)},
        ),
        (ValueError, r"target: expected classes in 0\.\.3, got 4", {"target": 4}),
        (ValueError, "target: expected one class", {"target": [1, 2]}),
        (ValueError, "key: expected a PRNG key, got None", {"name": "random"}),
    ],
)
def test_bad_input_is_refused(network, clip, error, match, changed):
    given = {"name": "lrp", "network": network, "clip": clip, "target": 1} | changed
    with pytest.raises(error, match=match):
        clip_map(**given)


@pytest.mark.parametrize(
    ("error", "match", "changed"),
    [
        (ValueError, "composite: expected one of .* Did you mean", {"composite": "epsilon_pls"}),
        (ValueError, "sigma: expected a number >= 0", {"sigma": -1.0}),
        (ValueError, "noise: expected a number >= 0", {"noise": -0.1}),
        (ValueError, "integration_steps: expected an integer >= 1", {"integration_steps": 0}),
        (TypeError, "evaluations: expected an integer", {"evaluations": 1.5}),
        (TypeError, "areas: expected a tuple, got list", {"areas": [0.1]}),
        (ValueError, "areas: expected shares between 0 and 1", {"areas": (0.1, 1.0)}),
    ],
)
def test_bad_settings_are_refused(error, match, changed):
    with pytest.raises(error, match=match):
        MapSettings(**changed)


def test_non_finite_maps_are_refused(clip):
    broken = SimpleNamespace(logits=lambda clip: jnp.sqrt(clip[0, 0, 0] - 2))
    for name in ("gradient_x_input", "occlusion"):
        with pytest.raises(ValueError, match=f"{name}: expected finite values, got nan at index"):
            clip_map(name, broken, clip, 1, settings=SETTINGS)


def test_a_single_logit_has_the_probability_of_its_sigmoid():
    """A softmax over one class is 1 whatever the clip shows."""
    clip = jnp.asarray(np.random.default_rng(0).random((3, 4, 4, 1)), jnp.float32)

    def logit(clip):
        return 6 * clip.mean()[None] - 3

    single = SimpleNamespace(logits=logit)
    both = SimpleNamespace(logits=lambda clip: jnp.concatenate([jnp.zeros(1), logit(clip)]))
    found, expected = (probabilities(n)(clip[None]) for n in (single, both))
    np.testing.assert_allclose(found[0], expected[0, 1:], rtol=1e-6)
    key, spatial = jax.random.key(0), jnp.ones(clip.shape[:3])
    values = [
        jax.jit(functools.partial(esv_x_spatial, network.logits, key=key, evaluations=8))(
            clip, target, spatial
        )
        for network, target in ((single, 0), (both, 1))
    ]
    np.testing.assert_allclose(*values, atol=1e-6)
    gained = float(found[0, 0]) - 0.5
    assert float(values[0].sum()) == pytest.approx(gained, abs=1e-5) and abs(gained) > 1e-3


def test_logits_must_be_arrays(clip):
    """For all methods alike."""
    record = SimpleNamespace(logits=lambda clip: {"logits": clip[0, 0, 0]})
    for name in ("lrp", "gradient_x_input", "occlusion", "random"):
        with pytest.raises(ValueError, match=r"fn: .* got dict\. Return its logits alone"):
            clip_map(name, record, clip, 1, key=jax.random.key(0), settings=SETTINGS)
