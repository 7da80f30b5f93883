"""Gradient methods: parity with captum, identities, plain twins, errors."""

import functools
import types
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.games.few_scores import score
from esv_jax.games.grouped import Grouped
from esv_jax.games.multi_scale import direct_logits
from esv_jax.gradients import (
    grad_cam,
    grad_cam_at,
    gradient,
    gradient_x_input,
    integrated_gradients,
    per_element,
    score_function,
    smooth_grad,
)
from esv_jax.gradients.input_gradients import RULES, completeness_gap, integration_rule
from tests.conftest import FIXTURES, SHARED, drawn_variables
from tests.games_for_tests import multi_scale_case

N, D, C = 5, 4, 3


def with_gap(fn, x, target=None, *, baseline=None, **options):
    """Integrated Gradients, and the change of the score that they do not account for."""
    a = integrated_gradients(fn, x, target, baseline=baseline, **options)
    return a, completeness_gap(fn, x, a, target, baseline=baseline)


def rel_max(a, b):
    return np.abs(np.asarray(a) - b).max() / np.abs(b).max()


def smooth_fn(rng, dtype=np.float32, n=N):
    """A smooth function of (n, D), its scores (C,), and an input."""
    w = jnp.asarray(rng.normal(size=(n * D, 6)).astype(dtype))
    v = jnp.asarray(rng.normal(size=(6, C)).astype(dtype))
    x = jnp.asarray(rng.normal(size=(n, D)).astype(dtype))

    @jax.jit
    def fn(x):
        hidden = jnp.tanh(jnp.matmul(x.reshape(-1), w, precision="highest"))
        return jax.nn.softmax(jnp.matmul(hidden, v, precision="highest"))

    return fn, x


def compiled(method, fn, x, *args, **options):
    """What a method gives for concrete arguments, as one program of the input."""
    return jax.jit(lambda x: method(fn, x, *args, **options))(x)


# Parity with captum


def ig_cases():
    """Our copies, and what else lies beside the checkout."""
    paths = {}
    for folder in (SHARED / "fixtures" / "integrated_gradients", FIXTURES / "integrated_gradients"):
        paths |= {path.name: path for path in folder.glob("*.npz")}
    assert len(paths) >= 5
    return [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * path.is_relative_to(SHARED))
        for _, path in sorted(paths.items())
    ]


def test_the_largest_fixture_is_compared_where_present():
    """Integrated Gradients of it are compared below."""
    name = "integrated_gradients_multiscale_03.npz"
    if not (SHARED / "fixtures" / "integrated_gradients" / name).is_file():
        pytest.skip(f"{name} is not present beside the checkout")
    assert any(name == case.values[0].name for case in ig_cases())


def game_of(file, dtype, link):
    if "W" in file:
        return ej.AverageConsensus(file["W"].astype(dtype), file["b"].astype(dtype), link=link)
    heads = [
        {name.lower(): file[f"{name}_{s}"].astype(dtype) for name in ("W1", "b1", "W2", "b2")}
        for s in range(1, int(file["n_max"]) + 1)
    ]
    return ej.MultiScale(ej.models.stack_heads(heads), link=link)


