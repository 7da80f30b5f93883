"""Reliability of metrics, and Krippendorff's alpha."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import esv_jax as ej
from esv_jax.metrics.reliability import input_weights, method_ranks, spearman

metrics = ej.metrics


@pytest.fixture(params=range(1, 7))
def published(request, fixtures):
    path = fixtures / "metrics" / f"metric_reliability_0{request.param}.npz"
    return np.load(path, allow_pickle=False)


def test_reliability_equals_the_published_code(published):
    z, lower = published, bool(published["rank_descending"])
    ranks = method_ranks(z["scores"], lower)
    np.testing.assert_array_equal(ranks, z["ranks"])
    np.testing.assert_array_equal(input_weights(ranks), z["row_weights"])
    np.testing.assert_allclose(spearman(z["scores"]), z["spearman"], atol=1e-12)
    got = metrics.metric_reliability(z["scores"], random_column=0, lower_is_better=lower)
    assert isinstance(got, float)
    assert got == pytest.approx(float(z["reliability_alpha"]), abs=1e-9)
    alpha = metrics.krippendorff_alpha(ranks)
    assert alpha == pytest.approx(float(z["krippendorff_alpha"]), abs=1e-9)


def reliability_twin(scores, random_column, lower_is_better):
    """Pair by pair, correlations from scipy."""
    n, m = scores.shape
    weights = []
    for row in scores:
        others = sorted(row, reverse=lower_is_better)
        weights.append((m - 1 - others.index(row[random_column])) / (m - 1))
    top = bottom = 0.0
    for i, j in itertools.combinations(range(n), 2):
        rho = stats.spearmanr(scores[i], scores[j]).statistic
        top += weights[i] * weights[j] * (rho + 1)
        bottom += weights[i] * weights[j]
    return top / bottom - 1


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 5), st.booleans(), st.booleans())
def test_reliability_equals_plain_loops_and_depends_on_ranks_only(seed, n, m, lower, ties):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, m))
    if ties:
        scores[:, -1] = scores[:, 0]
        scores[:, 1] = scores[:, 0] + 1
    column = int(rng.integers(m))
    weights = input_weights(method_ranks(scores, lower), column)
    if np.count_nonzero(weights) < 2:
        with pytest.raises(ValueError, match="two inputs of weight above 0"):
            metrics.metric_reliability(scores, column, lower)
        return
    got = metrics.metric_reliability(scores, column, lower)
    assert got == pytest.approx(reliability_twin(scores, column, lower), abs=1e-8)
    assert -1 <= got <= 1 + 1e-12
    stretched = np.exp(scores) * rng.uniform(1, 3, size=(n, 1))
    assert metrics.metric_reliability(stretched, column, lower) == pytest.approx(got, abs=1e-9)
    assert metrics.metric_reliability(-scores, column, not lower) == pytest.approx(got, abs=1e-9)
    order = rng.permutation(m)
    moved = metrics.metric_reliability(scores[:, order], order.tolist().index(column), lower)
    assert moved == pytest.approx(got, abs=1e-9)


def test_reliability_of_equal_and_opposite_rankings():
    same = np.tile([0.0, 1, 2, 3], (5, 1))
    assert metrics.metric_reliability(same) == pytest.approx(1)
    assert metrics.metric_reliability(-same, lower_is_better=True) == pytest.approx(1)
    opposed = np.array([[1.0, 0, 2], [1, 2, 0]])
    assert metrics.metric_reliability(opposed) == pytest.approx(-1)


def test_equal_scores_share_the_lowest_rank():
    scores = [[3.0, 1, 3, 2], [5, 5, 5, 5]]
    assert method_ranks(scores).tolist() == [[2, 0, 2, 1], [0, 0, 0, 0]]
    lower = method_ranks(scores, lower_is_better=True)
    assert lower.tolist() == [[0, 3, 0, 2], [0, 0, 0, 0]]
    assert input_weights(lower, 3).tolist() == [1 / 3, 1]


def test_reliability_refuses_bad_input():
    run = metrics.metric_reliability
    with pytest.raises(ValueError, match=r"scores: expected at least 2 inputs to compare, got 1"):
        run([[1.0, 2, 3]])
    with pytest.raises(ValueError, match=r"shape \(inputs, methods\) with 2 methods at least"):
        run([[1.0], [2]])
    with pytest.raises(ValueError, match=r"scores\[1\]: expected scores in which methods differ"):
        run([[1.0, 2, 3], [4, 4, 4]])
    with pytest.raises(ValueError, match=r"got 1 of 2\. The metric ranks random attributions best"):
        run([[3.0, 2, 1], [1, 2, 3]])
    with pytest.raises(ValueError, match="scores: expected finite values, got nan at index"):
        run([[1.0, 2], [np.nan, 1]])
    with pytest.raises(ValueError, match=r"random_column: expected a method in 0\.\.2, got 3"):
        run([[1.0, 2, 3], [1, 3, 2]], random_column=3)
    with pytest.raises(ValueError, match="random_column: expected an integer >= 0"):
        run([[1.0, 2, 3], [1, 3, 2]], random_column=-1)
    with pytest.raises(TypeError, match="scores: expected numbers"):
        run([["a", "b"], ["c", "d"]])


# Krippendorff's alpha


def alpha_twin(table, level):
    """Pairs of ratings one by one, from the definition."""
    units = [column[~np.isnan(column)].tolist() for column in table.T]
    units = [unit for unit in units if len(unit) >= 2]
    pool = [rating for unit in units for rating in unit]

    def distance(a, b):
        if level == "nominal":
            return float(a != b)
        if level == "ordinal":
            low, high = min(a, b), max(a, b)
            ranks = sum(low <= rating <= high for rating in pool)
            return (ranks - (pool.count(a) + pool.count(b)) / 2) ** 2 if a != b else 0.0
        return (a - b) ** 2 if level == "interval" else ((a - b) / (a + b)) ** 2 if a != b else 0.0

    observed = sum(
        sum(distance(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1)
        for unit in units
    ) / len(pool)
    pairs = list(itertools.permutations(pool, 2))
    expected = sum(distance(a, b) for a, b in pairs) / len(pairs)
    return 1 - observed / expected


def test_alpha_equals_the_published_code(fixtures):
    z = np.load(fixtures / "metrics" / "krippendorff_01.npz", allow_pickle=False)
    ratings, gaps = z["ratings"], np.where(z["missing"], np.nan, z["ratings"])
    for level in ("nominal", "interval", "ratio"):
        alpha = metrics.krippendorff_alpha(ratings, level)
        assert alpha == pytest.approx(float(z[f"alpha_{level}"]), abs=1e-12)
        alpha = metrics.krippendorff_alpha(gaps, level)
        assert alpha == pytest.approx(float(z[f"alpha_missing_{level}"]), abs=1e-12)


@given(st.integers(0, 10**6), st.sampled_from(["nominal", "ordinal", "interval", "ratio"]))
def test_alpha_equals_plain_loops(seed, level):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(2, 6)), int(rng.integers(2, 7)))
    table = rng.integers(0, 4, size=shape).astype(float)
    table[rng.random(shape) < 0.2] = np.nan
    table[:2, :2] = [[0, 3], [1, 3]]
    got = metrics.krippendorff_alpha(table, level)
    assert got == pytest.approx(alpha_twin(table, level), abs=1e-10)
    turned = metrics.krippendorff_alpha(table[::-1, ::-1], level)
    assert turned == pytest.approx(got, abs=1e-10)


def test_alpha_of_krippendorffs_example():
    """Krippendorff (2011), section C: four coders, twelve units, gaps."""
    gap = np.nan
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3],
        [gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap],
    ]
    for level, expected in (
        ("nominal", 0.743),
        ("ordinal", 0.815),
        ("interval", 0.849),
        ("ratio", 0.797),
    ):
        assert metrics.krippendorff_alpha(table, level) == pytest.approx(expected, abs=5e-4)


def test_alpha_is_invariant_under_the_transformations_of_its_level(rng):
    table = rng.integers(1, 5, size=(4, 9)).astype(float)
    relabelled = np.array([0, 7.0, -2, 11, 3])[table.astype(int)]
    stretched = np.array([0, -1.0, 0, 50, 51])[table.astype(int)]
    alpha = metrics.krippendorff_alpha
    assert alpha(relabelled, "nominal") == pytest.approx(alpha(table, "nominal"))
    assert alpha(stretched, "ordinal") == pytest.approx(alpha(table, "ordinal"))
    assert alpha(3 * table - 20, "interval") == pytest.approx(alpha(table, "interval"))
    assert alpha(3 * table, "ratio") == pytest.approx(alpha(table, "ratio"))
    assert alpha(np.tile(table[0], (3, 1)), "ordinal") == pytest.approx(1)


def test_alpha_refuses_bad_input():
    run = metrics.krippendorff_alpha
    with pytest.raises(ValueError, match="table: expected a unit with two ratings, got none"):
        run([[1.0, np.nan], [np.nan, 2]])
    with pytest.raises(ValueError, match=r"table: expected ratings that differ, got only 2\.0"):
        run([[2, 2], [2, 2]])
    with pytest.raises(ValueError, match="table: expected ratings >= 0 on a ratio scale"):
        run([[-1, 2], [3, 4]], "ratio")
    with pytest.raises(ValueError, match="table: expected finite ratings"):
        run([[np.inf, 2], [3, 4]])
    with pytest.raises(ValueError, match=r"table: expected shape \(coders, units\), got \(2,\)"):
        run([1, 2])
    with pytest.raises(ValueError, match=r"level: expected one of .* Did you mean 'nominal'"):
        run([[1, 2], [3, 4]], "nominale")
    with pytest.raises(TypeError, match="table: expected numbers"):
        run([["a", "b"], ["c", "d"]])
