"""Pairwise interactions against their plain twin, closed forms and identities."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.estimators.surrogate_models import draw_members, sampled_interactions
from esv_jax.estimators.surrogate_plan import make_plan
from esv_jax.games.scoring import score_rows
from esv_jax.interactions import (
    adjacent_rows,
    interaction_index,
    k_sii,
    pair_covers,
    pair_share,
    pairwise_interactions,
)
from esv_jax.subsequences.lattice import make_lattice
from tests.games_for_tests import SEED, TableGame, multi_scale_case, n_programs, random_prior
from tests.reference import interactions as twin
from tests.reference import plain


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are float64; so is everything here."""


def index_of(game, x, prior, lattice, index="sii"):
    """The interactions from scores over a given lattice."""
    return interaction_index(lattice, score_rows(game, x, lattice), jnp.asarray(prior), index)


def of_table(table, index="sii", split=()):
    n = len(table).bit_length() - 1
    lattice = make_lattice(n, *split)

    @jax.jit
    def run(table):
        return index_of(TableGame(table), jnp.zeros((n, 1)), table[0], lattice, index)

    return np.asarray(run(table))


@pytest.mark.parametrize("index", ["sii", "sti"])
@pytest.mark.parametrize(
    ("n", "split"),
    [(1, ()), (2, ()), (2, (1, 1)), (3, (1, 2)), (5, ()), (6, (2, 3)), (7, (3, 2)), (8, (4, 5))],
)
def test_tables_agree_with_loops_over_pairs_and_subsets(rng, n, split, index):
    table = rng.normal(size=(2**n, 3))
    expected = twin.interactions(table, index)
    np.testing.assert_allclose(of_table(table, index, split), expected, atol=1e-12)


@pytest.mark.parametrize(("n", "n_max", "split"), [(4, 2, (2, 2)), (5, 3, ()), (6, 6, (3, 3))])
def test_multi_scale_games_agree_with_loops_jitted_and_not(rng, n, n_max, split):
    game, x, prior, heads = multi_scale_case(rng, n, n_max)
    table = plain.table(lambda e: plain.softmax(plain.multi_scale(heads, x, e)), prior, n)
    expected = twin.interactions(table)
    lattice = make_lattice(n, *split)

    def found(x):
        return index_of(game, x, prior, lattice)

    np.testing.assert_allclose(jax.jit(found)(x), expected, atol=1e-12)
    if n == 4:
        np.testing.assert_allclose(found(jnp.asarray(x)), expected, atol=1e-12)
    np.testing.assert_allclose(pairwise_interactions(game, x, prior=prior), expected, atol=1e-12)