@pytest.mark.parametrize("is_double", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("path", ig_cases())
def test_integrated_gradients_agree_with_captum(path, is_double):
    dtype, tolerance = (np.float64, 1e-10) if is_double else (np.float32, 1e-5)
    rules = {
        "gausslegendre": 50,
        "gausslegendre200": 200,
        "riemann_middle": 50,
        "riemann_trapezoid": 50,
    }
    if path.stem.endswith("tsn_01") and not is_double:
        del rules["gausslegendre200"]  # a point lies within 1e-8 of a ReLU's kink
    with jax.enable_x64(is_double), np.load(path, allow_pickle=False) as file:
        x, baseline = file["features"].astype(dtype), file["baseline"].astype(dtype)
        logits = score_function(game_of(file, dtype, "identity"))
        target, c = int(file["target"]), int(file["n_classes"])

        @jax.jit  # traced once for all rules
        def both(x):
            of_classes = logits(x)
            return jnp.concatenate([of_classes, jax.nn.softmax(of_classes)])

        @jax.jit
        def explain(x):
            both_of = functools.partial(with_gap, both, x, [target, c + target], baseline=baseline)
            return both(x), {
                method: both_of(steps=steps, rule=method.removesuffix("200"))
                for method, steps in rules.items()
            }

        output, results = explain(x)
        for k, prefix in enumerate(("logits", "softmax")):
            assert rel_max(output[k * c : (k + 1) * c], file[f"{prefix}_output"]) < tolerance
            for method, (a, gaps) in results.items():
                got, gap, expected = a[..., k], gaps[k], f"{prefix}_{method}"
                assert got.dtype == dtype and got.shape == x.shape
                assert rel_max(got, file[f"{expected}_full"]) < tolerance
                assert rel_max(per_element(got), file[f"{expected}_mean"]) < tolerance
                assert rel_max(per_element(got, "sum"), file[f"{expected}_sum"]) < tolerance
                scale = np.abs(file[f"{prefix}_output"]).max()
                assert abs(gap + file[f"{expected}_delta"]) < tolerance * scale
        if "project_wrapper_f32" in file and not is_double:
            got = per_element(results["gausslegendre"][0][..., 0])
            assert rel_max(got, file["project_wrapper_f32"]) < tolerance


# Identities


def test_gap_vanishes_with_steps_and_gauss_legendre_converges_fastest(rng, x64):
    fn, x = smooth_fn(rng, np.float64)

    @jax.jit
    def largest_gaps(x):
        explain = functools.partial(with_gap, fn, x)
        return {
            rule: [
                jnp.abs(explain(rule=integration_rule(rule, k, exact=True))[1]).max()
                for k in (4, 16, 64)
            ]
            for rule in RULES
        }

    gaps = largest_gaps(x)
    assert gaps["gausslegendre"][2] < 1e-13
    for rule, (few, more, most) in gaps.items():
        if rule != "gausslegendre":
            assert few > more > most > gaps["gausslegendre"][2], rule
    ends_count_half = [float(gaps[rule][2]) for rule in ("trapezoid", "riemann_middle")]
    assert max(ends_count_half) < gaps["riemann_left"][2] / 10


@pytest.mark.parametrize("target", [2, [0, 2], None])
def test_completeness_gap_is_change_of_score_minus_sum(rng, x64, target):
    fn, x = smooth_fn(rng, np.float64)
    baseline = rng.normal(size=(D,))
    options = {"baseline": baseline, "steps": 2, "rule": "riemann_left"}
    a, gap = compiled(with_gap, fn, x, target, **options)
    start = np.broadcast_to(baseline, x.shape)
    chosen = np.arange(C) if target is None else np.asarray(target)
    change = np.asarray(fn(x) - fn(start))[chosen]
    np.testing.assert_allclose(gap, change - np.asarray(a).sum((0, 1)), atol=1e-14)
    assert np.abs(gap).max() > 1e-3


def test_a_linear_model_is_explained_exactly_by_one_step(rng, x64):
    w, b = rng.normal(size=(N * D, C)), rng.normal(size=C)
    x, baseline = rng.normal(size=(2, N, D))

    def fn(x):
        return x.reshape(-1) @ jnp.asarray(w) + jnp.asarray(b)

    expected = (x - baseline)[..., None] * w.reshape(N, D, C)
    explain = functools.partial(compiled, with_gap, fn, x, baseline=baseline)
    for rule in ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle"):
        got, gap = explain(steps=1, rule=rule)
        np.testing.assert_allclose(got, expected, atol=1e-14)
        np.testing.assert_allclose(gap, 0, atol=1e-13)
    np.testing.assert_allclose(explain(steps=2, rule="trapezoid")[0], expected)
    np.testing.assert_allclose(compiled(gradient, fn, x), w.reshape(N, D, C))
    alone = compiled(gradient_x_input, fn, x)
    np.testing.assert_allclose(alone, x[..., None] * w.reshape(N, D, C))


def test_equals_gradient_x_input_for_relu_networks_without_biases(rng, x64):
    w, v = rng.normal(size=(N * D, 8)), rng.normal(size=(8, C))

    def fn(x):
        return jax.nn.relu(x.reshape(-1) @ jnp.asarray(w)) @ jnp.asarray(v)

    x = rng.normal(size=(N, D))
    rule = integration_rule("gausslegendre", 3, exact=True)
    got = compiled(integrated_gradients, fn, x, rule=rule)
    alone = np.asarray(compiled(gradient_x_input, fn, x))
    np.testing.assert_allclose(got, alone, atol=1e-13)
    np.testing.assert_allclose(alone.sum((0, 1)), np.maximum(x.reshape(-1) @ w, 0) @ v)


def test_integration_rules_integrate_polynomials():
    rule_of = functools.partial(integration_rule, exact=True)
    for rule in RULES:
        points, weights = rule_of(rule, 8)
        assert np.all(np.diff(points) > 0) and points[0] >= 0 and points[-1] <= 1
        total = 7 / 8 if rule == "riemann_trapezoid" else 1
        np.testing.assert_allclose(weights.sum(), total, rtol=1e-14)
        for steps in (2, 8, 49, 50):
            for single, double in zip(
                integration_rule(rule, steps), rule_of(rule, steps), strict=True
            ):
                np.testing.assert_allclose(single, double, rtol=0, atol=6e-8)
    points, weights = rule_of("gausslegendre", 4)
    np.testing.assert_allclose([weights @ points**k for k in range(8)], 1 / np.arange(1, 9))
    np.testing.assert_allclose(rule_of("riemann_left", 4)[0], [0, 1 / 4, 1 / 2, 3 / 4])
    np.testing.assert_allclose(rule_of("riemann_right", 4)[0], [1 / 4, 1 / 2, 3 / 4, 1])
    np.testing.assert_allclose(rule_of("riemann_middle", 2)[0], [1 / 4, 3 / 4])
    np.testing.assert_allclose(rule_of("trapezoid", 3)[1], [1 / 4, 1 / 2, 1 / 4])


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 3, 1000])
def test_batches_of_steps_change_nothing(rng, x64, batch_size):
    fn, x = smooth_fn(rng, np.float64)
    for target in (1, None):
        along = functools.partial(integrated_gradients, baseline=0.5, steps=7)
        noisy = functools.partial(smooth_grad, key=jax.random.key(1), sigma=0.3, samples=11)
        for method in (along, noisy):
            whole = compiled(method, fn, x, target)
            part = compiled(method, fn, x, target, batch_size=batch_size)
            np.testing.assert_allclose(part, whole, atol=1e-15)


