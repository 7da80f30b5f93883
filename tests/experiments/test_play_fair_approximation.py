"""Figures 8 and 9 of Play Fair: numbers beside slow loops, and findings on given numbers."""

import copy
import json

import jax
import numpy as np
import pytest

import esv_jax as ej
from experiments.play_fair import fig8, fig9
from experiments.play_fair.figure import Settings, draw
from tests.experiments.subjects_for_tests import C, random_subject

N = 8
LENGTHS = [8, 11, 11, 5, 11, 8, 11, 11, 9, 11, 4, 8]
SETTINGS = Settings(n_resamples=200, seed=3)
GRID = fig8.Grid(n_sequences=4, n=N, ms=(16,), ks=(1, 3))
SAMPLED = ej.Constructive(16, 2)


@pytest.fixture(scope="module")
def subject():
    return random_subject(LENGTHS, n_heads=4)


@pytest.fixture(scope="module")
def tables(subject):
    return fig8.measure(subject, SETTINGS, GRID)


@pytest.fixture(scope="module")
def lines(subject):
    return fig9.measure(subject, SETTINGS, {"one": SAMPLED, "two": SAMPLED}, N)


def assert_plain(numbers):
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


# Figure 8


@pytest.mark.slow
def test_the_sequences_are_spread_over_those_long_enough(tables):
    numbers = tables.numbers
    assert (numbers["n"], numbers["n_sequences"], numbers["n_sequences_long_enough"]) == (8, 4, 10)
    assert tables.store["video"].values.tolist() == ["s1", "s4", "s7", "s9"]
    assert_plain(numbers)


@pytest.mark.slow
def test_cells_are_algorithm_1_and_the_surrogate(subject, tables):
    rows = np.array([1, 4, 7, 9])
    index = tables.store["index"].values
    elements = subject.take(rows, index)
    key = jax.random.fold_in(jax.random.key(SETTINGS.seed), 16)
    uids = [subject.uids[i] for i in rows]

    def of(estimator, key=key):
        found = ej.explain_batch(
            subject.game,
            elements.xs,
            prior=subject.trn.prior,
            estimator=estimator,
            key=key,
            uids=uids,
        )
        values = np.asarray(found.values)
        return np.stack([v[:, c] for v, c in zip(values, elements.labels, strict=True)]), found

    three, found = of(ej.Constructive(16, 3))
    stored = tables.store["algorithm_1"].values
    np.testing.assert_allclose(stored[0, 1], three, atol=1e-6)
    assert np.abs(stored[0, 0] - three).max() > 1e-4  # one iteration is another estimate
    assert tables.numbers["heads"][0][1] == pytest.approx(np.mean(found.n_evaluations))
    sampled = np.asarray(found.values)
    surrogate, found = of(ej.Surrogate(pool=16))
    np.testing.assert_allclose(tables.store["surrogate"].values[0], surrogate, atol=1e-6)
    assert tables.numbers["heads"][0][-1] == 8 + 3 * 16
    exact, found = of(ej.Exact(), None)
    np.testing.assert_allclose(tables.store["exact"].values, exact, atol=1e-6)
    assert tables.numbers["all_heads"] == 8 + 28 + 56 + 70 == found.n_evaluations[0]
    every = np.asarray(found.values)
    errors = np.abs(sampled - every).sum((1, 2)) / np.abs(every).sum((1, 2))
    of_all = tables.numbers["all_classes"]["relative_error"]["mean"]
    assert of_all[0][1] == pytest.approx(errors.mean(), rel=1e-4)


@pytest.mark.slow
def test_means_and_intervals_beside_loops(tables):
    store, numbers = tables.store, tables.numbers
    exact, approx = store["exact"].values, store["algorithm_1"].values[0]
    for j in range(2):
        errors = [
            sum(abs(a - e) for a, e in zip(approx[j, v], exact[v], strict=True))
            / sum(abs(e) for e in exact[v])
            for v in range(4)
        ]
        assert numbers["true"]["relative_error"]["mean"][0][j] == pytest.approx(
            np.mean(errors), rel=1e-4
        )
        low = numbers["true"]["relative_error"]["low"][0][j]
        high = numbers["true"]["relative_error"]["high"][0][j]
        assert min(errors) - 1e-6 <= low < np.mean(errors) < high <= max(errors) + 1e-6
        r = [np.corrcoef(approx[j, v], exact[v])[0, 1] for v in range(4)]
        assert numbers["true"]["pearson"]["mean"][0][j] == pytest.approx(np.mean(r), abs=1e-5)
        pooled = np.corrcoef(approx[j].ravel(), exact.ravel())[0, 1]
        assert numbers["pooled"]["pearson"]["mean"][0][j] == pytest.approx(pooled, abs=1e-5)
    (step,) = numbers["steps"]
    one, three = numbers["true"]["relative_error"]["mean"][0][:2]
    assert step["step"] == "k 1 to 3, m = 16" and step["change"] == pytest.approx(three - one)
    assert step["low"] < step["change"] < step["high"]


