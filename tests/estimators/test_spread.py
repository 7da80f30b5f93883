"""Standard errors from few repetitions: the formula, its coverage, and what Algorithm 1 adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.estimators.permutation import spread_error
from tests.games_for_tests import multi_scale_case


@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
def test_spread_error_equals_its_formula_without_padding(rng, jitted):
    k, n, c, length = 3, 5, 2, 4
    each = rng.normal(size=(k, n, c)).astype(np.float32)
    each[:, length:] = 0
    run = jax.jit(spread_error) if jitted else spread_error
    found = run(jnp.asarray(each), length)
    for cls in range(c):
        own = [each[:, i, cls].astype(float).var(ddof=1) for i in range(length)]
        for i in range(length):
            variance = (1 - 4 / (k + 3)) * own[i] + 4 / (k + 3) * np.mean(own)
            expected = np.sqrt(variance * (1 + 1 / (2 * k)) / k)
            np.testing.assert_allclose(found[i, cls], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[length:], 0)
    np.testing.assert_allclose(spread_error(jnp.asarray(each[:, :length])), found[:length], 1e-6)


@pytest.mark.parametrize("k", [2, 3, 4, 16])
def test_normal_intervals_of_few_repetitions_cover(rng, k):
    n, c, runs = 16, 3, 400
    scale = np.exp(0.3 * rng.normal(size=(n, c)))  # elements differ in spread
    each = scale * rng.normal(size=(runs, k, n, c))
    error = jax.vmap(spread_error)(jnp.asarray(each, jnp.float32))
    covered = (np.abs(each.mean(1)) <= 1.96 * np.asarray(error)).mean()
    assert 0.93 < covered < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [4, 16])
def test_intervals_of_algorithm_1_cover_despite_its_bias(rng, iterations):
    covered = []
    for seed in range(12):
        game, x, prior, _ = multi_scale_case(rng, 12, 4)
        exact = ej.explain(game, x, prior=prior).values
        estimator = ej.Constructive(64, iterations)
        att = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(seed))
        low, high = att.interval(0.95)
        covered.append((low <= exact) & (exact <= high))
    assert 0.91 < np.mean(covered) < 0.99


@pytest.mark.slow
def test_symmetric_elements_have_equal_values_in_expectation(rng):
    """Heads that add up their elements cannot tell two equal ones apart, wherever they are."""
    n, d, width, c = 9, 3, 8, 3
    heads = []
    for s in range(1, 5):
        block = rng.normal(size=(d, width))
        heads.append(
            {
                "w1": np.tile(block, (s, 1)),
                "b1": rng.normal(size=width),
                "w2": rng.normal(size=(width, c)),
                "b2": rng.normal(size=c),
            }
        )
    game = ej.MultiScale(ej.models.stack_heads(heads))
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[6] = x[2]
    prior = np.full(c, 1 / c)
    exact = np.asarray(ej.explain(game, x, prior=prior).values)
    np.testing.assert_allclose(exact[2], exact[6], atol=2e-6)
    for estimator in (ej.Surrogate(24), ej.Constructive(24, 2)):
        found = np.stack(
            [
                ej.explain(
                    game, x, prior=prior, estimator=estimator, key=jax.random.key(seed)
                ).values
                for seed in range(24)
            ]
        )
        difference = found[:, 2] - found[:, 6]
        error = difference.std(0, ddof=1) / np.sqrt(len(found))
        assert (np.abs(difference.mean(0)) < 4 * error).all()