def test_padding_of_a_batch_repeats_known_points():
    """Where the function has no finite gradient beyond the last point, the sum is still finite."""

    def fn(x):
        return jnp.sqrt(1 - x)  # infinite slope at 1, which "riemann_left" never sees

    x = jnp.ones(2)
    got = integrated_gradients(fn, x, 0, steps=5, rule="riemann_left", batch_size=3)
    assert np.isfinite(got).all()


def test_gradient_equals_finite_differences(rng, x64):
    fn, x = smooth_fn(rng, np.float64)
    x, step, expected = np.asarray(x), 1e-6, np.zeros((N, D, C))
    for i in range(N):
        for d in range(D):
            moved = np.zeros((N, D))
            moved[i, d] = step
            expected[i, d] = np.asarray(fn(x + moved) - fn(x - moved)) / (2 * step)
    for target, part in ((None, expected), (1, expected[..., 1]), ([2, 0], expected[..., [2, 0]])):
        np.testing.assert_allclose(compiled(gradient, fn, x, target), part, atol=1e-9)


def test_smooth_grad_without_noise_is_the_gradient(rng, x64):
    fn, x = smooth_fn(rng, np.float64)
    for target in (0, None):
        got = compiled(smooth_grad, fn, x, target, key=jax.random.key(0), sigma=0, samples=3)
        np.testing.assert_allclose(got, compiled(gradient, fn, x, target), atol=1e-15)


def test_smooth_grad_is_the_mean_over_noise(rng, x64):
    """Of x**3 / 3 the smoothed slope is x**2 + sigma**2."""
    x, sigma = rng.normal(size=(1, 4)), np.array([[0.1, 0.5, 1.0, 0.0]])
    got = compiled(
        smooth_grad,
        lambda x: x.reshape(-1) ** 3 / 3,
        x,
        key=jax.random.key(0),
        sigma=sigma,
        samples=20_000,
    )
    slopes = np.asarray(got)[0, np.arange(4), np.arange(4)]
    error = np.sqrt(4 * x**2 * sigma**2 + 2 * sigma**4)[0] / np.sqrt(20_000)  # of the mean
    assert np.all(np.abs(slopes - (x**2 + sigma**2)[0]) <= 4 * error + 1e-12)
    options = {"key": jax.random.key(0), "sigma": 1.0, "samples": 2}
    again = compiled(smooth_grad, lambda x: x[0], x, **options)
    np.testing.assert_allclose(again[0], np.eye(4))


# Grad-CAM


def plain_cam(a, gradients, over):
    """Grad-CAM by loops: a (n, ..., D), gradients like it for one class."""
    flat, slope = a.reshape(len(a), -1, a.shape[-1]), gradients.reshape(len(a), -1, a.shape[-1])
    out = np.zeros(flat.shape[:2])
    for i in range(flat.shape[0]):
        for p in range(flat.shape[1]):
            for d in range(flat.shape[2]):
                alpha = slope[..., d].mean() if over == "sequence" else slope[i, :, d].mean()
                out[i, p] += alpha * flat[i, p, d]
    return out.reshape(a.shape[:-1])


@pytest.mark.parametrize("over", ["sequence", "element"])
@pytest.mark.parametrize("shape", [(N, D), (2, 3, 2, D)])
def test_grad_cam_equals_plain_loops(rng, x64, shape, over):
    w, x = rng.normal(size=(np.prod(shape), C)), rng.normal(size=shape)

    def fn(x):
        return jnp.tanh(x.reshape(-1) @ jnp.asarray(w))

    everything = np.asarray(compiled(gradient, fn, x))
    expected = np.stack([plain_cam(x, everything[..., c], over) for c in range(C)], axis=-1)
    explain = functools.partial(compiled, grad_cam, fn, x, over=over)
    np.testing.assert_allclose(explain(), expected, atol=1e-13)
    np.testing.assert_allclose(explain(1), expected[..., 1], atol=1e-13)
    assert expected.min() < 0 < expected.max()
    rectified = explain(relu=True)
    np.testing.assert_allclose(rectified, np.maximum(expected, 0), atol=1e-13)


def test_grad_cam_of_features_over_each_element_is_gradient_x_input(rng, x64):
    fn, x = smooth_fn(rng, np.float64)
    products = np.asarray(compiled(gradient_x_input, fn, x))
    cam = compiled(grad_cam, fn, x, over="element")
    np.testing.assert_allclose(cam, products.sum(1), atol=1e-15)


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(self.width, (3, 3, 3), name="conv", param_dtype=x.dtype)(x))


class ClipNet(nn.Module):
    """A clip (t, h, w, c) to logits (C,), with nested, shared and array-less layers."""

    @nn.compact
    def __call__(self, clip, train=True):
        x = Block(4, name="first")(clip)
        again = Block(4, name="shared")
        x = again(again(x))
        x = nn.remat(Block)(5, name="last")(x)
        x = self.pooled(x)
        return nn.Dense(C, name="head", param_dtype=x.dtype)(x * (2 if train else 1))

    def pooled(self, x):
        return jnp.tanh(x).mean((0, 1, 2))


