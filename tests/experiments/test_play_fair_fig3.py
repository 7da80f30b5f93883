"""Figure 3 of Play Fair: discard curves beside slow loops, and findings on given numbers."""

import copy
import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.models.heads import unstack_heads
from experiments.play_fair import fig3
from experiments.play_fair.figure import Settings, draw
from experiments.play_fair.methods import METHODS
from experiments.play_fair.subjects import explain_exactly
from tests.experiments.subjects_for_tests import random_subject

N = 4
LENGTHS = [4, 6, 5, 3, 7, 4, 5, 6, 4, 5, 7, 4]
SETTINGS = Settings(n_elements=N, n_resamples=300)
ORDERS = fig3.ORDERS


@pytest.fixture(scope="module")
def subject():
    return random_subject(LENGTHS)


@pytest.fixture(scope="module")
def outcome(subject):
    return fig3.measure(subject, SETTINGS)


def probabilities(heads, x):
    """f^ms by its definition: the mean over scales of the mean over subsequences, then softmax."""
    scales = []
    for s, head in enumerate(heads[: len(x)], start=1):
        logits = []
        for chosen in itertools.combinations(range(len(x)), s):
            hidden = np.maximum(x[list(chosen)].reshape(-1) @ head["w1"] + head["b1"], 0)
            logits.append(hidden @ head["w2"] + head["b2"])
        scales.append(np.mean(logits, axis=0))
    logits = np.mean(scales, axis=0)
    return np.exp(logits) / np.exp(logits).sum()


def slow_curve(subject, elements, values, order):
    """Right or wrong, and the class's score, (V', n) each, one drop after another."""
    heads = unstack_heads(subject.trn.heads)
    right, scores = [], []
    for x, own, label in zip(elements.xs, values, elements.labels, strict=True):
        left, rights, each = list(range(len(x))), [], []
        while left:
            found = probabilities(heads, x[left].astype(float))
            rights.append(found.argmax() == label)
            each.append(found[label])
            pick = max if order == "descending" else min
            left.remove(pick(left, key=lambda i, own=own: (own[i], -i if pick is max else i)))
        right.append(rights)
        scores.append(each)
    return np.array(right, float), np.array(scores)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", ["ESV", "Grad-CAM", "centre-out", "random"])
