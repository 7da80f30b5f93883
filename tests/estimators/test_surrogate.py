"""The surrogate estimator: against its plain twin, the exact values and its own error bars."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.estimators import surrogate, surrogate_plan
from esv_jax.estimators.surrogate_models import fit_heads, mix_of_scale, polynomial, residuals
from esv_jax.estimators.surrogate_plan import (
    CORRELATION,
    NOISE,
    draw_subsets,
    effect_weights,
    features,
    make_plan,
    n_word_rows,
    pair_index,
)
from esv_jax.games.scoring import GameInfo
from tests.games_for_tests import SEED, multi_scale_case


def smooth_case(seed, n, n_max=4, c=4):
    """A game, a sequence and a prior, all float32."""
    game, x, prior, _ = multi_scale_case(np.random.default_rng(seed), n, n_max, c=c)
    return game, x.astype(np.float32), prior


def subsets(rng, n, k, m=100):
    words = rng.integers(0, 2**32, size=(n_word_rows(m), n), dtype=np.uint32)
    return draw_subsets(words, k, m)


@pytest.mark.parametrize(
    ("n", "k", "m"), [(6, 1, 9), (6, 3, 20), (9, 4, 30), (30, 5, 50), (5, 5, 3)]
)
def test_subsets_are_distinct_and_of_their_size(n, k, m):
    rows = subsets(np.random.default_rng(0), n, k, m)
    assert rows.shape == (min(m, math.comb(n, k)), n)
    assert (rows.sum(1) == k).all()
    assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize(("n", "k", "m"), [(7, 2, 99), (7, 4, 12), (12, 5, 60)])
def test_effects_of_additive_scores_are_read_exactly(rng, n, k, m):
    """v = a + sum of w_i: the effect of i within a size is (w_i - mean of the others)."""
    rows = subsets(rng, n, k, m)
    w = rng.normal(size=n)
    others = (w.sum() - w) / (n - 1)
    effects = effect_weights(rows) @ (3 + rows @ w)
    np.testing.assert_allclose(effects, w - others, atol=2e-4)
    np.testing.assert_allclose(effect_weights(rows).sum(0), 0, atol=1e-9)


def centred_features(plan):
    """Scaled features of the pool, less their means; zero in padding: (K, m, p) float64."""
    n, found = int(plan.n), []
    for k, (member, valid, scale) in enumerate(
        zip(plan.member, plan.pool_valid, plan.scale, strict=True), start=1
    ):
        z = features(np.asarray(member, np.float64), k / n, np.asarray(scale, float), 1, plan.order)
        valid = np.asarray(valid)
        found.append(np.where(valid[:, None], z - z[valid].mean(0), 0))
    return np.stack(found)


def ridge_by_one_system(plan, logits):
    """All heads' weights and what they share, from one dense system; (K, p, C) float64."""
    z = centred_features(plan)
    n_scales, _, p = z.shape
    own = 1 / (1 - CORRELATION)
    system = np.zeros(((n_scales + 1) * p, (n_scales + 1) * p))
    right = np.zeros(((n_scales + 1) * p, logits.shape[-1]))
    last = slice(n_scales * p, None)
    system[last, last] = np.eye(p) * (1 / CORRELATION + n_scales * own)
    for k in range(n_scales):
        here = slice(k * p, (k + 1) * p)
        valid = np.asarray(plan.pool_valid[k])
        centred = np.where(valid[:, None], logits[k] - logits[k][valid].mean(0), 0)
        system[here, here] = z[k].T @ z[k] / NOISE + own * np.eye(p)
        system[here, last] = system[last, here] = -own * np.eye(p)
        right[here] = z[k].T @ centred / NOISE
    return np.linalg.solve(system, right)[: n_scales * p].reshape(n_scales, p, -1)