@pytest.fixture
def clip_net(rng, x64):
    clip = jnp.asarray(rng.normal(size=(3, 5, 4, 2)))
    model = ClipNet()
    return model, drawn_variables(model, clip), clip


def conv(x, params):
    kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
    layout = ("NDHWC", "DHWIO", "NDHWC")
    y = jax.lax.conv_general_dilated(x[None], kernel, (1,) * 3, "SAME", dimension_numbers=layout)
    return jax.nn.relu(y[0] + bias.reshape(1, 1, 1, -1))


def by_hand(params, x, start):
    """The rest of `ClipNet` from the output of layer `start` on."""
    for layer in ["first", "shared", "shared", "last"][start:]:
        x = conv(x, params[layer])
    return jnp.tanh(x).mean((0, 1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("target", [1, None, [2, 0]])
@pytest.mark.parametrize(
    ("layer", "call", "depth"),
    [("first", None, 1), ("shared", 0, 2), ("shared", 1, 3), ("last", None, 4)],
)
def test_grad_cam_at_a_layer_is_that_of_the_network_in_two_halves(
    clip_net, layer, call, depth, target
):
    model, variables, clip = clip_net
    params = variables["params"]

    @jax.jit
    def in_two_halves(a):
        for name in ["first", "shared", "shared", "last"][:depth]:
            a = conv(a, params[name])
        return grad_cam(lambda a: by_hand(params, a, depth), a, target)

    @functools.partial(jax.jit, static_argnames="train")
    def at_layer(clip, train=True):
        return grad_cam_at(model, variables, clip, target, layer=layer, call=call, train=train)

    expected, got = np.asarray(in_two_halves(clip)), at_layer(clip, train=False)
    assert got.shape == expected.shape
    assert got.shape[:3] == (3, 5, 4)
    np.testing.assert_allclose(got, expected, atol=1e-14)
    # kwargs reach the model
    np.testing.assert_allclose(at_layer(clip), 2 * expected, atol=1e-14)


def test_grad_cam_at_leaves_nothing_behind_and_runs_compiled(clip_net):
    model, variables, clip = clip_net
    before = model.apply(variables, clip)
    explain = functools.partial(grad_cam_at, model, layer="first/conv")
    plain = explain(variables, clip, 0)
    np.testing.assert_array_equal(model.apply(variables, clip), before)
    assert set(variables) == {"params"}
    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(lambda v, x, c: explain(v, x, c), n=1))
    np.testing.assert_allclose(compiled(variables, clip, 0), plain, atol=1e-14)
    np.testing.assert_allclose(compiled(variables, clip, 1), explain(variables, clip, 1))
    batch = jax.vmap(lambda x: explain(variables, x, 0))(jnp.stack([clip, clip]))
    np.testing.assert_allclose(batch[1], plain, atol=1e-14)


def test_grad_cam_at_other_methods_and_behind_a_head(rng, x64):
    """The frame encoder's convolutions are calls of one method; features go on to a game."""
    from esv_jax.models.frame_encoder import FrameCNN

    model = FrameCNN(6, (3, 4, 4, 4))
    frames = jnp.asarray(rng.uniform(size=(2, 64, 64, 3)))
    variables = drawn_variables(model, frames)
    game = ej.AverageConsensus(rng.normal(size=(6, C)), rng.normal(size=C))
    head = score_function(game)

    def explain(**options):
        return jax.jit(lambda x: grad_cam_at(model, variables, x, head=head, **options))(frames)

    maps = explain(layer="_convolution", call=2, over="element")
    assert maps.shape == (2, 4, 4, C)
    assert per_element(maps, class_axis=True).shape == (2, C)
    features = jax.jit(model.apply)(variables, frames)
    np.testing.assert_allclose(explain(layer="__call__"), compiled(grad_cam, head, features))


def test_errors_of_grad_cam_at(clip_net):
    model, variables, clip = clip_net
    explain = functools.partial(grad_cam_at, model, variables, clip, 0)
    with pytest.raises(
        ValueError, match=r"layer: expected a layer .* got 'frist'. Did you mean 'f"
    ):
        explain(layer="frist")
    with pytest.raises(ValueError, match=r"'shared', called 2 times. Give call, 0 to 1"):
        explain(layer="shared")
    with pytest.raises(ValueError, match=r"call: expected a call in 0..1, got 2"):
        explain(layer="shared", call=2)
    with pytest.raises(ValueError, match=r"layer: expected an output of shape \(n, ..., D\), got"):
        explain(layer="pooled")
    with pytest.raises(TypeError, match="layer: expected a name, got int"):
        explain(layer=1)
    with pytest.raises(TypeError, match="model: expected a Linen module, got function"):
        grad_cam_at(lambda x: x, variables, clip, 0, layer="first")
    with pytest.raises(
        ValueError, match=r"fn: expected scores of shape \(C,\), got shape \(1, 3\)"
    ):
        explain(layer="first", head=lambda out: out[None])


def test_grad_cam_at_refuses_layers_of_a_lifted_loop(x64):
    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(D, name="dense", param_dtype=x.dtype)(x), None

    class Loop(nn.Module):
        @nn.compact
        def __call__(self, x):
            split = {"params": True}
            loop = nn.scan(Step, variable_axes={"params": 0}, split_rngs=split, length=3)
            return loop(name="loop")(x, None)[0].mean(0)

    x = jnp.ones((N, D))
    variables = Loop().init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="layer: expected"):
        grad_cam_at(Loop(), variables, x, layer="loop/dense", call=0)


