"""Pairs regressed size by size: exact at full budget, efficient always, calibrated errors."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.estimators import size_regression
from esv_jax.estimators.pair_plan import draw_pairs, make_pair_plan
from esv_jax.estimators.size_regression import SizeRegression
from esv_jax.games.black_box import BlackBox
from tests.estimators.test_permutation import attention_table, smooth_table
from tests.games_for_tests import TableGame, multi_scale_case, steps
from tests.reference import plain


@functools.cache
def compiled(budget):
    return jax.jit(
        lambda table, key: steps(
            SizeRegression(budget),
            TableGame(table),
            jnp.zeros((len(table).bit_length() - 1, 1)),
            table[0],
            key,
        )
    )


def estimate(table, budget, seed=0):
    return compiled(budget)(jnp.asarray(table, jnp.float32), jax.random.key(seed))


def runs(table, budget, seeds):
    """Values and standard errors (seeds, n, C)."""
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    results = [compiled(budget)(jnp.asarray(table), key) for key in keys]
    return (np.array([getattr(r, name) for r in results]) for name in ("values", "std_error"))


# The pairs


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("extra", [0, 1, 30, 300, 10**6])
def test_the_plan_is_within_its_budget(n, extra):
    least = min(2 * n, 2**n - 2)
    plan = make_pair_plan(n, max(least + extra, 1))
    assert 2 * plan.n_pairs <= least + extra or n == 1
    assert 2 * plan.n_pairs >= min(least + extra - 1, 2**n - 2)
    assert all(0 <= k <= t for k, t in zip(plan.counts, plan.totals, strict=True))
    assert len(plan.counts) == len(plan.totals) == n // 2


@pytest.mark.parametrize(
    ("n", "budget"),
    [(2, 2), (5, 30), (6, 40), (9, 200), pytest.param(18, 100_000, marks=pytest.mark.slow)],
)
def test_drawn_pairs_are_distinct_and_of_their_size(n, budget):
    plan = make_pair_plan(n, budget)
    side = np.asarray(draw_pairs(jax.random.key(0), plan))
    assert side.shape == (plan.n_pairs, n)
    np.testing.assert_array_equal(side.sum(1), plan.sizes)
    both = np.concatenate([side, ~side])
    assert len(np.unique(both, axis=0)) == len(both)


@pytest.mark.parametrize(("n", "budget", "s"), [(6, 24, 2), (6, 24, 3), (20, 8000, 9)])
def test_pairs_of_a_size_are_equally_likely(n, budget, s):
    plan = make_pair_plan(n, budget)
    count = plan.counts[s - 1]
    assert 0 < count < plan.totals[s - 1]
    keys = jax.vmap(jax.random.key)(jnp.arange(2000 if n == 6 else 1))
    rows = np.asarray(jax.jit(jax.vmap(lambda key: draw_pairs(key, plan)))(keys))
    rows = rows[:, plan.sizes == s].reshape(-1, n)
    if n == 6:  # every subset, else every pair of elements
        _, found = np.unique(rows, axis=0, return_counts=True)
        assert len(found) == plan.totals[s - 1]
        share = count / plan.totals[s - 1]
        spread = np.sqrt(2000 * share * (1 - share))
        assert np.abs(found - 2000 * share).max() < 4.5 * spread
    else:
        together = np.einsum("mi,mj->ij", rows.astype(float), rows)
        share = s * (s - 1) / n / (n - 1)
        off = together[~np.eye(n, dtype=bool)]
        spread = np.sqrt(len(rows) * share * (1 - share))
        assert np.abs(off - len(rows) * share).max() < 5 * spread


# The estimate


@pytest.mark.parametrize(("n", "budgets"), [(10, (20, 120, 1022)), (24, (60, 400, 1600))])
def test_larger_budgets_draw_the_same_pairs_and_others(n, budgets):
    """Also where a size becomes complete, and where its subsequences are too many to be ranked."""
    drawn = [
        {side.tobytes() for side in np.asarray(draw_pairs(jax.random.key(3), plan))}
        for plan in (make_pair_plan(n, budget) for budget in budgets)
    ]
    assert [len(sides) for sides in drawn] == [budget // 2 for budget in budgets]
    assert drawn[0] < drawn[1] < drawn[2]


def test_rounds_of_a_tolerance_score_each_subsequence_once():
    scored = []

    def scores(clips):
        scored.extend(clips.tobytes() for clips in clips)
        yes = 1 / (1 + np.exp(-(np.tanh(clips.reshape(len(clips), -1)).sum(1) ** 3)))
        return np.stack([yes, 1 - yes], axis=1)

    x = np.random.default_rng(0).normal(size=(12, 1)).astype(np.float32)
    game = ej.BlackBox(scores, removal="zeros")
    options = {"prior": [0.0, 1.0], "estimator": ej.SizeRegression(24), "key": jax.random.key(0)}
    att = ej.explain(game, x, **options, tolerance=1e-6, max_evaluations=400)
    assert int(att.n_evaluations) == 399  # pairs and the whole, within 400
    assert len(set(scored)) == int(att.n_evaluations)
    assert len(scored) == len(set(scored)) + 1  # the whole is scored twice
    alone = ej.explain(game, x, **options | {"estimator": ej.SizeRegression(398)})
    np.testing.assert_allclose(att.values, alone.values, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_the_full_budget_is_exact(n):
    table = np.random.default_rng(n).normal(size=(2**n, 3))
    result = estimate(table, max(2**n - 2, 1))
    np.testing.assert_allclose(result.values, plain.shapley_by_weights(table), atol=1e-6)
    np.testing.assert_array_equal(result.std_error, 0)
    assert result.exact and int(result.n_evaluations) == max(2**n - 1, 1)


@pytest.mark.parametrize("budget", [16, 17, 40, 150, 253])
def test_efficiency_holds_at_any_budget(budget):
    table = np.random.default_rng(1).normal(size=(2**8, 2)).astype(np.float32)
    result = estimate(table, budget)
    np.testing.assert_allclose(result.efficiency_gap(), 0, atol=3e-6)
    assert int(result.n_evaluations) <= budget + 1 and not result.exact
    assert np.isfinite(result.std_error).all() and (np.asarray(result.std_error) > 0).all()


def test_scale_and_sign_equivariance():
    table = np.random.default_rng(2).normal(size=(2**7, 2)).astype(np.float32)
    one, other = estimate(table, 60), estimate(-3 * table, 60)
    np.testing.assert_allclose(other.values, -3 * one.values, atol=2e-5)
    np.testing.assert_allclose(other.std_error, 3 * one.std_error, rtol=1e-3)


def plain_estimate(plan, side, u):
    """Effects and errors from each prior's covariance of the pairs themselves, float64."""
    n, sizes, (p, c) = plan.n, plan.sizes, u.shape
    at, member = sizes - 1, side.astype(float)
    norm = np.sqrt(sizes * (n - sizes) / n)
    z = (member - sizes[:, None] / n) / norm[:, None]
    every = np.arange(1, n // 2 + 1)
    served = np.where(2 * every == n, 0.5, 1.0)
    totals = np.array([math.comb(n, int(s)) / (1 if 2 * s < n else 2) for s in every])
    spread = every * (n - every) / n
    is_known = np.array(plan.counts) == totals
    known = ((served * is_known * n / spread / totals)[at] * norm)[:, None] * z
    asked = np.where(is_known, 0, served)
    scale = np.sqrt((u**2).mean(0))
    found = []
    for linear in (False, True):
        growths = size_regression._LINEAR_GROWTHS if linear else size_regression._GROWTHS
        pri = size_regression._priors(n, linear)
        for (gain, noise), k in zip(growths, itertools.count()):
            relative = spread / spread.mean()
            g, d = relative**gain, relative**noise
            y = u / scale / d[at][:, None]
            own = (asked * n / np.sqrt(spread) / totals * d)[at][:, None] * z
            unseen = (asked**2 * n / spread / totals * d**2).sum() - (own**2).sum(0)
            basis = (pri.basis * (g / d)[:, None])[at]
            target = pri.basis.T @ (asked * n / (n - 1) / np.sqrt(spread) * g)
            for precision, rigidity, ridge, _ in zip(*pri[3:], strict=True):
                # Covariances in units of the noise: of coefficients, pairs, and pairs with targets.
                over = np.linalg.inv(precision) / ridge
                kernel = pri.waves / rigidity @ pri.waves.T
                means = (pri.means / d[:, None])[at]
                pairs = (basis @ over @ basis.T) * (z @ kernel @ z.T) + means @ means.T / ridge
                pairs += np.eye(p)
                cross = (basis @ over @ target)[:, None] * (z @ kernel) + own
                whole = (target @ over @ target) * np.diag(kernel) + (own**2).sum(0) + unseen
                solved = np.linalg.solve(pairs, np.concatenate([y, cross], axis=1))
                squared = (y * solved[:, :c]).sum(0)
                jacobian = -np.log(d)[at].sum()
                like = -0.5 * (p * np.log(squared / p) + np.linalg.slogdet(pairs)[1]) + jacobian
                left = whole - (cross * solved[:, c:]).sum(0)
                freedom = max(p - pri.means.shape[1] - 2, 1)
                trusted = linear or k < size_regression._N_TRUSTED
                effects = cross.T @ solved[:, :c]
                found.append((like, effects, left[:, None] * squared / freedom, trusted))
    like, effects, variance = (np.array([row[k] for row in found]) for k in range(3))
    own_share = size_regression._OWN
    weight = p / (p + 2 * n) * (own_share * like + (1 - own_share) * like.mean(1, keepdims=True))
    weight = np.exp(weight - weight.max(0))[:, None]
    best = weight * np.array([row[3] for row in found])[:, None, None]
    mean = (best * effects).sum(0) / best.sum(0)
    moment = (weight * (variance + (effects - mean) ** 2)).sum(0) / weight.sum(0)
    size = np.sqrt(scale**2 + (u**2).mean() / p)
    return mean * scale + known.T @ u, np.sqrt(moment * (1 + n / (2 * p))) * size


@pytest.mark.parametrize("budget", [24, 40, 52])
def test_equals_the_average_of_plain_posteriors(budget):
    """Every prior by the covariance of pairs, in place of the products of features."""
    n = 6
    table = np.random.default_rng(3).normal(size=(2**n, 2)).astype(np.float32)
    plan = make_pair_plan(n, budget)
    side = np.asarray(draw_pairs(jax.random.key(0), plan))
    code = (side * 2 ** np.arange(n)).sum(1)
    u = table[code].astype(float) - table[2**n - 1 - code]
    effects, error = plain_estimate(plan, side, u)
    result = estimate(table, budget)
    np.testing.assert_allclose(result.values, (table[-1] - table[0] + effects) / n, atol=1e-4)
    np.testing.assert_allclose(result.std_error, error / n, rtol=0.02)


@pytest.mark.parametrize("n", [12, pytest.param(20, marks=pytest.mark.slow), 40])
def test_additive_games_are_exact(n):
    """From four evaluations per element on, with intervals that are as narrow."""
    rng = np.random.default_rng(n)
    w = rng.normal(size=(n, 2)).astype(np.float32)
    game = ej.VariableLength(
        lambda x, mask: (x * mask.astype(x.dtype)[:, None]).sum(0), link="identity"
    )
    estimator, key = SizeRegression(4 * n), jax.random.key(0)
    att = ej.explain(game, w, prior=np.zeros(2), estimator=estimator, key=key)
    assert not att.exact
    np.testing.assert_allclose(att.values, w, atol=2e-5)
    assert float(att.std_error.max()) < 1e-3


@pytest.mark.slow
def test_similar_neighbours_reduce_the_error():
    """Effects of known values under noise that no element explains: less error where smooth."""
    n = 32
    rng = np.random.default_rng(0)
    smooth = np.sin(np.arange(n) / 4).astype(np.float32)[:, None]
    phases = jnp.asarray(rng.uniform(0, 100, n), jnp.float32)

    def noisy(x, mask):
        keep = mask.astype(x.dtype)
        return (x * keep[:, None]).sum(0) + 3 * jnp.sin((phases * keep).sum())[None]

    game, errors = ej.VariableLength(noisy, link="identity"), []
    for w in (smooth, smooth[rng.permutation(n)]):
        one = [
            ej.explain(
                game, w, prior=np.zeros(1), estimator=SizeRegression(128), key=jax.random.key(k)
            )
            for k in range(4)
        ]
        errors.append(np.mean([np.abs(att.values - w).mean() for att in one]))
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.slow  # many seeds
def test_symmetry_and_null_elements_hold_on_average():
    n = 8
    table = np.random.default_rng(4).normal(size=(2**n, 1)).astype(np.float32)
    code = np.arange(2**n)
    bit = code & 1, code >> 1 & 1
    swapped = (code & ~3) | bit[1] | bit[0] << 1
    table = (table + table[swapped]) / 2  # elements 0 and 1 alike
    table = table[code & ~4]  # element 2 null
    values, _ = runs(table, 80, 120)
    spread = values.std(0, ddof=1) / np.sqrt(120)
    difference = values[:, 0] - values[:, 1]
    bias = 0.1 * np.abs(values).mean()  # the prior draws elements towards their neighbours
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(120) + bias
    assert abs(values[:, 2].mean()) < 4 * spread[2] + bias


def test_same_key_same_bits_and_another_key_other_ones():
    table = smooth_table(8, 2, 0)
    first, again, other = (estimate(table, 60, seed).values for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()


def test_an_unlikely_class_has_wide_intervals():
    """A class that is likely for a few subsequences alone: a small draw has none of them."""
    n = 12
    member = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    rare = np.where((member[:, :6].sum(1) >= 4) & (member[:, 6:].sum(1) == 0), 10.0, -10.0)
    logits = np.stack([rare, member @ np.linspace(-1, 1, n), np.zeros(2**n)], axis=1)
    table = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    exact = plain.shapley_by_weights(table)
    for seed in range(3):
        att = estimate(table, 48, seed)
        z = (np.asarray(att.values) - exact) / np.asarray(att.std_error)
        assert np.sqrt((z[:, 0] ** 2).mean()) < 3


@pytest.mark.parametrize(
    "make", [smooth_table, pytest.param(attention_table, marks=pytest.mark.slow)]
)
def test_error_falls_with_the_budget_and_intervals_cover(make):
    n, c, seeds = 10, 3, 30
    table = make(n, c, 0)
    exact = plain.shapley_by_weights(table)
    errors = []
    for budget in (64, 200, 600):
        values, std_error = runs(table, budget, seeds)
        errors.append(np.abs(values - exact).mean() / np.abs(exact).mean())
        z = (values - exact) / std_error  # 900 cases
        spread, covered = np.sqrt((z**2).mean()), (np.abs(z) < 1.96).mean()
        assert 0.6 < spread < (1.6 if budget == 64 else 1.3)
        assert covered > (0.8 if budget == 64 else 0.88)
    assert errors[0] > 1.5 * errors[1] > 2.5 * errors[2]
    assert errors[1] < 0.3


# The door


def test_any_subset_game_is_taken(rng):
    n, d, c = 9, 4, 3
    w = rng.normal(size=(d, c)).astype(np.float32)
    x = rng.normal(size=(n, d)).astype(np.float32)
    prior = np.full(c, 1 / c, np.float32)

    def pooled(x, mask):
        mask = mask.astype(x.dtype)
        return (x * mask[:, None]).sum(0) / mask.sum() @ w

    game = ej.VariableLength(pooled)
    outside = BlackBox(lambda clips: plain.softmax(clips.mean(1) @ w))
    for budget in (100, 600):
        kwargs = {"prior": prior, "estimator": SizeRegression(budget), "key": jax.random.key(0)}
        inside = ej.explain(game, x, **kwargs)
        before = outside.counts.clips
        other = ej.explain(outside, x, **kwargs)
        np.testing.assert_allclose(inside.values, other.values, atol=2e-6)
        assert outside.counts.clips - before == int(other.n_evaluations) + 1  # the whole twice
        assert ej.plan_cost(game, x, SizeRegression(budget)).n_evaluations == other.n_evaluations
    np.testing.assert_allclose(
        inside.values, ej.explain(game, x, prior=prior, estimator=ej.Exact()).values, atol=1e-6
    )


def test_bad_settings_are_refused(rng):
    game, x, prior, _ = multi_scale_case(rng, 5, 2)
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"Constructive\(\) or Surrogate\(\)"):
        ej.explain(game, x, prior=prior, estimator=SizeRegression(20), key=key)
    table = TableGame(jnp.asarray(smooth_table(6, 2, 0)))
    x = jnp.zeros((6, 1))
    with pytest.raises(ValueError, match="at least 12"):
        steps(SizeRegression(11), table, x, table.table[0], key)
    with pytest.raises(ValueError, match="length: expected 6"):
        steps(SizeRegression(62), table, x, table.table[0], key, length=jnp.asarray(5))
    with pytest.raises(ValueError, match="budget"):
        SizeRegression(0)
    traced = jax.jit(lambda k: steps(SizeRegression(62), table, x, table.table[0], key, length=k))
    assert np.isnan(traced(5).values).all() and np.isfinite(traced(6).values).all()


@pytest.mark.parametrize(
    "n",
    [
        67,
        pytest.param(128, marks=pytest.mark.slow),
        pytest.param(300, marks=pytest.mark.slow),
        pytest.param(1000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", ["function", "black box"])
def test_long_sequences_are_explained_by_default(n, kind):
    """No number of subsequences has to fit an integer type; budgets grow with n."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    w = rng.normal(size=(3, 2)).astype(np.float32)
    prior = np.zeros(2, np.float32)
    if kind == "function":

        def pooled(x, mask):
            return jnp.tanh((x * mask.astype(x.dtype)[:, None]).sum(0) @ w / np.float32(np.sqrt(n)))

        game = ej.VariableLength(pooled, link="identity")
    else:
        game = BlackBox(lambda clips: np.tanh(clips.sum(1) @ w / np.sqrt(n)), scores="any")
    cost = ej.plan_cost(game, x)
    assert cost.n_evaluations == 1 + max(512, 8 * n)
    att = ej.explain(game, x, prior=prior, key=jax.random.key(0))
    assert int(att.n_evaluations) == cost.n_evaluations
    np.testing.assert_allclose(att.efficiency_gap(), 0, atol=1e-4)
    effect = np.asarray(x @ w) / np.sqrt(n)  # what each element adds, about
    assert np.corrcoef(np.asarray(att.values)[:, 0], effect[:, 0])[0, 1] > 0.7
    assert np.isfinite(att.std_error).all() and float(att.std_error.min()) > 0