@pytest.mark.parametrize("order", [1, 2])
def test_the_fit_is_the_ridge_of_one_system(rng, x64, order):
    plan = make_plan(7, 5, 18, 32, order, False, SEED).astype(jnp.float64)
    logits = jnp.asarray(rng.normal(size=(*plan.pool_valid.shape, 3)))
    logits = jnp.where(plan.pool_valid[..., None], logits, 0)
    weights = ridge_by_one_system(plan, np.asarray(logits))
    fit = fit_heads(plan, logits)
    for k in range(2, 5):  # smaller heads are taken as they are where the pool is complete
        valid = np.asarray(plan.pool_valid[k])
        mean = np.asarray(logits[k])[valid].mean(0)
        expected = mean + centred_features(plan)[k][valid] @ weights[k]
        one_head = (jnp.eye(5)[k],) * 3
        fitted = polynomial(fit, one_head, plan.member[k])[valid]
        np.testing.assert_allclose(fitted, expected, atol=2e-5)  # the plan's single precision
        left = np.asarray(residuals(plan, fit, logits)[k])[valid]
        np.testing.assert_allclose(left, np.asarray(logits[k])[valid] - expected, atol=2e-5)


def test_small_heads_are_fitted_exactly(rng):
    plan = make_plan(6, 4, 18, 32, 2, False, SEED)
    assert np.asarray(plan.enumerated).tolist() == [True, True, False, True]
    logits = jnp.asarray(rng.normal(size=(*plan.pool_valid.shape, 2)), jnp.float32)
    beyond = residuals(plan, fit_heads(plan, logits), logits)
    np.testing.assert_allclose(beyond[:2], 0, atol=1e-5)
    assert np.abs(beyond[2]).max() > 0.01


def test_mixing_averages_over_parts(rng):
    """f^ms of a polynomial is the mean over scales of its mean over all parts."""
    n, n_scales, s = 6, 3, 5
    plan = make_plan(n, n_scales, 18, 32, 2, False, SEED)
    logits = jnp.asarray(rng.normal(size=(*plan.pool_valid.shape, 2)), jnp.float32)
    fit = fit_heads(plan, logits)
    whole = subsets(rng, n, s)
    mixed = polynomial(fit, mix_of_scale(n_scales, jnp.asarray(s), jnp.float32), jnp.asarray(whole))
    for row, value in zip(whole, mixed, strict=True):
        means = []
        for k in range(1, n_scales + 1):
            parts = subsets(rng, n, k)
            inside = parts[(parts & ~row).sum(1) == 0]
            one_head = (jnp.eye(n_scales)[k - 1],) * 3
            means.append(polynomial(fit, one_head, jnp.asarray(inside)).mean(0))
        np.testing.assert_allclose(value, np.mean(means, axis=0), atol=1e-4)
    i, j = pair_index(n)
    assert (i < j).all()


@pytest.mark.parametrize(
    ("n", "n_max", "link"),
    [(7, 4, "softmax"), pytest.param(8, 8, "softmax", marks=pytest.mark.slow), (6, 3, "identity")],
)
def test_full_pools_are_exact(n, n_max, link):
    game, x, prior = smooth_case(n, n, n_max)
    game = ej.MultiScale(game.heads, link=link)
    exact = ej.explain(game, x, prior=prior)
    estimator = ej.Surrogate(pool=100, base=100)
    att = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(0))
    np.testing.assert_allclose(att.values, exact.values, atol=1e-5)
    np.testing.assert_allclose(att.scores, exact.scores, atol=1e-5)
    np.testing.assert_allclose(att.marginals, exact.marginals, atol=3e-5)
    assert np.asarray(att.std_error).max() < 1e-5
    assert int(att.n_evaluations) == int(exact.n_evaluations)


@pytest.mark.parametrize(
    "n", [3, 9, 16, *(pytest.param(n, marks=pytest.mark.slow) for n in (26, 40))]
)
@pytest.mark.parametrize("order", [1, 2])
def test_efficiency_holds_at_any_budget(n, order):
    game, x, prior = smooth_case(n, n)
    estimator = ej.Surrogate(pool=16, base=16, order=order)
    att = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(0))
    assert np.abs(att.efficiency_gap()).max() < 3e-6
    np.testing.assert_allclose(att.marginals.mean(0), att.values, atol=1e-6)
    assert np.isfinite(att.std_error).all()
    assert int(att.n_evaluations) == sum(min(16, math.comb(n, k)) for k in range(1, min(4, n) + 1))


def errors(estimator, n, sequences, seeds):
    """Relative error of the first class, mean over sequences and seeds."""
    out = []
    for i in range(sequences):
        game, x, prior = smooth_case(i, n)
        exact = ej.explain(game, x, prior=prior).for_class(0)
        for seed in range(seeds):
            key = jax.random.key(seed)
            att = ej.explain(game, x, prior=prior, estimator=estimator, key=key)
            out.append(float(ej.metrics.relative_error(att.for_class(0), exact)))
    return np.mean(out)


