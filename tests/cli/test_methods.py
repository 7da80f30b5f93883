"""Element values by other methods: direct calls, files, the command line."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import esv_jax as ej
from esv_jax.cli import main
from esv_jax.cli.explain import MethodName
from esv_jax.maps.elements import ELEMENT_METHODS, element_values
from esv_jax.results.browser import Browser
from tests.games_for_tests import as_float32, random_heads

N, D, C = 5, 3, 4


@pytest.fixture(scope="module")
def model():
    heads = as_float32(random_heads(np.random.default_rng(0), 3, d=D, c=C))
    return ej.models.TrainedModel(ej.models.stack_heads(heads), np.full(C, 1 / C), tuple("abcd"))


@pytest.fixture(scope="module")
def game(model):
    return ej.MultiScale(model.heads)


@pytest.fixture(scope="module")
def xs():
    return np.random.default_rng(1).normal(size=(3, N, D)).astype(np.float32)


def test_methods_by_name_equal_direct_calls(model, game, xs):
    x, prior = xs[0], np.asarray(model.prior, np.float32)
    found = element_values(tuple(ELEMENT_METHODS), game, x, prior=prior)
    assert tuple(found) == tuple(ELEMENT_METHODS)
    scores = jax.jit(ej.gradients.score_function(game))
    logits = ej.gradients.score_function(game, "identity")

    @jax.jit
    def by_gradients(x):
        return {
            "integrated_gradients": ej.gradients.integrated_gradients(scores, x, steps=50).sum(1),
            "gradient_x_input": ej.gradients.gradient_x_input(logits, x).sum(1),
            "grad_cam": ej.gradients.grad_cam(logits, x),
        }

    expected = by_gradients(x) | {
        "leave_one_out": ej.baselines.leave_one_out(game, x, prior=prior),
        "leave_one_in": ej.baselines.leave_one_in(game, x, prior=prior),
    }
    for name, values in found.items():
        assert values.shape == (N, C)
        np.testing.assert_allclose(values, expected[name], atol=2e-6, err_msg=name)
    gained = scores(x) - scores(np.zeros_like(x))  # Integrated Gradients are complete
    np.testing.assert_allclose(found["integrated_gradients"].sum(0), gained, atol=1e-3)


def test_bad_input_is_refused(model, game, xs):
    with pytest.raises(ValueError, match="methods: expected one of 'integrated_gradients'"):
        element_values(["magic"], game, xs[0], prior=model.prior)
    with pytest.raises(ValueError, match="Take fewer elements"):
        element_values(["leave_one_out"], game, np.ones((40, D), np.float32), prior=model.prior)
    outside = ej.BlackBox(lambda clips: clips.mean(1), removal="drop")
    with pytest.raises(TypeError, match="a game that JAX can differentiate"):
        element_values(["grad_cam"], outside, xs[0], prior=np.full(D, 1 / D))


@pytest.fixture
def stored(model, game, xs, tmp_path):
    """Results of sequences of 5, 5 and 3 elements with two other methods."""
    rows = [xs[0], xs[1], xs[2, :3]]
    path = tmp_path / "results.nc"
    own = [ej.explain(game, x, prior=model.prior) for x in rows]
    names = ("grad_cam", "leave_one_in")
    others = [element_values(names, game, x, prior=model.prior) for x in rows]
    methods = {name: [values[name] for values in others] for name in names}
    ej.results.save(path, own, uids=tuple("xyz"), methods=methods)
    return path, methods


def test_method_values_round_trip_through_files(stored):
    path, methods = stored
    with ej.results.open(path) as dataset:
        browser = Browser(dataset)
        assert browser.methods == tuple(methods)
        for k, uid in enumerate("xyz"):
            back = browser.method_values(uid)
            for name, rows in methods.items():
                np.testing.assert_array_equal(back[name], rows[k])
        table = ej.results.to_dataframe(dataset, "all")
        assert len(table) == (5 + 5 + 3) * C
        one = table[(table["video"] == "z") & (table["class"] == "2")]
        np.testing.assert_array_equal(one["grad_cam"], methods["grad_cam"][2][:, 2])
        assert dataset["grad_cam"].attrs["other_method"] == "grad_cam"


def test_results_without_method_values_are_refused(model, game, xs, tmp_path):
    record = ej.explain(game, xs[0], prior=model.prior)
    path = ej.results.save(tmp_path / "r.nc", [record], uids=["x"])
    with ej.results.open(path) as dataset:
        browser = Browser(dataset)
        assert browser.methods == () and browser.method_values("x") == {}


@pytest.mark.parametrize(
    ("methods", "match"),
    [
        ({"esv": [np.zeros((N, C))]}, "names like integrated_gradients that are free"),
        ({"class": [np.zeros((N, C))]}, "that are free, got 'class'"),
        ({"two words": [np.zeros((N, C))]}, "got 'two words'"),
        ({"mine": []}, r"methods\['mine'\]: expected 1 rows, got 0"),
        ({"mine": [np.zeros((N + 1, C))]}, r"mine\[0\]: expected shape \(5, 4\), got \(6, 4\)"),
    ],
)
def test_values_that_cannot_be_stored_are_refused(model, game, xs, tmp_path, methods, match):
    record = ej.explain(game, xs[0], prior=model.prior)
    with pytest.raises(ValueError, match=match):
        ej.results.save(tmp_path / "r.nc", [record], uids=["x"], methods=methods)
    assert not [*tmp_path.iterdir()]


def test_the_command_stores_method_values(model, game, xs, tmp_path, capsys):
    assert typing.get_args(MethodName) == tuple(ELEMENT_METHODS)
    np.save(tmp_path / "data.npy", xs)
    ej.models.save_model(tmp_path / "model.safetensors", model)
    words = ["explain", str(tmp_path / "data.npy"), "--model", str(tmp_path / "model.safetensors")]
    words += ["--figures", "0", "--out", str(tmp_path / "r")]
    assert main([*words, "--methods", "grad_cam", "leave_one_out"]) == 0
    with ej.results.open(tmp_path / "r") as dataset:
        browser = Browser(dataset)
        assert browser.methods == ("grad_cam", "leave_one_out")
        for x, uid in zip(xs, browser.find(), strict=True):
            expected = element_values(browser.methods, game, x, prior=model.prior)
            for name, values in browser.method_values(uid).items():
                np.testing.assert_allclose(values, expected[name], atol=1e-6)
    assert "grad_cam" not in pandas.read_csv(tmp_path / "r" / "table.csv").columns

    np.save(tmp_path / "long.npy", np.ones((40, D), np.float32))
    words[1] = str(tmp_path / "long.npy")
    capsys.readouterr()
    assert main([*words, "--overwrite", "--methods", "leave_one_out"]) == 2
    assert "at most 20 elements" in capsys.readouterr().err


def test_non_finite_values_are_refused(model, xs):
    def logits(x, mask):  # a row of zeros has no gradient
        unit = x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-6)
        return jnp.where(mask[:, None], unit, 0).sum(0)

    x = xs[0].copy()
    x[1] = 0
    prior = np.full(D, 1 / D, np.float32)
    with pytest.raises(
        ValueError, match=r"gradient_x_input: expected finite .*nan at index \(1, 0"
    ):
        element_values(["gradient_x_input"], ej.VariableLength(logits), x, prior=prior)
    with pytest.raises(ValueError, match="x: expected finite values"):
        element_values(["grad_cam"], ej.VariableLength(logits), x * np.nan, prior=prior)
    with pytest.raises(TypeError, match="x: expected an array, got dict"):
        element_values(["grad_cam"], ej.VariableLength(logits), {"x": x}, prior=prior)