def test_other_games_agree_with_multi_scale_of_one_head(rng):
    """An average of per-element logits is the multi-scale model of a linear head of one element."""
    n, w, b = 6, rng.normal(size=(3, 4)), rng.normal(size=4)
    x, prior = rng.normal(size=(n, 3)), random_prior(rng, 4)
    table = plain.table(lambda e: plain.softmax(plain.average(w, b, x, e)), prior, n)

    def apply(x, mask):
        x = jnp.where(mask[:, None], jax.nn.relu(x), 0)
        return (x.sum(0) / mask.sum().astype(x.dtype)) @ w + b

    for game in (ej.AverageConsensus(w, b), ej.VariableLength(apply)):
        found = pairwise_interactions(game, x, prior=prior)
        np.testing.assert_allclose(found, twin.interactions(table), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_unanimity_games_share_their_interaction(size):
    """The game that pays 1 once all of T are in: I = 1 / (|T| - 1) within T ("sii")."""
    n, members = 6, [4, 1, 0, 5, 2][:size]
    code = twin.code_of(members)
    table = np.array([[float(c & code == code)] for c in range(2**n)])
    inside = np.isin(np.arange(n), members)
    pairs = inside[:, None] & inside[None, :] & ~np.eye(n, dtype=bool)
    expected = pairs / (size - 1) if size > 1 else np.zeros((n, n))
    np.testing.assert_allclose(of_table(table)[..., 0], expected, atol=1e-13)
    # Taylor: what a set of two pays goes to its pair, what a larger pays to all pairs alike.
    expected = pairs * (2 / (size * (size - 1)) if size > 1 else 0)
    np.testing.assert_allclose(of_table(table, "sti")[..., 0], expected, atol=1e-13)


def test_interactions_are_sums_of_dividends(rng):
    """I[i, j] = sum over T with i and j of dividend(T) / (|T| - 1)."""
    n = 5
    table = rng.normal(size=(2**n, 2))
    dividends = twin.dividends(table)
    expected = np.zeros((n, n, 2))
    for code in range(2**n):
        members = plain.elements_of(code, n)
        for i in members:
            for j in members:
                if i != j:
                    expected[i, j] += dividends[code] / (len(members) - 1)
    np.testing.assert_allclose(of_table(table), expected, atol=1e-12)


def test_symmetry_diagonal_and_elements_that_do_not_interact(rng):
    n = 6
    effects, both = rng.normal(size=(n, 2)), rng.normal(size=2)
    member = np.array([[c >> i & 1 for i in range(n)] for c in range(2**n)])
    table = member @ effects + (member[:, 1] * member[:, 4])[:, None] * both
    found = of_table(table, split=(3, 2))
    np.testing.assert_array_equal(found, found.swapaxes(0, 1))
    np.testing.assert_array_equal(found[np.arange(n), np.arange(n)], 0)
    expected = np.zeros((n, n, 2))
    expected[1, 4] = expected[4, 1] = both
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5, 11])
def test_main_effects_and_pairs_add_up_to_the_score(rng, n):
    table = rng.normal(size=(2**n, 2))
    game, x = TableGame(jnp.asarray(table)), np.zeros((n, 1))
    values = ej.explain(game, x, prior=table[0]).values
    found = pairwise_interactions(game, x, prior=table[0])
    main, pairs = k_sii(values, found)
    gain = table[-1] - table[0]
    np.testing.assert_allclose(main.sum(0) + pairs.sum((0, 1)) / 2, gain, atol=1e-12)
    np.testing.assert_allclose(main + pairs.sum(1) / 2, values, atol=1e-12)
    taylor = pairwise_interactions(game, x, prior=table[0], index="sti")
    singles = sum(table[1 << i] - table[0] for i in range(n))
    if n > 1:
        np.testing.assert_allclose(singles + np.asarray(taylor).sum((0, 1)) / 2, gain, atol=1e-12)


def test_one_element_has_no_pair(rng):
    game, x, prior, _ = multi_scale_case(rng, 1, 2)
    found = pairwise_interactions(game, x, prior=prior)
    assert found.shape == (1, 1, 4) and not np.any(found)


def test_weights_of_a_pair_cancel_over_all_subsequences():
    for n in (2, 3, 7):
        for index in ("sii", "sti"):
            share = pair_share(n, index)
            count = [
                sum(plain.math.comb(n - 2, s - k) * ways * share[s, k] for s in range(k, n - 1 + k))
                for k, ways in enumerate((1, 2, 1))
            ]
            np.testing.assert_allclose(count, [1, -2, 1], atol=1e-12)


def test_single_precision_loses_little():
    with jax.enable_x64(False):
        n = 12
        table = np.random.default_rng(0).uniform(size=(2**n, 2))
        rough = of_table(table.astype(np.float32))
    np.testing.assert_allclose(rough, of_table(table), atol=1e-6)


def test_gradients_and_batches(rng):
    n = 5
    game, x, prior, _ = multi_scale_case(rng, n, 3)
    lattice = make_lattice(n, 2, 2)
    xs, prior = jnp.asarray(np.stack([x, x[::-1], 2 * x])), jnp.asarray(prior)

    def pairs(x):
        return index_of(game, x, prior, lattice)

    single = jax.jit(pairs)
    for one, x in zip(jax.jit(jax.vmap(pairs))(xs), xs, strict=True):
        np.testing.assert_allclose(one, single(x), atol=1e-12)
    step = 1e-6 * rng.normal(size=x.shape)
    slope = (single(xs[0] + step) - single(xs[0] - step))[0, 4, 1] / 2
    grad = jax.jit(jax.grad(lambda x: pairs(x)[0, 4, 1]))(xs[0])
    np.testing.assert_allclose((grad * step).sum(), slope, rtol=1e-5)