# Games


def test_score_function_is_the_whole_sequences_score(rng, x64):
    game, x, prior, _ = multi_scale_case(rng, 6, 3, n_hidden=1)
    x = jnp.asarray(x)
    att = ej.explain(game, x, prior=prior)
    np.testing.assert_allclose(jax.jit(score_function(game))(x), att.scores, atol=1e-14)
    logits = score_function(game, "identity")
    direct = jax.jit(direct_logits)(game.heads, x)
    np.testing.assert_allclose(jax.jit(logits)(x), direct, atol=1e-14)
    mean = ej.AverageConsensus(rng.normal(size=(x.shape[1], C)), rng.normal(size=C))
    masked = ej.VariableLength(lambda x, mask: mean.subset_logits(x, mask[None])[0])
    for other in (mean, masked):
        scores = ej.explain(other, x, prior=np.full(C, 1 / C)).scores
        np.testing.assert_allclose(score_function(other)(x), scores, atol=1e-14)


def test_gradients_of_definition_and_recurrence_are_equal(rng, x64):
    """Eq. (8) and Eq. (9) agree, and so do their gradients."""
    game, x, _, _ = multi_scale_case(rng, 5, 3)
    logits = ej.MultiScale(game.heads, link="identity")
    prior = jnp.zeros(4)
    slow = compiled(gradient, lambda x: score(logits, x, np.ones((1, 5), bool), prior=prior)[0], x)
    fast = compiled(gradient, score_function(game, "identity"), x)
    np.testing.assert_allclose(fast, slow, atol=1e-13)


def test_float32_heads_take_double_features_and_the_other_way_round(rng, x64):
    game, x, _, _ = multi_scale_case(rng, 4, 2)
    single = ej.MultiScale(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), game.heads))
    assert compiled(gradient, score_function(single), x).dtype == jnp.float64
    x = x.astype(np.float32)
    assert compiled(gradient, score_function(game), x).dtype == jnp.float32


def test_games_without_gradient_are_refused(rng):
    x = rng.normal(size=(4, D)).astype(np.float32)
    box = ej.BlackBox(lambda clips: np.ones((len(clips), C)))
    with pytest.raises(TypeError, match=r"game: expected a game that JAX can diff.* got BlackBox"):
        score_function(box)
    mean = ej.AverageConsensus(np.ones((D, C), np.float32), np.ones(C, np.float32))
    grouped = Grouped(mean, x)
    with pytest.raises(TypeError, match=r"got Grouped. Explain its elements"):
        score_function(grouped)
    with pytest.raises(TypeError, match=r"got Silent. Write its score as a function of x"):
        score_function(type("Silent", (), {"link": "identity"})())
    with pytest.raises(ValueError, match=r"link: expected one of .*Did you mean 'softmax'"):
        score_function(mean, "sotfmax")
    with pytest.raises(ValueError, match=r"x: expected shape \(n, D\)"):
        gradient(score_function(mean), x[:, :2])


def test_sequences_too_long_to_enumerate_are_refused(rng):
    game, x, _, _ = multi_scale_case(rng, 6, 3)
    x = x.astype(np.float32)
    with pytest.raises(ValueError, match=r"at most 40 subsequences .* got 41 of 6 elements"):
        gradient(score_function(game, max_evaluations=40), x)
    enough = jax.jit(score_function(game, max_evaluations=41))
    assert gradient(enough, x, 0).shape == x.shape


@pytest.mark.slow  # a network of full size
def test_pixels_are_explained_through_a_network(rng):
    """From the frames of a video, through encoder and heads, to its class."""
    world = ej.models.load_synthetic_world()
    fn = score_function(ej.MultiScale(world.trained.heads), "identity")
    encode = functools.partial(world.encoder.apply, world.encoder.variables)
    clip = rng.uniform(size=(3, 64, 64, 3)).astype(np.float32)
    explain = jax.jit(
        functools.partial(with_gap, lambda clip: fn(encode(clip)), baseline=0.5, steps=32)
    )
    pixels, gap = explain(clip, 0)
    assert pixels.shape == clip.shape
    score = jax.jit(lambda clip: fn(encode(clip))[0])
    change = float(score(clip) - score(np.full_like(clip, 0.5)))
    assert abs(gap) < 0.1 * abs(change)
    total = float(per_element(pixels, "sum", class_axis=False).sum())
    np.testing.assert_allclose(total + float(gap), change, atol=1e-3 * abs(change))


# Shapes, batches, compilation


METHODS: dict[str, Any] = {
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "integrated_gradients": functools.partial(integrated_gradients, steps=5, baseline=0.1),
    "smooth_grad": functools.partial(smooth_grad, key=jax.random.key(3), sigma=0.2, samples=4),
    "grad_cam": grad_cam,
}


