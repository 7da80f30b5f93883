"""Orders of arrival: unbiased, efficient, with errors that shrink as they should."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.estimators.permutation import PermutationSampling
from esv_jax.games.black_box import BlackBox
from esv_jax.games.scoring import GameInfo
from tests.games_for_tests import TableGame, multi_scale_case, steps
from tests.reference import plain


def members(n):
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(float)


def smooth_table(n, c, seed):
    """Additive and pairwise effects with a little of everything else, under a softmax."""
    rng, member = np.random.default_rng(seed), members(n)
    pairs = np.triu(rng.normal(size=(c, n, n)) * 0.35, 1) / np.sqrt(n)
    logits = member @ rng.normal(size=(n, c)) + 0.15 * rng.normal(size=(2**n, c))
    logits += np.einsum("mi,cij,mj->mc", member, pairs, member)
    return plain.softmax(logits).astype(np.float32)


def attention_table(n, c, seed, d=8, h=16):
    """An MLP over features pooled by attention."""
    rng, member = np.random.default_rng(seed + 100), members(n)
    x = rng.normal(size=(n, d))
    weight = np.exp(x @ rng.normal(size=d) * 0.7)
    pooled = (member * weight) @ np.tanh(x @ rng.normal(size=(d, h)) * 0.5)
    pooled /= np.maximum(member @ weight, 1e-9)[:, None]
    hidden = np.maximum(pooled @ rng.normal(size=(h, h)) * 0.5, 0)
    table = plain.softmax(hidden @ rng.normal(size=(h, c)) * 0.75)
    table[0] = 1 / c
    return table.astype(np.float32)


def estimate(table, permutations, key):
    x = jnp.zeros((len(table).bit_length() - 1, 1))
    return steps(PermutationSampling(permutations), TableGame(table), x, table[0], key)


def runs(table, permutations, seeds):
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    one = jax.jit(jax.vmap(lambda key: estimate(jnp.asarray(table), permutations, key)))
    result = one(keys)
    return np.asarray(result.values, float), np.asarray(result.std_error)


def plain_gains(table, order):
    values, code = np.zeros((len(order), table.shape[1])), 0
    for i in order:
        values[i] = table[code | 1 << i] - table[code]
        code |= 1 << i
    return values


def of_orders(table, orders):
    """The estimate from given orders (P, n), in the place of drawn ones."""
    n = orders.shape[1]
    arrival = np.argsort(orders, axis=1)[:, None]
    prefix = arrival <= np.arange(n - 1)[None, :, None]
    rows = np.concatenate([np.stack([prefix, ~prefix]).reshape(-1, n), np.ones((1, n), bool)])
    scores = table[rows @ (1 << np.arange(n))]
    estimator = PermutationSampling(len(orders))
    info = GameInfo(n, n, False, "identity")
    return estimator.estimate(jnp.asarray(rows), jnp.asarray(scores), jnp.asarray(table[0]), info)


def test_one_order_equals_a_plain_loop():
    n = 5
    table = np.random.default_rng(0).normal(size=(2**n, 2)).astype(np.float32)
    orders = np.array([[3, 0, 4, 2, 1], [0, 1, 2, 3, 4]])
    for order in orders:
        values = of_orders(table, order[None]).values
        expected = (plain_gains(table, order) + plain_gains(table, order[::-1])) / 2
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_all_orders_give_the_shapley_value():
    n = 4
    table = np.random.default_rng(1).normal(size=(2**n, 2)).astype(np.float32)
    values = of_orders(table, np.array(list(itertools.permutations(range(n))))).values
    np.testing.assert_allclose(values, plain.shapley_by_weights(table), atol=1e-6)


@pytest.mark.parametrize(
    "jitted", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["jit", "eager"]
)
@pytest.mark.parametrize(("n", "permutations"), [(1, 3), (2, 1), (6, 5), (7, 200)])
def test_efficiency_and_counts(n, permutations, jitted):
    table = np.random.default_rng(2).normal(size=(2**n, 3)).astype(np.float32)
    run = jax.jit(estimate, static_argnums=1) if jitted else estimate
    result = run(jnp.asarray(table), permutations, jax.random.key(0))
    np.testing.assert_allclose(result.efficiency_gap(), 0, atol=3e-6)
    assert int(result.n_evaluations) <= min(2 * permutations * (n - 1) + 1, 2**n - 1)
    assert (result.std_error is None) == (permutations == 1)
    if n <= 2:  # one order and its reverse are all there are
        np.testing.assert_allclose(result.values, plain.shapley_by_weights(table), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("make", [smooth_table, attention_table])
def test_permutation_sampling_is_unbiased_with_calibrated_errors(make):
    n, seeds = 7, 150
    table = make(n, 2, 0)
    exact = plain.shapley_by_weights(table)
    stated = []
    for permutations in (10, 40):
        values, std_error = runs(table, permutations, seeds)
        spread = values.std(0, ddof=1)
        assert (np.abs(values.mean(0) - exact) < 4 * spread / np.sqrt(seeds) + 1e-6).all()
        stated.append(np.sqrt((std_error**2).mean()))
        found = np.sqrt(((values - exact) ** 2).mean())
        assert stated[-1] == pytest.approx(found, rel=0.15)
        assert (np.abs(values - exact) < 1.96 * std_error + 1e-6).mean() > 0.85
    assert stated[0] / stated[1] == pytest.approx(2, rel=0.1)  # 1 / sqrt(permutations)


def test_same_key_same_bits():
    table = jnp.asarray(smooth_table(6, 2, 0))
    first, again, other = (estimate(table, 4, jax.random.key(k)).values for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_a_black_box_equals_its_jax_twin(rng):
    w = rng.normal(size=(4, 3)).astype(np.float32)
    x = rng.normal(size=(8, 4)).astype(np.float32)

    def pooled(x, mask):
        mask = mask.astype(x.dtype)
        return (x * mask[:, None]).sum(0) / mask.sum() @ w

    game = ej.VariableLength(pooled)
    outside = BlackBox(lambda clips: plain.softmax(clips.mean(1) @ w))
    prior = np.full(3, 1 / 3, np.float32)
    kwargs = {"prior": prior, "estimator": PermutationSampling(9), "key": jax.random.key(3)}
    inside = ej.explain(game, x, **kwargs)
    other = ej.explain(outside, x, **kwargs)
    np.testing.assert_allclose(inside.values, other.values, atol=2e-6)
    assert outside.counts.clips == int(other.n_evaluations) + 1  # the whole one twice
    assert ej.plan_cost(game, x, PermutationSampling(9)).n_evaluations == 2 * 9 * 7 + 1


def test_bad_settings_are_refused(rng):
    game, x, prior, _ = multi_scale_case(rng, 5, 2)
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="combine scales"):
        ej.explain(game, x, prior=prior, estimator=PermutationSampling(2), key=key)
    table, info = jnp.asarray(smooth_table(4, 2, 0)), GameInfo(4, 4, False, "identity")
    drawn = PermutationSampling(2).draw(key, info)
    with pytest.raises(ValueError, match="length: expected 4"):
        PermutationSampling(2).estimate(drawn, table[: len(drawn)], table[0], info, 3)
    with pytest.raises(ValueError, match="permutations"):
        PermutationSampling(0)
