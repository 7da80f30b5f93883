"""LRP: parity with zennit and torchexplain, float64 twins, conservation, Linen and NNX models."""

import functools
import types
import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import esv_jax as ej
from esv_jax.relevance import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    WSquare,
    ZBox,
    ZPlus,
    by_kind,
    by_layer,
    by_name,
    layers,
    lrp,
    preset,
    uniform,
)
from esv_jax.relevance.lrp import RelevanceWarning, layer_relevances
from esv_jax.relevance.operation_rules import Options
from tests.conftest import FIXTURES, SHARED, drawn_variables
from tests.reference import plain_relevance as plain
from tests.relevance.test_primitives import positive_weights

RULES = {
    "zplus": ZPlus(),
    "alpha2beta1": AlphaBeta(2.0, 1.0),
    "epsilon25": Epsilon(0.25),
    "epsilon1em6": Epsilon(1e-6),
    "gamma25": Gamma(0.25),
    "flat": Flat(),
    "wsquare": WSquare(),
}


def rel_max(a, b):
    return float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())


# Parity with other libraries


def cases(kind):
    paths = {}
    for folder in (SHARED / "fixtures" / "relevance", FIXTURES / "relevance"):
        paths |= {path.stem: path for path in folder.glob(f"relevance_{kind}_*.npz")}
    return [pytest.param(path, id=name) for name, path in sorted(paths.items())]


def per_channel(a):
    return a.reshape((1, -1, 1, 1, 1))


@jax.jit
def batch_norm(x, weight, bias, mean, var):
    scale = per_channel(weight) / jnp.sqrt(per_channel(var) + 1e-5)
    return (x - per_channel(mean)) * scale + per_channel(bias)


def pool(x, kind):
    window = (1, 1, 2, 2, 2)
    if kind == "max":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 8


def fixture_model(z, dtype):
    p = {name[6:]: jnp.asarray(z[name], dtype) for name in z.files if name.startswith("param_")}
    layout = ("NCDHW", "OIDHW", "NCDHW")

    def fn(x):
        x = x[None]
        for i in (1, 2):
            x = lax.conv_general_dilated(
                x, p[f"conv{i}_weight"], (1, 1, 1), [(1, 1)] * 3, dimension_numbers=layout
            )
            x = x + per_channel(p[f"conv{i}_bias"])
            if bool(z["batch_norm"]):
                names = ("weight", "bias", "running_mean", "running_var")
                x = batch_norm(x, *(p[f"bn{i}_{name}"] for name in names))
            x = pool(jax.nn.relu(x), str(z["pools"][i - 1]))
        return p["fc_weight"] @ x.reshape(-1) + p["fc_bias"]

    return fn


def fixture_box(z):
    return ZBox(*(np.reshape(z[name], (-1, 1, 1, 1)) for name in ("lowest", "highest")))


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
@pytest.mark.parametrize("path", cases("zennit"))
def test_relevance_agrees_with_zennit(path, dtype):
    with jax.enable_x64(dtype is np.float64):
        z = np.load(path)
        fn, x = fixture_model(z, dtype), jnp.asarray(z["x"], dtype)
        known = RULES | {"zbox": fixture_box(z)}
        names = [name[2:] for name in z.files if name.startswith("R_")]
        assert len(names) >= 12
        assert rel_max(fn(x), z["logits"]) < 1e-5

        def relevance(name, x):
            *parts, bias = name.split("_")
            if len(parts) == 1:
                parts = parts * 3
            elif len(parts) == 2:
                middle = parts[0] if parts[1].startswith("epsilon") else parts[1]
                parts = [parts[0], middle, parts[1]]
            rules, options = by_layer([known[part] for part in parts]), Options(bias == "bias")
            return layer_relevances(fn, x, int(z["target"]), rules, options)

        results = jax.jit(lambda x: {name: relevance(name, x) for name in names})(x)
        for name, (found, at_layers) in results.items():
            cancels = "gamma" in name or "epsilon1em6" in name
            limit = 1e-6 if dtype is np.float64 else 1e-3 if cancels else 1e-4
            limit = max(limit, 1e-4) if bool(z["batch_norm"]) else limit  # its merge keeps epsilon
            assert rel_max(found, z[f"R_{name}"]) < limit, name
            for place, at in ((1, f"Rp1_{name}"), (2, f"Rp2_{name}")):
                assert rel_max(at_layers[place].reshape(z[at].shape), z[at]) < limit, name


