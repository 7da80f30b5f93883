"""The experiment on estimators runs from one command and stores what it claims."""

import json
import math
import sys

import numpy as np
import pytest

import esv_jax as ej
from experiments import estimators, estimators_games, estimators_measures, estimators_report

TINY = ["--n-sequences", "2", "--n-long", "1", "--n-keys", "2", "--budgets", "16", "1"]
TINY += ["--long-budget", "16", "2", "--long-pools", "16"]
KEYS = {
    "experiment", "claims", "seed", "settings", "games", "peers", "left_out", "data", "versions",
    "device", "cpu_cores", "wall_seconds",
}  # fmt: skip


def test_a_tiny_run_leaves_a_complete_record(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shapiq", None)  # as if not installed
    data = data_folder(shared)
    args = ["--data", str(data), "--series", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert estimators.main([*args, *TINY, "--games", "temporal", "long", "vowels"]) == 0
    printed = capsys.readouterr().out
    summary = check_record(tmp_path, ["temporal", "long"])
    assert summary["peers"] is None
    assert len(summary["left_out"]) == 2
    assert "JapaneseVowels" in printed and "shapiq is not installed" in printed
    algorithm_1, surrogate = summary["games"]["temporal"]["rows"]
    assert algorithm_1["evaluations"] == surrogate["evaluations"] == 8 * 16
    assert algorithm_1["coverage"] is None
    assert surrogate["relative_error"] < algorithm_1["relative_error"]


def test_rough_heads_are_the_same_for_one_seed():
    first, again, other = (estimators_games.rough_case(2, seed, n=5) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.xs, again.xs)
    np.testing.assert_array_equal(first.exact, again.exact)
    assert np.abs(first.xs - other.xs).max() > 0.1
    assert first.target.shape == (2, 5)
    np.testing.assert_array_equal(first.target[1], first.exact[1, :, first.classes[1]])


@pytest.mark.slow
def test_vowels_are_test_sequences_that_are_long_enough(shared):
    series = shared / "data" / "series"
    if not all((series / name).is_file() for name in estimators_games.VOWELS):
        pytest.skip("JapaneseVowels is not among the shared inputs")
    case = estimators_games.vowels_case(series, 3, seed=0, max_epochs=1, n=6)
    assert case.xs.shape == (3, 6, 12) and case.exact.shape == (3, 6, 9)
    assert len(set(case.classes.tolist())) > 1  # spread over the file


def data_folder(shared):
    if not (shared / "games" / "temporal_order.npz").is_file():
        pytest.skip("the trained games are not among the shared inputs")
    return shared / "games"


def check_record(out, names) -> dict:
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == KEYS
    assert list(summary["games"]) == names
    for game in summary["games"].values():
        for row in game["rows"]:
            assert row["relative_error"] > 0 and row["spread"] > 0 and row["seconds"] > 0
            assert row["coverage"] is None or 0 < row["coverage"] <= 1
            assert np.mean(row["error_by_sequence"]) == pytest.approx(row["relative_error"])
    assert sum("intervals" in claim["claim"] for claim in summary["claims"]) == len(names)
    for name in ("error", "coverage"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    return summary


def test_missing_data_is_one_line_and_exit_code_2(tmp_path, capsys):
    out = tmp_path / "out"
    assert estimators.main(["--data", str(tmp_path / "none"), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "temporal_order.npz" in captured.err and "none" in captured.err
    assert not out.exists()


def test_score_tables_have_the_stored_values(shared):
    path = data_folder(shared) / "temporal_order.npz"
    case, _ = estimators_games.trained_cases(path, 1, 1)
    table, n = estimators_games.score_table(case, 0), case.n
    member = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 > 0
    others = np.minimum(member.sum(1, keepdims=True) - member, n - 1)
    share = 1 / np.array([n * math.comb(n - 1, k) for k in range(n)])
    esv = np.where(member, share[others], -share[others]).T @ table
    np.testing.assert_allclose(esv, case.target[0], atol=1e-6)


def test_spread_is_the_standard_deviation_over_runs(rng):
    exact = np.full((3, 2000), 2.0, np.float32)
    for n_keys in (2, 4):
        runs = exact + rng.normal(size=(n_keys, 3, 2000)).astype(np.float32)
        assert estimators_measures.spread(runs, exact) == pytest.approx(0.5, rel=0.05)
    assert estimators_measures.spread(runs[:1], exact) is None


@pytest.mark.parametrize(("evaluations", "pool"), [(10, 16), (5371, 935), (5816, 1024)])
def test_matched_pools_take_no_more_evaluations(evaluations, pool):
    assert estimators_measures.matched_pool(16, 8, evaluations) == pool


def test_matched_pools_end_where_everything_is_in_them():
    assert estimators_measures.matched_pool(6, 4, 1000) == 20


def test_claims_say_which_hold():
    def row(estimator, error, coverage=None, budget=None):
        return {
            "estimator": estimator,
            "relative_error": error,
            "spread": error,
            "coverage": coverage,
            "budget": budget,
        }

    def pair(budget, ratio, coverage):
        return [
            row("Algorithm 1", 0.8, budget=budget),
            row(f"Surrogate({budget[0]})", 0.8 / ratio, coverage, budget),
        ]

    temporal = [*pair([64, 1], 8.5, 0.94), *pair([256, 1], 9.0, 0.98)]
    long = [row("Algorithm 1", 0.5), row("Surrogate(4096)", 0.02, 0.95)]
    found = {"temporal": {"title": "a", "rows": temporal}, "long": {"title": "b", "rows": long}}
    holds = [claim["holds"] for claim in estimators_report.claims(found)]
    assert holds == [True, False, True, True, False, True]


def test_counts_below_one_are_refused():
    with pytest.raises(ValueError, match="n_keys"):
        estimators.Settings(n_keys=0)


def test_short_names_say_the_budget():
    assert estimators_measures.short_name(ej.Surrogate(256)) == "Surrogate(256)"
    assert estimators_measures.short_name(ej.Constructive(256, 4)) == "Algorithm 1 (256, 4)"