def test_curves_areas_and_leads_are_those_of_a_slow_loop(subject, outcome, method, order):
    elements = subject.at_centres(N)
    assert outcome.store.sizes["video"] == len(elements.rows) == 11  # one sequence is too short
    values = outcome.store["value"].sel(attribution=method).values
    if method == "ESV":
        exact, _ = explain_exactly(subject.game, subject.trn.prior, elements)
        wanted = [esv[:, label] for esv, label in zip(exact, elements.labels, strict=True)]
        np.testing.assert_allclose(values, wanted, atol=1e-6)
    found = outcome.numbers["curves"][method][order]
    slow = dict(zip(fig3.MEASURES, slow_curve(subject, elements, values, order), strict=True))
    own = outcome.store["value"].sel(attribution="ESV").values
    of_esv = dict(zip(fig3.MEASURES, slow_curve(subject, elements, own, order), strict=True))
    sign = -1 if order == "descending" else 1
    for name, rows in slow.items():
        np.testing.assert_allclose(found[name]["mean"], rows.mean(0), atol=1e-5)
        np.testing.assert_allclose(found[name]["area"]["mean"], rows.mean(), atol=1e-5)
        assert (np.array(found[name]["low"]) <= np.array(found[name]["mean"]) + 1e-9).all()
        assert (np.array(found[name]["high"]) >= np.array(found[name]["mean"]) - 1e-9).all()
        if method == "ESV":
            continue
        lead = outcome.numbers["lead"][method][order][name]
        difference = sign * (of_esv[name] - rows)
        np.testing.assert_allclose(lead["mean"], difference.mean(0), atol=1e-5)
        np.testing.assert_allclose(lead["area"]["mean"], difference.mean(), atol=1e-5)
    if order == "ascending":
        for name, rows in slow.items():
            wanted = (rows[:, N // 2] - rows[:, 0]).mean()
            np.testing.assert_allclose(
                outcome.numbers["gain"][method][name]["mean"], wanted, atol=1e-5
            )


@pytest.mark.slow
def test_a_lead_has_the_interval_of_paired_differences(outcome):
    store = outcome.store["class_score"]
    esv, other = (store.sel(attribution=m, order="descending").values for m in ("ESV", "random"))
    wanted = ej.metrics.bootstrap_interval(other - esv, key=jax.random.key(0), resamples=300)
    found = outcome.numbers["lead"]["random"]["descending"]["class_score"]
    np.testing.assert_allclose(found["low"], wanted.low, atol=1e-9)
    np.testing.assert_allclose(found["high"], wanted.high, atol=1e-9)


@pytest.mark.slow
def test_what_is_written(subject, outcome, tmp_path):
    json.dumps(outcome.numbers, allow_nan=False)
    assert set(outcome.numbers["curves"]) == set(METHODS)
    assert set(outcome.pictures) == {"discard", "lead"}
    assert all(row.value is not None and row.agrees is not None for row in outcome.findings)
    assert outcome.table.count("\n| ") == 2 * (len(METHODS) + 2)
    elements = subject.at_centres(N)
    everything = np.mean(
        [
            probabilities(unstack_heads(subject.trn.heads), x.astype(float)).argmax() == c
            for x, c in zip(elements.xs, elements.labels, strict=True)
        ]
    )
    np.testing.assert_allclose(outcome.numbers["all_elements"]["accuracy"]["mean"], everything)
    settings = dataclasses.replace(SETTINGS, out=tmp_path)
    draw("fig3", lambda *_: outcome, subject, settings)
    names = {path.name for path in (tmp_path / "features" / "fig3").iterdir()}
    assert names == {"summary.json", "table.md", "arrays.nc", "discard.png", "lead.png"}


def test_the_reduced_size_takes_sequences_evenly(subject, monkeypatch):
    monkeypatch.setattr(fig3, "_MOST", 3)
    elements = subject.at_centres(N)
    few = fig3.limited(subject, N, full=False)
    np.testing.assert_array_equal(few.rows, elements.rows[[1, 5, 9]])
    np.testing.assert_array_equal(few.xs, elements.xs[[1, 5, 9]])
    np.testing.assert_array_equal(few.labels, elements.labels[[1, 5, 9]])
    every = fig3.limited(subject, N, full=True)
    np.testing.assert_array_equal(every.rows, elements.rows)


@pytest.mark.parametrize(
    ("lengths", "n", "why"),
    [
        ([3, 2], 4, "at least 4 elements, got at most 3"),
        ([3, 2], 1, "at least 2 elements"),
    ],
)
def test_sequences_that_are_too_short(lengths, n, why):
    settings = dataclasses.replace(SETTINGS, n_elements=n, n_resamples=20)
    found = fig3.measure(random_subject(lengths), settings)
    assert len(found.findings) == 10
    for row in found.findings:
        assert row.value is None and row.agrees is None
        assert why in row.note
    assert found.pictures == {} and found.store is None
    json.dumps(found.numbers, allow_nan=False)


def test_few_sequences_are_not_compared():
    found = fig3.findings(made_up(0.3, 0.5, sequences=4))
    assert len(found) == 10
    assert {row.agrees for row in found} == {None}
    assert {row.note for row in found} == {"expected at least 5 sequences, got 4"}


# Findings on given numbers


def three(mean, half=0.01):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def made_up(esv, others, sequences=1000, half=0.01):
    """Numbers of two elements whose curves lie at a height, the leads being exact to `half`."""

    def curve(height, spread=0.02):
        spread = three(height, spread)
        return {part: [0.9, value] for part, value in spread.items()} | {"area": spread}

    heights = dict.fromkeys(METHODS, others) | {"ESV": esv}
    measures = fig3.MEASURES
    return {
        "n_sequences": sequences,
        "n_elements": 2,
        "half": 1,
        "all_elements": {name: three(0.9) for name in measures},
        "curves": {
            method: {order: {name: curve(height) for name in measures} for order in ORDERS}
            for method, height in heights.items()
        },
        "lead": {
            method: {
                order: {name: curve(fig3.SIGN[order] * (esv - height), half) for name in measures}
                for order in ORDERS
            }
            for method, height in heights.items()
        },
        "gain": {
            method: {name: three(height - 0.9) for name in measures}
            for method, height in heights.items()
        },
    }


@pytest.mark.parametrize(
    ("esv", "others", "descending", "ascending"),
    [
        (0.3, 0.5, True, False),
        (0.47, 0.5, False, False),  # intervals overlap
        (0.5, 0.5, False, False),
        (0.53, 0.5, False, False),
        (0.7, 0.5, False, True),
    ],
)
def test_leads_over_other_methods(esv, others, descending, ascending):
    found = fig3.findings(made_up(esv, others))
    assert len(found) == 10
    for row in found[:-1]:
        is_descending = row.quantity.startswith("highest")
        lead = 100 * (others - esv if is_descending else esv - others)
        assert (row.value, row.low, row.high) == pytest.approx((lead, lead - 1, lead + 1))
        assert row.agrees == (descending if is_descending else ascending), row.quantity


@pytest.mark.parametrize(("esv", "agrees"), [(0.95, True), (0.905, False), (0.8, False)])
def test_gain(esv, agrees):
    row = fig3.findings(made_up(esv, 0.5))[-1]
    assert row.agrees == agrees
    assert row.value == pytest.approx(100 * (esv - 0.9))


def test_the_nearest_method_decides():
    numbers = made_up(0.3, 0.5)
    level = made_up(0.3, 0.3)
    for part in ("curves", "lead"):
        numbers[part]["leave-one-in"] = copy.deepcopy(level[part]["leave-one-in"])
    papers, every, *_ = fig3.findings(numbers)
    assert (papers.agrees, every.agrees) == (True, False)
    assert papers.value == pytest.approx(20)
    assert every.note == "nearest: leave-one-in" and every.value == pytest.approx(0)


@pytest.mark.parametrize(
    ("esv", "other", "clear"),
    [(three(0.3), three(0.4), True), (three(0.3, 0.1), three(0.4, 0.1), False)]
    + [(three(0.5), three(0.4), False)],
)
def test_clear_leads_are_mirrored_by_the_order(esv, other, clear):
    assert fig3.is_clear("descending", esv, other) == clear
    turned = [
        {p: 1 - row[q] for p, q in zip(row, ("mean", "high", "low"), strict=True)}
        for row in (esv, other)
    ]
    assert fig3.is_clear("ascending", *turned) == clear
