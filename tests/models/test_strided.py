"""Split strided convolutions: values and transposes equal those of the original."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax import relevance as rules
from esv_jax.strided import is_better_split, split_convolution, split_strides

CASES = {
    "few channels": ((2, 9, 8, 3), (3, 4, 3, 5), (2, 3), "SAME", 1),
    "many channels": ((1, 9, 8, 12), (3, 4, 12, 5), (2, 3), "SAME", 1),
    "three dimensions": ((1, 6, 7, 8, 9), (3, 3, 3, 9, 4), (2, 1, 2), "SAME", 1),
    "a window below the stride": ((1, 9, 9, 8), (1, 1, 8, 4), (2, 2), "VALID", 1),
    "few channels and a window below the stride": ((1, 9, 9, 2), (1, 2, 2, 4), (3, 3), "VALID", 1),
    "groups": ((1, 10, 4), (3, 2, 6), (2,), "VALID", 2),
    "padding of one side": ((1, 10, 8), (3, 8, 6), (3,), ((0, 4),), 1),
    "padding taken off": ((1, 10, 8), (3, 8, 6), (2,), ((-1, -2),), 1),
}
LAST = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def arrays(x_shape, kernel_shape):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x_shape, kernel_shape))


def parameters(convolution, x, kernel):
    (equation,) = jax.make_jaxpr(convolution)(x, kernel).eqns
    return equation.params


@pytest.mark.parametrize("name", list(CASES))
def test_the_split_convolution_equals_the_original(name):
    x_shape, kernel_shape, strides, padding, groups = CASES[name]
    x, kernel = arrays(x_shape, kernel_shape)

    def convolution(x, kernel):
        layout = LAST[len(strides)]
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            dimension_numbers=layout,
            feature_group_count=groups,
            precision="highest",
        )

    params = parameters(convolution, x, kernel)

    def whole(x):
        return convolution(x, kernel)

    def split(x):
        return split_convolution(x, kernel, params, jnp.float32)

    @jax.jit
    def there_and_back(x):
        out = whole(x)
        backs = (jax.linear_transpose(fn, x)(out)[0] for fn in (whole, split))
        return out, split(x), *backs

    out, found, back, found_back = there_and_back(x)
    np.testing.assert_allclose(found, out, atol=2e-5)
    np.testing.assert_allclose(found_back, back, atol=2e-4)


def test_any_layout():
    x, kernel = arrays((2, 3, 9, 8), (5, 3, 3, 4))

    def convolution(x, kernel):
        layout = ("NCHW", "OIHW", "HWNC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=layout)

    params = parameters(convolution, x, kernel)
    found = split_convolution(x, kernel, params, jnp.float32)
    np.testing.assert_allclose(found, convolution(x, kernel), atol=2e-5)


def test_only_strides_are_split():
    x, kernel = arrays((1, 10, 8), (3, 8, 6))

    def convolution(x, kernel, **how):
        return jax.lax.conv_general_dilated(
            x, kernel, padding=((0, 0),), dimension_numbers=LAST[1], **how
        )

    def split(**how):
        return is_better_split(parameters(lambda x, k: convolution(x, k, **how), x, kernel))

    on_cpu = jax.default_backend() == "cpu"
    assert split(window_strides=(2,)) == on_cpu
    assert not split(window_strides=(1,))
    assert not split(window_strides=(2,), rhs_dilation=(2,))
    assert not split(window_strides=(2,), lhs_dilation=(2,))


def strides_of(fn, x):
    """The strides of all convolutions in a function, calls within it included."""

    def inside(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "conv_general_dilated":
                yield eqn.params["window_strides"]
            for value in eqn.params.values():
                if hasattr(value, "jaxpr"):
                    yield from inside(value.jaxpr)

    return [*inside(jax.make_jaxpr(fn)(x).jaxpr)]


def network():
    """Convolutions with strides, within a compiled function and without, and what lies between."""
    x, first = arrays((2, 6, 12, 10, 3), (3, 5, 5, 3, 8))
    second, _ = arrays((3, 3, 3, 8, 9), (1,))

    def layer(x, kernel, strides):
        out = jax.lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=LAST[3], precision="highest"
        )
        return jax.nn.relu(out)  # a derivative of its own

    @jax.jit
    def inner(x):
        return layer(x, second, (2, 1, 2)), x.sum()  # an output that nobody reads

    def fn(x):
        y, _ = inner(layer(x, first, (1, 2, 2)))
        top, _ = jax.lax.top_k(y.reshape(len(y), -1), 3)  # several outputs
        return jax.nn.softmax(y.mean((1, 2, 3)) + top.mean(-1, keepdims=True) * jnp.ones((1, 9)))

    return fn, x


def test_a_split_function_equals_the_original():
    fn, x = network()
    split = split_strides(fn)
    on_cpu = jax.default_backend() == "cpu"
    assert any(max(strides) > 1 for strides in strides_of(fn, x))
    assert any(max(strides) > 1 for strides in strides_of(split, x)) != on_cpu
    np.testing.assert_allclose(jax.jit(split)(x), jax.jit(fn)(x), atol=1e-6)

    def gradient(fn):
        return jax.jit(jax.grad(lambda x: fn(x)[:, 3].sum()))(x)

    whole = gradient(fn)
    np.testing.assert_allclose(gradient(split), whole, atol=1e-5 * float(jnp.abs(whole).max()))
    each = jax.jit(jax.vmap(lambda x: split(x[None])[0]))(x)
    np.testing.assert_allclose(each, jax.jit(fn)(x), atol=1e-6)


def test_a_function_without_strides_is_unchanged():
    def fn(x):
        return jnp.tanh(x).sum(0)

    x = jnp.arange(6.0).reshape(2, 3)
    assert str(jax.make_jaxpr(split_strides(fn))(x)) == str(jax.make_jaxpr(fn)(x))


@pytest.mark.parametrize("composite", ["zplus", "alpha2_beta1", "epsilon"])
def test_relevance_equals_that_of_the_whole_convolution(composite, monkeypatch):
    x, kernel = arrays((9, 8, 3), (3, 3, 3, 4))
    last = jnp.asarray(np.random.default_rng(1).normal(size=(4 * 5 * 4, 2)), jnp.float32)

    def fn(x):
        layout = LAST[2]
        y = jax.lax.conv_general_dilated(x[None], kernel, (2, 2), "SAME", dimension_numbers=layout)
        return jax.nn.relu(y).reshape(-1) @ last

    def explain():  # what is patched is read again
        return jax.jit(lambda x: rules.lrp(fn, x, 1, composite=composite))(x)

    split = explain()
    module = importlib.import_module("esv_jax.relevance.layers")
    monkeypatch.setattr(module, "is_better_split", lambda params: False)
    whole = explain()
    np.testing.assert_allclose(split, whole, atol=1e-5 * float(jnp.abs(whole).max()))
