"""Figures 2 and 7 of Play Fair on a tiny subject: numbers, findings, examples and pictures."""

import dataclasses
import json
from itertools import combinations, permutations

import jax
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.models.heads import unstack_heads
from experiments.play_fair import fig2, fig7
from experiments.play_fair.examples import Standing, contested, standing, typical
from experiments.play_fair.figure import Settings, draw
from experiments.statistics import mean_of
from tests.experiments.subjects_for_tests import C, random_subject

N, V = 5, 14
SETTINGS = Settings(n_elements=N, n_resamples=60)


def make_subject(lengths=range(4, 4 + V), names=tuple("abcd"), pictured=False):
    """Sequences of several lengths, the first too short; two thirds of the others are right."""
    subject = random_subject(lengths, names=names)

    def frames(i, index):
        assert len(subject.sequences[i]) > max(index)
        return np.full((len(index), 6, 8, 3), i, np.uint8)

    elements = subject.at_centres(N)
    batch = ej.explain_batch(subject.game, elements.xs, prior=subject.trn.prior)
    right, labels = elements.rows % 3 > 0, subject.labels.copy()
    labels[elements.rows[right]] = np.asarray(batch.scores).argmax(-1)[right]
    return dataclasses.replace(subject, labels=labels, draw=frames if pictured else None)


@pytest.fixture(scope="module")
def subject():
    return make_subject()


@pytest.fixture(scope="module")
def second(subject):
    """Figure 2 in full: it holds all that the reduced size does."""
    return fig2.measure(subject, dataclasses.replace(SETTINGS, full=True))


@pytest.fixture(scope="module")
def seventh(subject):
    return fig7.measure(subject, SETTINGS)


def scores_of_parts(subject, x):
    """Scores of every subsequence of x by the definition of f^ms: a mean over scales."""
    heads = unstack_heads(subject.trn.heads)
    table = {(): np.asarray(subject.trn.prior, float)}
    means = {(): np.zeros(len(subject.class_names))}
    for code in sorted(range(1, 2 ** len(x)), key=int.bit_count):
        part = tuple(i for i in range(len(x)) if code >> i & 1)
        s = len(part)
        below = np.mean([means[part[:k] + part[k + 1 :]] for k in range(s)], 0)
        if s <= len(heads):
            head = heads[s - 1]
            hidden = np.maximum(x[list(part)].reshape(-1) @ head["w1"] + head["b1"], 0)
            below = (hidden @ head["w2"] + head["b2"] + (s - 1) * below) / s
        means[part] = below
        e = np.exp(below - below.max())
        table[part] = e / e.sum()
    return table


def slow_esv(table, n):
    """(n, C) by every order in which elements may join."""
    esv = 0.0
    for order in permutations(range(n)):
        row = np.zeros((n, len(table[()])))
        for k, i in enumerate(order):
            before, after = tuple(sorted(order[:k])), tuple(sorted(order[: k + 1]))
            row[i] = table[after] - table[before]
        esv = esv + row
    return esv / np.prod(np.arange(1, n + 1))


@pytest.fixture(scope="module")
def slow(subject):
    """Scores of all parts and ESVs of the sequences that are long enough, in plain loops."""
    rows = [i for i, x in enumerate(subject.sequences) if len(x) >= N]
    index = [ej.data.segment_centres(len(subject.sequences[i]), N) for i in rows]
    xs = [subject.sequences[i][at] for i, at in zip(rows, index, strict=True)]
    tables = [scores_of_parts(subject, x) for x in xs]
    esv = np.stack([slow_esv(table, N) for table in tables])
    return rows, tables, esv


def is_json(outcome):
    json.dumps(outcome.numbers, allow_nan=False)
    json.dumps([row._asdict() for row in outcome.findings])


# Which sequences are shown


def test_standing_of_the_true_class():
    scores = np.array([[0.5, 0.3, 0.2], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1]])
    found = standing(scores, np.array([0, 1, 1]))
    assert found.rivals.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.margins, [0.2, -0.6, 0.7])
    assert found.right.tolist() == [True, False, True]