def test_the_values_of_the_true_class():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 5, C)).astype(np.float32)  # (M, V, n, C)
    labels = np.array([2, 0, 3])
    chosen = fig8.of_true_class(values, labels)
    for v, c in enumerate(labels):
        np.testing.assert_array_equal(chosen[:, v], values[:, v, :, c])


def test_shares_count_each_subsequence_once():
    member = np.zeros((2, 3, 2, 3), bool)  # (iterations, scale, row, n)
    member[:, 0, 0, 0] = member[:, 0, 1, 1] = True
    member[0, 1, 0, :2] = member[1, 1, 0, 1:] = True
    member[:, 2, 0] = True
    valid = member.any(-1)
    member[0, 1, 1, 2] = True  # not valid
    samples = ej.SubsequencePlan.from_membership(
        [[np.eye(3, dtype=bool), np.array([[1, 1, 0]], bool), np.ones((1, 3), bool)]]
    ).samples
    assert fig8.shares_drawn(samples, (1,)) == [5 / 7]
    two = type(samples)(member, valid)
    assert fig8.shares_drawn(two, (1, 2)) == pytest.approx([4 / 7, 5 / 7])


def test_measures_that_say_nothing_are_left_out():
    exact = np.array([[1, 2, 3], [0, 0, 0], [2, 2, 2]], np.float32)
    found = fig8.agreement(exact + np.array([0.5, -0.25, 1], np.float32), exact)
    assert np.isnan(found["relative_error"]).tolist() == [False, True, False]
    assert np.isnan(found["lad_slope"]).tolist() == [False, True, False]
    assert np.isnan(found["pearson"]).tolist() == [False, True, True]
    assert np.isnan(fig8.agreement(np.full((1, 3), np.nan), exact[:1].astype(float))["lad_slope"])


def test_steps_of_both_axes_are_paired():
    grid = fig8.Grid(3, N, (32, 64), (1, 2))
    errors = np.array([[[5.0, 6, 7], [4, 5, 6]], [[3, 4, 5], [3.5, 4.5, 5.5]]])
    found = {row["step"]: row for row in fig8._steps(errors, grid, SETTINGS)}
    wanted = {
        "m 32 to 64, k = 1": -2,
        "m 32 to 64, k = 2": -0.5,
        "k 1 to 2, m = 32": -1,
        "k 1 to 2, m = 64": 0.5,
    }
    assert {name: row["change"] for name, row in found.items()} == pytest.approx(wanted)
    for name, change in wanted.items():  # the same for each sequence: no width
        assert found[name]["low"] == pytest.approx(change) == found[name]["high"]


def made_up(r=0.995, slope=1.01, steps=(-0.1,) * 10, n=16):
    """Numbers of figure 8 with the cell 256 x 4."""
    row = {"relative_error": 0.08, "lad_slope": slope, "pearson": r}
    table = {
        name: dict.fromkeys(("mean", "low", "high"), [[value, value, value]] * 2)
        for name, value in row.items()
    }
    return {
        "n": n,
        "wanted_n": 16,
        "max_subsequences": [128, 256],
        "iterations": [2, 4],
        "true": table,
        "steps": [
            {"step": f"step {i}", "change": c, "low": c - 0.05, "high": c + 0.05}
            for i, c in enumerate(steps)
        ],
        "logits": None,
    }


@pytest.mark.parametrize(
    ("steps", "agrees"),
    [
        ([-0.1] * 10, True),
        ([-0.1] * 9 + [0.01], True),  # within noise
        ([-0.1] * 9 + [0.2], False),
        ([-0.1] * 8 + [0.01] * 2, False),
        ([-0.1] * 4 + [0.01] * 6, False),
    ],
)
def test_the_error_falls_in_nine_tenths_of_the_steps(steps, agrees):
    found = fig8.findings(made_up(steps=steps))[0]
    assert found.agrees == agrees
    assert found.value == 10 * sum(step < 0 for step in steps)


