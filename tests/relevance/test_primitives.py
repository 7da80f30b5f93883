"""Relevance through single operations: masks, loops, transforms, attention; custom rules."""

import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from esv_jax.relevance import (
    Epsilon,
    Flat,
    WSquare,
    ZBox,
    ZPlus,
    by_kind,
    by_layer,
    by_name,
    discriminative,
    for_transformers,
    layers,
    lrp,
    preset,
    uniform,
)
from esv_jax.relevance.lrp import RelevanceWarning
from tests.conftest import SHARED, drawn_variables

RNG = np.random.default_rng(0)
N, D, H, C = 6, 3, 4, 3
V, U = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((D, H), (H, C)))
X = jnp.asarray(RNG.normal(size=(N, D)), jnp.float32)
stop = lax.stop_gradient


def head(h):
    """(n, D) -> (C,): a small network with activations."""
    return jax.nn.relu(h @ V).mean(0) @ U


def found(fn, x=X, target=1, **options):
    """Relevance, compiled; a warning is an error here."""
    return np.asarray(jax.jit(lambda x: lrp(fn, x, target, **options))(x))


def close(a, b, rtol=1e-4, atol=1e-6):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# Linear operations


def transform(x):
    return jax.nn.relu(jnp.abs(jnp.fft.rfft(x, axis=0)).reshape(-1) @ W_FFT)


