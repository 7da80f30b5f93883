"""Values of groups and Owen values against their plain twins and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.games import ScaleGame, SubsetGame
from esv_jax.games.few_scores import score
from esv_jax.games.grouped import Grouped, group_labels, group_members
from esv_jax.groups import as_players, n_owen_terms, owen_terms, owen_values
from esv_jax.interactions import pairwise_interactions
from esv_jax.subsequences.lattice import membership
from tests.games_for_tests import TableGame, multi_scale_case, n_programs, random_prior
from tests.reference import interactions as twin
from tests.reference import plain

PARTITIONS = [
    [[0], [1], [2], [3], [4], [5]],
    [[0, 1, 2, 3, 4, 5]],
    [[0, 1], [2, 3, 4], [5]],
    [[4, 0], [5, 1, 3], [2]],
    [[0, 1, 2], [3, 4, 5]],
]


def group_values(game, x, groups, **kwargs):
    return ej.explain(game, x, groups=groups, **kwargs)


@pytest.fixture(autouse=True)
def double(x64):
    """Twins are float64; so is everything here."""


def average_case(rng, n, d=3, c=4):
    w, b, x = rng.normal(size=(d, c)), rng.normal(size=c), rng.normal(size=(n, d))

    def apply(x, mask):
        x = jnp.where(mask[:, None], jax.nn.relu(x), 0)
        return (x.sum(0) / mask.sum().astype(x.dtype)) @ w + b

    return ej.AverageConsensus(w, b), ej.VariableLength(apply), x, random_prior(rng, c), w, b


def test_kinds_of_games(rng):
    average, variable, x, *_ = average_case(rng, 3)
    heads, *_ = multi_scale_case(rng, 3, 2)
    black_box = ej.BlackBox(lambda clips: clips.mean(1))
    grouped = Grouped(variable, jnp.asarray(x))
    for game in (average, variable, black_box, grouped, TableGame(jnp.ones((8, 2)))):
        assert isinstance(game, SubsetGame) and not isinstance(game, ScaleGame)
    assert isinstance(heads, ScaleGame) and not isinstance(heads, SubsetGame)
    assert not isinstance(ej.Exact(), SubsetGame | ScaleGame)


@pytest.mark.parametrize("n", [4, 6, 11])
def test_scores_of_a_few_subsequences_are_the_definition(rng, n):
    game, x, prior, heads = multi_scale_case(rng, n, 3)
    codes = rng.integers(1, 2**n, size=9)  # in any order, some repeated, one empty
    codes[3], codes[5] = codes[0], 0
    some = score(game, x, membership(codes, n), prior=prior)
    for code, found in zip(codes, some, strict=True):
        logits = plain.multi_scale(heads, x, plain.elements_of(code, n)) if code else None
        expected = plain.softmax(logits) if code else prior
        np.testing.assert_allclose(found, expected, atol=1e-12)
    alone = np.eye(7 * n, dtype=bool)[:n]
    of_long = score(game, np.tile(x, (7, 1)), alone, prior=prior)  # by the first head
    np.testing.assert_allclose(of_long, score(game, x, alone[:, :n], prior=prior), atol=1e-12)


def test_scores_come_in_blocks(rng):
    average, variable, x, prior, w, b = average_case(rng, 12)
    member = membership(rng.integers(1, 2**12, size=1500), 12)
    expected = [plain.softmax(plain.average(w, b, x, np.flatnonzero(row))) for row in member]
    for game in (average, variable):
        np.testing.assert_allclose(score(game, x, member, prior=prior), expected, atol=1e-12)


@pytest.mark.parametrize("groups", PARTITIONS)
def test_values_of_groups_and_owen_values_equal_plain_twins(rng, groups):
    n = 6
    game, x, prior, heads = multi_scale_case(rng, n, 3)
    table = plain.table(lambda e: plain.softmax(plain.multi_scale(heads, x, e)), prior, n)
    grouped = group_values(game, x, groups, prior=prior)
    unions = twin.union_table(table, groups)
    np.testing.assert_allclose(grouped.values, plain.shapley_by_weights(unions), atol=1e-12)
    np.testing.assert_allclose(grouped.marginals, plain.marginals(unions), atol=1e-12)
    np.testing.assert_allclose(grouped.efficiency_gap(), 0, atol=1e-12)
    owen = owen_values(game, x, groups, prior=prior)
    np.testing.assert_allclose(owen.values, twin.owen(table, groups), atol=1e-12)
    np.testing.assert_allclose(owen.values, twin.owen_by_orders(table, groups), atol=1e-12)
    np.testing.assert_allclose(owen.efficiency_gap(), 0, atol=1e-12)
    sums = np.array([np.asarray(owen.values)[group].sum(0) for group in groups])
    np.testing.assert_allclose(sums, grouped.values, atol=1e-12)  # the quotient property
    assert owen.exact and grouped.exact
    assert owen.n_evaluations == grouped.n_evaluations == 6 + 15 + 20
    np.testing.assert_allclose(owen.scores, table[-1], atol=1e-12)
    if len(groups) in (1, n):
        values = ej.explain(game, x, prior=prior).values
        np.testing.assert_allclose(owen.values, values, atol=1e-12)
        if len(groups) == n:
            np.testing.assert_allclose(grouped.values, values, atol=1e-12)


@pytest.mark.parametrize("groups", PARTITIONS[1:4])
def test_tables_and_rows_scored_alone_agree_with_the_twins(rng, groups):
    n = 6
    table = rng.normal(size=(2**n, 2))
    game = TableGame(jnp.asarray(table))
    x, unions = np.zeros((n, 1)), twin.union_table(table, groups)
    found = group_values(game, x, groups, prior=table[0]).values
    np.testing.assert_allclose(found, plain.shapley_by_weights(unions), atol=1e-12)
    found = owen_values(game, x, groups, prior=table[0]).values
    np.testing.assert_allclose(found, twin.owen(table, groups), atol=1e-12)

    average, variable, x, prior, w, b = average_case(rng, n)
    table = plain.table(lambda e: plain.softmax(plain.average(w, b, x, e)), prior, n)
    unions = twin.union_table(table, groups)
    for game in (average, variable):
        att = group_values(game, x, groups, prior=prior)
        np.testing.assert_allclose(att.values, plain.shapley_by_weights(unions), atol=1e-12)
        assert att.n_evaluations == 2 ** len(groups) - 1
        att = owen_values(game, x, groups, prior=prior)
        np.testing.assert_allclose(att.values, twin.owen(table, groups), atol=1e-12)
        assert att.n_evaluations == n_owen_terms(np.array([len(group) for group in groups])) - 1


def test_long_sequences_in_few_groups_need_few_evaluations(rng):
    """49 elements in 5 groups, where rows are scored on their own."""
    average, variable, x, prior, *_ = average_case(rng, 49)
    labels = np.sort(rng.permutation(np.arange(49) % 5))
    by_table = group_values(average, x, labels, prior=prior)
    by_model = group_values(variable, x, labels, prior=prior)
    np.testing.assert_allclose(by_table.values, by_model.values, atol=1e-12)
    assert by_model.n_evaluations == 31
    assert np.abs(by_model.efficiency_gap()).max() < 1e-12
    labels = np.repeat(np.arange(7), 7)
    owen = owen_values(average, x, labels, prior=prior)
    assert owen.n_evaluations == 2**7 + 7 * 2**6 * (2**7 - 2) - 1
    np.testing.assert_allclose(
        np.asarray(owen.values).reshape(7, 7, -1).sum(1),
        group_values(average, x, labels, prior=prior).values,
        atol=1e-12,
    )


def test_many_groups_are_sampled(rng):
    """26 groups of two are too many to enumerate; the estimate comes with its error."""
    average, _, x, prior, *_ = average_case(rng, 52)
    x[:] = np.repeat(x[:26], 2, axis=0)
    labels = np.repeat(np.arange(26), 2)
    estimator = ej.Constructive(max_subsequences=64, iterations=2)
    att = group_values(average, x, labels, prior=prior, estimator=estimator, key=jax.random.key(1))
    plan_free = ej.explain(average, x[::2], prior=prior, estimator=estimator, key=jax.random.key(1))
    np.testing.assert_allclose(att.values, plan_free.values, atol=1e-12)  # groups are like frames
    assert att.values.shape == (26, 4) and att.std_error is not None
    assert int(att.n_evaluations) > 1000
    with pytest.raises(ValueError, match="key: expected a PRNG key"):
        group_values(average, x, labels, prior=prior)


def test_groups_of_a_multi_scale_model_may_be_sampled_too(rng):
    """All scores are there after one pass; sampling with everything drawn is exact."""
    game, x, prior, _ = multi_scale_case(rng, 8, 3)
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    everything = ej.Constructive(max_subsequences=6, iterations=1)
    exact = group_values(game, x, labels, prior=prior)
    drawn = group_values(game, x, labels, prior=prior, estimator=everything, key=jax.random.key(0))
    np.testing.assert_allclose(drawn.values, exact.values, atol=1e-12)
    assert drawn.n_evaluations == exact.n_evaluations == 8 + 28 + 56


def test_interactions_of_groups(rng):
    game, x, prior, heads = multi_scale_case(rng, 6, 3)
    groups = PARTITIONS[2]
    table = plain.table(lambda e: plain.softmax(plain.multi_scale(heads, x, e)), prior, 6)
    grouped, sequence, _ = as_players(game, x, jnp.asarray(prior), groups, "auto", None)
    found = pairwise_interactions(grouped, sequence, prior=prior)
    expected = twin.interactions(twin.union_table(table, groups))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_groups_within_groups(rng):
    game, x, prior, _ = multi_scale_case(rng, 6, 3)
    labels = [0, 0, 1, 2, 2, 3]
    inner, sequence, _ = as_players(game, x, jnp.asarray(prior), labels, "auto", None)
    outer = group_values(inner, sequence, [0, 0, 1, 1], prior=prior)
    direct = group_values(game, x, [0, 0, 0, 1, 1, 1], prior=prior)
    np.testing.assert_allclose(outer.values, direct.values, atol=1e-12)


def test_symmetry_and_null_elements_within_groups(rng):
    n = 5
    table = rng.normal(size=(2**n, 2))
    swapped = [c & ~0b110 | (c >> 1 & 1) << 2 | (c >> 2 & 1) << 1 for c in range(2**n)]
    table = (table + table[swapped]) / 2  # elements 1 and 2 are interchangeable
    table = table[[c & ~16 for c in range(2**n)]]  # element 4 never changes a score
    game = TableGame(jnp.asarray(table))
    found = owen_values(game, np.zeros((n, 1)), [[0, 3], [1, 2, 4]], prior=table[0]).values
    np.testing.assert_allclose(found[1], found[2], atol=1e-13)
    np.testing.assert_allclose(found[4], 0, atol=1e-13)


def test_owen_terms_are_distinct_and_balanced(rng):
    for labels in ([0], [0, 1], [0, 0, 0], [1, 0, 2, 0, 1, 0, 2]):
        labels = np.array(labels)
        n, g = len(labels), labels.max() + 1
        member, weight = owen_terms(labels)
        assert len(member) == len(np.unique(member, axis=0)) == n_owen_terms(np.bincount(labels))
        assert not member[0].any() and member[2**g - 1].all()
        np.testing.assert_allclose(np.where(weight > 0, weight, 0).sum(1), np.ones(n))
        np.testing.assert_allclose(weight.sum(1), 0, atol=1e-12)


def test_traces_gradients_and_batches(rng):
    n, labels = 5, [0, 0, 1, 1, 2]
    game, x, prior, _ = multi_scale_case(rng, n, 3)
    owen = owen_values(game, x, labels, prior=prior).values
    traced = jax.jit(lambda x: owen_values(game, x, labels, prior=prior).values)(x)
    np.testing.assert_allclose(traced, owen, atol=1e-13)
    traced = jax.jit(lambda x: group_values(game, x, labels, prior=prior).values)(x)
    np.testing.assert_allclose(traced[2], owen[4], atol=1e-12)

    def values(x):
        return owen_values(game, x, labels, prior=prior).values

    step = 1e-6 * rng.normal(size=x.shape)
    batch = jax.jit(jax.vmap(values))(np.stack([x, x + step, x - step]))
    np.testing.assert_allclose(batch[0], owen, atol=1e-12)
    slope = (batch[1] - batch[2])[1, 0] / 2
    grad = jax.jit(jax.grad(lambda x: values(x)[1, 0]))(x)
    np.testing.assert_allclose((grad * step).sum(), slope, rtol=1e-5)


def test_another_grouping_of_like_sizes_compiles_nothing(rng):
    game, x, prior, _ = multi_scale_case(rng, 6, 2, c=5)
    owen_values(game, x, [0, 0, 1, 1, 2, 2], prior=prior)
    size = n_programs(game, "score")
    owen_values(game, x, [0, 1, 1, 0, 2, 2], prior=prior)
    assert n_programs(game, "score") == size > 0


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        ([0, 1, 1, 0], [0, 1, 1, 0]),
        (np.array([2, 1, 0, 0], np.int32), [2, 1, 0, 0]),
        (jnp.array([0, 0, 0, 0]), [0, 0, 0, 0]),
        ([[0, 3], (1,), range(2, 3)], [0, 1, 2, 0]),
        (np.array([[0, 1], [3, 2]]), [0, 0, 1, 1]),
    ],
)
def test_groups_may_be_labels_or_lists(groups, labels):
    found = group_labels(groups, 4)
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("groups", "kind", "match"),
    [
        ([[0, 1], [3]], ValueError, "groups: expected every element .* got element 2 in no group"),
        ([[0, 1], [1, 2, 3]], ValueError, "got element 1 in two groups, 0 and 1"),
        ([[0, 1, 1], [2, 3]], ValueError, "got element 1 twice in group 0"),
        ([[0, 1, 2, 3], []], ValueError, "at least one element in each group, got group 1 empty"),
        ([[0, 1, 2, 4], [3]], ValueError, r"groups\[0\]: expected elements 0..3, got 4"),
        ([[0, 1], [2, 3.0]], TypeError, r"groups\[1\]: expected integers, got dtype float64"),
        ([[0, 1], [[2, 3]]], TypeError, r"groups\[1\]: expected integers, got nested lists"),
        ([0, 0, 1], ValueError, r"labels of shape \(n,\) = \(4,\), or lists.*got 3 labels"),
        ([0, 0, 2, 2], ValueError, r"labels that use all of 0..2, got group 1 without elements"),
        ([0, -1, 0, 1], ValueError, "groups: expected labels 0..g - 1, got -1"),
        ([0.0, 0.0, 1.0, 1.0], TypeError, "groups: expected integers, got dtype float64"),
        ([True, False, True, True], TypeError, "groups: expected integers, got dtype bool"),
        ([0, [1, 2], 3], TypeError, "got a mixture of the two"),
        ([], ValueError, "or lists of elements, got none"),
        ("0011", TypeError, "or lists of elements, got str"),
        (4, TypeError, "or lists of elements, got int"),
    ],
)
def test_bad_groups_are_refused(groups, kind, match):
    with pytest.raises(kind, match=match):
        group_labels(groups, 4)


def test_too_many_groups_are_refused(rng):
    game, x, prior, _ = multi_scale_case(rng, 4, 2)
    average, _, long, long_prior, *_ = average_case(rng, 30)
    pairs, many = [0, 0, 1, 1], (np.zeros((26, 3)), np.arange(26) // 2)
    with pytest.raises(ValueError, match=r"x: expected at most 24 .* got 26.*Take fewer"):
        owen_values(game, *many, prior=prior)
    with pytest.raises(ValueError, match=r"x: expected at most 24 .* got 26.*Take fewer"):
        group_values(game, *many, prior=prior, estimator=ej.Exact())
    with pytest.raises(ValueError, match=r"groups: expected at most 12 beside a surrogate, got 13"):
        group_values(game, *many, prior=prior)
    with pytest.raises(ValueError, match="plan: expected None beside groups"):
        whole = np.ones((1, 1), bool)
        everything = ej.SubsequencePlan.from_membership([[whole]])
        group_values(game, x, pairs, prior=prior, plan=everything)
    for function in (group_values, owen_values):
        with pytest.raises(ValueError, match=r"x: expected a computation within 1e-06 GB"):
            function(game, x, pairs, prior=prior, max_bytes=1e3)
        with pytest.raises(ValueError, match=r"x: expected a computation within 1e-09 GB"):
            function(average, long[:4], pairs, prior=long_prior, max_bytes=1)
        with pytest.raises(ValueError, match="groups: expected every element"):
            function(game, x, [[0, 1, 2]], prior=prior)
        with pytest.raises(ValueError, match="x: expected finite values"):
            function(game, x * np.nan, pairs, prior=prior)
        with pytest.raises(ValueError, match="prior: expected a sum of 1"):
            function(game, x, pairs, prior=2 * prior)
    match = r"groups: expected at most 262,144 .* got 1,073,741,824 for 30 elements in 1 groups"
    with pytest.raises(ValueError, match=match):
        owen_values(average, long, [0] * 30, prior=long_prior)
    with pytest.raises(ValueError, match=r"x: expected at most 24 elements to enumerate"):
        group_values(average, long, np.arange(30), prior=long_prior, estimator=ej.Exact())
    grouped, sequence = Grouped(average, long), group_members(np.arange(30) // 3)
    with pytest.raises(ValueError, match=r"x: expected groups of shape \(g, n\) = \(g, 30\)"):
        ej.explain(grouped, sequence[:, :4], prior=long_prior)


def test_all_parts_of_all_unions_give_the_exact_values_of_groups(rng):
    game, x, prior, _ = multi_scale_case(rng, 7, 4)
    groups = [[0, 5], [1, 2, 3], [4], [6]]
    exact = group_values(game, x, groups, prior=prior)
    full = ej.Surrogate(pool=40 * 2**4)  # of at most 35 parts of each of 16 unions
    att = group_values(game, x, groups, prior=prior, estimator=full, key=jax.random.key(0))
    assert exact.exact and not att.exact
    np.testing.assert_allclose(att.values, exact.values, atol=1e-6)
    np.testing.assert_allclose(att.marginals, exact.marginals, atol=1e-6)
    np.testing.assert_allclose(att.efficiency_gap(), 0, atol=1e-12)
    np.testing.assert_array_equal(att.std_error, 0)


@pytest.mark.slow
def test_groups_of_long_sequences_are_estimated_with_an_error(rng):
    game, x, prior, _ = multi_scale_case(rng, 18, 3)
    labels = np.arange(18) // 5
    exact = np.asarray(group_values(game, x, labels, prior=prior, estimator=ej.Exact()).values)
    z = []
    for seed in range(6):
        settings = {"estimator": ej.Surrogate(64), "key": jax.random.key(seed)}
        att = group_values(game, x, labels, prior=prior, **settings)
        np.testing.assert_allclose(att.efficiency_gap(), 0, atol=1e-12)
        z.append(np.asarray(att.values - exact) / np.asarray(att.std_error))
    assert np.sqrt(np.square(z).mean()) < 2
    many = ej.Surrogate(2000)
    att = group_values(game, x, labels, prior=prior, estimator=many, key=jax.random.key(0))
    assert np.abs(att.values - exact).mean() < 0.06 * np.abs(exact).mean()
    long = rng.normal(size=(40, 3))
    att = ej.explain(game, long, prior=prior, groups=np.arange(40) // 10, key=jax.random.key(0))
    assert att.values.shape[0] == 4 and not att.exact and att.std_error is not None
    with pytest.raises(ValueError, match="key: expected"):
        ej.explain(game, long, prior=prior, groups=np.arange(40) // 10)


def test_groups_of_a_black_box_equal_those_of_the_same_function_in_jax(rng):
    _, _, x, prior, w, b = average_case(rng, 6)
    labels = [0, 0, 1, 1, 2, 2]

    def fn(clips):
        return np.maximum(clips, 0).mean(1) @ w + b

    by_rows = ej.BlackBox(fn, scores="any")
    wanted = ej.AverageConsensus(w, b, link="identity")
    exact = ej.explain(wanted, x, prior=prior, groups=labels).values
    for settings in ({}, {"estimator": ej.SizeRegression(6), "key": jax.random.key(0)}):
        found = ej.explain(by_rows, x, prior=prior, groups=labels, **settings).values
        np.testing.assert_allclose(found, exact, atol=1e-6)
    owen = owen_values(by_rows, x, labels, prior=prior).values
    np.testing.assert_allclose(owen, owen_values(wanted, x, labels, prior=prior).values, atol=1e-6)


def test_owen_values_of_long_sequences_are_sampled_with_an_error(rng):
    n = 67
    w = rng.normal(size=(n, 2))
    pairs = rng.normal(size=(n, n)) * 0.05

    def apply(x, mask):
        keep = mask.astype(x.dtype)
        return (x * keep[:, None]).sum(0) + (keep @ jnp.asarray(pairs) @ keep)[None]

    game, labels = ej.VariableLength(apply, link="identity"), np.arange(n) // 23
    att = owen_values(game, w, labels, prior=np.zeros(2), key=jax.random.key(0))
    both = (pairs + pairs.T) / 2  # an order and its reverse: half of each pair
    np.testing.assert_allclose(att.values, w + both.sum(1)[:, None], atol=1e-10)
    np.testing.assert_allclose(att.efficiency_gap(), 0, atol=1e-10)
    assert not att.exact and att.std_error.shape == (n, 2)
    with pytest.raises(ValueError, match=r"groups: expected at most 262,144.*give a key to sample"):
        owen_values(game, w, labels, prior=np.zeros(2))
    with pytest.raises(TypeError, match="key: expected a typed PRNG key"):
        owen_values(game, w, labels, prior=np.zeros(2), key=3)


def test_sampled_owen_values_approach_the_exact_ones(rng, monkeypatch):
    n, labels = 6, [0, 0, 1, 1, 1, 2]
    table = rng.normal(size=(2**n, 2))
    game, x = TableGame(jnp.asarray(table)), np.zeros((n, 1))
    exact = owen_values(game, x, labels, prior=table[0])
    monkeypatch.setattr("esv_jax.groups.MAX_OWEN_TERMS", 8)
    att = owen_values(game, x, labels, prior=table[0], key=jax.random.key(0), permutations=4000)
    z = np.asarray((att.values - exact.values) / att.std_error)
    assert np.abs(z).max() < 4
    assert float(np.abs(att.values - exact.values).max()) < 0.1