@pytest.mark.parametrize("path", cases("torchexplain"))
def test_relevance_agrees_with_torchexplain(path):
    z = np.load(path)
    fn, x = fixture_model(z, np.float32), jnp.asarray(z["x"])

    def norm_rule(fn, operands, r):
        share = jnp.abs(per_channel(operands[1]) * operands[0])
        return r * share / (share + jnp.abs(per_channel(operands[2])))

    chosen = {
        "zb_alpha1beta0": [fixture_box(z), AlphaBeta(1.0, 0.0), positive_weights],
        "alpha1beta0": [AlphaBeta(1.0, 0.0), AlphaBeta(1.0, 0.0), positive_weights],
        "alpha2beta1": [AlphaBeta(2.0, 1.0), AlphaBeta(2.0, 1.0), positive_weights],
        "plain": [positive_weights] * 3,
    }
    functions = {"batch_norm": norm_rule} if bool(z["batch_norm"]) else None

    def relevance(x, rules):
        options = {"stabilizer": 0, "max_pool": "proportional", "start": "one"}
        rules = by_layer(rules)
        return lrp(fn, x, int(z["target"]), composite=rules, functions=functions, **options)

    results = jax.jit(lambda x: {name: relevance(x, chosen[name]) for name in chosen})(x)
    for name, found in results.items():
        signed = name == "plain" and float(z["lowest"]) < 0
        assert rel_max(found, z[f"R_{name}"]) < (1e-2 if signed else 1e-4), name


# Plain twins, on every kind of layer