def test_sequences_are_chosen_by_their_margins_and_of_different_classes():
    margins = np.array([0.9, 0.8, 0.5, 0.1, -0.2, -0.7])
    found = Standing(np.zeros(6, int), margins, margins > 0)
    chosen = typical(found, np.array([0, 0, 1, 2, 3, 4]))
    assert [row for _, row in chosen] == [0, 2, 3, 5]
    kinds = ["Right, surest", "Right, median", "Right, least sure", "Wrong, surest"]
    assert [rule for rule, _ in chosen] == kinds
    # the least sure right one shares its class with the surest: the next of another class
    assert [row for _, row in typical(found, np.array([0, 1, 2, 0, 1, 5]))] == [0, 1, 2, 5]
    # where all classes are shown, the nearest that is not shown yet
    assert [row for _, row in typical(found, np.zeros(6, int))] == [0, 1, 3, 5]
    right = Standing(np.zeros(3, int), np.array([0.9, 0.5, 0.1]), np.ones(3, bool))
    rules = dict(typical(right, np.arange(3)))
    assert sorted(rules.values()) == [0, 1, 2] and "Wrong" not in str(rules)
    wrong = Standing(np.zeros(2, int), np.array([-0.9, -0.1]), np.zeros(2, bool))
    assert typical(wrong, np.array([1, 2])) == [("Wrong, surest", 0)]


def test_contested_sequences_are_of_one_pair_each():
    margins = np.array([-0.5, -0.4, -0.3, 0.1, 0.2])
    found = Standing(np.array([1, 0, 3, 4, 5]), margins, margins > 0)
    labels = np.array([0, 1, 2, 0, 0])  # the first two are of the same pair
    assert contested(found, labels, 3) == [0, 2, 3]
    assert contested(found, labels, 5) == [0, 2, 3, 4, 1]


def test_means_leave_out_nan():
    found = mean_of(np.array([1.0, np.nan, 3.0]), SETTINGS)
    assert found["mean"] == 2 and found["low"] <= 2 <= found["high"]
    for values in (np.full(3, np.nan), np.zeros(0)):
        found = mean_of(values, SETTINGS)
        assert found == {"mean": None, "low": None, "high": None, "n_sequences": 0}


# Figure 2


@pytest.mark.slow
def test_numbers_of_figure_2(subject, second, slow):
    rows, _, esv = slow
    labels = subject.labels[rows]
    of_true = esv[np.arange(len(rows)), :, labels]
    stored = second.store["values"]
    np.testing.assert_allclose(stored.sel(attribution="ESV"), of_true, rtol=0, atol=2e-6)
    numbers = second.numbers
    assert (numbers["n_sequences"], numbers["n_left_out"]) == (V - 1, 1)
    methods = stored["attribution"].to_numpy().tolist()
    assert methods == [*fig2.SHOWN, *fig2.MORE, fig2.OF_LOGIT]
    assert len(numbers["pairs"]) == 7 * 6 / 2 and len(second.findings) == 3
    for row, (a, b) in zip(second.findings, combinations(fig2.SHOWN, 2), strict=True):
        share = numbers["pairs"][f"{a}, {b}"]["disagree"]
        assert (row.value, row.low, row.high) == pytest.approx(
            tuple(100 * share[part] for part in ("mean", "low", "high"))
        )
    for pair, found in numbers["pairs"].items():
        a, b = (stored.sel(attribution=name).to_numpy() for name in pair.split(", "))
        r = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
        np.testing.assert_allclose(second.store["pearson"].sel(pair=pair), r, atol=1e-5)
        assert found["r"]["mean"] == pytest.approx(np.mean(r), abs=1e-5)
        assert found["disagree"]["mean"] == pytest.approx(np.mean(np.array(r) < 0.5))
        same = np.mean([np.argmax(x) == np.argmax(y) for x, y in zip(a, b, strict=True)])
        assert found["same_top"]["mean"] == pytest.approx(same)
        assert found["same_top"]["low"] <= same <= found["same_top"]["high"]
    is_json(second)


@pytest.mark.slow
def test_esvs_of_the_logit_do_not_depend_on_the_prior(subject, second):
    elements = subject.at_centres(N)
    game = ej.MultiScale(subject.trn.heads, link="identity")
    prior = np.linspace(-3, 3, C).astype(np.float32)
    att = ej.explain(game, elements.xs[2], prior=prior).for_class(int(elements.labels[2]))
    ours = second.store["values"].sel(attribution=fig2.OF_LOGIT)[2].to_numpy()
    assert np.corrcoef(att, ours)[0, 1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("low", "high", "agrees"), [(0.3, 0.4, True), (0.2, 0.4, False)])