@pytest.mark.slow
def test_the_error_falls_and_beats_algorithm_1():
    few, many = (errors(ej.Surrogate(m, errors=False), 12, 4, 3) for m in (24, 160))
    algorithm_1 = errors(ej.Constructive(24, 1), 12, 4, 3)
    assert many < few / 2
    assert few < algorithm_1


@pytest.mark.slow
def test_intervals_cover():
    """95 % intervals over 2 pools x 10 games x 11 elements x 4 classes."""
    z = []
    estimator = ej.Surrogate(pool=48)
    for i in range(10):
        game, x, prior = smooth_case(100 + i, 11)
        exact = ej.explain(game, x, prior=prior)
        for seed in range(2):
            key = jax.random.key(seed)
            att = ej.explain(game, x, prior=prior, estimator=estimator, key=key)
            z.append(np.asarray(att.values - exact.values) / np.asarray(att.std_error))
    z = np.array(z)
    assert 0.9 < (np.abs(z) < 1.96).mean() < 0.99
    assert 0.75 < np.sqrt((z**2).mean()) < 1.3


def test_one_key_one_plan_same_bits():
    game, x, prior = smooth_case(0, 26)
    estimator = ej.Surrogate(pool=32, base=32)
    key = jax.random.key(3)
    one = ej.explain(game, x, prior=prior, estimator=estimator, key=key)
    two = ej.explain(game, x, prior=prior, estimator=estimator, key=key)
    other = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(4))
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.std_error, two.std_error)
    assert np.abs(one.values - other.values).max() > 1e-5
    xs = np.stack([x, -x, 2 * x])
    batch = ej.explain_batch(game, xs, prior=prior, estimator=estimator, key=key)
    np.testing.assert_allclose(batch[0].values, one.values, atol=1e-6)
    swapped = ej.explain_batch(game, xs[::-1], prior=prior, estimator=estimator, key=key)
    np.testing.assert_array_equal(swapped[2].values, batch[0].values)
    np.testing.assert_array_equal(swapped[2].std_error, batch[0].std_error)


def test_a_plan_is_cached_and_may_be_passed():
    game, x, prior = smooth_case(0, 12)
    estimator = ej.Surrogate(pool=32, base=32)
    key = jax.random.key(3)
    plan = estimator.draw(key, GameInfo.of(game, 12))
    assert estimator.draw(jax.random.key(3), GameInfo.of(game, 12)) is plan
    drawn = ej.explain(game, x, prior=prior, estimator=estimator, key=key)
    passed = ej.explain(game, x, prior=prior, estimator=estimator, plan=plan)
    np.testing.assert_array_equal(drawn.values, passed.values)
    auto = ej.explain(game, x, prior=prior, plan=plan)
    np.testing.assert_allclose(auto.values, passed.values, atol=1e-6)

    def value(x):
        return ej.explain(game, x, prior=prior, plan=plan).values[0, 0]

    gradient = jax.jit(jax.grad(value))(jnp.asarray(x))
    assert np.abs(gradient).max() > 0


def test_double_precision_is_kept(x64):
    game, x, prior, _ = multi_scale_case(np.random.default_rng(0), 7, 3)
    exact = ej.explain(game, x, prior=prior)
    att = ej.explain(
        game, x, prior=prior, estimator=ej.Surrogate(100, base=100), key=jax.random.key(0)
    )
    assert att.values.dtype == jnp.float64
    np.testing.assert_allclose(att.values, exact.values, atol=1e-6)


@pytest.mark.slow
def test_auto_chooses_surrogate_for_long_sequences():
    game, x, prior = smooth_case(0, 22)
    att = ej.explain(game, x, prior=prior, key=jax.random.key(0))
    assert not att.exact
    assert int(att.n_evaluations) == 22 + 231 + 1024 + 1024


