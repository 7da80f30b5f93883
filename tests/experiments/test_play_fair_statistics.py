"""Figures 4, 5 and 6 of experiments.play_fair, on a subject of a dozen random sequences."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import scipy.stats

import esv_jax as ej
from esv_jax.models.heads import TsnHead
from experiments.play_fair import fig4, fig5, fig6
from experiments.play_fair.figure import Settings
from experiments.statistics import (
    mean_of,
    plain,
    rank_correlation,
    resampled_means,
    wilson,
    with_interval,
)
from tests.experiments.subjects_for_tests import C, D, random_subject

N = 4
LENGTHS = (3, 4, 4, 5, 6, 6, 7, 8, 9, 9, 9, 9, 9, 9)
SETTINGS = Settings(n_elements=N, n_resamples=200)


@pytest.fixture(scope="module")
def subject():
    w = np.random.default_rng(2).normal(size=(D, C)).astype(np.float32)
    prior = np.full(C, 1 / C)
    tsn = ej.models.TrainedModel(TsnHead(w, np.zeros(C, np.float32)), prior, tuple("abcd"))
    return random_subject(LENGTHS, tsn=tsn)


@pytest.fixture(scope="module")
def alone(subject):
    """Without a TSN, and all sequences exactly N long."""
    return dataclasses.replace(
        subject, tsn=None, sequences=[x[-3:].repeat(2, 0)[:N] for x in subject.sequences]
    )


@pytest.fixture(scope="module")
def outcomes(subject):
    return {f.__name__.split(".")[-1]: f.measure(subject, SETTINGS) for f in (fig4, fig5, fig6)}


def check_outcome(found):
    json.dumps(found.numbers, allow_nan=False)
    assert {row.agrees for row in found.findings} <= {True, False, None}
    assert len({row.quantity for row in found.findings}) == len(found.findings)
    assert found.table.startswith("| ")
    json.dumps([row._asdict() for row in found.findings], allow_nan=False)


def of_true_class(game, prior, subject, n=N):
    """(rows, ESVs, predicted), a sequence at a time."""
    rows = [i for i, x in enumerate(subject.sequences) if len(x) >= n]
    esv, predicted = [], []
    for i in rows:
        x = subject.sequences[i]
        att = ej.explain(game, x[ej.data.segment_centres(len(x), n)], prior=prior)
        esv.append(np.asarray(att.values, float))
        predicted.append(int(np.argmax(att.scores)))
    return rows, esv, predicted


# What comes out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig4", "fig5", "fig6"])
def test_outcomes_are_plain(outcomes, name, tmp_path):
    found = outcomes[name]
    check_outcome(found)
    for picture, figure in found.pictures.items():
        path = ej.plots.save_figure(figure, tmp_path / f"{picture}.png", dpi=40)
        assert path.stat().st_size > 1000
    found.store.to_netcdf(tmp_path / "arrays.nc", engine="h5netcdf")


@pytest.mark.slow
def test_without_tsn_and_too_short(alone):
    found = {f: f.measure(alone, SETTINGS) for f in (fig4, fig5, fig6)}
    for outcome in found.values():
        check_outcome(outcome)
    unknown = [row for row in found[fig4].findings if "TSN" in row.quantity]
    assert len(unknown) == 2
    assert all(row.value is None and "no TSN" in row.note for row in unknown)
    assert set(found[fig4].numbers["models"]) == {"TRN"}
    assert "TSN" not in found[fig5].numbers["matrices"]
    assert found[fig6].numbers["smoothness"] is None
    assert found[fig6].findings[-1].value is None
    assert found[fig6].numbers["lengths"]["n"] == [1, 2, 3, 4]


def test_elements_that_no_sequence_has(subject):
    for figure in (fig4, fig5, fig6):
        with pytest.raises(ValueError, match="at least 10 elements, got at most 9"):
            figure.measure(subject, dataclasses.replace(SETTINGS, n_elements=10))


# Means


def test_means_leave_out_what_is_not_there():
    values = np.array([[1.0, np.nan, np.nan], [2, 5, np.nan], [6, np.nan, np.nan]])
    found = mean_of(values, SETTINGS)
    assert found["mean"] == [3, 5, None] and found["n_sequences"] == [3, 1, 0]
    assert found["low"][0] < 3 < found["high"][0] and found["low"][1:] == [None, None]
    draws = resampled_means(values[:, :2], SETTINGS)
    assert draws.shape == (200, 2) and set(draws[~np.isnan(draws[:, 1]), 1]) == {5}
    assert abs(draws[:, 0].mean() - 3) < 0.3
    np.testing.assert_allclose(resampled_means(values[:, 0] + 1, SETTINGS), draws[:, 0] + 1)
    assert with_interval(np.nan, np.full(3, np.nan)) == {"mean": None, "low": None, "high": None}
    assert plain({"a": [np.float64("nan"), np.int64(2)]}) == {"a": [None, 2]}


def test_wilson_against_scipy():
    found = wilson(np.array([0, 3, 10]), 10)
    assert found["mean"] == [0, 0.3, 1]
    for k, count in enumerate((0, 3, 10)):
        wanted = scipy.stats.binomtest(count, 10).proportion_ci(method="wilson")
        np.testing.assert_allclose((found["low"][k], found["high"][k]), wanted, atol=1e-9)


# Figure 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TRN", "TSN"])
def test_supporting_and_positions_in_loops(subject, outcomes, name):
    game = subject.game if name == "TRN" else subject.tsn_game
    rows, esv, predicted = of_true_class(game, subject.trn.prior, subject)
    shares = {group: [] for group in fig4.GROUPS}
    highest, lowest = np.zeros(N), np.zeros(N)
    for i, values, p in zip(rows, esv, predicted, strict=True):
        label = int(subject.labels[i])
        share = sum(values[k, label] > 0 for k in range(N)) / N
        shares["all"].append(share)
        shares["right" if p == label else "wrong"].append(share)
        if p != label:
            supporting = sum(values[k, p] > 0 for k in range(N)) / N
            shares["wrong, predicted class"].append(supporting)
        highest[values[:, label].argmax()] += 1
        lowest[values[:, label].argmin()] += 1
    model = outcomes["fig4"].numbers["models"][name]
    for group, values in shares.items():
        found = model["groups"][group]["supporting"]
        assert found["n_sequences"] == len(values)
        np.testing.assert_allclose(found["mean"], np.mean(values), atol=1e-6)
    gap = np.mean(shares["right"]) - np.mean(shares["wrong"])
    np.testing.assert_allclose(model["right - wrong"]["mean"], gap, atol=1e-6)
    v = len(rows)
    np.testing.assert_allclose(model["positions"]["supporting"]["mean"], highest / v)
    np.testing.assert_allclose(model["positions"]["distracting"]["mean"], lowest / v)
    ends = (highest[0] + highest[-1]) / v
    np.testing.assert_allclose(model["ends"]["supporting"]["mean"], ends)
    distance = np.mean([np.abs(count / v - 1 / N).sum() / 2 for count in (highest, lowest)])
    np.testing.assert_allclose(model["preference"]["mean"], distance)


def test_ties_share_a_place():
    where = fig4.extremes(np.array([[1.0, 1, 0], [0, 0, 0]]))
    np.testing.assert_allclose(where[0], [[0.5, 0.5, 0], [0, 0, 1]])
    np.testing.assert_allclose(where[1], np.full((2, 3), 1 / 3))
    assert fig4.preference(np.array([[1.0, 0, 0], [1, 0, 0]])) == pytest.approx(2 / 3)
    assert fig4.preference(np.full((2, 4), 0.25)) == 0


def interval(low, high):
    return {"mean": (low + high) / 2, "low": low, "high": high}


def model_of(share=0.5, n_right=50, n_wrong=50, gap=(0.1, 0.2), ends=((0, 1), (0, 1))):
    group = {"supporting": interval(share - 0.01, share + 0.01)}
    return {
        "accuracy": interval(0.94, 0.96),
        "groups": dict.fromkeys(fig4.GROUPS, group),
        "n_right": n_right,
        "n_wrong": n_wrong,
        "right - wrong": interval(*gap),
        "ends": {
            name: interval(*e) for name, e in zip(("supporting", "distracting"), ends, strict=True)
        },
        "preference": interval(0.1, 0.2) | {"of none": 0.05},
    }


def findings_of(trn, between=None, n=8):
    """Findings of figure 4 in order: half, right - wrong, models, two ends, preference."""
    numbers = {"models": {"TRN": trn}, "n_elements": n}
    if between is not None:
        numbers["TRN - TSN"] = between
    return fig4.findings(numbers)


@pytest.mark.parametrize(("share", "agrees"), [(0.55, True), (0.75, False), (0.3, False)])
def test_about_half_do_not_support(share, agrees):
    found = findings_of(model_of(share))[0]
    assert found.agrees == agrees and found.value == pytest.approx(100 * (1 - share))
    assert (found.low, found.high) == pytest.approx((99 - 100 * share, 101 - 100 * share))


def test_right_minus_wrong():
    for gap, agrees in {(0.1, 0.2): True, (-0.1, 0.2): False, (-0.2, -0.1): False}.items():
        found = findings_of(model_of(gap=gap))[1]
        assert found.agrees == agrees and found.low == pytest.approx(100 * gap[0])
    for counts in ({"n_wrong": 4}, {"n_right": 4}):
        assert findings_of(model_of(**counts))[1].value is None


def test_difference_of_two_models():
    cases = {
        (0.03, 0.1): True,
        (-0.1, -0.03): True,
        (-0.1, 0.1): False,
        (-0.01, 0.015): False,
        (0.005, 0.015): False,
    }
    for ends, agrees in cases.items():
        gap = interval(*ends)
        between = {"supporting, both right": gap, "n_both_right": 9, "preference": gap}
        found = findings_of(model_of(), between)[2]
        assert found.agrees == agrees and found.high == pytest.approx(100 * ends[1])
        few = findings_of(model_of(), between | {"n_both_right": 4})[2]
        assert few.value is None and few.agrees is None


def test_positions_beside_chance():
    high, low = (0.3, 0.4), (0.1, 0.3)  # chance is 1/4
    for ends in ((high, high), (high, low), (low, high), (low, low)):
        found = findings_of(model_of(ends=ends))[3:5]
        assert [row.agrees for row in found] == [end == high for end in ends]
        assert [row.value for row in found] == pytest.approx([50 * sum(end) for end in ends])
    assert [row.value for row in findings_of(model_of(), n=2)[3:5]] == [None, None]
    for ends, agrees in {(0.1, 0.2): True, (-0.1, 0.2): False, (-0.2, -0.1): False}.items():
        gap = interval(*ends)
        between = {"supporting, both right": gap, "n_both_right": 9, "preference": gap}
        assert findings_of(model_of(), between)[5].agrees == agrees
    assert findings_of(model_of())[5].value is None


# Figure 5


@pytest.mark.slow
def test_pairs_in_loops(subject, outcomes):
    rows, esv, _ = of_true_class(subject.game, subject.trn.prior, subject)
    wanted = np.zeros((N, N))
    for i, values in zip(rows, esv, strict=True):
        phi = values[:, subject.labels[i]]
        for a, b in itertools.product(range(N), repeat=2):
            wanted[a, b] += 1.0 if phi[a] > phi[b] else 0.5 if phi[a] == phi[b] else 0.0
    found = outcomes["fig5"].numbers["matrices"]["TRN"]
    share = wanted / len(rows)
    np.testing.assert_allclose(found["share"], share)
    low, high = np.array(found["low"]), np.array(found["high"])
    np.testing.assert_allclose(low, 1 - high.T)
    differs = sum(
        low[a, b] > 0.5 or high[a, b] < 0.5 for a, b in itertools.combinations(range(N), 2)
    )
    assert found["n_differ"] == differs
    squares = [(share[a, b] - 0.5) ** 2 for a, b in itertools.combinations(range(N), 2)]
    distance = outcomes["fig5"].numbers["overall"]["squared distance"]
    np.testing.assert_allclose(distance, np.mean(squares))


def test_classes_by_distance(rng):
    esv = rng.normal(size=(60, 3))
    labels = np.repeat([0, 1, 2, 3], [20, 20, 11, 9])
    esv[labels == 1, 0] += 3
    pairs = fig5.pairs_above(esv)
    found = fig5.class_distances(pairs, labels)
    assert next(iter(found)) == 1 and set(found) == {0, 1, 2}
    wanted = []
    for i, j in itertools.combinations(range(3), 2):
        x = (esv[labels == 1, i] > esv[labels == 1, j]).astype(float)
        wanted.append((x.mean() - 0.5) ** 2 - x.var(ddof=1) / 20)
    np.testing.assert_allclose(found[1], np.mean(wanted))


def test_shuffles_tell_a_preference(rng):
    esv = rng.normal(size=(80, 4))
    labels = np.arange(80) % 2
    assert fig5.between_classes(fig5.pairs_above(esv), np.zeros(80, int), 5, rng) is None
    placed = esv + 2 * np.eye(4)[labels]  # the class says which element is high
    for values, beyond in ((esv, False), (placed, True)):
        pairs = fig5.pairs_above(values)
        shuffled = fig5.shuffled_elements(values, 99, rng)
        overall = fig5.against_shuffles(fig5.overall_distance(pairs), shuffled)
        classes = fig5.between_classes(pairs, labels, 99, rng)
        for found in (overall, classes):
            assert (found["p"] == 0.01) == beyond
            assert not beyond or found["squared distance"] > found["by chance, 95 %"]
        share = [pairs[labels == c].mean(0) - pairs.mean(0) for c in (0, 1)]
        i, j = np.triu_indices(4, 1)
        wanted = np.mean([(s[i, j] ** 2).mean() for s in share])
        np.testing.assert_allclose(classes["squared distance"], wanted)


def test_distances_beside_shuffles():
    def distance(value):
        by_chance = {"by chance": 0.01, "by chance, 95 %": 0.02, "p": 0.5}
        return {"squared distance": value} | by_chance

    for value, n_differ, beyond, half in (
        (0.03, 14, True, True),
        (0.03, 13, True, False),
        (0.015, 20, False, True),
        (0.005, 20, False, True),
    ):
        numbers = {
            "overall": distance(value),
            "matrices": {"TRN": {"n_differ": n_differ}},
            "n_pairs": 28,
            "between classes": distance(value),
        }
        overall, pairs, classes = fig5.findings(numbers)
        assert overall.agrees == classes.agrees == beyond
        assert overall.value == classes.value == pytest.approx(100 * value**0.5)
        assert (pairs.value, pairs.agrees) == (n_differ, half)
    assert fig5.findings(numbers | {"between classes": None})[2].value is None


# Figure 6


@pytest.mark.slow
def test_marginals_from_every_subsequence(subject, outcomes):
    found = outcomes["fig6"].store["marginals"].values
    assert found.shape == (len(LENGTHS), N, N)
    assert np.isnan(found[0]).all()  # it has 3 elements
    for v in (1, 5):
        x, c = subject.sequences[v], subject.labels[v]
        x = x[ej.data.segment_centres(len(x), N)]
        parts = [p for s in range(1, N + 1) for p in itertools.combinations(range(N), s)]
        batch = ej.explain_batch(
            subject.game,
            [x[list(part)] for part in parts],
            prior=subject.trn.prior,
            estimator=ej.Exact(),
        )
        score = {(): subject.trn.prior[c]}
        score |= dict(zip(parts, np.asarray(batch.scores)[:, c].tolist(), strict=True))
        for s, i in itertools.product(range(1, N + 1), range(N)):
            others = [k for k in range(N) if k != i]
            gains = [
                score[tuple(sorted((*part, i)))] - score[part]
                for part in itertools.combinations(others, s - 1)
            ]
            np.testing.assert_allclose(found[v, s - 1, i], np.mean(gains), atol=1e-5)


@pytest.mark.slow
def test_means_by_scale(outcomes):
    marginals = outcomes["fig6"].store["marginals"].values[1:]
    found = outcomes["fig6"].numbers["marginals"]
    for s in range(N):
        values = [marginals[v, s].mean() for v in range(len(marginals))]
        sizes = [np.abs(marginals[v, s]).mean() for v in range(len(marginals))]
        np.testing.assert_allclose(found["signed"]["mean"][s], np.mean(values))
        np.testing.assert_allclose(found["absolute"]["mean"][s], np.mean(sizes))


@pytest.mark.slow
def test_shares_by_length(subject, outcomes):
    found = outcomes["fig6"].numbers["lengths"]
    assert found["n"] == [1, 2, 3, 4, 6, 8]
    enough = [sum(length >= n for length in LENGTHS) for n in found["n"]]
    assert found["all"]["n_sequences"] == enough
    assert found["same"]["n_sequences"] == [enough[-1]] * 6
    rows, esv, _ = of_true_class(subject.game, subject.trn.prior, subject)
    shares = [
        (values[:, subject.labels[i]] > 0).mean() for i, values in zip(rows, esv, strict=True)
    ]
    np.testing.assert_allclose(found["all"]["mean"][3], np.mean(shares), atol=1e-6)
    longest = [s for i, s in zip(rows, shares, strict=True) if len(subject.sequences[i]) >= 8]
    np.testing.assert_allclose(found["same"]["mean"][3], np.mean(longest), atol=1e-6)
    some = fig6.supporting_shares(subject, 5)
    assert (~np.isnan(some[:, 0])).sum() == 5


@pytest.mark.slow
def test_jitter_of_esvs(subject, outcomes):
    found = outcomes["fig6"].store["smoothness"]
    assert tuple(found["attribution"].values) == fig6.METHODS
    known = ~np.isnan(found.values).any((0, 2))
    assert [length for length, k in zip(LENGTHS, known, strict=True) if k] == [9] * 6
    assert outcomes["fig6"].numbers["smoothness"]["n_sequences"] == 6
    for i in np.flatnonzero(known):  # of 8 elements the last centre has none after it
        x, c = subject.sequences[i], subject.labels[i]
        centres = ej.data.segment_centres(9, N)
        original, later, earlier = (
            np.asarray(ej.explain(subject.game, x[at], prior=subject.trn.prior).values)[:, c]
            for at in (centres, centres + 1, centres - 1)
        )
        r = [np.corrcoef(original, other)[0, 1] for other in (later, earlier)]
        change = [
            np.abs(other - original).sum() / np.abs(original).sum() for other in (later, earlier)
        ]
        wanted = np.mean(r), np.mean(change)
        np.testing.assert_allclose(found.sel(attribution="ESV").values[i], wanted, atol=1e-4)


def test_spearman_against_scipy(rng):
    values = np.round(rng.normal(size=(20, 6)), 1)
    values[0, :2] = values[0, 2]
    wanted = [scipy.stats.spearmanr(row, np.arange(6)).statistic for row in values]
    np.testing.assert_allclose(rank_correlation(values, np.arange(6)), wanted)
    assert np.isnan(rank_correlation(np.zeros(4), np.arange(4)))


def test_trends():
    rng = np.random.default_rng(1)
    falling = np.array([4.0, 3, 2, 1]) + 0.1 * rng.normal(size=(30, 4))
    for values, agrees in (
        (falling, (True, True)),
        (falling[:, [1, 3, 0, 2]], (True, False)),  # 3, 1, 4, 2
        (falling[:, ::-1], (False, False)),
        (0 * falling + rng.normal(size=(30, 4)), (False, False)),
    ):
        found = fig6.with_trend(values, SETTINGS)
        drop, rho = fig6.falls("f", "g", found, 1)
        assert (drop.agrees, rho.agrees) == agrees
        assert drop.value == pytest.approx((values[:, -1] - values[:, 0]).mean())
        assert rho.value == found["trend"]["spearman"]["mean"]
        json.dumps(found, allow_nan=False)
    assert fig6.trend(falling[:, :2], SETTINGS) is None
    flat = fig6.trend(np.ones((5, 4)), SETTINGS)
    assert flat["spearman"]["mean"] is None
    found = mean_of(np.ones((5, 4)), SETTINGS) | {"trend": flat}
    drop, rho = fig6.falls("f", "g", found, 1)
    assert (drop.value, drop.agrees, rho.value) == (0, False, None)
    for row in fig6.falls("f", "g", {"trend": None}, 1):
        assert row.value is None and row.agrees is None and "fewer than 3" in row.note


@pytest.mark.parametrize(
    ("pearson", "change", "agrees"),
    [
        ((0.1, 0.2), (-0.2, -0.1), (True, True)),
        ((0.1, 0.2), (-0.1, 0.1), (True, True)),
        ((-0.1, 0.2), (0.1, 0.2), (False, False)),
        ((-0.2, -0.1), (-0.1, 0.1), (False, True)),
    ],
)
def test_smoothness_beside_gradients(pearson, change, agrees):
    between = {"pearson": interval(*pearson), "change": interval(*change)}
    found = {"ESV - other": dict.fromkeys(fig6.METHODS[1:], between), "median shift": 0.25}
    rows = fig6.smooth(found)
    assert [row.agrees for row in rows] == 2 * list(agrees)
    assert rows[0].low == pearson[0] and rows[1].high == change[1]
    assert all(row.note == "one element is 25 % of a segment" for row in rows)
    assert all(row.value is None for row in fig6.smooth(None))