def test_methods_disagree_where_the_share_is_above_a_quarter(low, high, agrees):
    share = {"mean": (low + high) / 2, "low": low, "high": high}
    names = [*fig2.SHOWN, fig2.OF_LOGIT]
    found = fig2.findings({f"{x}, {y}": {"disagree": share} for x in names for y in names})
    assert [row.agrees for row in found] == [agrees] * 3
    assert [row.value for row in found] == pytest.approx([50 * (low + high)] * 3)


def test_two_elements_have_no_correlation(rng):
    a, b = rng.normal(size=(2, 6, 2))
    r = fig2.correlations(a, b)
    assert r.shape == (6,) and np.isnan(r).all()
    one = fig2.compare(a, b, r, SETTINGS)
    assert one["r"]["mean"] is None and one["disagree"]["mean"] is None
    assert one["same_top"]["mean"] == (a.argmax(1) == b.argmax(1)).mean()
    names = [*fig2.SHOWN, fig2.OF_LOGIT]
    found = fig2.findings({f"{x}, {y}": one for x in names for y in names})
    assert [(row.value, row.agrees) for row in found] == [(None, None)] * 3
    constant = np.ones((6, 4))
    assert np.isnan(fig2.correlations(constant, rng.normal(size=(6, 4)))).all()


# Figure 7


@pytest.mark.slow
def test_contrasts_of_figure_7(subject, seventh, slow):
    rows, tables, esv = slow
    labels, whole = subject.labels[rows], tuple(range(N))
    contrasts, alone, rivals = [], [], []
    for table, phi, label in zip(tables, esv, labels, strict=True):
        rival = max((c for c in range(C) if c != label), key=lambda c: table[whole][c])
        contrasts.append(phi[:, label] - phi[:, rival])
        singles = np.array([table[(i,)] - table[()] for i in range(N)])
        alone.append((singles[:, label] - singles[:, rival]) / N)
        rivals.append(rival)
    contrasts, alone = np.array(contrasts), np.array(alone)
    assert seventh.store["rival"].to_numpy().tolist() == rivals
    np.testing.assert_allclose(seventh.store["contrast"], contrasts, rtol=0, atol=4e-6)
    np.testing.assert_allclose(seventh.store["alone"], alone, rtol=0, atol=2e-6)
    right = seventh.store["margin"].to_numpy() > 0
    numbers = seventh.numbers
    assert 0 < right.sum() < len(right) and numbers["n_wrong"] == (~right).sum()
    for name, of in (("right", right), ("wrong", ~right)):
        share = np.mean([(row > 0).mean() for row in contrasts[of]])
        assert numbers["for_true"][name]["mean"] == pytest.approx(share)
        both = np.mean([min(row) < 0 < max(row) for row in contrasts[of]])
        assert numbers["divided"][name]["mean"] == pytest.approx(both)
    assert 0 <= numbers["sum_gap"] < 1e-5
    assert numbers["single"]["alone"]["mean"] == pytest.approx(alone.sum(1).mean(), abs=1e-5)
    at = numbers["positions"]["contrast"]["mean"]
    np.testing.assert_allclose(at, contrasts.mean(0), atol=1e-5)
    is_json(seventh)


