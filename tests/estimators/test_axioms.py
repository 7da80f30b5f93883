"""What every estimator promises, on random games; jitted and not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import esv_jax as ej
from tests.games_for_tests import TableGame, multi_scale_case, random_prior, steps
from tests.reference import plain

ENUMERATING = ej.Constructive(max_subsequences=20, iterations=1)  # binomial(6, 3) = 20
ESTIMATORS = [
    pytest.param(ej.Exact(), id="exact"),
    pytest.param(ENUMERATING, id="constructive-enumerating"),
]
VARIANTS = pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
CASES = [(1, 0), (2, 1), (4, 2), (6, 3)]  # elements, seed
SIZES = st.integers(1, 5)
SEEDS = st.integers(0, 2**31)


@functools.cache
def runner(estimator, jitted):
    """Table -> values; one function of each kind, so that a shape is compiled once."""

    def run(table):
        x = jnp.zeros((len(table).bit_length() - 1, 1), table.dtype)
        key = jax.random.key(0)
        return steps(estimator, TableGame(table), x, table[0], key).values

    return jax.jit(run) if jitted else run


def values_of(estimator, table, jitted):
    return np.asarray(runner(estimator, jitted)(jnp.asarray(table)))


def random_table(seed, n, c=2):
    return np.random.default_rng(seed).normal(size=(2**n, c)).astype(np.float32)


def code_permuted(code, order):
    return sum(1 << order[i] for i in plain.elements_of(code, len(order)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("n", "seed", "jitted"),
    [
        *((n, seed, True) for n, seed in CASES),
        (4, 2, False),
        *(pytest.param(n, seed, False, marks=pytest.mark.slow) for n, seed in CASES if n != 4),
    ],
)
def test_axioms_hold(estimator, n, seed, jitted):
    table = random_table(seed, n)
    values = values_of(estimator, table, jitted)
    # efficiency
    np.testing.assert_allclose(values.sum(0), table[-1] - table[0], atol=2e-6)
    # linearity
    other = random_table(seed + 100, n)
    both = values_of(estimator, 2 * table - 3 * other, jitted)
    expected = 2 * values - 3 * values_of(estimator, other, jitted)
    np.testing.assert_allclose(both, expected, atol=2e-5)
    # relabelling
    order = np.random.default_rng(seed).permutation(n)
    relabelled = np.zeros_like(table)
    for code in range(2**n):
        relabelled[code_permuted(code, order)] = table[code]
    np.testing.assert_allclose(values_of(estimator, relabelled, jitted)[order], values, atol=3e-6)
    if n < 2:
        return
    # symmetry: elements 0 and n - 1 made interchangeable
    swap = np.arange(n)
    swap[[0, n - 1]] = n - 1, 0
    symmetric = np.array([(table[c] + table[code_permuted(c, swap)]) / 2 for c in range(2**n)])
    alike = values_of(estimator, symmetric, jitted)
    np.testing.assert_allclose(alike[0], alike[-1], atol=2e-6)
    # null element: element 1 never changes a score
    null = np.array([table[code & ~2] for code in range(2**n)])
    np.testing.assert_allclose(values_of(estimator, null, jitted)[1], 0, atol=2e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_monotonicity(estimator):
    """Monotonicity over classes: class 1 gains at least what class 0 gains from element 2."""
    n = 5
    table = random_table(9, n)
    table[:, 1] = table[:, 0]
    rng = np.random.default_rng(1)
    for code in range(2**n):
        if code >> 2 & 1:
            table[code, 1] = table[code, 0] + abs(rng.normal())
    values = values_of(estimator, table, True)
    assert values[2, 1] > values[2, 0]


@settings(max_examples=10)
@given(seed=SEEDS, n=SIZES)
def test_exact_is_the_mean_over_permutations(seed, n):
    table = np.random.default_rng(seed).normal(size=(2**n, 2))
    values = values_of(ej.Exact(), table.astype(np.float32), True)
    np.testing.assert_allclose(values, plain.shapley_by_permutations(table), atol=5e-6)


def test_exact_is_the_mean_over_permutations_of_six():
    table = np.random.default_rng(4).normal(size=(64, 3))
    expected = plain.shapley_by_permutations(table)
    values = values_of(ej.Exact(), table.astype(np.float32), True)
    np.testing.assert_allclose(values, expected, atol=5e-6)
    np.testing.assert_allclose(plain.shapley_by_weights(table), expected, atol=1e-12)


@given(seed=SEEDS, n=SIZES, element=st.integers(0, 4), size=st.integers(1, 5))
def test_unanimity_games_share_equally(seed, n, element, size):
    """The game that pays 1 once all of a set T are in gives 1/|T| to each of T."""
    rng = np.random.default_rng(seed)
    members = rng.permutation(n)[: min(size, n)]
    code = sum(1 << int(i) for i in members)
    table = np.array([[float(c & code == code)] for c in range(2**n)], np.float32)
    expected = np.isin(np.arange(n), members)[:, None] / len(members)
    np.testing.assert_allclose(values_of(ej.Exact(), table, True), expected, atol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_marginals_are_the_means_of_equation_7(n):
    table = np.random.default_rng(n).normal(size=(2**n, 2)).astype(np.float32)
    att = ej.explain(TableGame(jnp.asarray(table)), np.zeros((n, 1), np.float32), prior=table[0])
    np.testing.assert_allclose(att.marginals, plain.marginals(table), atol=3e-6)
    np.testing.assert_allclose(att.marginals.mean(0), att.values, atol=1e-6)


@settings(max_examples=6)
@given(seed=SEEDS, n=st.integers(1, 6), n_max=st.sampled_from([1, 3]))
def test_multi_scale_games_are_efficient(seed, n, n_max):
    rng = np.random.default_rng(seed)
    game, x, prior, _ = multi_scale_case(rng, n, n_max)
    for estimator in (ej.Exact(), ENUMERATING):
        att = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(seed))
        assert np.abs(att.efficiency_gap()).max() < 2e-6
        np.testing.assert_allclose(np.asarray(att.values).sum(1), 0, atol=2e-6)  # softmax


def test_sampled_estimates_are_within_their_errors():
    """Table games have no bias: the error is a few standard errors."""
    n = 7
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(2**n, 3)).astype(np.float32))
    game, x = TableGame(table), np.zeros((n, 1), np.float32)
    exact = ej.explain(game, x, prior=table[0]).values
    estimator = ej.Constructive(max_subsequences=15, iterations=40)
    att = ej.explain(game, x, prior=table[0], estimator=estimator, key=jax.random.key(1))
    z = np.asarray(att.values - exact) / np.asarray(att.std_error)
    assert np.sqrt((z**2).mean()) < 2
    assert np.asarray(att.std_error).min() > 0
    assert random_prior(rng, 3).shape == (3,)