def test_a_second_sequence_compiles_nothing(rng):
    game, x, prior, _ = multi_scale_case(rng, 4, 2, c=5)
    pairwise_interactions(game, x, prior=prior)
    size = n_programs(game, ("interactions", "sii"))
    pairwise_interactions(game, 2 * x, prior=prior[::-1])
    assert n_programs(game, ("interactions", "sii")) == size > 0


def test_interactions_under_jit_and_vmap(rng):
    game, x, prior, _ = multi_scale_case(rng, 4, 2)
    traced = jax.jit(lambda x: pairwise_interactions(game, x, prior=prior))(x)
    np.testing.assert_allclose(traced, pairwise_interactions(game, x, prior=prior), atol=1e-13)


def test_messages(rng):
    game, x, prior, _ = multi_scale_case(rng, 4, 2)
    way_out = r"Take fewer elements \(data.segment_centres picks them evenly\)"
    with pytest.raises(ValueError, match=r"x: expected at most 24 elements.*got 25, .*" + way_out):
        pairwise_interactions(game, np.zeros((25, 3)), prior=prior)
    for features, scores, settings, match in (
        (x, prior, {"max_bytes": 1e3}, r"within 1e-06 GB of memory, got 4 elements, .*" + way_out),
        (x, prior, {"index": "sij"}, r"index: expected one of 'sii', 'sti', got 'sij'\. Did you"),
        (x, prior[:3], {}, r"prior: expected shape \(C,\) = \(4,\)"),
        (x[:, :2], prior, {}, r"x: expected shape \(n, D\) with the heads' D = 3"),
        (x * np.nan, prior, {}, "x: expected finite values"),
    ):
        with pytest.raises(ValueError, match=match):
            pairwise_interactions(game, features, prior=scores, **settings)
    with pytest.raises(TypeError, match="x: expected a floating-point array"):
        pairwise_interactions(game, np.zeros((4, 3), int), prior=prior)


