"""Evaluation of methods by metrics: planted evidence, direct calls, undefined scores."""

import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax import data, metrics
from esv_jax.maps import clip_map, evaluate
from esv_jax.maps.evaluation import make_evaluator
from esv_jax.maps.evaluation_record import ClipScores, combine_scores
from esv_jax.maps.map_metrics import METRICS
from esv_jax.metrics.reliability import method_ranks

V, T, SIDE, C = 3, 8, 20, 4
CURVES = tuple(name for name, metric in METRICS.items() if metric.takes.endswith("first"))
EVIDENCE = tuple(name for name in METRICS if name not in CURVES)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def planted():
    """Dim clips with a bright block somewhere in each: 4 frames of 6 x 6."""
    rng = np.random.default_rng(0)
    clips = rng.uniform(0, 0.5, (V, T, SIDE, SIDE, 3)).astype(np.float32)
    masks = np.zeros(clips.shape[:-1], bool)
    for i, mask in enumerate(masks):
        mask[i + 1 : i + 5, 2 * i : 2 * i + 6, 5:11] = True
    clips[masks] = 1
    return jnp.asarray(clips), masks


BRIGHT = SimpleNamespace(  # a network that depends on the block only
    logits=lambda clip: jnp.stack([jnp.maximum(clip - 0.7, 0).mean() * 600 - 4, jnp.float32(0)])
)


def block(clip, target, key):
    del target, key
    return (clip.min(-1) > 0.7).astype(jnp.float32)


def away(clip, target, key):
    return 1 - block(clip, target, key)


def frames(clip, target, key):
    return block(clip, target, key).mean((1, 2))


def test_maps_of_planted_evidence_beat_random(planted):
    clips, masks = planted
    own = {"block": block, "frames": frames, "random": "random", "away": away}
    found = evaluate(
        BRIGHT,
        clips,
        np.zeros(V, int),
        methods=own,
        metrics=METRICS,
        evidence=masks,
        key=KEY,
        remove="fade",
        steps=10,
    )
    assert found.methods == tuple(own) and found.metrics == tuple(METRICS)
    chex.assert_shape(found.scores, (len(METRICS), V, 4))
    scores = dict(zip(found.metrics, found.scores, strict=True))
    for name in EVIDENCE:
        assert (scores[name][:, 0] == 1).all(), name
        assert (scores[name][:, 3] == 0).all() or name == "temporal_grounding"
    assert (scores["temporal_grounding"][:, 1] == 1).all()
    random = scores["coverage"][:, 2]
    assert ((random > 0) & (random < 0.3)).all()
    for name, higher in zip(found.metrics, found.higher_is_better, strict=True):
        better = scores[name] if higher else -scores[name]
        if name in CURVES:
            assert (better[:, 0] > better[:, 2]).all() and (better[:, 2] > better[:, 3]).all()
    summary = found.summary(key=KEY)
    assert summary.reliability[found.metrics.index("insertion")] == pytest.approx(1, abs=1e-6)
    best = {row["metric"]: row["mean"] for row in summary.table() if row["method"] == "block"}
    assert best["pointing"] == 1 and best["deletion"] < 0.2 < 0.9 < best["insertion"]


def directly(names, fn, clip, own, target, options, mask, shown):
    """Each metric of a map, by its own function."""
    found = {}
    for order in ("most_first", "least_first"):
        if order == "most_first" or "insertion_least_first" in names:
            given = (fn, clip, own, target, 4)
            both = [
                float(curve(*given, order=order, **options).auc)
                for curve in (metrics.insertion, metrics.deletion)
            ]
            end = "" if order == "most_first" else "_least_first"
            found |= {f"insertion{end}": both[0], f"deletion{end}": both[1]}
    found["insertion_minus_deletion"] = found["insertion"] - found["deletion"]
    found["pointing"] = float(metrics.pointing_hits(own, mask))
    found["mass"] = float(metrics.mass_inside(own, mask))
    found["coverage"] = float(metrics.mask_coverage(own, mask, 0.1))
    found["temporal_grounding"] = float(metrics.temporal_grounding(own, shown))
    return found