@pytest.mark.slow
def test_margins_with_half_of_the_elements_dropped(subject, seventh, slow):
    rows, tables, _ = slow
    contrasts = seventh.store["contrast"].to_numpy()
    rivals = seventh.store["rival"].to_numpy()
    margins = []
    for i, table in enumerate(tables):
        kept = tuple(sorted(np.argsort(-contrasts[i])[N // 2 :].tolist()))
        label = subject.labels[rows[i]]
        margins.append(table[kept][label] - table[kept][rivals[i]])
    found = seventh.numbers["margins"]
    assert found["n_dropped"] == N // 2
    assert found["contrast"]["mean"] == pytest.approx(np.mean(margins), abs=1e-5)
    gain = found["random"]["mean"] - found["contrast"]["mean"]
    assert found["gain"]["mean"] == pytest.approx(gain, abs=1e-9)


def test_sums_that_do_not_match_are_measured(subject):
    _, contrasts = fig7.contrast(subject, subject.at_centres(N))
    assert fig7.sum_gap(contrasts) < 1e-5
    moved = contrasts._replace(contrast=contrasts.contrast + 0.01)
    assert fig7.sum_gap(moved) == pytest.approx(0.01 * N, abs=1e-5)


def mean(low, at, high):
    return {"mean": at, "low": low, "high": high}


GIVEN = {
    "sum_gap": 0.0,
    "n_wrong": 5,
    "divided": {"wrong": mean(0.6, 0.7, 0.8)},
    "margins": {"all": mean(0.5, 0.6, 0.7), "gain": mean(0.01, 0.1, 0.2)},
    "reverse": None,
    "single_reverse": None,
}


@pytest.mark.parametrize(
    ("which", "changed", "value", "agrees"),
    [
        (0, {"sum_gap": 1e-6}, 1e-6, True),
        (0, {"sum_gap": 1e-4}, 1e-4, False),
        (1, {}, 70, True),  # more than half are divided
        (1, {"divided": {"wrong": mean(0.4, 0.7, 0.8)}}, 70, False),
        (1, {"n_wrong": 2}, None, None),
        (2, {}, 0.1, True),  # margins fall further than at random
        (2, {"margins": GIVEN["margins"] | {"gain": mean(-0.1, 0.1, 0.2)}}, 0.1, False),
        (3, {}, None, None),  # without reversals
    ],
)
def test_findings_of_figure_7(which, changed, value, agrees):
    found = fig7.findings(GIVEN | changed)[which]
    assert (found.value, found.agrees) == (value, agrees)
    if "n_wrong" in changed:
        assert found.note.startswith("2 wrong")


@pytest.mark.parametrize(
    ("low", "high", "agrees"), [(-0.02, 0.01, True), (-0.2, 0.01, False), (0.3, 0.5, False)]
)
def test_single_elements_contribute_little(low, high, agrees):
    single = {"contrast": mean(0.8, 0.9, 1.0), "alone": mean(low, (low + high) / 2, high)}
    assert fig7.is_little(single) == agrees


@pytest.mark.slow
def test_findings_without_data_have_no_number(subject, seventh):
    last = seventh.findings[-1]
    assert last.value is None and last.agrees is None and "reversals" in last.note
    one = fig7.measure(subject, dataclasses.replace(SETTINGS, n_elements=1))
    assert one.findings[2].agrees is None and "one element" in one.findings[2].note
    is_json(one)


@pytest.mark.slow
def test_classes_run_backwards():
    names = ej.data.synthetic_video.SYNTHETIC_VIDEO_CLASSES
    partner = fig7.reverse_of(names)
    assert partner[partner].tolist() == list(range(len(names)))
    for c in (0, 7):
        pair = [names[c], names[partner[c]]]
        one, other = (
            ej.data.synthetic_videos(1, key=jax.random.key(3), classes=[name]).clips[0]
            for name in pair
        )
        np.testing.assert_array_equal(one[::-1], other)
    assert fig7.reverse_of(("a", "b")) is None
    subject = make_subject([6] * 9, names)
    found = fig7.measure(subject, SETTINGS)
    rivals, labels = found.store["rival"].to_numpy(), subject.labels
    assert found.numbers["reverse"]["mean"] == np.mean(rivals == labels ^ 1)
    n = found.numbers["single_reverse"]["n_sequences"]
    assert n == (rivals == labels ^ 1).sum()
    assert (found.findings[-1].value is None) == (n == 0)
    is_json(found)


# Pictures and files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig2", "fig7"])
def test_a_figure_with_frames_leaves_its_files(name, tmp_path):
    subject = make_subject(lengths=[N] * 9, pictured=True)
    settings = dataclasses.replace(SETTINGS, out=tmp_path)
    measure = {"fig2": fig2, "fig7": fig7}[name].measure
    summary = draw(name, measure, subject, settings)
    folder = tmp_path / "features" / name
    for picture in summary["pictures"]:
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert (folder / "arrays.nc").is_file() and (folder / "table.md").read_text().count("|") > 10
    assert json.loads((folder / "summary.json").read_text())["numbers"] == summary["numbers"]
    assert len(summary["numbers"]["shown"]) >= 3
    assert all(row["agrees"] in (True, False, None) for row in summary["findings"])


@pytest.mark.slow
def test_the_frames_shown_are_those_explained(second, seventh):
    (picture,) = second.pictures.values()
    ticks = [t.get_text() for ax in picture.axes for t in ax.get_xticklabels() if t.get_text()]
    shown = [int(row["uid"].removeprefix("s")) for row in second.numbers["shown"]]
    wanted = [str(i) for row in shown for i in ej.data.segment_centres(4 + row, N)]
    assert sorted(ticks) == sorted(wanted)
    bars = [len(ax.patches) for ax in seventh.pictures["examples"].axes if ax.patches]
    assert bars == [N] * 3 * len(seventh.numbers["shown"])