def as_products(x):
    angle = 2 * np.pi * np.outer(np.arange(N // 2 + 1), np.arange(N)) / N
    real, imag = (jnp.asarray(part(angle), jnp.float32) for part in (np.cos, np.sin))
    return jax.nn.relu(jnp.sqrt((real @ x) ** 2 + (imag @ x) ** 2).reshape(-1) @ W_FFT)


W_FFT = jnp.asarray(RNG.normal(size=((N // 2 + 1) * D, C)), jnp.float32)


def test_a_fourier_transform_is_its_matrix():
    target = int(transform(X).argmax())
    r = found(transform, target=target, composite="epsilon")
    close(r, found(as_products, target=target, composite="epsilon"), rtol=1e-3, atol=1e-4)
    assert r.sum() == pytest.approx(float(transform(X)[target]), rel=1e-4)


MATRIX = jnp.asarray(RNG.normal(size=(N, N)) + 4 * np.eye(N), jnp.float32)
COMPLEX = jnp.asarray(RNG.normal(size=(N, N)) + 1j * RNG.normal(size=(N, N)), jnp.complex64)

LINEAR = {
    "fft and back": lambda x: jnp.fft.irfft(jnp.fft.rfft(x, axis=0) * FILTER, n=N, axis=0),
    "complex product": lambda x: (COMPLEX @ x.astype(jnp.complex64)).real,
    "complex parts": lambda x: (lax.complex(x, 2 * x) * (1 - 2j)).conj().imag,
    "solve": lambda x: jnp.linalg.solve(MATRIX, x),
    "triangular solve": lambda x: jax.scipy.linalg.solve_triangular(MATRIX, x, lower=True),
    "scatter-add": lambda x: jnp.zeros((3, D)).at[jnp.array([0, 2, 2, 1, 0, 0])].add(x),
    "scatter-add to itself": lambda x: x.at[jnp.array([0, 2])].add(x[3:5]),
    "segment sum": lambda x: jax.ops.segment_sum(x, jnp.array([0, 0, 1, 1, 1, 2]), 3),
    "cumsum": lambda x: jnp.cumsum(x, axis=0),
    "convolve": lambda x: jax.vmap(lambda v: jnp.convolve(v, MATRIX[0, :3]))(x.T).T,
    "roll and flip": lambda x: jnp.roll(x, 2, axis=0)[::-1],
    "tile": lambda x: jnp.tile(x, (2, 1)),
    "pad": lambda x: jnp.pad(x, ((1, 2), (0, 0)), mode="edge"),
    "resize": lambda x: jax.image.resize(x, (4, D), "linear"),
    "einsum": lambda x: jnp.einsum("nd,nm->md", x, MATRIX),
}
FILTER = jnp.asarray(RNG.normal(size=(N // 2 + 1, 1)) + 1j, jnp.complex64)


@pytest.mark.parametrize("name", list(LINEAR))
def test_linear_operations_are_gradient_times_input(name):
    fn = LINEAR[name]
    size = jax.eval_shape(fn, X).size
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(size, C)), jnp.float32)
    logits = lambda x: fn(x).reshape(-1) @ weight  # noqa: E731
    r = found(logits, composite=Epsilon(0.0), stabilizer=0)
    close(r, X * jax.jit(jax.grad(lambda x: logits(x)[1]))(X), rtol=1e-3, atol=1e-4)


def test_scattered_constants_take_their_share_only_as_biases():
    weight = jnp.asarray(RNG.normal(size=(N * D, C)), jnp.float32)
    fn = lambda x: x.at[:2].add(1.5).reshape(-1) @ weight  # noqa: E731
    without, with_bias = (found(fn, composite="epsilon", use_bias=b) for b in (False, True))
    score = float(fn(X)[1])
    assert without.sum() == pytest.approx(score, rel=1e-4)
    close(with_bias, X * weight[:, 1].reshape(N, D), atol=1e-4)


# Constant selections

MASK = np.array([1, 1, 1, 1, 0, 0], bool)
TOKEN = jnp.asarray([0.7, -1.1, 0.4], jnp.float32)
TOKENS = jnp.broadcast_to(TOKEN, (2, D))

MASKED = {
    "where": lambda x: jnp.where(MASK[:, None], x, TOKEN[None]),
    "where, an activation": lambda x: jnp.where(MASK[:, None], jnp.tanh(x), x * 0),
    "where of the same": lambda x: jnp.where(MASK[:, None], x, stop(x)),
    "set": lambda x: x.at[4:].set(TOKEN),
    "concatenate": lambda x: jnp.concatenate([x[:4], TOKENS]),
    "update": lambda x: lax.dynamic_update_slice(x, TOKENS, (4, 0)),
    "dynamic slice": lambda x: jnp.concatenate([lax.dynamic_slice(x, (0, 0), (4, D)), TOKENS]),
    "gather": lambda x: x[jnp.array([3, 1, 0, 2, 1, 0])],
    "take with fill": lambda x: jnp.take(x, jnp.array([0, 1, 2, 3, 9]), axis=0, fill_value=0.0),
    "product": lambda x: x * jnp.asarray(MASK[:, None], jnp.float32) + 0.5,
    "product, an activation": lambda x: nn.gelu(x * jnp.asarray(MASK[:, None], jnp.float32) + 1),
    "padded": lambda x: jnp.pad(x[:4], ((0, 2), (0, 0)), constant_values=0.3),
    "sums so far": lambda x: jnp.cumsum(x, axis=0)[:4],
    "maximum": lambda x: jnp.where(MASK[:, None], x, -jnp.inf).max(0, keepdims=True),
    "sorted": lambda x: jnp.sort(x[:4], axis=0),
    "taken by a condition": lambda x: (
        lax.cond(MASK[-1], lambda x: x, lambda x: x[:4], x)
        if False
        else lax.cond(jnp.asarray(False), lambda x: x, lambda x: x.at[4:].set(1.0), x)
    ),
}


@pytest.mark.parametrize("rule", [Epsilon(), Flat(), WSquare()], ids=str)
@pytest.mark.parametrize("name", list(MASKED))
def test_inputs_excluded_by_a_constant_mask_get_zero(name, rule):
    r = found(lambda x: head(MASKED[name](x)), composite=rule)
    assert (r[4:] == 0).all()
    assert np.abs(r[:4]).sum() > 0


def test_masked_inputs_are_equivalent_to_removed_inputs():
    fn = lambda x: jax.nn.relu(x @ V).sum(0) @ U  # noqa: E731
    masked = found(lambda x: fn(jnp.where(MASK[:, None], x, 0)), composite=ZPlus())
    close(masked[:4], found(fn, X[:4], composite=ZPlus()))


# Stopped gradients

A = jnp.asarray(RNG.normal(size=(D, D)), jnp.float32)


def centred(h):
    return h - h.mean(-1, keepdims=True)


STOPPED = {
    "norm": lambda x: centred(x) * stop(lax.rsqrt((x**2).mean(-1, keepdims=True))),
    "attention": lambda x: stop(jax.nn.softmax(x @ A @ x.T)) @ (x @ A),
    "gate": lambda x: x * stop(jnp.exp(x @ A)),
    "sum": lambda x: x @ A + stop(nn.tanh(x)),
    "difference": lambda x: stop(x @ A) - x,
    "itself": lambda x: x + stop(x),
    "division": lambda x: x / stop(x**2 + 1),
}


@pytest.mark.parametrize("name", list(STOPPED))
def test_stopped_values_are_constants(name, monkeypatch):
    fn = STOPPED[name]
    r = found(lambda x: head(fn(x)), composite="epsilon")
    values = []
    monkeypatch.setitem(globals(), "stop", lambda v: values.append(v) or v)
    fn(X)
    (value,) = values
    monkeypatch.setitem(globals(), "stop", lambda v: value)
    close(r, found(lambda x: head(fn(x)), composite="epsilon"), rtol=1e-3, atol=1e-5)
    assert r.sum() == pytest.approx(float(head(fn(X))[1]), rel=1e-3, abs=1e-5)


def test_stopped_function_passes_nothing_and_warns_of_the_loss():
    with pytest.warns(RelevanceWarning, match=r"sums to 0 for an output of .* \(1 of it\) is lost"):
        r = lrp(lambda x: stop(head(x)) + 0 * (x @ V @ U).sum(0), X, 1, composite="epsilon")
    assert (np.asarray(r) == 0).all()


# Loops, calls and branches


def steps_of(cell, variables, carry, x):
    rows = []
    for row in x:
        carry, y = cell.apply(variables, carry, row)
        rows.append(y)
    return jnp.stack(rows)


@pytest.mark.parametrize(
    ("kind", "reverse"), [(nn.SimpleCell, True), (nn.GRUCell, False), (nn.LSTMCell, True)]
)
def test_a_recurrent_network_is_the_same_written_out(kind, reverse):
    cell = kind(features=H)
    carry = cell.initialize_carry(jax.random.key(0), (D,))
    variables = drawn_variables(cell, carry, X[0])
    rnn = nn.RNN(cell, reverse=reverse, keep_order=True)
    inner = {"params": {"cell": variables["params"]}}

    def scanned(x):
        return rnn.apply(inner, x).mean(0) @ U

    def written_out(x):
        x = x[::-1] if reverse else x
        return steps_of(cell, variables, carry, x).mean(0) @ U

    close(scanned(X), written_out(X))
    r = found(scanned, composite="epsilon")
    close(r, found(written_out, composite="epsilon"), rtol=1e-3, atol=1e-5)
    assert r.sum() == pytest.approx(float(scanned(X)[1]), rel=1e-2)
    assert len(layers(scanned, X)) == len(layers(written_out, X))


def test_scanned_layers_are_layers_of_their_own():
    weights = jnp.asarray(RNG.normal(size=(3, D, D)), jnp.float32)

    def scanned(x):
        return lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, weights)[0].mean(0) @ V

    def written_out(x):
        for w in weights:
            x = jax.nn.relu(x @ w)
        return x.mean(0) @ V

    rules = by_layer([Flat(), ZPlus(), WSquare(), Epsilon()])
    close(found(scanned, composite=rules), found(written_out, composite=rules))


@jax.custom_vjp
def with_derivative(x):
    return jax.nn.relu(x @ V)


with_derivative.defvjp(lambda x: (with_derivative(x), None), lambda _, g: (g @ V.T,))


@jax.custom_jvp
def with_tangent(x):
    return jax.nn.relu(x @ V)


with_tangent.defjvp(lambda x, t: (with_tangent(*x), t[0] @ V))


def doubled(h):
    return lax.fori_loop(0, 3, lambda i, h: 2 * h, h)


HIDDEN = {
    "jit": jax.jit(lambda x: jax.nn.relu(x @ V)),
    "checkpoint": jax.checkpoint(lambda x: jax.nn.relu(x @ V)),
    "custom_vjp": with_derivative,
    "custom_jvp": with_tangent,
    "vmap": jax.vmap(lambda row: jax.nn.relu(row @ V)),
    "map": lambda x: lax.map(lambda row: jax.nn.relu(row @ V), x),
    "fori_loop": lambda x: jax.nn.relu(doubled(x) @ V) / 8,
    "cond": lambda x: lax.cond(
        x.sum() > 1e9, lambda x: jnp.log(-jnp.abs(x)) @ V, lambda x: jax.nn.relu(x @ V), x
    ),
    "switch": lambda x: lax.switch(
        1, [lambda x: x @ V, lambda x: jax.nn.relu(x @ V), lambda x: 0 * (x @ V)], x
    ),
    "empty scan": lambda x: jax.nn.relu(lax.scan(lambda c, _: (c, c), x, jnp.zeros(0))[0] @ V),
}


@pytest.mark.parametrize("name", list(HIDDEN))
def test_calls_loops_and_branches_are_inlined(name):
    r = found(lambda x: HIDDEN[name](x).mean(0) @ U, composite="epsilon")
    close(r, found(head, composite="epsilon"))


# Operations without a rule


def grown(x):
    return lax.while_loop(lambda h: jnp.abs(h).max() < 9, lambda h: 2 * h, x)


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (grown, r"while, which has none.*lax\.scan.*unknown='gradient'"),
        (lambda x: jnp.cumprod(x, axis=0), r"cumprod, which has none.*functions="),
        (lambda x: x * (x @ A), r"mul, .*'attnlrp' or 'cplrp'"),
        (lambda x: jax.nn.softmax(x), r"div, .*'attnlrp' or 'cplrp'"),
        (
            lambda x: nn.LayerNorm().apply({"params": {"scale": TOKEN, "bias": TOKEN}}, x),
            "mul in La",
        ),
        (lambda x: jnp.exp(lax.complex(x, x)).real, "exp, which has none"),
    ],
)
def test_operations_without_a_rule_are_refused_by_name(fn, text):
    with pytest.raises(ValueError, match=f"fn: expected operations with a rule.*{text}"):
        lrp(lambda x: head(fn(x)), X, 1, composite="epsilon")


def test_unused_operation_without_a_rule_is_accepted():
    fn = lambda x: jnp.where(jnp.cumprod(x).max() > 0, head(x), head(x))  # noqa: E731
    close(found(fn, composite="epsilon"), found(head, composite="epsilon"), atol=1e-5)


def test_unknown_operations_by_gradient_warn_of_the_loss():
    fn = lambda x: (x * (x @ A)).mean(0) @ V @ U  # noqa: E731
    with pytest.warns(RelevanceWarning) as seen:
        r = lrp(fn, X, 1, composite="epsilon", unknown="gradient")
    score = float(fn(X)[1])
    close(r.sum(), 2 * score, rtol=1e-3)  # a product of degree two
    close(r, X * jax.grad(lambda x: fn(x)[1])(X), rtol=1e-2, atol=1e-3)
    assert "mul: no rule" in str(seen[0].message)
    said = f"sums to {2 * score:.3g}.* for an output of {score:.3g}.*: .*{-score:.3g}.* is lost"
    assert re.search(said, str(seen[1].message))


# Custom rules


def positive_weights(layer, relevance):
    weight = jnp.maximum(layer.weight, 0)
    s = layer.share(relevance, layer.product(layer.x, weight))
    return layer.x * layer.back(s, weight)


class PositiveWeights:
    def __call__(self, layer, relevance):
        return positive_weights(layer, relevance)


def test_custom_rules_are_accepted_everywhere():
    fn, x = (lambda x: head(jnp.abs(x))), X
    expected = found(fn, composite=ZPlus())
    own = positive_weights
    for composite in (
        own,
        PositiveWeights(),
        uniform(own),
        by_layer([own, own]),
        by_kind(conv=own, dense=own, first=own),
        by_name({"*": own}),
        for_transformers(own),
    ):
        r = found(fn, x, composite=composite, use_bias=False, stabilizer=1e-6)
        close(r, expected)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: by_layer([lambda layers: layers]), TypeError, r"rules\[0\]: expected a rule"),
        (
            lambda: by_kind(conv=ZPlus(), dense=ZPlus(), first=3),
            TypeError,
            "first: expected a rule",
        ),
        (lambda: by_name({}, default="zplus"), TypeError, "default: expected a rule"),
        (lambda: lrp(head, X, 0, composite=lambda: None), ValueError, "composite: expected a comp"),
        (
            lambda: lrp(head, X, 0, composite=lambda layer, r: r[:1]),
            ValueError,
            r"layer 1 \(dense\): expected relevance of shape \(4,\), got shape \(1,\)",
        ),
        (lambda: lrp(head, X, 0, composite=lambda layer, r: None), TypeError, "got NoneType"),
        (lambda: lrp(head, X, 0, unknown="skip"), ValueError, "unknown: expected one of 'error'"),
        (lambda: for_transformers("epsilon", "lrp"), ValueError, "attention: expected one of"),
    ],
)
def test_invalid_rules_are_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


# Transformers


def positions(n, d):
    """Sines and cosines (n, d)."""
    angle = np.arange(n)[:, None] / 10000 ** (2 * (np.arange(d) // 2) / d)
    return np.where(np.arange(d) % 2 == 0, np.sin(angle), np.cos(angle))


def video_mae(folder, dtype):
    """A stored VideoMAE classifier: clip (t, 3, h, w) -> logits (C,)."""
    load_file = pytest.importorskip("safetensors.numpy").load_file
    config = json.loads((folder / "config.json").read_text())
    w = {k: jnp.asarray(v, dtype) for k, v in load_file(folder / "model.safetensors").items()}
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def dense(x, name):
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"].reshape(1, -1) if f"{name}.bias" in w else y

    def norm(x, name):
        c = x - x.mean(-1, keepdims=True)
        y = c / jnp.sqrt((c * c).mean(-1, keepdims=True) + eps)
        return y * w[f"{name}.weight"].reshape(1, -1) + w[f"{name}.bias"].reshape(1, -1)

    def attention(h, name):
        q, k, v = (dense(h, f"{name}.{part}") for part in ("query", "key", "value"))
        q, v = (a + w[f"{name}.{b}_bias"].reshape(1, -1) for a, b in ((q, "q"), (v, "v")))
        q, k, v = (a.reshape(len(a), heads, -1).transpose(1, 0, 2) for a in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]).astype(dtype)
        return (jax.nn.softmax(scores) @ v).transpose(1, 0, 2).reshape(h.shape)

    def logits(clip):
        kernel = w["videomae.embeddings.patch_embeddings.projection.weight"]
        x = lax.conv_general_dilated(
            jnp.moveaxis(clip, 1, 0)[None],
            kernel,
            kernel.shape[2:],
            "VALID",
            dimension_numbers=("NCDHW", "OIDHW", "NDHWC"),
        )[0]
        bias = w["videomae.embeddings.patch_embeddings.projection.bias"]
        x = x.reshape(-1, x.shape[-1]) + bias.reshape(1, -1)
        x = x + jnp.asarray(positions(*x.shape), dtype)
        for i in range(config["num_hidden_layers"]):
            layer = f"videomae.encoder.layer.{i}"
            h = attention(norm(x, f"{layer}.layernorm_before"), f"{layer}.attention.attention")
            x = x + dense(h, f"{layer}.attention.output.dense")
            h = dense(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense")
            x = x + dense(nn.gelu(h, approximate=False), f"{layer}.output.dense")
        return dense(norm(x.mean(0, keepdims=True), "fc_norm"), "classifier")[0]

    return logits


TRANSFORMERS = SHARED / "fixtures" / "video_transformers"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("folder", sorted(TRANSFORMERS.glob("videomae_*")), ids=lambda f: f.name)
def test_relevance_of_video_transformers_agrees_with_fixtures(folder, dtype):
    with jax.enable_x64(True):
        z = np.load(folder / "expected.npz")
        fn, x = video_mae(folder, dtype), jnp.asarray(z["pixel_values"][0], dtype)
        both = ("attnlrp", "cplrp")
        logits, *r = jax.jit(lambda x: (fn(x), *(lrp(fn, x, 2, composite=c) for c in both)))(x)
        pairs = [
            (logits, z["logits"][0]),
            *((a, z[f"R_{c}"]) for a, c in zip(r, both, strict=True)),
        ]
        for ours, theirs in pairs:
            error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
            assert error < 1e-4


def half(v):
    """The value, with half of its gradient."""
    return v / 2 + stop(v / 2)


def identity_rule(fn):
    """An activation with the gradient fn(v) / v."""
    return lambda v: v * stop(fn(v) / v)


def constant_weights(scores):
    return stop(jax.nn.softmax(scores))


def by_hand(scores):
    """A softmax as it is written out, its maximum not stopped, by a reciprocal."""
    e = jnp.exp(scores - scores.max(-1, keepdims=True))
    return e * (1 / e.sum(-1, keepdims=True))


def same(v):
    return v


def modern(p, *, weights=jax.nn.softmax, held=same, part=same, mixed=same, act=same):
    """A transformer with RMS and L2 norms, capped scores, a mask and gates.

    Held values, factors (`part`; of weights and values `mixed`) and activations are as they are, or
    have the gradients that the rules give.
    """

    def rms(x, scale):
        return x * held(lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)) * scale.reshape(1, -1)

    def fn(x):
        x = x @ p["embed"] + p["positions"]
        for i in (0, 1):
            h = rms(x, p["scale"][i])
            q, k, v = (h @ p[name][i] for name in ("q", "k", "v"))
            q, k = (a / held(jnp.linalg.norm(a, axis=-1, keepdims=True) + 1e-6) for a in (q, k))
            scores = 3 * act(jnp.tanh)(part(q) @ part(k).T * 2 + p["bias"])
            scores = jnp.where(np.tri(len(x), dtype=bool), scores, -jnp.inf)
            x = x + mixed(weights(scores)) @ mixed(v) @ p["out"][i]
            h = rms(x, p["scale"][i])
            gate = act(jax.nn.silu)(h @ p["gate"][i])
            x = x + (part(gate) * part(h @ p["up"][i])) @ p["down"][i]
        return (rms(x, p["scale"][2]) @ p["head"])[-1]

    return fn


def modern_parameters():
    rng = np.random.default_rng(2)
    square = dict.fromkeys(("q", "k", "v", "out"), (2, 8, 8))
    shapes = square | {"gate": (2, 8, 5), "up": (2, 8, 5), "down": (2, 5, 8), "head": (8, C)}
    shapes |= {"embed": (D, 8), "positions": (N, 8), "bias": (N, N), "scale": (3, 8)}
    return {k: jnp.asarray(rng.normal(size=s) / np.sqrt(s[-1])) for k, s in shapes.items()}


@pytest.mark.parametrize("written", [jax.nn.softmax, by_hand], ids=["softmax", "by hand"])
@pytest.mark.parametrize("name", ["attnlrp", "cplrp"])
def test_transformers_are_gradients_with_stops_times_input(name, written):
    with jax.enable_x64(True):
        p, x = modern_parameters(), X.astype(jnp.float64)
        constant = {"weights": constant_weights} if name == "cplrp" else {"mixed": half}
        twin = modern(p, held=stop, part=half, act=identity_rule, **constant)
        plain = modern(p, weights=written)
        close(plain(x), twin(x), rtol=1e-10)
        expected = x * jax.jit(jax.grad(lambda x: twin(x)[1]))(x)
        close(found(plain, x, composite=name), expected, rtol=1e-5, atol=1e-8)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x)))), None