@pytest.mark.parametrize("units", ["pixels", "patches", "supervoxels"])
def test_scores_equal_direct_calls(units, network, planted):
    clips, masks = planted
    if units == "supervoxels":
        pytest.importorskip("skimage", reason="needs the segments extra")
    names = ("gradient_x_input", "random")
    wanted = METRICS if units == "pixels" else ("insertion", "deletion")
    shown = masks.any((-2, -1))
    shown[:, 0] = True
    targets = np.array([1, 3, 1])
    curves = {"steps": 4, "units": units, "grid": 5, "n_supervoxels": 30}
    found = evaluate(
        network,
        clips[:2],
        targets[:2],
        methods=names,
        metrics=wanted,
        evidence=masks[:2],
        evidence_frames=shown[:2],
        key=KEY,
        **curves,
    )
    fn = jax.jit(lambda clips: jax.nn.softmax(jax.vmap(network.logits)(clips)))
    for i in range(2):
        for m, name in enumerate(names):
            key = jax.random.fold_in(jax.random.fold_in(KEY, i), NUMBERS[name])
            own = clip_map(name, network, clips[i], targets[i], key=key)
            options = {"pixels": {}, "patches": {"grid": 5}}.get(units)
            if options is None:
                options = {"segments": data.supervoxels(clips[i], 30), "supervoxels": True}
            direct = directly(wanted, fn, clips[i], own, targets[i], options, masks[i], shown[i])
            for k, metric in enumerate(wanted):
                assert found.scores[k, i, m] == pytest.approx(direct[metric], abs=1e-6), metric


NUMBERS = {"gradient_x_input": 0, "random": 0x163BDAD5}  # checksums of names; one draws nothing


def test_scores_are_independent_of_other_methods_and_clips(planted):
    clips, masks = planted
    ask = functools.partial(evaluate, BRIGHT, metrics=["coverage", "mass"])
    given = {"evidence": masks, "key": KEY}
    both = ask(clips, np.zeros(V, int), methods=["gradient_x_input", "random"], **given)
    alone = ask(clips, np.zeros(V, int), methods=["random"], **given)
    np.testing.assert_allclose(both.scores[:, :, 1:], alone.scores, rtol=1e-5)
    fewer = ask(clips[:2], [0, 0], methods=["random"], evidence=masks[:2], key=KEY)
    np.testing.assert_allclose(fewer.scores, alone.scores[:, :2], rtol=1e-5)
    other = ask(clips[:2], [0, 0], methods=["random"], evidence=masks[:2], key=jax.random.key(4))
    assert not np.isclose(other.scores, fewer.scores, rtol=1e-3).any()
    assert len({*alone.scores[0, :, 0]}) > 1  # each clip has numbers of its own


def test_a_non_finite_map_has_nan_scores_and_a_warning(planted):
    clips, masks = planted

    def fails(clip, target, key):
        found = block(clip, target, key)
        return found.at[0, 0, 0].set(jnp.nan) if clip[2, 7, 5, 0] == 1 else found  # the second clip

    own = {"fails": fails, "block": block, "random": "random"}
    options = {"methods": own, "metrics": ["deletion", "pointing"], "steps": 3}
    found = evaluate(BRIGHT, clips, np.zeros(V, int), evidence=masks, key=KEY, **options)
    bad = np.zeros((2, V, 3), bool)
    bad[:, 1, 0] = True
    np.testing.assert_array_equal(np.isnan(found.scores), bad)
    assert found.warnings == ("clip 1, fails: 1 of 3200 values are not finite; no scores",)
    maps = {}
    evaluator = make_evaluator(BRIGHT, **options)
    given = {"key": jax.random.fold_in(KEY, 1), "evidence": masks[1]}
    one = evaluator(clips[1], 0, on_map=lambda name, found: maps.update({name: found}), **given)
    np.testing.assert_array_equal(one.scores, found.scores[:, 1])
    assert np.isnan(maps["fails"]).all() and np.isfinite(maps["block"]).all()
    with pytest.raises(
        ValueError, match=r"clips\[1\]: expected scores .* = \(2, 3\), got \(1, 2\)"
    ):
        combine_scores(tuple(own), found.metrics, [one, ClipScores(np.zeros((1, 2)), np.zeros(2))])
    np.testing.assert_array_equal(found.scores[:, [0, 2], 0], found.scores[:, [0, 2], 1])
    summary = found.summary(key=KEY)
    assert summary.n_clips.tolist() == [[2, 3, 3]] * 2 and summary.n_ranked[0] == 2
    assert summary.mean[0, 0] == pytest.approx(found.scores[0, [0, 2], 0].mean())