@pytest.mark.parametrize(
    ("r", "slope", "agrees"),
    [
        (0.99, 1.019, (True, True)),
        (0.99, 0.975, (True, False)),
        (0.98, 1.0, (False, True)),
        (0.999, 1.2, (True, False)),
        (None, None, (None, None)),
    ],
)
def test_r_and_slope_at_256_by_4(r, slope, agrees):
    numbers = made_up(r, slope)
    found = fig8.findings(numbers)[1:]
    assert tuple(row.agrees for row in found) == agrees
    assert [row.value for row in found] == [r, slope]
    assert fig8.slope_is_off(numbers) == (slope is not None and abs(slope - 1) > 0.02)


@pytest.mark.slow
def test_short_sequences_and_other_budgets_are_not_compared(tables):
    for found in fig8.findings(made_up(n=8)):
        assert found.value is None and "16 elements, got at most 8" in found.note
    steps, *cells = tables.findings
    assert steps.value is not None and [row.value for row in cells] == [None, None]


@pytest.mark.slow
def test_slopes_of_logits(subject):
    elements = subject.take(np.array([1, 4]), np.tile(np.arange(N), (2, 1)))
    key = jax.random.key(0)
    everything = fig8.slopes_of_logits(subject, elements, 70, 1, key)
    np.testing.assert_allclose(everything, 1, atol=1e-3)  # all are drawn


# Figure 9


def test_the_lengths_and_sequences_that_are_taken():
    lengths = np.array([20, 17, 18, 19, 20, 18, 17, 16, 21, 20])
    # Lengths 20 (three times), then 18 and 17 (twice): 7 sequences, of which the middle of thirds.
    assert fig9.select_rows(lengths, 16, 12).tolist() == [0, 1, 2, 4, 5, 6, 9]
    assert fig9.select_rows(lengths, 16, 3).tolist() == [1, 4, 6]
    assert fig9.select_rows(lengths, 21, 3).tolist() == []


@pytest.mark.parametrize(("length", "n"), [(32, 16), (17, 16), (100, 16), (29, 16), (7, 3), (5, 5)])
def test_segments(length, n):
    weight = fig9.overlaps(length, n)
    fine = np.repeat(np.arange(length), n)  # every element in n parts, n * length in all
    wanted = np.zeros((n, length))
    for part, element in enumerate(fine):
        wanted[part // length, element] += 1 / n
    np.testing.assert_allclose(weight, wanted, atol=1e-12)
    centres = ej.data.segment_centres(length, n)
    segments = fig9.segments_of(length, n)
    np.testing.assert_array_equal(segments[centres], np.arange(n))
    other = fig9.other_elements(length, n, np.random.default_rng(0))
    np.testing.assert_array_equal(segments[other], np.arange(n))
    alone = np.bincount(segments) == 1
    np.testing.assert_array_equal(other == centres, alone)


@pytest.mark.slow
def test_curves_are_those_of_the_estimator(subject, lines):
    store = lines.store
    assert store["video"].values.tolist() == [f"s{i}" for i in (1, 2, 4, 6, 7, 8, 9)]
    assert lines.numbers["lengths"] == [9, 11] and store["values"].shape == (7, 2, 11)
    assert np.isnan(store["values"][5]).sum() == 2 * 2 == np.isnan(store["values"]).sum()
    np.testing.assert_array_equal(store["values"][:, 0], store["values"][:, 1])
    runs = []
    for run in range(2):
        key = jax.random.fold_in(jax.random.key(SETTINGS.seed), run)
        found = ej.explain_batch(
            subject.game,
            subject.sequences[4][None],
            prior=subject.trn.prior,
            estimator=SAMPLED,
            key=key,
            uids=["s4"],
        )
        runs.append(np.asarray(found.values)[0, :, subject.labels[4]])
    np.testing.assert_allclose(store["values"][2, 0], runs[0], atol=1e-6)
    np.testing.assert_allclose(store["values_of_another_key"][2, 0], runs[1], atol=1e-6)


@pytest.mark.slow
def test_numbers_of_the_lines_beside_loops(lines):
    store, numbers = lines.store, lines.numbers["estimators"]["one"]
    values = store["values"].values[:, 0]
    again, half = store["values_of_another_key"].values[:, 0], store["half_width"].values[:, 0]
    exact, index = store["exact"].values, store["centre_index"].values
    r, widths, spreads = [], [], []
    for v, kept in enumerate(~np.isnan(values)):
        size = kept.sum()
        sums = np.zeros(N)
        for i in range(N):
            for j in range(size):
                share = min((i + 1) * size / N, j + 1) - max(i * size / N, j)
                sums[i] += max(share, 0) * values[v, j]
        assert sums.sum() == pytest.approx(np.nansum(values[v]))
        r.append(np.corrcoef(sums, exact[v])[0, 1])
        mean = np.nanmean(np.abs(values[v]))
        widths.append(np.nanmedian(2 * half[v]) / mean)
        pairs = zip(values[v, kept], again[v, kept], strict=True)
        spreads.append(np.sqrt(np.mean([np.var([a, b], ddof=1) for a, b in pairs])) / mean)
    assert numbers["correlation"]["mean"] == pytest.approx(np.mean(r))
    assert numbers["correlation_by_sequence"] == pytest.approx(r)
    at = [np.corrcoef(values[v, index[v]], exact[v])[0, 1] for v in range(len(values))]
    assert numbers["correlation_at_centres"]["mean"] == pytest.approx(np.mean(at))
    assert numbers["width"] == pytest.approx(np.median(widths))
    assert numbers["spread"] == pytest.approx(np.median(spreads))
    gaps = np.abs(store["efficiency_gap"].values[:, 0])
    assert numbers["largest_gap"] == pytest.approx(gaps.max())
    low, high = (numbers["correlation"][end] for end in ("low", "high"))
    assert min(r) <= low < np.mean(r) < high <= max(r)
    assert_plain(lines.numbers)


def test_which_sequences_are_shown():
    shown = fig9._shown(np.array([0.3, np.nan, 0.9, -0.2, 0.5, 0.4]))
    assert shown == [("highest", 2), ("median", 5), ("lowest", 3)]
    assert fig9._shown(np.array([0.3, 0.8])) == [("highest", 1), ("median", 0)]
    assert fig9._shown(np.array([np.nan])) == [("highest", 0)]


def test_correlation_of_what_is_all_alike():
    assert np.isnan(fig9.correlation(np.full(4, 0.1), np.arange(4.0)))
    assert fig9.correlation(np.arange(4.0), 3 * np.arange(4.0) - 1) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sums", "centres", "agrees"),
    [
        (0.95, 0.99, [True, True]),
        (0.6, 0.9, [True, False]),
        (None, -0.5, [False, None]),
    ],
)
def test_curves_follow_from_a_correlation_of_nine_tenths(lines, sums, centres, agrees):
    numbers = copy.deepcopy(lines.numbers)
    for kind, mean in [("correlation", sums), ("correlation_at_centres", centres)]:
        numbers["estimators"]["one"][kind] = dict.fromkeys(("mean", "low", "high"), mean)
    numbers["other_elements"] = {"mean": 0.4, "low": 0.3, "high": 0.5}
    found = fig9.findings(numbers)
    assert [row.agrees for row in found] == agrees
    assert [row.value for row in found] == [centres, sums]


