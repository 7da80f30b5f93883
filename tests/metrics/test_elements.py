"""Measures over elements: discarding, positions, support, agreement of methods, smoothness."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import esv_jax as ej
from esv_jax.metrics.accuracy import smoothness
from esv_jax.metrics.statistics import support_statistics
from tests.games_for_tests import multi_scale_case

metrics = ej.metrics
KEY = jax.random.key(0)


# Discarding


def discard_case(rng, kind, lengths):
    """(game, xs, values, labels, prior): lists of sequences and values of every class."""
    game, _, prior, _ = multi_scale_case(rng, 3, 3)
    if kind == "average":
        w = jnp.asarray(rng.normal(size=(3, 4)) * 2, jnp.float32)
        game = ej.AverageConsensus(w, jnp.zeros(4, jnp.float32), input_relu=False)
    if kind == "black box":
        w = rng.normal(size=(3, 4))

        def fn(clips):
            e = np.exp(clips.max(1) @ w)
            return (e / e.sum(-1, keepdims=True)).astype(np.float32)

        game = ej.BlackBox(fn, batch_size=4)
    xs = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
    values = [rng.normal(size=(n, 4)) for n in lengths]
    return game, xs, values, rng.integers(0, 4, size=len(lengths)), prior


def discard_twin(game, xs, values, labels, prior, order):
    """Sequence after sequence, drop after drop, each remainder explained as a sequence."""
    right, scores = [], []
    for x, value, label in zip(xs, values, labels, strict=True):
        left = list(range(len(x)))
        own_right, own_scores = [], []
        while left:
            table = np.asarray(ej.explain(game, x[left], prior=prior).scores)
            own_right.append(float(table.argmax() == label))
            own_scores.append(float(table[label]))
            pick = min if order == "ascending" else max
            left.remove(pick(left, key=lambda i: value[i, label]))
        right.append(own_right)
        scores.append(own_scores)
    return right, scores


def padded(arrays):
    out = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


@pytest.mark.parametrize("kind", ["multi scale", "average", "black box"])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_discard_curve_equals_the_plain_loop(rng, kind, order):
    lengths = [4, 1, 5, 4]
    game, xs, values, labels, prior = discard_case(rng, kind, lengths)
    curve = metrics.discard_curve(game, xs, values, labels, prior=prior, order=order)
    right, scores = discard_twin(game, xs, values, labels, prior, order)
    assert curve.right.shape == curve.scores.shape == (4, 5)
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(curve.right[i, :n], right[i])
        np.testing.assert_allclose(curve.scores[i, :n], scores[i], atol=1e-5)
        assert np.isnan(curve.right[i, n:]).all() and np.isnan(curve.scores[i, n:]).all()
    assert curve.n_sequences.tolist() == [4, 3, 3, 3, 1]
    for d in range(5):
        there = [s[d] for s in scores if len(s) > d]
        np.testing.assert_allclose(curve.class_score[d], np.mean(there), atol=1e-5)
        np.testing.assert_allclose(curve.accuracy[d], np.mean([r[d] for r in right if len(r) > d]))
    np.testing.assert_allclose(
        curve.auc.class_score, np.mean([np.mean(s) for s in scores]), atol=1e-5
    )
    np.testing.assert_allclose(curve.auc.accuracy, np.mean([np.mean(r) for r in right]))


def test_discard_of_padded_arrays_is_independent_of_batch_composition(rng):
    game, xs, values, labels, prior = discard_case(rng, "multi scale", [4, 3, 4])
    curve = metrics.discard_curve(game, xs, values, labels, prior=prior)
    own = [v[:, c] for v, c in zip(values, labels, strict=True)]
    again = metrics.discard_curve(
        game, padded(xs), padded(own), labels, prior=prior, lengths=[4, 3, 4]
    )
    np.testing.assert_array_equal(curve.scores, again.scores)
    alone = metrics.discard_curve(game, xs[2:], own[2:], labels[2:], prior=prior)
    np.testing.assert_array_equal(alone.scores[0], curve.scores[2])


def test_discard_of_several_blocks(rng):
    game, xs, values, labels, prior = discard_case(rng, "multi scale", [3] * 40)
    curve = metrics.discard_curve(game, xs, values, labels, prior=prior)
    last = metrics.discard_curve(game, xs[-3:], values[-3:], labels[-3:], prior=prior)
    np.testing.assert_array_equal(curve.scores[-3:], last.scores)


@pytest.mark.slow
def test_discard_of_sequences_of_several_lattice_tiles(rng):
    """Ten elements span several tiles of the lattice, which differ between sequences."""
    game, xs, values, labels, prior = discard_case(rng, "multi scale", [10, 10, 10])
    curve = metrics.discard_curve(game, xs, values, labels, prior=prior)
    _, scores = discard_twin(game, xs[:1], values[:1], labels[:1], prior, "ascending")
    np.testing.assert_allclose(curve.scores[0], scores[0], atol=1e-5)
    for i in range(3):
        one = metrics.discard_curve(
            game, xs[i : i + 1], values[i : i + 1], labels[i : i + 1], prior=prior
        )
        np.testing.assert_array_equal(curve.scores[i], one.scores[0])


@pytest.mark.parametrize(
    ("order", "by_index"), [("ascending", [1, 2, 3, 4]), ("descending", [4, 3, 2, 1])]
)
def test_ties_drop_the_earlier_first(rng, order, by_index):
    game, xs, _, labels, prior = discard_case(rng, "multi scale", [4])
    tied = metrics.discard_curve(game, xs, [np.zeros(4)], labels, prior=prior, order=order)
    expected = metrics.discard_curve(game, xs, [by_index], labels, prior=prior, order=order)
    np.testing.assert_array_equal(tied.scores, expected.scores)
    partly = metrics.discard_curve(game, xs, [[2, 1, 1, 3]], labels, prior=prior)
    expected = metrics.discard_curve(game, xs, [[3, 1, 2, 4]], labels, prior=prior)
    np.testing.assert_array_equal(partly.scores, expected.scores)


def test_better_attributions_have_better_curves(rng):
    """Dropping by ascending exact ESVs keeps the score higher than by descending ones."""
    game, xs, _, _, prior = discard_case(rng, "multi scale", [5] * 30)
    batch = ej.explain_batch(game, xs, prior=prior)
    labels = np.asarray(batch.scores).argmax(-1)
    up = metrics.discard_curve(game, xs, np.asarray(batch.values), labels, prior=prior)
    down = metrics.discard_curve(
        game, xs, np.asarray(batch.values), labels, prior=prior, order="descending"
    )
    assert up.accuracy[0] == down.accuracy[0] == 1
    difference = metrics.bootstrap_interval(up.areas.class_score - down.areas.class_score, key=KEY)
    assert difference.low > 0
    run = functools.partial(metrics.bootstrap_interval, key=KEY, resamples=200)
    interval, again = run(up.scores), run(up.scores)
    assert (interval.low <= up.class_score).all() and (interval.high >= up.class_score).all()
    np.testing.assert_array_equal(again.low, interval.low)
    wide, narrow = (run(up.areas.class_score, confidence=c) for c in (0.95, 0.5))
    assert wide.low <= narrow.low <= up.auc.class_score <= narrow.high <= wide.high


def test_discard_evaluates_a_black_box_once_per_drop(rng):
    game, xs, values, labels, prior = discard_case(rng, "black box", [4, 3])
    metrics.discard_curve(game, xs, values, labels, prior=prior)
    assert game.counts.clips == 7 + 1  # the first whole one twice


def test_discard_refuses_bad_input(rng):
    game, xs, values, labels, prior = discard_case(rng, "multi scale", [3, 3])

    def refused(match, kind=ValueError, **changed):
        inputs = {"xs": xs, "values": values, "labels": labels, "prior": prior} | changed
        with pytest.raises(kind, match=match):
            metrics.discard_curve(game, **inputs)

    refused("order: expected one of .*Did you mean 'ascending'", order="ascend")
    refused(
        r"labels: expected classes in 0..3, got 4", values=[v[:, 0] for v in values], labels=[0, 4]
    )
    refused(r"labels\[1\]: expected a class in 0..3, got 4", labels=[0, 4])
    refused("labels: expected classes >= 0, got -1", labels=[0, -1])
    refused("labels: expected shape", labels=[0])
    refused("labels: expected integers", TypeError, labels=[0.0, 1.0])
    refused(r"values\[1\]: expected 3 elements", values=[values[0], values[1][:2]])
    refused("values: expected as many sequences as xs, 2, got 1", values=values[:1])
    refused(r"values\[0\]: expected finite", values=[v * np.nan for v in values])
    refused(r"values\[0\]: expected shape \(n,\)", values=[v[None] for v in values])
    refused(r"xs\[1\]: expected finite", xs=[xs[0], xs[1] * np.inf])
    refused(r"xs\[1\]: expected elements like", xs=[xs[0], xs[1][:, :2]])
    refused("lengths: expected None beside a list", lengths=[3, 3])
    refused("lengths: expected 1..3", xs=padded(xs), values=padded(values), lengths=[3, 4])
    refused("prior: expected shape", prior=prior[:2])
    refused("xs: expected at least one", xs=[], values=[], labels=np.zeros(0, int))
    long = np.zeros((2, 21, 3), np.float32)
    refused(r"xs\[0\]: expected at most 20", xs=long, values=np.zeros((2, 21)))


# Bootstrap


def test_bootstrap_interval_is_close_to_the_normal_one(rng):
    values = rng.normal(size=(400, 2)) * [1, 3] + 5
    low, high = metrics.bootstrap_interval(values, key=KEY, resamples=4000)
    half = 1.96 * values.std(0) / 20
    np.testing.assert_allclose(high - low, 2 * half, rtol=0.06)
    np.testing.assert_allclose((high + low) / 2, values.mean(0), atol=0.02)
    paired = metrics.bootstrap_interval(values - values, key=KEY)
    assert (paired.low == 0).all() and (paired.high == 0).all()


def test_bootstrap_interval_agrees_with_scipy(rng):
    values = rng.gamma(1.5, size=(25, 2))  # skewed, so that the interval is not symmetric
    options = {"confidence_level": 0.9, "n_resamples": 20_000, "method": "percentile"}
    expected = stats.bootstrap((values,), np.mean, axis=0, rng=rng, **options).confidence_interval
    found = metrics.bootstrap_interval(values, key=KEY, confidence=0.9, resamples=20_000)
    error = 0.02 * values.std(0)  # of percentiles of 20,000 means
    assert (np.abs(found.low - expected.low) < error).all()
    assert (np.abs(found.high - expected.high) < error).all()


def test_bootstrap_skips_nan():
    values = np.array([[1.0, 2], [3, np.nan], [5, np.nan]])
    low, high = metrics.bootstrap_interval(values, key=KEY, resamples=100)
    assert low[1] == high[1] == 2 and 1 <= low[0] < high[0] <= 5
    single = metrics.bootstrap_interval([4.0], key=KEY)
    assert single.low == single.high == 4


def test_bootstrap_refuses_bad_input():
    cases = [
        ({"values": np.full((2, 1), np.nan)}, "values: expected a sequence with a value"),
        ({"values": []}, "values: expected shape"),
        ({"confidence": 1.0}, "confidence: expected a share"),
        ({"resamples": 0}, "resamples: expected an integer >= 1"),
        ({"key": None}, "key: expected a PRNG key"),
    ]
    for changed, match in cases:
        with pytest.raises(ValueError, match=match):
            metrics.bootstrap_interval(**({"values": [1.0, 2.0], "key": KEY} | changed))


# Positions


def positions_twin(rows, k, bins):
    """Loops over sequences, and over pairs of their elements."""
    highest, lowest, n_sequences = np.zeros(k), np.zeros(k), np.zeros(k, int)
    positive, elements = np.zeros(k), np.zeros(k)
    shares = [[[] for _ in range(k)] for _ in range(k)]
    for row in rows:
        n = len(row)
        at = [i if bins is None else int((i + 0.5) / n * bins + 1e-12) for i in range(n)]
        for counts, extreme in ((highest, max(row)), (lowest, min(row))):
            tied = [i for i in range(n) if row[i] == extreme]
            for i in tied:
                counts[at[i]] += 1 / len(tied)
        for p in set(at):
            n_sequences[p] += 1
        for i in range(n):
            elements[at[i]] += 1
            positive[at[i]] += row[i] > 0
        for p in set(at):
            for q in set(at):
                wins = [
                    1.0 if row[i] > row[j] else 0.5 if row[i] == row[j] else 0.0
                    for i in range(n)
                    for j in range(n)
                    if at[i] == p and at[j] == q
                ]
                shares[p][q].append(np.mean(wins))
    above = [[np.mean(s) if s else np.nan for s in line] for line in shares]
    share = [p / e if e else np.nan for p, e in zip(positive, elements, strict=True)]
    return highest, lowest, np.array(above), np.array(share), n_sequences


def check_positions(found, rows, k, bins):
    highest, lowest, above, share, n_sequences = positions_twin(rows, k, bins)
    np.testing.assert_allclose(found.most_supporting, highest)
    np.testing.assert_allclose(found.most_distracting, lowest)
    np.testing.assert_allclose(found.above, above)
    np.testing.assert_allclose(found.supporting, share)
    np.testing.assert_allclose(found.distracting, 1 - share)
    np.testing.assert_array_equal(found.n_sequences, n_sequences)


@pytest.mark.parametrize("bins", [None, 1, 3, 7])
@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=1, max_size=6), min_size=1, max_size=6),
)
def test_position_statistics_equal_the_plain_loops(bins, rows):
    rows = [np.array(row, float) for row in rows]
    found = metrics.position_statistics(rows, bins=bins)
    check_positions(found, rows, max(map(len, rows)) if bins is None else bins, bins)
    there = ~np.isnan(found.above)
    np.testing.assert_allclose((found.above + found.above.T)[there], 1)
    assert found.most_supporting.sum() == pytest.approx(len(rows))


def test_positions_by_hand():
    found = metrics.position_statistics(np.array([[1.0, -1, 0], [2, 2, -3]]))
    assert found.most_supporting.tolist() == [1.5, 0.5, 0]
    assert found.most_distracting.tolist() == [0, 1, 1]
    assert found.above.tolist() == [[0.5, 0.75, 1], [0.25, 0.5, 0.5], [0, 0.5, 0.5]]
    assert found.supporting.tolist() == [1, 0.5, 0] and found.distracting.tolist() == [0, 0.5, 1]


def test_positions_of_padded_values(rng):
    values, lengths = rng.normal(size=(4, 5)), [5, 2, 4, 1]
    found = metrics.position_statistics(values, lengths)
    check_positions(found, [v[:n] for v, n in zip(values, lengths, strict=True)], 5, None)


def test_positions_refuse_bad_input(rng):
    values = rng.normal(size=(3, 4))
    cases = [
        ({"bins": 0}, ValueError, "bins: expected an integer >= 1"),
        ({"lengths": [4, 0, 4]}, ValueError, "lengths: expected 1..4"),
        ({"lengths": [4, 4]}, ValueError, "lengths: expected shape"),
        ({"lengths": [4.0, 1.0, 2.0]}, TypeError, "lengths: expected integers"),
        ({"values": values[..., None]}, ValueError, r"values\[0\]: .*Choose a class"),
        ({"values": values * np.nan}, ValueError, r"values\[0\]: expected finite"),
        ({"values": values[0]}, ValueError, "values: expected shape"),
        ({"values": [values[0], values[1][:0]]}, ValueError, r"values\[1\]: expected elements"),
    ]
    for changed, kind, match in cases:
        with pytest.raises(kind, match=match):
            metrics.position_statistics(**({"values": values} | changed))


# Support


def jitted_or_not(f):
    return pytest.mark.parametrize("run", [f, jax.jit(f)], ids=["plain", "jit"])


@jitted_or_not(support_statistics)
def test_support_statistics_equal_the_plain_loop(rng, run):
    values = rng.integers(-2, 3, size=(5, 6)).astype(np.float32)
    found = run(values)
    for i, row in enumerate(values.tolist()):
        np.testing.assert_allclose(found.supporting[i], sum(v > 0 for v in row) / 6)
        np.testing.assert_allclose(found.distracting[i], sum(v <= 0 for v in row) / 6, atol=1e-6)
        np.testing.assert_allclose(found.support[i], sum(v for v in row if v > 0))
        np.testing.assert_allclose(found.distraction[i], sum(v for v in row if v <= 0))
    single = run(values[0])
    assert single.support.shape == () and single.support == found.support[0]


def test_support_and_distraction_add_up_to_the_evidential_score(rng):
    game, x, prior, _ = multi_scale_case(rng, 5, 3)
    att = ej.explain(game, x, prior=prior)
    found = support_statistics(att.values.T)
    np.testing.assert_allclose(found.support + found.distraction, att.evidential_score(), atol=1e-6)


def test_support_refuses_bad_input():
    values = np.zeros((2, 3), np.float32)
    for args, kind, match in (
        ((values.astype(int),), TypeError, "values: expected a floating"),
        ((values[:, :0],), ValueError, "values: expected shape"),
    ):
        with pytest.raises(kind, match=match):
            support_statistics(*args)


# Methods


def test_correlations_equal_numpy_and_are_invariant_to_scale_and_offset(rng):
    a, b = rng.normal(size=(2, 4, 3, 6)).astype(np.float32)
    b[2, 1] = 0.1  # constant: no correlation
    expected = [
        [np.corrcoef(*pair)[0, 1] for pair in zip(*rows, strict=True)]
        for rows in zip(a, np.where(b == np.float32(0.1), np.nan, b), strict=True)
    ]
    np.testing.assert_allclose(metrics.pearson(a, b), expected, atol=1e-5)
    np.testing.assert_allclose(metrics.pearson(a, 3 * a - 1), np.ones((4, 3)), atol=1e-5)
    np.testing.assert_allclose(metrics.pearson(a, -1e-25 * a), -np.ones((4, 3)), atol=1e-5)
    assert np.isnan(metrics.pearson(a[..., :1], a[..., :1])).all()
    uniform = np.full(a.shape, 1 / 6, np.float32)
    assert np.isnan(metrics.pearson(a, uniform)).all()


@jitted_or_not(smoothness)
def test_smoothness_equals_the_plain_loop(rng, run):
    a, b = rng.normal(size=(2, 3, 5)).astype(np.float32)
    found = run(a, b)
    for v in range(3):
        change = sum(abs(b[v, i] - a[v, i]) for i in range(5)) / sum(abs(a[v]))
        np.testing.assert_allclose(found.change[v], change, rtol=1e-5)
        np.testing.assert_allclose(found.pearson[v], np.corrcoef(a[v], b[v])[0, 1], rtol=1e-4)
    same = run(a, a)
    assert (np.asarray(same.change) == 0).all()
    np.testing.assert_allclose(same.pearson, [1, 1, 1], rtol=1e-5)


def test_methods_refuse_bad_input():
    a = np.zeros((2, 3, 4), np.float32)
    for f, args, kind, match in (
        (metrics.pearson, (a, a[:1]), ValueError, "approx: expected the shape of exact"),
        (metrics.pearson, (a[..., :0], a[..., :0]), ValueError, "approx: expected shape"),
        (smoothness, (a, a[:1]), ValueError, "values_original: expected the shape"),
        (smoothness, (a, a.astype(int)), TypeError, "values_jittered: expected a floating"),
    ):
        with pytest.raises(kind, match=match):
            f(*args)


def test_non_finite_values_are_refused(rng):
    """They would count as distracting, drop out of a mean, or sort first."""
    values = rng.normal(size=(2, 4)).astype(np.float32)
    bad = np.where(np.arange(4) == 3, np.nan, values)
    for measure in (metrics.relative_error, metrics.pearson, metrics.lad_slope):
        with pytest.raises(ValueError, match=r"approx: expected finite .* nan at index \(0, 3\)"):
            measure(bad, values)
        with pytest.raises(ValueError, match="exact: expected finite"):
            measure(values, bad)
    with pytest.raises(ValueError, match="values: expected finite"):
        support_statistics(bad)
    with pytest.raises(ValueError, match="values_jittered: expected finite"):
        smoothness(values, bad)


def test_element_metrics_work_under_debug_nans(rng):
    a, b = rng.normal(size=(2, 3, 4)).astype(np.float32)
    measures = {
        "relative_error": metrics.relative_error,
        "pearson": metrics.pearson,
        "lad_slope": metrics.lad_slope,
        "smoothness": smoothness,
        "support_statistics": lambda a, b: support_statistics(a),
    }
    expected = {name: measure(a, b) for name, measure in measures.items()}
    with jax.debug_nans(True):
        for name, measure in measures.items():
            found = jax.tree.leaves(measure(a, b))
            for one, other in zip(found, jax.tree.leaves(expected[name]), strict=True):
                np.testing.assert_array_equal(one, other, err_msg=name)