def test_a_clip_without_evidence_has_nan_scores(planted):
    clips, masks = planted
    evaluator = make_evaluator(
        BRIGHT, methods={"b": block}, metrics=["insertion", "pointing"], steps=2
    )
    found = evaluator(clips[0], 0, key=KEY, evidence=np.zeros_like(masks[0]))
    assert np.isfinite(found.scores[0, 0]) and np.isnan(found.scores[1, 0])
    assert not found.warnings


# Summaries


@pytest.fixture(scope="module")
def scores():
    """(2, 6, 3): insertion of three methods on six clips, and its negative as deletion."""
    rng = np.random.default_rng(5)
    table = rng.uniform(size=(6, 3)) + np.array([0.6, 0.3, 0])
    return np.stack([table, -table])


def of(table, methods=("lrp", "own", "random")):
    clips = [ClipScores(row, np.arange(3.0) + i) for i, row in enumerate(np.moveaxis(table, 1, 0))]
    return combine_scores(methods, ("insertion", "deletion"), clips)


def test_summary_equals_direct_calls(scores):
    found = of(scores).summary(key=KEY, resamples=300)
    np.testing.assert_allclose(found.mean, scores.mean(1))
    for k in range(2):
        low, high = metrics.bootstrap_interval(scores[k], key=KEY, resamples=300)
        np.testing.assert_allclose([found.low[k], found.high[k]], [low, high])
    np.testing.assert_array_equal(found.seconds, np.arange(3) + 2.5)
    expected = metrics.metric_reliability(scores[0], 2)
    np.testing.assert_allclose(found.reliability, [expected, expected])
    ranks = method_ranks(scores[0])
    expected = metrics.krippendorff_alpha(ranks, "ordinal")
    np.testing.assert_allclose(found.alpha, [expected, expected])
    assert found.n_ranked == (6, 6)
    rows = found.table()
    assert len(rows) == 6 and rows[4]["metric"] == "deletion" and rows[4]["method"] == "own"
    assert rows[4]["mean"] == found.mean[1, 1] and rows[4]["low"] == found.low[1, 1]
    assert found.metric_table()[1]["higher_is_better"] is False


def test_clips_without_a_ranking_are_left_out_of_reliability_only(scores):
    table = scores.copy()
    table[0, 0] = 0.5  # all the same
    table[0, 1, 1] = np.nan
    table[1, :, 0] = np.nan  # never a score
    found = of(table).summary(key=KEY, resamples=300)
    assert found.n_ranked == (4, 0) and found.reliability[1] is found.alpha[1] is None
    assert found.reliability[0] == pytest.approx(metrics.metric_reliability(scores[0, 2:], 2))
    assert found.mean[0, 1] == pytest.approx(np.nanmean(table[0, :, 1]))
    assert np.isnan([found.mean[1, 0], found.low[1, 0], found.high[1, 0]]).all()
    assert np.isfinite(found.mean[1, 1:]).all() and found.n_clips[1].tolist() == [0, 6, 6]