def test_order_is_chosen_by_the_pool():
    assert ej.Surrogate(1024)._order(49) == 2
    assert ej.Surrogate(1024)._order(115) == 1
    assert ej.Surrogate(1024, order=2)._order(80) == 2


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"pool": 8}, ValueError, "pool: expected an integer >= 16, got 8"),
        ({"order": 3}, ValueError, "order: expected 1 or 2, got 3"),
        ({"order": 0}, ValueError, "order: expected an integer >= 1"),
        ({"base": 3}, ValueError, "base: expected an integer >= 16"),
        ({"errors": 1}, TypeError, "errors: expected True or False"),
        ({"pool": 16.0}, TypeError, "pool: expected an integer"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        ej.Surrogate(**settings)


def test_unsupported_input_is_refused():
    game, x, prior = smooth_case(0, 5)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"x: expected at least 3 elements, got 2. Use Exact"):
        ej.explain(game, x[:2], prior=prior, estimator=ej.Surrogate(), key=key)
    plain = ej.VariableLength(lambda x, mask: (x * mask.astype(x.dtype)[:, None]).sum(0))
    with pytest.raises(TypeError, match="game: expected a ScaleGame for Surrogate, got Var"):
        ej.explain(plain, x, prior=np.ones(3) / 3, estimator=ej.Surrogate(), key=key)
    with pytest.raises(ValueError, match="key: expected a PRNG key"):
        ej.explain(game, x, prior=prior, estimator=ej.Surrogate())
    with pytest.raises(ValueError, match="key: expected a concrete key"):
        jax.jit(
            lambda key: ej.explain(game, x, prior=prior, estimator=ej.Surrogate(), key=key).values
        )(key)
    plan = ej.Surrogate(16).draw(key, GameInfo.of(game, 5))
    with pytest.raises(TypeError, match="plan: expected a SubsequencePlan, as Constructive takes"):
        ej.explain(game, x, prior=prior, estimator=ej.Constructive(), plan=plan)
    with pytest.raises(ValueError, match="plan: expected subsequences of the 4 elements"):
        ej.explain(game, x[:4], prior=prior, plan=plan)


def test_cost_counts_heads():
    game, x, _ = smooth_case(0, 26)
    cost = ej.plan_cost(game, x, ej.Surrogate(100))
    assert cost.n_evaluations == 26 + 100 + 100 + 100
    assert cost.n_bytes > 0


@pytest.mark.slow
def test_a_fit_with_too_many_coefficients_falls_back_with_a_warning(rng):
    game, x, prior, _ = multi_scale_case(rng, 12, 2)
    key = jax.random.key(0)
    ill = ej.explain(game, x, prior=prior, estimator=ej.Surrogate(16, order=2), key=key)
    alone = ej.explain(game, x, prior=prior, estimator=ej.Surrogate(16, order=1), key=key)
    np.testing.assert_array_equal(ill.values, alone.values)
    assert len(ill.warnings) == 1 and "order 1" in ill.warnings[0] and not alone.warnings
    batch = ej.explain_batch(
        game, np.stack([x, x]), prior=prior, estimator=ej.Surrogate(16, order=2), key=key
    )
    assert batch.warnings == ill.warnings == batch[0].warnings
    fine = ej.explain(game, x, prior=prior, estimator=ej.Surrogate(64, order=2), key=key)
    assert not fine.warnings


@pytest.mark.parametrize(
    ("n", "pool"),
    [
        (12, 16),
        pytest.param(16, 64, marks=pytest.mark.slow),
        pytest.param(49, 1024, marks=pytest.mark.slow),
    ],
)
def test_the_ridge_systems_are_well_conditioned(n, pool):
    plan = make_plan(n, min(n, 8), pool, 64, ej.Surrogate(pool)._order(n), False, SEED)
    for table in (*np.asarray(plan.inverse, np.float64), np.asarray(plan.common, np.float64)):
        np.testing.assert_allclose(table, table.T, rtol=0, atol=1e-6 * np.abs(table).max())
        spectrum = np.abs(np.linalg.eigvalsh(table))  # a third of the time of singular values
        assert spectrum.max() / spectrum.min() < 1e4  # float32 keeps three digits and more


def plan_and_logits(n, width, n_scales=5, order=2, pool=18, base=200, c=3):
    """A plan of n elements padded to `width`, and logits on its pool, NaN in the padding."""
    plan = make_plan(n, n_scales, pool, base, order, True, SEED, width)
    heads = min(n_scales, n)
    drawn = np.random.default_rng(1).normal(size=(heads, pool, c)).astype(np.float32)
    logits = np.full((*plan.pool_valid.shape, c), np.nan, np.float32)
    rows = min(pool, plan.member.shape[1])
    logits[:heads, :rows] = drawn[:, :rows]
    return plan, jnp.asarray(np.where(plan.pool_valid[..., None], logits, np.nan))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("link", ["softmax", "identity"])