def conv(axes, **options):
    letters = "DHW"[3 - axes :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return functools.partial(lax.conv_general_dilated, dimension_numbers=layout, **options)


def layer_cases():
    """name -> (product, x shape, weight shape): x with an axis of one batch."""
    return {
        "dense": (lambda x, w: x @ w, (1, 6), (6, 4)),
        "dense, weight first": (lambda x, w: (w @ x[0])[None], (1, 6), (4, 6)),
        "dense over places": (lambda x, w: x @ w, (1, 3, 4), (4, 3)),
        "conv1d": (conv(1, window_strides=(1,), padding="SAME"), (1, 6, 2), (3, 2, 3)),
        "conv1d, strided": (conv(1, window_strides=(2,), padding="VALID"), (1, 7, 2), (3, 2, 3)),
        "conv1d, dilated": (
            conv(1, window_strides=(1,), padding=[(2, 1)], rhs_dilation=(2,)),
            (1, 6, 2),
            (3, 2, 2),
        ),
        "conv2d, groups": (
            conv(2, window_strides=(1, 2), padding="SAME", feature_group_count=2),
            (1, 3, 4, 4),
            (2, 3, 2, 4),
        ),
        "conv3d": (
            conv(3, window_strides=(1, 2, 1), padding=[(1, 1), (0, 1), (1, 0)]),
            (1, 2, 4, 3, 2),
            (2, 2, 2, 2, 2),
        ),
    }


@pytest.mark.parametrize("positive", [False, True], ids=["signed", "after ReLU"])
@pytest.mark.parametrize("use_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("name", list(layer_cases()))
def test_every_rule_equals_its_float64_twin(name, use_bias, positive):
    with jax.enable_x64(True):
        product, x_shape, w_shape = layer_cases()[name]
        rng = np.random.default_rng(sum(map(ord, name)))
        x, w = rng.normal(size=x_shape), jnp.asarray(rng.normal(size=w_shape))
        out_shape = product(jnp.asarray(x), w).shape
        b = rng.normal(size=out_shape[-1])

        def fn(x):
            x = jax.nn.relu(x) if positive else x
            z = product(x, w) + b.reshape((1,) * (len(out_shape) - 1) + (-1,))
            return z.reshape(-1)

        seen = np.maximum(x, 0) if positive else x
        flat = seen.ravel()
        m = plain.as_matrix(lambda v: product(jnp.asarray(v), w), x_shape)
        bias = np.broadcast_to(b, out_shape).ravel()
        used = bias if use_bias else 0 * bias
        z = flat @ m + bias
        target = int(np.argmax(z))
        r = np.zeros_like(z)
        r[target] = z[target]
        ones = plain.as_matrix(lambda v: product(jnp.asarray(v), jnp.ones_like(w)), x_shape)
        squares = plain.as_matrix(lambda v: product(jnp.asarray(v), w**2), x_shape)
        positive_w = np.maximum(m, 0)
        low, high = (np.full(flat.shape, bound) for bound in (-4.0, 4.0))
        if positive:
            low = np.maximum(low, 0)
        twins = [
            (Epsilon(0.1), plain.epsilon(flat, m, used, r, 0.1)),
            (ZPlus(), plain.alpha_beta(flat, m, used, r, 1, 0)),
            (AlphaBeta(2.0, 1.0), plain.alpha_beta(flat, m, used, r, 2, 1)),
            (Gamma(0.25), plain.gamma(flat, m, used, r, 0.25, bias)),
            (ZBox(-4.0, 4.0), plain.z_box(flat, m, r, low, high)),
            (Flat(), plain.by_weight(ones, r, ones.sum(0))),
            (WSquare(), plain.by_weight(squares, r, squares.sum(0) + used**2)),
            (positive_weights, plain.share(flat[:, None] * positive_w, r, flat @ positive_w)),
        ]
        rules = [rule for rule, _ in twins]

        @jax.jit
        def by_all(x):
            return [lrp(fn, x, target, composite=rule, use_bias=use_bias) for rule in rules]

        for (rule, expected), found in zip(twins, by_all(jnp.asarray(x)), strict=True):
            np.testing.assert_allclose(
                np.asarray(found).ravel(), expected, rtol=1e-8, atol=1e-10, err_msg=str(rule)
            )


# Identities


def halved(x):
    """Average pooling over time."""
    window = (1, 2, 1, 1, 1)
    return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 2.0


class Net(nn.Module):
    """A clip (1, t, h, w, c) to logits: convolutions, a residual sum, pooling, a batch norm."""

    use_bias: bool = True
    norm: bool = False
    activation: Any = nn.relu

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3, 3), use_bias=self.use_bias, name="first")(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        x = self.activation(x)
        y = self.activation(nn.Conv(4, (3, 1, 1), use_bias=self.use_bias, name="second")(x))
        x = nn.max_pool(x + y, (1, 2, 2), strides=(1, 2, 2))
        x = halved(x)
        return nn.Dense(3, use_bias=self.use_bias, name="last")(x.reshape(x.shape[0], -1))


def net_case(seed=0, dtype=np.float32, **options):
    rng = np.random.default_rng(seed)
    net = Net(**options)
    x = jnp.asarray(rng.normal(size=(4, 6, 6, 2)).astype(dtype))
    variables = drawn_variables(net, x[None].astype(jnp.float32), seed=seed)
    if options.get("norm"):
        stats = {"mean": rng.normal(size=4), "var": rng.uniform(0.5, 2, size=4)}
        variables["batch_stats"]["norm"] = {k: jnp.asarray(v, dtype) for k, v in stats.items()}
        own = {"scale": rng.normal(size=4), "bias": rng.normal(size=4)}
        variables["params"]["norm"] = {k: jnp.asarray(v, dtype) for k, v in own.items()}
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    return net, variables, x


@pytest.mark.parametrize(
    "rule",
    [Epsilon(1e-9), ZPlus(), Gamma(0.5), Flat(), WSquare(), by_kind(conv=Flat(), dense=ZPlus())],
)
def test_relevance_is_conserved_without_biases(rule):
    with jax.enable_x64(True):
        net, variables, x = net_case(dtype=np.float64, use_bias=False)
        fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
        scores = np.asarray(fn(x))
        found = jax.jit(lambda x: lrp(fn, x, composite=rule, stabilizer=1e-12))(x)
        np.testing.assert_allclose(np.asarray(found).sum((0, 1, 2, 3)), scores, rtol=1e-5)


@pytest.mark.parametrize("rule", [AlphaBeta(2.0, 1.0), AlphaBeta(3.0, 2.0)])
def test_alpha_beta_conserves_where_contributions_have_both_signs(rule):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        w, v = (jnp.asarray(rng.normal(size=size)) for size in ((30, 20), (20, 3)))
        x = jnp.asarray(rng.normal(size=30))
        fn = lambda x: jax.nn.relu(x @ w) @ v  # noqa: E731
        found = lrp(fn, x, composite=rule, stabilizer=1e-12)
        np.testing.assert_allclose(np.asarray(found).sum(0), fn(x), rtol=1e-8)


def test_biases_get_their_share_with_use_bias():
    net, variables, x = net_case()
    variables["params"]["last"]["bias"] = jnp.ones(3)
    fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
    score = float(fn(x)[1])
    without = float(lrp(fn, x, 1, composite=Epsilon()).sum())
    with_bias = float(lrp(fn, x, 1, composite=Epsilon(), use_bias=True).sum())
    assert without == pytest.approx(score, rel=1e-3)
    assert with_bias == pytest.approx(score - 1, rel=1e-3)


def test_lrp_0_without_biases_is_gradient_times_input():
    with jax.enable_x64(True):
        net, variables, x = net_case(dtype=np.float64, use_bias=False)
        fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
        expected = x * jax.grad(lambda x: fn(x)[2])(x)
        found = lrp(fn, x, 2, composite=Epsilon(0.0), stabilizer=0)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


def test_zplus_is_alpha_one_beta_zero():
    net, variables, x = net_case()
    fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
    np.testing.assert_array_equal(
        lrp(fn, x, 0, composite="zplus"), lrp(fn, x, 0, composite=AlphaBeta(1.0, 0.0))
    )


@pytest.mark.parametrize("rule", [ZPlus(), Gamma(0.25), Epsilon(0.1)])
def test_folding_the_batch_norm_changes_nothing(rule):
    net, variables, x = net_case(norm=True)
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    own, norm = params["first"], params["norm"]
    scale = norm["scale"] / jnp.sqrt(stats["var"] + 1e-5)
    kernel = own["kernel"] * scale.reshape(1, 1, 1, 1, -1)
    bias = (own["bias"] - stats["mean"]) * scale + norm["bias"]
    folded = {"params": params | {"first": {"kernel": kernel, "bias": bias}}}
    fns = (
        lambda x: net.apply(variables, x[None])[0],
        lambda x: net.clone(norm=False).apply(folded, x[None])[0],
    )
    np.testing.assert_allclose(*(fn(x) for fn in fns), rtol=1e-4, atol=1e-5)
    found, expected = (lrp(fn, x, 0, composite=rule) for fn in fns)
    assert rel_max(found, np.asarray(expected)) < 1e-4


def test_linen_nnx_and_plain_functions_have_equal_relevance():
    net, variables, x = net_case()
    p = variables["params"]

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(2, 4, (3, 3, 3), rngs=rngs)
            self.second = nnx.Conv(4, 4, (3, 1, 1), rngs=rngs)
            self.last = nnx.Linear(4 * 2 * 3 * 3, 3, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.first(x))
            x = nnx.max_pool(x + nnx.relu(self.second(x)), (1, 2, 2), strides=(1, 2, 2))
            x = halved(x)
            return self.last(x.reshape(x.shape[0], -1))

    other = Nnx(nnx.Rngs(0))
    for name in ("first", "second", "last"):
        getattr(other, name).kernel[...] = p[name]["kernel"]
        getattr(other, name).bias[...] = p[name]["bias"]

    def written_out(x):
        x = x[None]
        for name in ("first", "second"):
            y = conv(3, window_strides=(1, 1, 1), padding="SAME")(x, p[name]["kernel"])
            y = jnp.maximum(y + p[name]["bias"].reshape(1, 1, 1, 1, 4), 0)
            x = y if name == "first" else x + y
        b, t, h, w, c = x.shape
        x = x.reshape(b, t, h // 2, 2, w // 2, 2, c).max((3, 5))
        x = x.reshape(b, t // 2, 2, h // 2, w // 2, c).mean(2)
        return (x.reshape(1, -1) @ p["last"]["kernel"])[0] + p["last"]["bias"]

    functions = [
        lambda x: net.apply(variables, x[None])[0],
        lambda x: other(x[None])[0],
        written_out,
    ]
    for composite in ("epsilon_plus", "epsilon_gamma", "alpha2_beta1"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            linen, *others = (lrp(fn, x, 1, composite=composite) for fn in functions)
        for found in others:
            assert rel_max(found, np.asarray(linen)) < 1e-5, composite


@pytest.mark.parametrize(
    "activation",
    [
        nn.relu,
        nn.relu6,
        nn.gelu,
        functools.partial(nn.gelu, approximate=False),
        nn.silu,
        nn.leaky_relu,
        nn.elu,
        nn.softplus,
        nn.tanh,
        nn.sigmoid,
        lambda x: x * jax.nn.sigmoid(x),
        lambda x: jnp.where(x > 0, x, 0.1 * x),
    ],
)
def test_activations_pass_relevance_on(activation):
    rng = np.random.default_rng(0)
    w, v = (jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in ((5, 6), (6, 3)))
    x = jnp.asarray(rng.normal(size=5).astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, at_layers = layer_relevances(
            lambda x: activation(x @ w) @ v, x, 1, uniform(Epsilon(0.1)), Options()
        )
    hidden = np.asarray(activation(x @ w), float)
    z = np.asarray(x @ w, float)
    score = hidden @ np.asarray(v, float)[:, 1]
    r = plain.epsilon(hidden, np.asarray(v, float)[:, 1:2], np.zeros(1), np.array([score]), 0.1)
    np.testing.assert_allclose(at_layers[1], r, rtol=1e-4, atol=1e-6)
    expected = plain.epsilon(np.asarray(x, float), np.asarray(w, float), 0 * z, r, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_without_rules_is_refused_or_warns_once_for_each_primitive():
    model = nn.Sequential(
        [nn.Dense(8), nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8), nn.Dense(3)]
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    variables = drawn_variables(model, x[None])
    fn = lambda x: model.apply(variables, x[None])[0].mean(0)  # noqa: E731
    text = r"dot_general in .*, which has none.*'attnlrp' or 'cplrp'.*unknown='gradient'"
    with pytest.raises(ValueError, match=text):
        lrp(fn, x, 0, composite=Epsilon())
    with pytest.warns(RelevanceWarning) as seen:
        found = jax.jit(lambda x: lrp(fn, x, 0, composite=Epsilon(), unknown="gradient"))(x)
    said = [str(warning.message).split()[0].rstrip(":") for warning in seen]
    assert len(said) == len(set(said)) >= 1
    assert "dot_general" in said
    assert found.shape == x.shape and bool(jnp.isfinite(found).all())


def test_jit_vmap_and_all_classes_agree_with_one_by_one():
    net, variables, x = net_case()
    xs = jnp.stack([x, -x, 2 * x])
    fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
    run = jax.jit(jax.vmap(lambda x: lrp(fn, x)))
    found = np.asarray(run(xs))  # (3, t, h, w, c, C)
    for i in range(3):
        for c in range(3):
            np.testing.assert_allclose(found[i, ..., c], lrp(fn, xs[i], c), rtol=1e-4, atol=1e-6)
    some = lrp(fn, x, [2, 0])
    np.testing.assert_allclose(some, found[0][..., [2, 0]], rtol=1e-4, atol=1e-6)


def test_parameters_may_be_traced_and_half_precision_works():
    net, variables, x = net_case(norm=True)
    expected = lrp(lambda x: net.apply(variables, x[None])[0], x, 0)
    found = jax.jit(lambda v, x: lrp(lambda x: net.apply(v, x[None])[0], x, 0))(variables, x)
    assert rel_max(found, np.asarray(expected)) < 1e-5
    w = jnp.asarray(np.random.default_rng(0).normal(size=(288, 3)), jnp.bfloat16)
    half = lrp(lambda x: x.reshape(-1) @ w, x.astype(jnp.bfloat16), 0, composite=ZPlus())
    assert half.dtype == jnp.float32
    full = lrp(lambda x: x.reshape(-1) @ w.astype(jnp.float32), x, 0, composite=ZPlus())
    assert rel_max(half, np.asarray(full)) < 0.05


# Composites


def test_layers_are_listed_with_names_and_rules_find_them():
    net, variables, x = net_case()
    fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
    known = layers(fn, x)
    assert [layer.name for layer in known] == ["Net/first", "Net/second", "Net/last"]
    assert [layer.kind for layer in known] == ["conv", "conv", "dense"]
    assert known[0].input_shape == (1, 4, 6, 6, 2) and known[2].output_shape == (1, 3)
    rules = [Flat(), ZPlus(), Epsilon(0.1)]
    composites = [
        by_layer(rules),
        by_name({"first": Flat(), "Net/second": ZPlus(), "la*": Epsilon(0.1)}),
        by_name({"first": Flat(), "second": ZPlus()}, default=Epsilon(0.1)),
        by_kind(conv=ZPlus(), dense=Epsilon(0.1), first=Flat()),
    ]
    expected = np.asarray(lrp(fn, x, 0, composite=composites[0]))
    for composite in composites[1:]:
        assert list(composite(known)) == rules
        np.testing.assert_array_equal(lrp(fn, x, 0, composite=composite), expected)
    assert list(preset("epsilon_plus", 0, 1)(known))[1:] == [ZPlus(), Epsilon()]
    assert isinstance(preset("epsilon_plus", 0, 1)(known)[0], ZBox)
    assert list(uniform(Flat())(known)) == [Flat()] * 3


def test_box_is_propagated_to_the_first_layer():
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        w = jnp.asarray(rng.normal(size=(6, 4)))
        x = jnp.asarray(rng.uniform(size=(2, 3)))
        mean, std = np.array([0.4, 0.5, 0.6]), np.array([-0.2, 0.3, 0.2])  # one scale is negative
        fn = lambda x: ((x - mean[None]) / std[None]).reshape(-1) @ w  # noqa: E731
        found = lrp(fn, x, 2, composite=ZBox(0.0, 1.0))
        seen, ends = ((np.asarray(v) - mean) / std for v in (x, np.array([[0.0] * 3, [1.0] * 3])))
        low, high = (np.tile(part(ends, axis=0), 2) for part in (np.min, np.max))
        r = np.zeros(4)
        r[2] = fn(x)[2]
        expected = plain.z_box(np.asarray(seen).ravel(), np.asarray(w), r, low, high)
        np.testing.assert_allclose(np.asarray(found).ravel(), expected, rtol=1e-9)


# Bad input


def simple(x):
    return x.reshape(-1) @ jnp.ones((12, 3)) + 1.0


X = jnp.linspace(0.1, 0.9, 12).reshape(4, 3)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: lrp(simple, X, 3), ValueError, r"target: expected classes in 0\.\.2"),
        (
            lambda: lrp(simple, X, 0, composite=by_layer([ZPlus(), ZPlus()])),
            ValueError,
            r"composite: expected 2 linear layers, got 1: layer 0 \(dense\)",
        ),
        (
            lambda: lrp(simple, X, 0, composite=ZBox(0.0, 0.5)),
            ValueError,
            r"ZBox at layer 0 \(dense\): expected an input within low\.\.high, got 6 of 12",
        ),
        (lambda: lrp(simple, X, 0, composite=ZBox(np.zeros(4), 1)), ValueError, "ZBox.low"),
        (lambda: lrp(simple, X, 0, composite="epsilon_pluss"), ValueError, "epsilon_plus"),
        (lambda: lrp(simple, X, 0, composite=3), ValueError, "composite"),
        (lambda: lrp(simple, X, 0, composite=by_layer([ZPlus])), TypeError, r"make one: ZPlus\(\)"),
        (
            lambda: lrp(simple, X, 0, composite=by_name({"fc": Flat()})),
            ValueError,
            "names of layers",
        ),
        (lambda: lrp(simple, X, 0, stabilizer=-1), ValueError, "stabilizer"),
        (lambda: lrp(simple, X, 0, max_pool="mean"), ValueError, "max_pool"),
        (lambda: lrp(simple, X, 0, return_layers=True), TypeError, "return_layers"),
        (lambda: lrp(lambda x: x.reshape(-1), X, 0), ValueError, "at least one linear layer"),
        (lambda: lrp(simple, X * jnp.nan, 0), ValueError, "x: expected finite"),
        (lambda: lrp(lambda x: simple(x * 3e38 * 3e38), X, 0), ValueError, r"layer 0 .*finite out"),
        (lambda: lrp(simple, jnp.ones((4, 3), int), 0), TypeError, "x: expected a floating"),
        (lambda: AlphaBeta(2.0, 0.5), ValueError, "alpha - beta = 1"),
        (lambda: Gamma(-1.0), ValueError, "gamma: expected a number >= 0"),
        (lambda: Epsilon("a"), TypeError, "epsilon: expected a number"),
        (lambda: preset("zplus", low=0), ValueError, "both bounds or none"),
    ],
)
def test_bad_input_is_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_a_box_behind_another_layer_and_a_clip_too_short_are_refused():
    net, variables, x = net_case()
    fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
    inner = by_layer([ZPlus(), ZBox(0.0, 9.0), ZPlus()])
    with pytest.raises(ValueError, match="ZBox: expected a first layer, got layer 1"):
        lrp(fn, x, 0, composite=inner)

    def strided(x):
        x = conv(3, window_strides=(2, 1, 1), padding="VALID")(x[None], jnp.ones((4, 1, 1, 2, 3)))
        return x.sum((0, 1, 2, 3))

    text = r"layer 0 \(conv\): expected outputs, got shape \(1, 0, 6, 6, 3\).*too short"
    with pytest.raises(ValueError, match=text):
        lrp(strided, x[:2], 0, composite=ZPlus())


def test_the_package_is_public():
    assert ej.relevance.lrp is lrp


@pytest.mark.parametrize("relu", [nn.relu, jax.nn.relu, lambda x: jnp.maximum(x, 0)])
def test_rules_receive_whether_inputs_are_positive(relu):
    received = []

    def rule(layer, relevance):
        received.append(layer.is_positive)
        return layer.x

    for before in (relu, lambda x: relu(x) - 1):
        lrp(lambda x, before=before: before(x) @ jnp.ones((3, 2)), jnp.ones(3), 0, composite=rule)
    assert received == [True, False]


def test_relevances_of_layers_for_several_classes_equal_those_of_each():
    net, variables, x = net_case()
    fn = lambda x: net.apply(variables, x[None])[0]  # noqa: E731
    run = functools.partial(
        layer_relevances, fn, x, composite=preset("epsilon_plus"), options=Options()
    )
    found, at_layers = run([2, 0])
    for k, c in enumerate((2, 0)):
        one, layers_of_one = run(c)
        np.testing.assert_allclose(found[..., k], one, rtol=1e-4, atol=1e-6)
        for several, single in zip(at_layers, layers_of_one, strict=True):
            np.testing.assert_allclose(several[..., k], single, rtol=1e-4, atol=1e-6)


def test_models_of_a_batch_and_objects_with_logits_are_taken(rng):
    kernel = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    clip = jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32)

    def fn(clip):
        hidden = jax.nn.relu(jnp.einsum("tij,ijk->tk", clip, kernel))
        return (hidden @ weights).sum(0)

    expected = lrp(fn, clip, 1), *ej.relevance.discriminative(fn, clip, 1, scale="clip")
    for model in (types.SimpleNamespace(logits=fn), jax.vmap(fn)):
        found = lrp(model, clip, 1), *ej.relevance.discriminative(model, clip, 1, scale="clip")
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