class Compiled(chex.TestCase):
    """Every method with and without jit: one class, chosen ones and all agree."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_targets_agree(self):
        fn, x = smooth_fn(np.random.default_rng(0))
        for name, method in METHODS.items():
            run = self.variant(functools.partial(method, fn))
            everything = run(x)
            assert everything.dtype == x.dtype and everything.shape[-1] == C, name
            for c in range(C):
                one = run(x, jnp.asarray(c))
                np.testing.assert_allclose(one, everything[..., c], atol=1e-6, err_msg=name)
            some = run(x, jnp.asarray([2, 0, 2]))
            np.testing.assert_allclose(some, everything[..., [2, 0, 2]], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", METHODS)
def test_batches_with_a_target_each_compile_once(rng, name):
    fn, _ = smooth_fn(rng)
    xs = rng.normal(size=(4, N, D)).astype(np.float32)
    targets = jnp.asarray([0, 2, 1, 1])
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def batched(xs, targets):
        return jax.vmap(functools.partial(METHODS[name], fn))(xs, targets)

    got = batched(xs, targets)
    batched(xs + 1, targets[::-1])
    alone = jax.jit(functools.partial(METHODS[name], fn))
    for x, target, one in zip(xs, targets, got, strict=True):
        np.testing.assert_allclose(one, alone(x, target), atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_and_double_keep_their_dtype(rng, x64, name):
    fn, x = smooth_fn(rng, np.float64)
    assert compiled(METHODS[name], fn, x, 0).dtype == jnp.float64
    x = x.astype(jnp.float16)
    half = compiled(METHODS[name], lambda x: fn(x.astype(jnp.float64)), x, 0)
    assert half.dtype == (jnp.float32 if name == "grad_cam" else jnp.float16)


def test_per_element_averages_over_the_rest(rng):
    a = rng.normal(size=(N, 2, 3, C)).astype(np.float32)
    of_one = functools.partial(per_element, class_axis=False)
    np.testing.assert_allclose(of_one(a), a.reshape(N, -1).mean(1), rtol=1e-5)
    np.testing.assert_allclose(of_one(a, "sum"), a.sum((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(per_element(a[:, 0, 0]), a[:, 0, 0].mean(1), rtol=1e-5)
    kept = per_element(a, class_axis=True)
    np.testing.assert_allclose(kept, a.reshape(N, 6, C).mean(1), rtol=1e-4)
    np.testing.assert_array_equal(per_element(a[:, 0, 0], class_axis=True), a[:, 0, 0])
    np.testing.assert_array_equal(per_element(a[:, 0, 0, 0]), a[:, 0, 0, 0])
    with pytest.raises(ValueError, match=r"attributions: expected shape \(n, ..., K\)"):
        per_element(a[:, 0, 0, 0], class_axis=True)
    with pytest.raises(ValueError, match="how: expected one of"):
        per_element(a, "max")


def test_per_element_needs_class_axis_for_ambiguous_shapes(rng):
    """Attributions (n, D, C) of all classes and (n, h, w) of one have the same rank."""
    fn, x = smooth_fn(rng)
    of_all = gradient(fn, x)
    with pytest.raises(
        ValueError, match=r"class_axis: expected True or False .*\(5, 4, 3\), got N"
    ):
        per_element(of_all)
    with pytest.raises(TypeError, match="class_axis: expected True, False or None, got int"):
        per_element(of_all, class_axis=2)
    each = np.stack([per_element(gradient(fn, x, c)) for c in range(C)], axis=-1)
    np.testing.assert_allclose(per_element(of_all, class_axis=True), each, atol=1e-7)


def test_baselines_broadcast_like_the_input(rng):
    fn, x = smooth_fn(rng)
    mean = x.mean(0)
    whole = integrated_gradients(fn, x, 0, baseline=jnp.broadcast_to(mean[None], x.shape))
    np.testing.assert_array_equal(integrated_gradients(fn, x, 0, baseline=mean), whole)
    zeros = integrated_gradients(fn, x, 0)
    for nothing in (0, 0.0, np.zeros(D), np.zeros((N, 1), np.float32)):
        np.testing.assert_array_equal(integrated_gradients(fn, x, 0, baseline=nothing), zeros)
    same = integrated_gradients(fn, x, 0, baseline=x)
    np.testing.assert_array_equal(same, np.zeros_like(x))


# Errors


def test_errors_of_integrated_gradients(rng):
    fn, x = smooth_fn(rng)
    explain = functools.partial(integrated_gradients, fn, x, 0)
    with pytest.raises(
        ValueError, match=r"rule: .* got 'gauslegendre'. Did you mean 'gausslegendr"
    ):
        explain(rule="gauslegendre")
    for rule, least in (("gausslegendre", 1), ("trapezoid", 2), ("riemann_trapezoid", 2)):
        with pytest.raises(ValueError, match=f"steps: expected an integer >= {least}"):
            explain(rule=rule, steps=least - 1)
    with pytest.raises(TypeError, match="rule: expected a name or a pair"):
        explain(rule=None)
    with pytest.raises(ValueError, match=r"rule: expected points and weights of one shape"):
        explain(rule=(np.zeros(1), np.zeros(2)))
    with pytest.raises(TypeError, match="steps: expected an integer, got float"):
        explain(steps=5.0)
    with pytest.raises(
        ValueError, match=r"baseline: .* broadcasts to that of x, \(5, 4\), got \(5"
    ):
        explain(baseline=np.zeros(N, np.float32))
    with pytest.raises(ValueError, match=r"baseline: expected a shape that broadcasts"):
        explain(baseline=np.zeros((2, N, D), np.float32))
    with pytest.raises(ValueError, match="baseline: expected finite"):
        explain(baseline=np.nan)
    with pytest.raises(TypeError, match="baseline: expected a floating-point array"):
        explain(baseline=np.zeros(D, np.uint8))
    with pytest.raises(ValueError, match="batch_size: expected an integer >= 1"):
        explain(batch_size=0)
    with pytest.raises(ValueError, match=r"attributions: expected shape \(5, 4\), got \(5, 4, 3\)"):
        completeness_gap(fn, x, integrated_gradients(fn, x), 0)


def test_errors_of_smooth_grad(rng):
    fn, x = smooth_fn(rng)
    explain = functools.partial(smooth_grad, fn, x, 0)
    with pytest.raises(ValueError, match="samples: expected an integer >= 1, got 0"):
        explain(key=jax.random.key(0), sigma=1.0, samples=0)
    with pytest.raises(ValueError, match="sigma: expected standard deviations >= 0"):
        explain(key=jax.random.key(0), sigma=-1)
    with pytest.raises(ValueError, match="key: expected a PRNG key, got None"):
        explain(key=None, sigma=1.0)


@pytest.mark.parametrize("name", METHODS)
def test_errors_of_all_methods(rng, name):
    fn, x = smooth_fn(rng)
    method = METHODS[name]
    with pytest.raises(ValueError, match=r"fn: expected scores of shape \(C,\), got shape \(\)"):
        method(lambda x: fn(x)[0], x, 0)
    with pytest.raises(ValueError, match=r"got shape \(2, 3\). fn takes one input"):
        method(lambda x: jnp.stack([fn(x), fn(x)]), x, 0)
    with pytest.raises(ValueError, match=r"fn: expected scores of shape .*, got tuple"):
        method(lambda x: (fn(x), fn(x)), x, 0)
    with pytest.raises(TypeError, match="fn: expected floating-point scores, got dtype int32"):
        method(lambda x: jnp.arange(3, dtype=jnp.int32), x, 0)
    with pytest.raises(TypeError, match=r"fn: expected a function of x, or .*, got ndarray"):
        method(np.ones(3), x, 0)
    for target, wrong in ((C, "3"), (-1, "-1"), ([0, 5, -2], "5, -2")):
        with pytest.raises(ValueError, match=rf"target: expected classes in 0..2, got {wrong}"):
            method(fn, x, target)
    with pytest.raises(TypeError, match="target: expected a class, classes or None, got dtype"):
        method(fn, x, 1.0)
    with pytest.raises(TypeError, match="target: expected a class, classes or None, got dtype"):
        method(fn, x, True)
    with pytest.raises(ValueError, match=r"target: expected one class or shape \(K,\)"):
        method(fn, x, [[0]])
    with pytest.raises(TypeError, match=r"x: expected a floating-point array.*Convert it"):
        method(fn, np.zeros((N, D), np.uint8), 0)
    with pytest.raises(ValueError, match="x: expected finite values"):
        method(fn, x.at[1, 2].set(jnp.inf), 0)
    with pytest.raises(ValueError, match="x: expected at least one number"):
        method(fn, x[:0], 0)
    traced = jax.jit(functools.partial(method, fn))(x, jnp.asarray(C))
    assert np.isnan(traced).all()


def test_errors_of_grad_cam(rng):
    fn, x = smooth_fn(rng)
    with pytest.raises(ValueError, match=r"over: expected one of 'sequence', 'element', got 'elem"):
        grad_cam(fn, x, over="elements")
    with pytest.raises(ValueError, match=r"x: expected shape \(n, ..., D\), got \(20,\)"):
        grad_cam(lambda x: fn(x.reshape(N, D)), x.reshape(-1))


def test_names_of_the_contract_are_exported():
    assert ej.gradients.integrated_gradients is integrated_gradients
    assert set(ej.gradients.__all__) >= {"grad_cam", "grad_cam_at", "smooth_grad", "per_element"}


# Outputs, targets and inputs of other kinds; results that are not finite


W = jnp.asarray(np.random.default_rng(8).normal(size=(N * D, C)), jnp.float32)


def linear(x):
    return x.reshape(-1) @ W


class Tensor:
    """An array of another framework that records gradients, as far as the package uses it."""

    def __init__(self, array, recorded=True):
        self.array, self.recorded = array, recorded

    def detach(self):
        return Tensor(self.array, recorded=False)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        if self.recorded:
            raise RuntimeError("this tensor records gradients")
        return np.asarray(self.array, dtype)


@pytest.mark.parametrize("name", METHODS)
def test_outputs_with_logits_are_accepted(rng, name):
    x = rng.normal(size=(N, D)).astype(np.float32)
    method, expected = METHODS[name], METHODS[name](linear, x, 1)
    record = types.SimpleNamespace  # registered nowhere, like the outputs of some libraries
    np.testing.assert_allclose(method(lambda x: {"logits": linear(x), "x": x}, x, 1), expected)
    np.testing.assert_allclose(method(lambda x: record(logits=linear(x)), x, 1), expected)
    np.testing.assert_allclose(method(linear, Tensor(x), 1), expected)
    np.testing.assert_allclose(method(record(logits=linear), x, 1), expected)
    np.testing.assert_allclose(method(jax.vmap(linear), x, 1), expected, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"fn: .*\(C,\), got dict with 'a', 'b'. Return the scores"
    ):
        method(lambda x: {"a": linear(x), "b": x}, x, 1)
    with pytest.raises(ValueError, match=r"got list. Return the scores alone, e.g. lambda x: fn"):
        method(lambda x: [linear(x)], x, 1)
    with pytest.raises(ValueError, match=r"got shape \(\). Return a single score as an array"):
        method(lambda x: linear(x)[0], x, 0)
    with pytest.raises(TypeError, match="fn: expected a function in JAX, got one that leaves JAX"):
        method(lambda x: np.asarray(x).reshape(-1) @ np.asarray(W), x, 0)
    with pytest.raises(TypeError, match="fn: expected a function in JAX, got one that leaves JAX"):
        method(lambda x: x.permute(1, 0), x, 0)
    with pytest.raises(AttributeError, match="no attribute 'lgits'"):  # not for us to explain
        method(lambda x: types.SimpleNamespace().lgits, x, 0)
    with pytest.raises(TypeError, match=r"fn: expected .*object with .logits, got SimpleNamesp"):
        method(types.SimpleNamespace(logits=linear(x)), x, 0)
    with pytest.raises(TypeError, match=r"x: expected an array, got dict. Pass one of its arrays"):
        method(linear, {"slow": x, "fast": x}, 0)
    with pytest.raises(TypeError, match="x: expected an array, got list"):
        method(linear, [[1.0], [1.0, 2.0]], 0)


@pytest.mark.parametrize("name", METHODS)
def test_invalid_targets_are_refused(rng, name):
    x, method = rng.normal(size=(N, D)).astype(np.float32), METHODS[name]
    for wrong in (np.bool_(True), [True, False], 1.5, jnp.asarray(1.0), "1", {0: 1}):
        with pytest.raises(TypeError, match="target: expected a class, classes or None, got "):
            method(linear, x, wrong)
    for wrong in (np.int64(-1), jnp.asarray(C), jnp.asarray([0, -1]), np.uint8(200), 2**40):
        with pytest.raises(ValueError, match=r"target: expected classes in 0\.\."):
            method(linear, x, wrong)
    with pytest.raises(ValueError, match="target: expected a class, classes or None, got none"):
        method(linear, x, [])
    np.testing.assert_allclose(method(linear, x, np.uint8(1)), method(linear, x, 1))


def normed(x):
    """Scores of normalised rows: a row of zeros has no gradient, though the value is finite."""
    return (x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)).reshape(-1) @ W


@pytest.mark.parametrize("name", [name for name in METHODS if name != "smooth_grad"])
def test_gradients_that_are_not_finite_are_refused(rng, name):
    x = rng.normal(size=(N, D)).astype(np.float32)
    x[3:] = 0
    method = {**METHODS, "integrated_gradients": integrated_gradients}[name]
    at = r"\(0,\) \(5 in all\)" if name == "grad_cam" else r"\(3, 0\) \(8 in all\)"
    with pytest.raises(ValueError, match=rf"{name}: expected finite values, got nan at index {at}.*"
                       "A norm or a root has no gradient at 0: add"):  # fmt: skip
        method(normed, x, 0)
    assert np.isnan(jax.jit(functools.partial(method, normed))(x, 0)).any()

    def safe(x):  # the way out that the message names
        zero = (x == 0).all(-1, keepdims=True)
        norm = jnp.linalg.norm(jnp.where(zero, 1, x), axis=-1, keepdims=True)
        return jnp.where(zero, 0, x / norm).reshape(-1) @ W

    assert np.isfinite(method(safe, x, 0)).all()


def test_other_results_that_are_not_finite_are_refused(rng):
    x = rng.normal(size=(N, D)).astype(np.float32)
    with pytest.raises(ValueError, match="smooth_grad: expected finite values, got nan"):
        smooth_grad(lambda x: jnp.sqrt(x[0]), x, 0, key=jax.random.key(0), sigma=1.0)
    with pytest.raises(ValueError, match=r"completeness_gap: expected finite values, got"):
        with_gap(lambda x: jnp.log(x[0]), np.abs(x), 0)
    with pytest.raises(ValueError, match="rule: expected finite values"):
        integrated_gradients(linear, x, 0, rule=([0.5], [np.nan]))


def test_grad_cam_at_takes_outputs_with_logits_and_refuses_what_is_not_finite():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.Dense(D, use_bias=False, name="first")(x)
            return {"logits": hidden.sum(0), "hidden": hidden}

    class Root(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.sqrt(nn.Dense(D, use_bias=False, name="first")(x)).sum(0)

    x = jnp.ones((N, D))
    variables = {"params": {"first": {"kernel": jnp.eye(D)}}}
    found = grad_cam_at(Net(), variables, x, 1, layer="first")
    np.testing.assert_allclose(found, np.ones(N))
    with pytest.raises(ValueError, match=r"grad_cam_at: expected finite values, got (inf|nan)"):
        grad_cam_at(Root(), variables, x.at[0].set(0), 1, layer="first")


def test_gradients_work_with_debug_nans(rng):
    x = rng.normal(size=(N, D)).astype(np.float32)
    for name, method in METHODS.items():
        expected = method(linear, x, [0, 2])
        with jax.debug_nans(True):
            np.testing.assert_array_equal(method(linear, x, [0, 2]), expected, err_msg=name)