class VideoTransformer(nn.Module):
    depth: int = 2
    scanned: bool = False

    @nn.compact
    def __call__(self, x):
        x = jnp.concatenate([jnp.ones((1, 8)), nn.Dense(8, name="embed")(x)])
        if self.scanned:
            blocks = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
            )
            x, _ = blocks(name="blocks")(x, None)
        else:
            for i in range(self.depth):
                x, _ = Block(name=f"block_{i}")(x)
        return nn.Dense(C, name="last")(nn.LayerNorm(name="norm")(x)[0])


def video_transformer(depth):
    model = VideoTransformer(depth)
    return model, drawn_variables(model, X)


def test_a_transformer_is_refused_without_its_rules_and_has_sane_relevance_with_them():
    model, variables = video_transformer(depth=4)
    fn = lambda x: model.apply(variables, x)  # noqa: E731
    for composite in ("epsilon", by_name({"*": ZPlus()})):
        with pytest.raises(ValueError, match=r"'attnlrp' or 'cplrp', or for_transformers"):
            lrp(fn, X, 1, composite=composite)
    for composite in ("attnlrp", for_transformers("epsilon_plus", "cplrp")):
        r = found(fn, composite=composite)
        assert np.isfinite(r).all() and 0 < np.abs(r).sum() < 100 * np.abs(fn(X)).max()


