"""The study of estimators: a tiny run, its games and measures, and findings on given numbers."""

import dataclasses
import json
import math
import sys

import jax
import numpy as np
import pytest

import esv_jax as ej
from experiments.estimators import __main__ as estimators
from experiments.estimators import games, measures

TINY = ["--n-sequences", "2", "--n-keys", "2", "--budgets", "16", "2", "--pools", "16"]
KEYS = {
    "experiment", "findings", "seed", "settings", "games", "left_out", "data", "versions", "device",
    "cpu_cores", "wall_seconds",
}  # fmt: skip


@pytest.mark.slow  # the whole experiment
def test_a_tiny_run_leaves_a_complete_record(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shapiq.approximator", None)  # as if not installed
    data = data_folder(shared)
    args = ["--data", str(data), "--series", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert estimators.main([*args, *TINY, "--games", "vowels", "temporal"]) == 0
    printed = capsys.readouterr().out
    assert "JapaneseVowels" in printed and "shapiq is not installed" in printed
    summary = check_record(tmp_path, ["temporal"])
    assert len(summary["left_out"]) == 2
    algorithm_1, surrogate = summary["games"]["temporal"]["rows"][:2]
    assert 1.5 * surrogate["evaluations"] < algorithm_1["evaluations"] <= 2 * 8 * 16
    assert surrogate["evaluations"] == 8 * 16
    assert surrogate["relative_error"] < algorithm_1["relative_error"]


def check_record(out, names) -> dict:
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == KEYS
    assert list(summary["games"]) == names
    for game in summary["games"].values():
        assert len(game["weights_digest"]) == 64
        assert game["peers"] == []
        for row in game["rows"]:
            assert row["relative_error"] > 0 and row["spread"] > 0 and row["seconds"] > 0
            assert 0 < row["coverage"] <= 1
            assert np.mean(row["error_by_sequence"]) == pytest.approx(row["relative_error"])
    for name in ("error", "coverage"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    return summary


def data_folder(shared):
    if not (shared / "games" / "temporal_order.npz").is_file():
        pytest.skip("the trained games are not among the shared inputs")
    return shared / "games"


def test_missing_data_is_one_line_and_exit_code_2(tmp_path, capsys):
    out = tmp_path / "out"
    assert estimators.main(["--data", str(tmp_path / "none"), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "temporal_order.npz" in captured.err and "none" in captured.err
    assert not out.exists()


@pytest.mark.parametrize("make", [games.rough_case, games.rough_network_case])
def test_random_games_are_the_same_for_one_seed(make):
    first, again, other = (make(2, seed, n=5) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.xs, again.xs)
    np.testing.assert_array_equal(first.exact, again.exact)
    assert first.weights_digest() == again.weights_digest() != other.weights_digest()
    assert np.abs(first.xs - other.xs).max() > 0.1
    assert first.n_pairs == 2 * 20 and first.target.shape == (2, 5)
    np.testing.assert_array_equal(first.target[1], first.exact[1, :, first.classes[1]])


@pytest.mark.slow  # trains
def test_vowels_are_test_sequences_that_are_long_enough(shared):
    series = shared / "data" / "series"
    if not all((series / name).is_file() for name in games.VOWELS):
        pytest.skip("JapaneseVowels is not among the shared inputs")
    case = games.vowels_case(series, 3, seed=0, max_epochs=1, n=6)
    assert case.xs.shape == (3, 6, 12) and case.exact.shape == (3, 6, 9)
    assert len(set(case.classes.tolist())) > 1  # spread over the file


def test_estimators_are_matched_to_each_other():
    settings = estimators.Settings(row_budgets=(128,), peer_sequences=1)
    network = dataclasses.replace(games.rough_network_case(1, 0, n=5), xs=np.zeros((1, 16, 32)))
    assert estimators._estimators(network, settings) == [
        ej.SizeRegression(126), ej.PermutationSampling(4), ej.Constructive(3, 2)
    ]  # fmt: skip
    rough = games.rough_case(1, 0, n=5)
    rough = dataclasses.replace(rough, xs=np.zeros((1, 16, 32)))
    chosen = [e for e in estimators._estimators(rough, settings) if isinstance(e, ej.Surrogate)]
    pools = [64, 256, 644, 1024]  # 644: a tenth of all 39202 head evaluations
    assert chosen == [ej.Surrogate(pool) for pool in pools]


@pytest.mark.parametrize("make", [games.rough_case, games.rough_network_case])
def test_score_tables_have_the_exact_values(make):
    case = make(1, 0, n=6)
    table, n = measures.score_table(case, 0), case.n
    member = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 > 0
    others = np.minimum(member.sum(1, keepdims=True) - member, n - 1)
    share = 1 / np.array([n * math.comb(n - 1, k) for k in range(n)])
    esv = np.where(member, share[others], -share[others]).T @ table
    np.testing.assert_allclose(esv, case.target[0], atol=1e-6)


@pytest.mark.parametrize("make", [games.rough_case, games.rough_network_case])
def test_another_library_finds_the_exact_values_from_all_scores(make):
    library = measures.approximators()
    if library is None:
        pytest.skip("shapiq is not installed")
    case = make(2, 0, n=5)
    rows = measures.measure_peers(library, case, (32,), 2, 1, seed=0)
    kernel_shap = rows[0]
    assert kernel_shap["estimator"] == "shapiq KernelSHAP" and kernel_shap["values"] == 32
    assert kernel_shap["evaluations"] == 31
    assert kernel_shap["relative_error"] < 1e-4 and kernel_shap["spread"] is None


def test_spread_is_the_standard_deviation_over_runs(rng):
    exact = np.full((3, 2000), 2.0, np.float32)
    for n_keys in (2, 4):
        runs = exact + rng.normal(size=(n_keys, 3, 2000)).astype(np.float32)
        assert measures.spread(runs, exact) == pytest.approx(0.5, rel=0.05)
    assert measures.spread(runs[:1], exact) is None


@pytest.mark.parametrize(("evaluations", "pool"), [(10, 16), (3920, 644), (5816, 1024)])
def test_matched_pools_take_no_more_evaluations(evaluations, pool):
    assert measures.matched_pool(16, 8, evaluations) == pool


def test_matched_pools_end_where_everything_is_in_them():
    assert measures.matched_pool(6, 4, 1000) == 20


def test_matched_samples_take_no_more_evaluations(rng):
    m = measures.matched_samples(8, 60, 2)
    w, b, x = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 2), (2,), (8, 3)))
    prior = np.full(2, 0.5, np.float32)
    estimator = ej.Constructive(m, 2)
    game = ej.AverageConsensus(w, b)
    result = ej.explain(game, x, prior=prior, estimator=estimator, key=jax.random.key(0))
    assert 0.6 * 60 < int(result.n_evaluations) <= 60
    assert measures.matched_samples(16, 10, 2) == 1


def row(estimator, error, coverage=None, evaluations=100):
    return {
        "estimator": estimator,
        "evaluations": evaluations,
        "relative_error": error,
        "error_by_sequence": [error, 2 * error],
        "spread": error,
        "coverage": coverage,
    }


def peer(estimator, error, evaluations):
    return {
        "estimator": estimator,
        "values": 50,
        "evaluations": evaluations,
        "relative_error": error,
        "n_sequences": 1,
    }


def game(title, rows, peers=(), n_pairs=200, rowwise=False):
    return {
        "title": title, "rows": rows, "peers": list(peers), "n_pairs": n_pairs, "rowwise": rowwise
    }  # fmt: skip


def test_findings_on_given_numbers():
    temporal = game(
        "a",
        [
            row("Algorithm 1 (64, 1)", 0.8),
            row("Algorithm 1 (256, 1)", 0.8),
            row("Algorithm 1 (256, 4)", 0.4, 0.95),
            row("Surrogate(64)", 0.8 / 8.5, 0.94),
            row("Surrogate(256)", 0.8 / 9, 0.98),
        ],
        [peer("shapiq KernelSHAP", 0.04, 1000), peer("shapiq kADDSHAP", 0.05, 1000)],
    )
    long = game("b", [row("Algorithm 1 (64, 4)", 0.5), row("Surrogate(4096)", 0.02, 0.9)], (), 6)
    network = game(
        "c",
        [row("SizeRegression(62)", 0.1, 0.95, 63), row("SizeRegression(126)", 0.1, 0.97, 127)],
        [peer("shapiq KernelSHAP", 0.2, 63), peer("shapiq SVARM", 0.09, 127)],
        rowwise=True,
    )
    found = estimators.findings({"temporal": temporal, "long": long, "network": network})
    numbers = [(row.quantity[0], pytest.approx(row.value), row.agrees) for row in found]
    assert numbers == [
        ("a", 8.5, True),
        ("a", 9, False),
        ("a", 0.8 / 8.5 / 0.04, False),  # more than twice the error of shapiq
        ("a", 95, True),  # coverage of Algorithm 1
        ("a", 98, False),  # and of Surrogate
        ("b", 2, True),  # error
        ("b", 2, True),  # spread; too few pairs for coverage
        ("c", 0.1 / 0.09, False),
        ("c", 97, True),
    ]


@pytest.mark.parametrize("name", ["n_keys", "n_sequences", "n_long"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=name):
        estimators.Settings(**{name: 0})


def test_short_names_say_the_budget():
    assert measures.short_name(ej.Surrogate(256)) == "Surrogate(256)"
    assert measures.short_name(ej.Surrogate(64, order=2)) == "Surrogate(64, order 2)"
    assert measures.short_name(ej.Constructive(256, 4)) == "Algorithm 1 (256, 4)"
    assert measures.short_name(ej.SizeRegression(126)) == "SizeRegression(126)"
    assert measures.short_name(ej.PermutationSampling(4)) == "PermutationSampling(4)"