def test_undefined_reliability_is_none(scores):
    without = of(scores, ("lrp", "own", "chance")).summary(key=KEY, resamples=50)
    assert without.reliability == (None, None) and None not in without.alpha
    one = of(scores[:, :1]).summary(key=KEY)
    assert one.reliability == one.alpha == (None, None)
    assert np.isnan(one.low).all() and np.isfinite(one.mean).all()
    best = scores.copy()
    best[0, 1:, 2] = 9  # random is first on all but one
    assert of(best).summary(key=KEY, resamples=50).reliability[0] is None


# Bad input


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        (
            {"methods": ["lpr"]},
            ValueError,
            "methods: expected one of 'step', .* Did you mean 'lrp'",
        ),
        ({"methods": "lrp"}, TypeError, "methods: expected a list of names, got 'lrp'"),
        ({"methods": ["lrp", "lrp"]}, ValueError, "methods: expected each name once, got 'lrp'"),
        ({"methods": []}, ValueError, "methods: expected at least one, got none"),
        ({"methods": {"own": 3}}, TypeError, "methods: expected names, or functions by name, got"),
        ({"metrics": ["insert"]}, ValueError, "metrics: expected one of 'insertion'"),
        (
            {"metrics": ["mass"]},
            ValueError,
            "evidence: expected an array, for the metric 'mas",
        ),
        (
            {"metrics": ["temporal_grounding"]},
            ValueError,
            "evidence_frames: expected an array, for",
        ),
        (
            {"evidence": np.zeros((V, T), bool)},
            ValueError,
            r"evidence: expected shape \(V, t, h, w",
        ),
        ({"evidence_frames": np.zeros((V, T))}, TypeError, "evidence_frames: expected bool"),
        ({"targets": [0, 0]}, ValueError, r"targets: expected shape \(V,\) = \(3,\)"),
        ({"targets": [0, 2, 0]}, ValueError, r"target: expected classes in 0\.\.1, got 2"),
        ({"units": "superpixels"}, ValueError, "units: expected one of .* Did you mean"),
        ({"steps": 0}, ValueError, "steps: expected an integer >= 1"),
        ({"key": None}, ValueError, "key: expected a PRNG key"),
        ({"network": 3}, TypeError, "network: expected one with logits"),
        ({"clips": np.zeros((V, T, SIDE, 3), np.float32)}, ValueError, "clips: expected shape"),
        ({"clips": np.full((V, T, SIDE, SIDE, 3), np.nan)}, ValueError, "clips: expected finite"),
    ],
)
def test_bad_input(changed, kind, text, planted):
    clips, _ = planted
    given = {
        "network": BRIGHT,
        "clips": clips,
        "targets": np.zeros(V, int),
        "methods": ["random"],
        "metrics": ["insertion"],
        "key": KEY,
        "steps": 2,
    } | changed
    with pytest.raises(kind, match=text):
        evaluate(**given)


# Supervoxels


def test_supervoxels_follow_the_evidence(planted):
    pytest.importorskip("skimage", reason="needs the segments extra")
    clips, masks = planted
    ids = data.supervoxels(clips[0], 40)
    assert ids.shape == masks[0].shape and ids.dtype == np.int32
    np.testing.assert_array_equal(np.unique(ids), np.arange(ids.max() + 1))
    assert 10 < ids.max() < 60
    share = np.bincount(ids.ravel(), masks[0].ravel()) / np.bincount(ids.ravel())
    assert (np.abs(share - 0.5) > 0.45).mean() > 0.9  # inside or outside
    n_frames = [len(np.unique(np.nonzero(ids == k)[0])) for k in range(ids.max() + 1)]
    assert np.mean(n_frames) > 2
    same = data.supervoxels(np.full((4, 8, 8, 3), 7, np.uint8), 10)
    assert same.max() >= 3  # by position only
    with pytest.raises(ValueError, match="clip: expected finite values"):
        data.supervoxels(np.full((4, 8, 8, 3), np.nan))
    with pytest.raises(ValueError, match="n: expected an integer >= 1"):
        data.supervoxels(clips[0], 0)