def test_scanned_blocks_are_the_same_written_out():
    model, variables = video_transformer(depth=2)
    params = dict(variables["params"])
    stacked = jax.tree.map(lambda *a: jnp.stack(a), params.pop("block_0"), params.pop("block_1"))
    scanned = VideoTransformer(2, scanned=True)
    inner = {"params": params | {"blocks": stacked}}
    fns = (lambda x: model.apply(variables, x)), (lambda x: scanned.apply(inner, x))
    close(*(found(fn, composite="attnlrp") for fn in fns), rtol=1e-3, atol=1e-5)


def test_attention_of_jax_equals_attention_written_out():
    rng = np.random.default_rng(3)
    w = jnp.asarray(rng.normal(size=(3, D, 4)), jnp.float32)

    def by_library(x):
        q, k, v = (a.reshape(1, N, -1, 2) for a in (x @ w[0], x @ w[1, :, :2], x @ w[2, :, :2]))
        return head(jax.nn.dot_product_attention(q, k, v, is_causal=True)[0].reshape(N, 4)[:, :D])

    def written_out(x):
        q, k, v = x @ w[0], x @ w[1, :, :2], x @ w[2, :, :2]
        mixed = []
        for part in (q[:, :2], q[:, 2:]):
            scores = part @ k.T / np.float32(np.sqrt(2))
            mixed.append(jax.nn.softmax(jnp.where(np.tri(N, dtype=bool), scores, -jnp.inf)) @ v)
        return head(jnp.concatenate(mixed, 1)[:, :D])

    close(by_library(X), written_out(X))
    for composite in ("attnlrp", "cplrp"):
        close(
            found(by_library, composite=composite),
            found(written_out, composite=composite),
            rtol=1e-3,
            atol=1e-5,
        )


def test_transformer_rules_combine_with_other_rules_and_boxes():
    made = preset("attnlrp", -3.0, 3.0)
    model, variables = video_transformer(depth=1)
    fn = lambda x: model.apply(variables, x)  # noqa: E731
    known = layers(fn, X)
    rules = list(made(known))
    assert isinstance(rules[0], ZBox) and (rules[0].low, rules[0].high) == (-3.0, 3.0)
    assert rules[1:] == [Epsilon(1e-9)] * (len(known) - 1)
    assert np.isfinite(found(fn, composite=made)).all()
    both = jax.jit(lambda x: discriminative(fn, x, 1, composite="attnlrp"))
    spatial, temporal = both(X)
    close(spatial + temporal, found(fn, composite="attnlrp"), rtol=1e-3, atol=1e-5)