@pytest.mark.slow
def test_short_sequences_are_exact_and_say_so(tmp_path):
    subject = random_subject([5, 5, 4], n_heads=4)
    settings = Settings(subject="features", out=tmp_path)
    summary = draw("fig9", fig9.measure, subject, settings)
    assert [row["value"] for row in summary["findings"]] == [None] * 2
    assert "no sequence has more than 16 elements" in summary["findings"][0]["note"]
    assert summary["numbers"]["uids"] == ["s0", "s1"] and summary["numbers"]["largest_gap"] < 1e-5
    assert (tmp_path / "features" / "fig9" / "all_elements.png").stat().st_size > 10_000


@pytest.mark.slow
def test_both_figures_are_written(subject, tables, lines, tmp_path):
    settings = Settings(subject="features", out=tmp_path)
    for name, outcome in [("fig8", tables), ("fig9", lines)]:
        draw(name, lambda *_, outcome=outcome: outcome, subject, settings)
        folder = tmp_path / "features" / name
        json.loads((folder / "summary.json").read_text())
        assert (folder / "table.md").read_text().count("|") > 20
        assert (folder / "arrays.nc").is_file() and list(folder.glob("*.png"))


def test_frames_are_those_at_the_centres():
    asked = []

    def frames(i, index):
        asked.append((i, index.tolist()))
        return np.zeros((len(index), 4, 4, 3), np.uint8)

    subject = random_subject([6, 6], draw=frames)
    line = fig9.Line(np.linspace(0, 1, 6), np.full(6, 0.1), np.zeros(6), 0.0)
    centres, exact = np.array([1, 4]), np.array([0.2, 0.7])
    curve = fig9.Curve(1, centres, exact, exact, 0.5, {"one": line})
    figure = fig9.draw_curves(subject, [curve], ["why"])
    assert asked == [(1, [1, 4])]
    panel = figure.axes[0]
    np.testing.assert_allclose(panel.lines[1].get_ydata(), 3 * line.values)
    np.testing.assert_allclose(panel.lines[2].get_xydata(), [[1, 0.2], [4, 0.7]])
    assert "class" in panel.get_title(loc="left") and len(figure.axes[1].images) == 2
