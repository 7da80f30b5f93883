"""The experiment of relevance: its measures against plain twins, and one small run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from experiments.relevance.__main__ import main
from experiments.relevance.measures import (
    METHODS,
    around,
    contrasted,
    points_inside,
)


def test_contrasts_are_differences_of_logits(rng):
    model = ej.models.load_synthetic_clips()
    clip = jnp.asarray(rng.random((16, 64, 64, 3)), jnp.float32)
    logits = np.asarray(model.logits(clip), np.float64)
    answers = np.asarray(contrasted(model)(clip))
    assert answers.shape == (36,)
    for c in range(18):
        assert answers[c] == pytest.approx(logits[c] - logits[c ^ 1], abs=1e-4)
        pair = [c, c ^ 1]
        others = [k for k in range(18) if k not in pair]
        wanted = logits[pair].mean() - logits[others].mean()
        assert answers[18 + c] == pytest.approx(wanted, abs=1e-4)


def test_evidence_grows_within_its_frame(rng):
    mask = rng.random((3, 9, 11)) < 0.05
    wanted = np.zeros_like(mask)
    for t, y, x in np.argwhere(mask):
        wanted[t, max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = True
    np.testing.assert_array_equal(around(mask), wanted)


def test_pointing():
    volume = np.array([[[1.0, -5.0], [3.0, 0.0]]])
    inside = np.array([[[True, True], [False, False]]])
    assert points_inside(volume, inside) == 0
    assert points_inside(volume, ~inside) == 1
    assert points_inside(np.zeros((1, 2, 2)), inside) == 0.5  # ties in expectation


@pytest.mark.slow  # the whole experiment
def test_a_small_run(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs the plots extra")
    args = ["--n-clips", "2", "--n-resamples", "20", "--out", str(tmp_path)]
    assert main(args) == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert printed.splitlines()[0] == (tmp_path / "table.md").read_text().splitlines()[0]
    for score in ("motion", "appearance"):
        for rows in summary["measures"][score].values():
            assert list(rows) == list(METHODS)
            assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows.values())
        shares = [row["mean"] for row in summary["motion_share"][score]]
        assert shares == sorted(shares, reverse=True) and shares[0] <= 1
    assert len(summary["findings"]) == 7
    lead = summary["mass_minus_lrp"]["motion"]["temporal"]
    assert summary["findings"][1]["value"] == 100 * lead["mean"]
    assert summary["findings"][1]["agrees"] == (lead["low"] > 0)
    for name in ("mass", "motion_share", "example_motion", "example_appearance"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert jax.tree.leaves(summary["without_motion"])