@pytest.mark.parametrize(("n", "n_scales", "width"), [(9, 5, 12), (5, 8, 12), (23, 6, 32)])
def test_padding_changes_nothing(order, link, n, n_scales, width):
    estimator = ej.Surrogate(pool=18, base=200, order=order)
    prior, found = jnp.full(3, 1 / 3), []
    for size in (n, width):
        plan, logits = plan_and_logits(n, size, n_scales, order)
        info = GameInfo(size, n_scales, True, link)
        found.append(estimator.estimate(plan, logits, prior, info))
    alone, padded = found
    for name in ("values", "std_error", "marginals", "scores"):
        expected, leaf = np.asarray(getattr(alone, name)), np.asarray(getattr(padded, name))
        inside = leaf[tuple(slice(length) for length in expected.shape)]
        np.testing.assert_allclose(inside, expected, rtol=0, atol=1e-6, err_msg=name)
        assert np.abs(leaf).sum() == pytest.approx(np.abs(inside).sum(), rel=1e-6)
    assert int(alone.n_evaluations) == int(padded.n_evaluations)


def test_lengths_share_programs(monkeypatch):
    """All lengths from 9 to 115 have six padded lengths; `explain` returns n elements of each."""
    estimator = ej.Surrogate()
    assert len({estimator.padded_length(n) for n in range(9, 116)}) == 6
    assert all(n <= estimator.padded_length(n) <= 1.6 * n + 2 for n in range(9, 2000))
    assert estimator.padded_length(116) == 172
    traces, head_logits = [], ej.MultiScale.head_logits

    def counted(game, x, member):
        traces.append(member.shape)
        return head_logits(game, x, member)

    monkeypatch.setattr(ej.MultiScale, "head_logits", counted)
    game, _, prior = smooth_case(3, 9)
    for n in (9, 11, 12):
        x = np.random.default_rng(n).normal(size=(n, game.heads.w1.shape[2])).astype(np.float32)
        small = ej.Surrogate(pool=19, base=16, order=1)
        att = ej.explain(game, x, prior=prior, estimator=small, key=jax.random.key(0))
        assert att.values.shape == (n, 4) and att.marginals.shape == (n, n, 4)
        assert np.abs(att.efficiency_gap()).max() < 3e-6
    assert len(traces) == 1


@pytest.mark.parametrize("all_parts", [True, False])
@pytest.mark.parametrize("order", [1, 2])
def test_the_response_is_the_derivative_of_the_values(monkeypatch, x64, order, all_parts):
    """With the identity link values are linear in the logits; the base holds all subsequences."""
    n, c = 7, 1
    monkeypatch.setattr(surrogate_plan, "_ALL_PARTS_UP_TO", n if all_parts else 0)
    pool = 17 if all_parts else 16  # plans are cached by their settings
    plan, logits = plan_and_logits(n, n, order=order, pool=pool, c=c)
    plan, logits = plan.astype(jnp.float64), jnp.asarray(logits, jnp.float64)
    logits = jnp.where(plan.pool_valid[..., None], logits, 0)

    def values(logits):
        fit = fit_heads(plan, logits)
        beyond = residuals(plan, fit, logits)
        if not all_parts:  # errors are those of the fit alone
            beyond = 0 * beyond
        read = surrogate._read_effects(plan, fit, beyond, jnp.zeros(c), "identity")
        return surrogate._values(plan, read, jnp.zeros(c))[:, 0]

    slope = jax.jacobian(values)(logits)[..., 0]  # (n, K, m)
    response = np.moveaxis(np.asarray(plan.response), 0, 1)  # (n + 1, K, m)
    exact = np.asarray(plan.left_open) == 0  # has no errors, so no response is needed
    expected = (response[:n] + response[n:]) / n
    np.testing.assert_allclose(slope[:, ~exact], expected[:, ~exact], atol=2e-6)
    assert np.abs(expected[:, ~exact]).max() > 1e-3
