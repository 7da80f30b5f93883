"""Heads: the records, their logits, the modules that train them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax import models
from esv_jax.models.heads import TsnHead, head_logits, scale_logits, tsn_logits, unstack_heads
from esv_jax.models.trainable import MultiScaleHeads, Tsn

N_MAX, D, H, C, B = 4, 3, 5, 6, 7


def make_heads(rng, n_max=N_MAX, n_hidden=0, dtype=np.float32):
    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    return [
        {
            "w1": normal(s * D, H),
            "b1": normal(H),
            "w2": normal(H, C),
            "b2": normal(C),
            "hidden": [{"w": normal(H, H), "b": normal(H)} for _ in range(n_hidden)],
        }
        for s in range(1, n_max + 1)
    ]


def plain_logits(head, x_sub, input_relu=False):
    """The formula of the module docstring, on the concatenation."""
    h = x_sub.reshape(-1)
    if input_relu:
        h = np.maximum(h, 0)
    h = np.maximum(h @ head["w1"] + head["b1"], 0)
    for layer in head["hidden"]:
        h = np.maximum(h @ layer["w"] + layer["b"], 0)
    return h @ head["w2"] + head["b2"]


def padded(rng, n_max=N_MAX, batch=B):
    """Subsequences of every scale, padded with noise, (n_max, B, n_max, D)."""
    elements = rng.normal(size=(n_max, batch, n_max, D)).astype(np.float32)
    mask = np.arange(n_max)[None, None] < np.arange(1, n_max + 1)[:, None, None]
    return jnp.asarray(elements), jnp.asarray(np.broadcast_to(mask, (n_max, batch, n_max)))


batch_logits = jax.jit(jax.vmap(scale_logits, (None, 1, 1), 1))  # (n_max, B, C)


@pytest.mark.parametrize("n_hidden", [0, 2])
@pytest.mark.parametrize("input_relu", [False, True])
def test_logits_agree_with_the_formula(rng, n_hidden, input_relu):
    heads = make_heads(rng, n_hidden=n_hidden)
    stack = models.stack_heads(heads, input_relu=input_relu)
    elements, mask = padded(rng, batch=1)
    elements, mask = elements[:, 0], mask[:, 0]
    want = np.stack(
        [
            plain_logits(heads[s - 1], np.asarray(elements[s - 1, :s]), input_relu)
            for s in (1, 2, 3, 4)
        ]
    )
    one_by_one = jnp.stack([head_logits(stack, s, elements[s - 1, :s]) for s in (1, 2, 3, 4)])
    chex.assert_shape(one_by_one, (N_MAX, C))
    for got in (one_by_one, scale_logits(stack, elements, mask)):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_heads_reproduce_the_multiscale_fixtures(shared):
    with np.load(shared / "fixtures/esv/multiscale_01.npz", allow_pickle=False) as file:
        heads = [
            {
                name: file[f"{name.upper()}_{s}" if name[0] == "w" else f"{name}_{s}"]
                for name in ("w1", "b1", "w2", "b2")
            }
            for s in range(1, int(file["n_max"]) + 1)
        ]
        x, want = file["features_1"], file["logits_1"]
    np.testing.assert_allclose(head_logits(models.stack_heads(heads), 1, x), want, atol=2e-5)


@pytest.mark.parametrize("n_hidden", [0, 1])
def test_unstacking_is_the_inverse_of_stacking(rng, n_hidden):
    heads = make_heads(rng, n_hidden=n_hidden)
    stack = models.stack_heads(heads)
    assert (stack.n_max, stack.feature_dim, stack.hidden_dim, stack.n_classes) == (N_MAX, D, H, C)
    chex.assert_trees_all_equal(unstack_heads(stack), heads)
    by_scale = dict(enumerate(heads, start=1))
    chex.assert_trees_all_equal(models.stack_heads(by_scale), stack)


def test_double_precision_is_kept_in_x64_mode(rng, x64):
    stack = models.stack_heads(make_heads(rng, dtype=np.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves(stack)} == {np.dtype(np.float64)}


def test_padding_has_no_value_and_no_gradient(rng):
    stack = models.stack_heads(make_heads(rng))
    mask = jnp.arange(N_MAX)[None] <= jnp.arange(N_MAX)[:, None]
    x = jnp.where(mask[..., None], jnp.ones((N_MAX, N_MAX, D)), jnp.nan)

    def total(x):
        return scale_logits(stack, x, mask).sum()

    value, gradient = jax.value_and_grad(total)(x)
    assert np.isfinite(value)
    assert (np.abs(gradient).max(axis=-1) > 0)[mask].all()
    np.testing.assert_array_equal(gradient[~mask], 0)


def spoilt(rng, change):
    heads = make_heads(rng, n_max=3, n_hidden=1)
    change(heads)
    return heads


def short_third_layer(heads):
    heads[2]["w1"] = heads[2]["w1"][:6]


def rename(heads):
    heads[1]["W1"] = heads[1].pop("w1")


def nan(heads):
    heads[0]["b2"][3] = np.nan


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            short_third_layer,
            ValueError,
            r"heads\[2\].w1: expected shape \(3\*D, H\) = \(9, 5\), got \(6, 5\)\. Heads must be "
            r"given for every scale 1..n_max in order\.",
        ),
        (lambda h: h.pop(0), ValueError, r"heads\[1\].w1: expected shape \(2\*D, H\) = \(12, 5\)"),
        (
            lambda h: h.clear(),
            ValueError,
            r"heads: expected at least the head of scale 1, got none",
        ),
        (rename, ValueError, r"heads\[1\] key: expected one of .*, got 'W1'. Did you mean 'w1'"),
        (lambda h: h[1].pop("b2"), ValueError, r"heads\[1\]: expected keys .*, got no 'b2'"),
        (nan, ValueError, r"heads\[0\].b2: expected finite values, got nan at index \(3,\)"),
        (
            lambda h: h[2].update(w2=h[2]["w2"][:, 1:]),
            ValueError,
            r"heads\[2\].w2: .* \(5, 6\), got",
        ),
        (
            lambda h: h[1].update(b1=h[1]["b1"][1:]),
            ValueError,
            r"heads\[1\].b1: expected shape \(H,\)",
        ),
        (lambda h: h[2].update(hidden=[]), ValueError, r"heads\[2\].hidden: expected 1 further"),
        (
            lambda h: h[2]["hidden"][0].update(w=np.ones((2, 2))),
            ValueError,
            r"heads\[2\].hidden\[0\].w: expected shape \(H, H\)",
        ),
        (
            lambda h: h[2]["hidden"][0].pop("b"),
            ValueError,
            r"heads\[2\].hidden\[0\]: expected keys w, b, got no 'b'",
        ),
        (
            lambda h: h[0].update(w1=np.ones((3, 5), int)),
            TypeError,
            r"heads\[0\].w1: expected a float",
        ),
        (
            lambda h: h[0].update(w1=np.ones(5)),
            ValueError,
            r"heads\[0\].w1: expected shape \(s\*D, H",
        ),
        (lambda h: h.append(3), TypeError, r"heads\[3\]: expected a dict of arrays, got int"),
    ],
)
def test_bad_heads_are_refused_by_name(rng, change, error, says):
    with pytest.raises(error, match=says):
        models.stack_heads(spoilt(rng, change))


def test_a_missing_scale_is_named(rng):
    one, two, three = make_heads(rng, n_max=3)
    says = r"heads: expected a head for every scale 1..3, got none for scale 2 \(scales \[1, 3\]\)"
    with pytest.raises(ValueError, match=says):
        models.stack_heads({1: one, 3: three})
    with pytest.raises(
        TypeError, match=r"heads: expected a list with one dict per scale, got one dict"
    ):
        models.stack_heads(two)


def test_head_logits_refuses_other_lengths_and_scales(rng):
    stack = models.stack_heads(make_heads(rng))
    with pytest.raises(ValueError, match=r"x_sub: expected shape \(2, 3\), got \(3, 3\)"):
        head_logits(stack, 2, jnp.ones((3, D)))
    with pytest.raises(ValueError, match=r"s: expected a scale in 1..4, got 5"):
        head_logits(stack, 5, jnp.ones((5, D)))


def make_module(**settings):
    return MultiScaleHeads(n_max=N_MAX, hidden_dim=H, n_classes=C, **settings)


@functools.partial(jax.jit, static_argnums=0)
def initial_of(module, elements, mask):
    return module.init(jax.random.key(0), elements, mask)


def initial(module, elements, mask):
    """Initial variables, compiled once for modules that differ in nothing that has parameters."""
    return initial_of(module.clone(input_relu=False, dropout=0.0), elements, mask)


def random_variables(module, elements, mask, rng):
    """Initial variables with norms and biases moved away from 0 and 1."""
    variables = initial(module, elements, mask)
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.3 * np.abs(rng.normal(size=leaf.shape)), leaf.dtype),
        variables,
    )


def beyond_scale(w1):
    return w1[np.arange(N_MAX)[None] > np.arange(N_MAX)[:, None]]


def test_parameters_are_stacked_and_scaled_by_the_fan_in_of_each_scale():
    module = MultiScaleHeads(n_max=8, hidden_dim=64, n_classes=C, n_hidden_layers=2)
    elements, mask = jnp.ones((8, 1, 8, 32)), jnp.ones((8, 1, 8), bool)
    params = initial(module, elements, mask)["params"]["heads"]
    chex.assert_shape(params["w1"], (8, 8, 32, 64))
    chex.assert_shape(params["w_hidden_1"], (8, 64, 64))
    chex.assert_shape(params["w2"], (8, 64, C))
    for s in range(1, 9):
        np.testing.assert_array_equal(params["w1"][s - 1, s:], 0)
        np.testing.assert_allclose(params["w1"][s - 1, :s].std(), np.sqrt(2 / (s * 32)), rtol=0.1)
    assert np.abs(params["w1"][0, 0] - params["w1"][1, 0]).max() > 0


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("input_relu", [False, True])
def test_folded_stack_has_the_logits_of_the_module(rng, batch_norm, input_relu):
    module = make_module(
        n_hidden_layers=2, batch_norm=batch_norm, input_relu=input_relu, dropout=0.5
    )
    elements, mask = padded(rng)
    variables = random_variables(module, elements, mask, rng)
    logits = jax.jit(module.apply)(variables, elements, mask)
    chex.assert_shape(logits, (N_MAX, B, C))
    stack = module.fold(variables)
    by_stack = batch_logits(stack, elements, mask)
    np.testing.assert_allclose(by_stack, logits, rtol=1e-4, atol=1e-4)
    assert len(stack.hidden) == 1


def test_standardisation_is_folded_into_the_first_layer(rng):
    module = make_module(batch_norm=True)
    elements, mask = padded(rng)
    variables = random_variables(module, elements, mask, rng)
    # Only positions a scale has carry weights, so only they may take part in the shift.
    w1 = variables["params"]["heads"]["w1"]
    there = (np.arange(N_MAX)[None] <= np.arange(N_MAX)[:, None])[:, :, None, None]
    variables["params"]["heads"]["w1"] = jnp.where(there, w1, 0)
    mean, std = np.float32([1, -2, 3]), np.float32([0.5, 2, 4])
    standardised = (elements - mean[None, None, None]) / std[None, None, None]
    want = jax.jit(module.apply)(variables, standardised, mask)
    stack = module.fold(variables, mean, std)
    got = batch_logits(stack, elements, mask)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="cannot be folded through input_relu"):
        make_module(input_relu=True, batch_norm=True).fold(variables, mean, std)


def test_gradients_are_zero_beyond_the_positions_of_a_scale(rng):
    module = make_module(dropout=0.1)
    elements, mask = padded(rng)
    variables = initial(module, elements, mask)

    def total(params, elements):
        rngs = {"dropout": jax.random.key(1)}
        return module.apply({"params": params}, elements, mask, train=True, rngs=rngs).sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(variables["params"], elements)
    by_params, by_elements = jax.tree.map(np.asarray, gradients)
    np.testing.assert_array_equal(beyond_scale(by_params["heads"]["w1"]), 0)
    np.testing.assert_array_equal(np.asarray(by_elements)[~np.asarray(mask)], 0)
    assert np.abs(by_elements[3, :, 3]).max() > 0


def test_batch_norm_ignores_masked_rows(rng):
    module = make_module(batch_norm=True)
    elements, mask = padded(rng)
    some = mask.at[:, 3:].set(False).at[2].set(False)  # scale 3 has no row at all
    variables = initial(module, elements, mask)

    def train(elements, mask):
        return module.apply(variables, elements, mask, train=True, mutable=["batch_stats"])

    logits, changed = train(elements, some)
    want, want_changed = train(elements[:, :3], some[:, :3])
    np.testing.assert_allclose(logits[:, :3], want, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(changed, want_changed, rtol=1e-5)
    stats = changed["batch_stats"]["heads"]["norm_0"]
    np.testing.assert_array_equal(stats["mean"][2], 0)
    np.testing.assert_array_equal(stats["var"][2], 1)
    assert np.abs(stats["mean"][1]).max() > 0


def test_dropout_differs_between_scales_and_is_off_in_evaluation(rng):
    module = make_module(dropout=0.5)
    mask = jnp.ones((N_MAX, B, N_MAX), bool)
    elements = jnp.ones((N_MAX, B, N_MAX, D))
    variables = initial(module, elements, mask)
    shared_head = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), variables)
    train = module.apply(
        shared_head, elements, mask, train=True, rngs={"dropout": jax.random.key(0)}
    )
    assert np.abs(train[0] - train[1]).max() > 0
    plain = module.apply(shared_head, elements, mask)
    np.testing.assert_allclose(plain[0], plain[1], rtol=1e-6)


def test_tsn_is_the_mean_over_elements_of_a_linear_layer(rng):
    x = rng.normal(size=(6, D)).astype(np.float32)
    w, b = rng.normal(size=(D, C)).astype(np.float32), rng.normal(size=C).astype(np.float32)
    mask = np.array([True, False, True, True, False, False])
    for input_relu in (False, True):
        head = TsnHead(w=jnp.asarray(w), b=jnp.asarray(b), input_relu=input_relu)
        seen = np.maximum(x[mask], 0) if input_relu else x[mask]
        got = tsn_logits(head, jnp.asarray(x), jnp.asarray(mask))
        np.testing.assert_allclose(got, (seen @ w + b).mean(axis=0), rtol=1e-5, atol=1e-6)
        module = Tsn(n_classes=C, input_relu=input_relu)
        by_module = module.apply({"params": {"w": w, "b": b}}, x[None, None], mask[None, None])
        np.testing.assert_allclose(by_module[0, 0], got, rtol=1e-5, atol=1e-6)


def test_tsn_folds_standardisation(rng):
    x = jnp.asarray(rng.normal(size=(1, 1, 6, D)).astype(np.float32))
    mask = jnp.ones((1, 1, 6), bool)
    module = Tsn(n_classes=C)
    variables = module.init(jax.random.key(0), x, mask)
    mean, std = np.float32([1, -2, 3]), np.float32([0.5, 2, 4])
    want = module.apply(variables, (x - mean[None, None, None]) / std[None, None, None], mask)
    head = module.fold(variables, mean, std)
    np.testing.assert_allclose(
        tsn_logits(head, x[0, 0], mask[0, 0]), want[0, 0], rtol=1e-5, atol=1e-5
    )
    assert (head.feature_dim, head.n_classes) == (D, C)
    with pytest.raises(ValueError, match="cannot be folded through input_relu"):
        Tsn(n_classes=C, input_relu=True).fold(variables, mean, std)