def test_sampled_interactions_of_exact_models_and_draws_are_exact(rng):
    n, times = 4, 12  # every size as often: 12 / binomial(4, k) copies of each subsequence
    game, x, prior, _ = multi_scale_case(rng, n, 2)  # pairs of heads of two are the whole story
    every = [[(code >> i) & 1 for i in range(n)] for code in range(2**n)]
    rows = [row for row in every for _ in range(times // math.comb(n, sum(row)))]
    plan = make_plan(n, 2, 16, 16, 2, False, SEED)
    exact = pairwise_interactions(game, x, prior=prior)
    logits = game.head_logits(jnp.asarray(x), plan.member)
    softmax = functools.partial(sampled_interactions, link="softmax")
    for run in (softmax, jax.jit(softmax)):
        found = run(plan, logits, jnp.asarray(prior), jnp.array(rows, bool))
        np.testing.assert_allclose(found, exact, atol=2e-6)  # the plan's tables are float32


def test_draws_of_subsequences_have_uniform_sizes_without_any_pair():
    member = np.asarray(draw_members(jax.random.key(0), 9, 4000))
    assert member.shape == (4000, 9)
    np.testing.assert_array_equal(member[1::2], ~member[::2])
    without = np.delete(member, [2, 7], axis=1).sum(1)  # 0..7, 500 each
    counts = np.bincount(without, minlength=8)
    assert np.abs(counts - 500).max() < 5 * math.sqrt(500)
    assert np.abs(member.mean(0) - 0.5).max() == 0  # complements


@pytest.mark.slow
def test_a_surrogate_gives_interactions_of_longer_sequences(rng):
    game, x, prior, _ = multi_scale_case(rng, 10, 3)
    exact = np.asarray(pairwise_interactions(game, x, prior=prior))

    def error(draws):
        settings = {"estimator": ej.Surrogate(120), "key": jax.random.key(3), "draws": draws}
        found = pairwise_interactions(game, x, prior=prior, **settings)
        np.testing.assert_allclose(found, np.swapaxes(found, 0, 1), atol=1e-12)
        assert not np.asarray(found)[np.arange(10), np.arange(10)].any()
        return np.abs(found - exact).mean() / np.abs(exact).mean()

    assert error(4096) < 0.5 * error(64) < 1
    long = rng.normal(size=(30, x.shape[1]))
    settings = {"estimator": ej.Surrogate(64), "key": jax.random.key(0), "draws": 8}
    found = pairwise_interactions(game, long, prior=prior, **settings)
    assert found.shape == (30, 30, len(prior)) and np.isfinite(found).all()


def test_bad_sampled_interactions_are_refused(rng):
    game, x, prior, _ = multi_scale_case(rng, 5, 2)
    few = {"prior": prior, "estimator": ej.Surrogate(16)}
    with pytest.raises(ValueError, match="key: expected a PRNG key, got None"):
        pairwise_interactions(game, x, **few)
    few["key"] = jax.random.key(0)
    with pytest.raises(ValueError, match="index: expected 'sii' where it is sampled, got 'sti'"):
        pairwise_interactions(game, x, index="sti", **few)
    with pytest.raises(TypeError, match="estimator: expected 'auto', Exact"):
        pairwise_interactions(game, x, prior=prior, estimator=ej.Constructive())
    with pytest.raises(ValueError, match="draws: expected an integer >= 2, got 1"):
        pairwise_interactions(game, x, draws=1, **few)


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_covers_contain_every_pair_once(n):
    orders = np.asarray(pair_covers(jax.random.key(0), n, 3))
    for cover in orders:
        member, first, second = adjacent_rows(cover, n)
        pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
        assert len(pairs) == len(first) == n * (n - 1) // 2
        assert (member[:, 3].sum(1) == member[:, 0].sum(1) + 2).all()
        assert not (member[:, 0, :][np.arange(len(first)), first]).any()


@pytest.mark.parametrize("n", [5, 6])
def test_sizes_before_a_pair_are_uniform(n):
    orders = np.asarray(pair_covers(jax.random.key(1), n, 4000)).reshape(-1, n + n % 2)
    member, *_ = adjacent_rows(orders, n)
    counts = np.bincount(member[:, 0].sum(1), minlength=n - 1)
    assert len(counts) == n - 1
    np.testing.assert_allclose(counts / counts.sum(), 1 / (n - 1), rtol=0.03)


def quadratic(n, rng):
    q = rng.normal(size=(2, n, n))
    q = q + q.swapaxes(1, 2)
    return q, lambda keep: np.einsum("...i,cij,...j->...c", keep, q, keep) / 2


@pytest.mark.parametrize("kind", ["function", "black box"])
@pytest.mark.parametrize("n", [7, 67])
def test_games_of_pairs_are_exact_from_one_cover(rng, n, kind):
    """d(X) is the interaction itself, whatever X is."""
    q, value = quadratic(n, rng)
    x = np.eye(n)
    if kind == "function":
        table = jnp.asarray(q)

        def apply(x, mask):
            keep = mask.astype(x.dtype)
            return jnp.einsum("i,cij,j->c", keep, table, keep) / 2

        game = ej.VariableLength(apply, link="identity")
    else:
        game = ej.BlackBox(lambda clips: value(clips.sum(1)), "zeros", scores="any")
    estimator = ej.PermutationSampling(1) if n == 7 else "auto"
    found = pairwise_interactions(
        game, x, prior=np.zeros(2), estimator=estimator, key=jax.random.key(0)
    )
    expected = np.moveaxis(q, 0, -1) * (1 - np.eye(n))[..., None]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_sampled_orders_approach_the_exact_interactions(rng):
    n = 6
    table = rng.normal(size=(2**n, 2))
    game, x = TableGame(jnp.asarray(table)), np.zeros((n, 1))
    exact = np.asarray(pairwise_interactions(game, x, prior=table[0]))

    def sampled(permutations, key, **settings):
        estimator = ej.PermutationSampling(permutations)
        return pairwise_interactions(
            game, x, prior=table[0], estimator=estimator, key=key, **settings
        )

    key = jax.random.key(0)
    few, many = (np.abs(sampled(m, key) - exact).mean() for m in (60, 12_000))
    assert many < 0.15 * few
    with pytest.raises(ValueError, match="index: expected 'sii' where it is sampled"):
        sampled(3, key, index="sti")
    with pytest.raises(ValueError, match="key: expected a PRNG key"):
        sampled(3, None)
