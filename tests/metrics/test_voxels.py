"""Measures over voxels: curves of insertion and deletion, pointing, mass, grounding in time."""

import functools
import itertools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import esv_jax as ej
from esv_jax.checks import ScoresOf
from esv_jax.metrics.curves import PerturbationCurve
from esv_jax.metrics.pointing import pointing_game
from esv_jax.metrics.voxels import smoothing_weights

metrics = ej.metrics
SHAPE = (4, 4, 8, 2)  # (t, h, w, c), 128 voxels


# The network of the fixtures and its curves


def unfolded(x, w, b, stride):
    """A 3D convolution as a 2D one whose channels hold the frames it sees: fast on CPUs."""
    n, t, h, wide, _ = x.shape
    x = jnp.pad(x, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    frames = -(-t // stride[0])
    seen = [x[:, k : k + stride[0] * (frames - 1) + 1 : stride[0]] for k in range(3)]
    x = jnp.concatenate(seen, -1).reshape(n * frames, h, wide, -1)
    reach = w.shape[-1] // 2
    w = w.transpose(3, 4, 2, 1, 0).reshape(*w.shape[3:], -1, w.shape[0])
    names = ("NHWC", "HWIO", "NHWC")
    pads = [(reach, reach)] * 2
    y = lax.conv_general_dilated(x, w, stride[1:], pads, dimension_numbers=names) + b.reshape(
        1, 1, 1, -1
    )
    return jax.nn.relu(y).reshape(n, frames, *y.shape[1:])


@jax.jit
def network(z, clips):
    """Clips (B, t, h, w, 3) -> probabilities (B, 5), from the weights of a fixture."""
    x = unfolded(clips, z["param_conv1_weight"], z["param_conv1_bias"], (1, 2, 2))
    x = unfolded(x, z["param_conv2_weight"], z["param_conv2_bias"], (2, 2, 2))
    logits = x.mean((1, 2, 3)) @ z["param_fc_weight"].T + z["param_fc_bias"][None]
    return jax.nn.softmax(logits)


def weights_of(z):
    return {key: jnp.asarray(value) for key, value in z.items() if key.startswith("param_")}


@functools.cache
def published(folder, name):
    path = folder / "fixtures" / "metrics" / f"causal_metrics_{name}.npz"
    if not path.is_file():
        pytest.skip("insertion and deletion curves are not among the shared fixtures")
    with np.load(path, allow_pickle=False) as z:
        return dict(z)


def options_of(key, z):
    """("ins", order, remove, options) from e.g. "probs_segments_ins_most_first_fade"."""
    words = key.split("_")[1:]
    options = {}
    if words[0] == "segments":
        words, options = words[1:], {"segments": z["segments"]}
    for name in ("grid", "smooth"):
        if words[-1].startswith(name):
            options[name] = int(words.pop().removeprefix(name))
    mode, *order, remove = words
    return mode, "_".join(order), remove, options


@pytest.mark.parametrize("name", ["01", "02", "03"])
def test_curves_equal_the_published_code(shared, name):
    z = published(shared, name)
    fn, steps = functools.partial(network, weights_of(z)), int(z["n_step"])
    clips, maps = np.moveaxis(z["input"], 1, -1), z["explanation"][:, 0]
    keys = [key for key in z if key.startswith("probs_")]
    assert len(keys) == {"01": 18, "02": 22, "03": 14}[name]
    for key in keys:
        mode, order, remove, options = options_of(key, z)
        measure = metrics.insertion if mode == "ins" else metrics.deletion
        atol = 1e-3 if options.keys() & {"grid", "smooth"} else 1e-5
        areas = np.atleast_1d(z[key.replace("probs", "auc")])
        for i, (clip, row) in enumerate(zip(clips, maps, strict=True)):
            target = int(z["target"][i])
            way = {"order": order, "edge": "zero"} | options
            got = measure(fn, clip, row, target, steps, remove, **way)
            np.testing.assert_allclose(got, np.atleast_2d(z[key])[i], atol=atol, err_msg=key)
            assert float(got.auc) == pytest.approx(areas[i], abs=atol)


def test_batched_curves_equal_the_published_code_in_one_program(shared):
    z = published(shared, "01")
    chex.clear_trace_counter()
    once = chex.assert_max_traces(network.__wrapped__, n=1)
    fn = functools.partial(once, weights_of(z))
    run = jax.jit(functools.partial(metrics.insertion_deletion, fn, edge="zero"))
    clips, maps = jnp.asarray(np.moveaxis(z["input"], 1, -1)), jnp.asarray(z["explanation"][:, 0])
    targets = jnp.asarray(z["target"], jnp.int32)
    run(jnp.zeros_like(clips), maps, targets)
    both = run(clips, maps, targets)
    np.testing.assert_allclose(both.insertion, z["probs_ins_most_first_blur"], atol=1e-5)
    np.testing.assert_allclose(both.deletion, z["probs_del_most_first_blur"], atol=1e-5)
    areas = z["auc_ins_most_first_blur"] - z["auc_del_most_first_blur"]
    np.testing.assert_allclose(both.difference, areas, atol=1e-5)


@pytest.mark.parametrize("reach", [2, 3])
def test_smoothing_kernel_equals_the_published_code(shared, reach):
    weights = smoothing_weights(reach)
    kernel = published(shared, "01")[f"smooth_kernel_sigma{reach}"]
    np.testing.assert_allclose(np.outer(weights, weights), kernel, atol=1e-8)


# A small model, written twice


WEIGHTS = np.random.default_rng(5).normal(size=(int(np.prod(SHAPE)), 3)) / 4


@jax.jit
def small(clips):
    x = jnp.tanh(clips).reshape(len(clips), -1)
    return jax.nn.softmax(jnp.matmul(x, jnp.asarray(WEIGHTS, x.dtype), precision="highest"))


def small_twin(clip):
    e = np.exp(np.tanh(clip.astype(float)).ravel() @ WEIGHTS)
    return e / e.sum()


def host_side(clips):
    """A model of another framework, for NumPy arrays only."""
    return np.stack([small_twin(clip) for clip in np.asarray(clips)])


def curve_twin(reveal, clip, units, importance, target, steps, fill, least_first=False):
    """Step by step, unit by unit: units are lists of voxels."""
    sign = 1 if least_first else -1
    order = sorted(range(len(units)), key=lambda unit: (sign * importance[unit], unit))
    now, then = (fill, clip) if reveal else (clip, fill)
    now, curve = now.astype(float), [small_twin(now)[target]]
    ends = np.linspace(0, len(units), steps + 1).astype(int)
    for start, end in itertools.pairwise(ends):
        for unit in order[start:end]:
            for voxel in units[unit]:
                now[voxel] = then[voxel]
        curve.append(small_twin(now)[target])
    return np.array(curve)


def small_case(seed=0, ties=False):
    rng = np.random.default_rng(seed)
    clip = rng.normal(size=SHAPE).astype(np.float32)
    saliency = rng.permutation(128).reshape(SHAPE[:3]).astype(np.float32)
    return clip, np.floor(saliency / 9) if ties else saliency, int(rng.integers(3))


VOXELS = list(np.ndindex(SHAPE[:3]))


def units_twin(kind, saliency):
    """Lists of voxels and their importance."""
    if kind == "voxels":
        return [[voxel] for voxel in VOXELS], [float(saliency[voxel]) for voxel in VOXELS]
    names = {
        "cells": lambda t, y, x: (t, y * 3 // 4, x * 3 // 8),
        "segments": lambda t, y, x: (t, SEGMENTS[t, y, x]),
        "supervoxels": lambda t, y, x: SEGMENTS[t, y, x],
    }[kind]
    members = {}
    for voxel in VOXELS:
        members.setdefault(names(*voxel), []).append(voxel)
    found = [members[name] for name in sorted(members)]
    pool = np.mean if kind == "cells" else np.sum
    return found, [float(pool([saliency[voxel] for voxel in unit])) for unit in found]


SEGMENTS = np.random.default_rng(3).integers(-2, 7, size=SHAPE[:3]) * 10
OPTIONS = {
    "voxels": {},
    "cells": {"grid": 3},
    "segments": {"segments": SEGMENTS},
    "supervoxels": {"segments": SEGMENTS, "supervoxels": True},
}


@pytest.mark.parametrize("order", ["most_first", "least_first"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_curves_equal_plain_loops(kind, order):
    clip, saliency, target = small_case(ties=kind == "voxels")
    fill = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    units, importance = units_twin(kind, saliency)
    for measure in (metrics.insertion, metrics.deletion):
        got = measure(small, clip, saliency, target, 7, fill, order=order, **OPTIONS[kind])
        reveal = measure is metrics.insertion
        expected = curve_twin(
            reveal, clip, units, importance, target, 7, fill, order == "least_first"
        )
        np.testing.assert_allclose(got, expected, atol=1e-6)
        area = sum((a + b) / 2 for a, b in itertools.pairwise(expected)) / 7
        assert float(got.auc) == pytest.approx(area, abs=1e-6)


def test_curves_in_double_precision(x64):
    clip, saliency, target = small_case()
    clip = jnp.asarray(clip, jnp.float64)
    fill = np.zeros(SHAPE)
    units, importance = units_twin("voxels", saliency)
    got = metrics.insertion(small, clip, jnp.asarray(saliency), target, 5, "fade")
    assert got.curve.dtype == jnp.float64
    expected = curve_twin(True, np.asarray(clip), units, importance, target, 5, fill)
    np.testing.assert_allclose(got, expected, atol=1e-14)


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 8]),
    st.sampled_from(["fade", "blur", "mean"]),
    st.sampled_from(["most_first", "least_first"]),
)
def test_ends_and_symmetries_of_curves(seed, steps, remove, order):
    clip, saliency, target = small_case(seed)
    fill = clip.mean((0, 1, 2)) if remove == "mean" else remove
    run = functools.partial(metrics.insertion, small, clip)
    shown = run(saliency, target, steps, fill, order=order)
    both = metrics.insertion_deletion(
        small, clip[None], saliency[None], np.array([target]), steps, fill, order=order
    )
    removed = both.deletion.curve[0]
    np.testing.assert_allclose(shown, both.insertion[0], atol=1e-6)
    np.testing.assert_allclose(shown[-1], small(clip[None])[0, target], atol=1e-6)
    assert both.insertion[0, -1] == removed[0] and both.insertion[0, 0] == removed[-1]
    assert 0 <= float(shown.auc) <= 1 and abs(float(both.difference[0])) <= 1
    mirrored = metrics.deletion(small, clip, -saliency, target, steps, fill, order=order)
    np.testing.assert_allclose(shown[::-1], mirrored, atol=1e-6)
    other = "least_first" if order == "most_first" else "most_first"
    turned = run(-saliency, target, steps, fill, order=other)
    np.testing.assert_array_equal(shown, turned)


def test_curves_separate_a_right_map_from_a_wrong_one():
    """If only frame 2 matters, the right map restores (or removes) all in one of four steps."""

    @jax.jit
    def fn(clips):
        logit = clips[:, 2].mean((1, 2, 3))
        return jax.nn.softmax(jnp.stack([logit, -logit], -1))

    clip = np.full(SHAPE, 2.0, np.float32)
    right, wrong = np.eye(4, dtype=np.float32)[2], np.eye(4, dtype=np.float32)[0]
    clips, targets = np.stack([clip, clip]), np.zeros(2, int)
    both = metrics.insertion_deletion(fn, clips, np.stack([right, wrong]), targets, 4, "fade")
    full = float(fn(clip[None])[0, 0])
    np.testing.assert_allclose(both.insertion[0], [0.5, full, full, full, full], rtol=1e-6)
    np.testing.assert_allclose(both.deletion[0], [full, 0.5, 0.5, 0.5, 0.5], rtol=1e-6)
    assert both.difference[0] > 0.3 > 0 > both.difference[1]


def test_curves_under_jit_vmap_and_batches():
    cases = [small_case(seed) for seed in range(3)]
    clips, maps, targets = (np.stack(column) for column in zip(*cases, strict=True))
    clips, maps, targets = jnp.asarray(clips), jnp.asarray(maps), jnp.asarray(targets, jnp.int32)
    one = functools.partial(metrics.insertion, small, steps=5, segments=SEGMENTS, smooth=1)
    each = [one(*case) for case in zip(clips, maps, targets, strict=True)]
    expected = np.stack([np.asarray(curve) for curve in each])
    mapped = jax.jit(jax.vmap(one))(clips, maps, targets)
    assert isinstance(mapped, PerturbationCurve) and mapped.shape == (3, 6)
    np.testing.assert_allclose(mapped, expected, atol=1e-6)
    np.testing.assert_allclose(mapped.auc, [float(curve.auc) for curve in each], atol=1e-6)
    both = functools.partial(
        metrics.insertion_deletion, small, steps=5, segments=SEGMENTS, smooth=1
    )
    plain = both(clips, maps, targets)
    np.testing.assert_allclose(plain.insertion, expected, atol=1e-6)
    in_sevens = functools.partial(both, batch_size=7)
    for run in (jax.jit(both), in_sevens, jax.jit(in_sevens)):
        chex.assert_trees_all_close(run(clips, maps, targets), plain, atol=1e-6)


def test_segments_per_clip():
    cases = [small_case(seed) for seed in range(3)]
    clips, maps, targets = (np.stack(column) for column in zip(*cases, strict=True))
    maps -= 64  # of both signs: segments that a clip lacks sum to 0, and must still come last
    fewer = SEGMENTS.clip(0, 20)
    each = np.stack([SEGMENTS, fewer, SEGMENTS + 1])
    both = metrics.insertion_deletion(small, clips, maps, targets, 5, "fade", segments=each)
    for i, own in enumerate(each):
        given_ = clips[i], maps[i], targets[i]
        alone = metrics.deletion(small, *given_, 5, "fade", segments=own)
        np.testing.assert_allclose(both.deletion[i], alone, atol=1e-6)


def test_curve_behaves_as_an_array():
    curve = PerturbationCurve(jnp.asarray([0.0, 0.5, 1.0, 1.0]))
    assert len(curve) == 4 and curve.shape == (4,) and float(curve[2]) == 1
    assert np.asarray(curve, np.float64).dtype == np.float64
    assert [float(p) for p in curve] == [0.0, 0.5, 1.0, 1.0]
    assert float(curve.auc) == pytest.approx((0.25 + 0.75 + 1) / 3)


# Maps of other resolutions


def test_per_voxel_of_every_resolution(rng):
    per_channel = rng.normal(size=SHAPE).astype(np.float32)
    got = metrics.per_voxel(per_channel, SHAPE)
    np.testing.assert_allclose(got, per_channel.sum(-1), rtol=1e-6)
    np.testing.assert_array_equal(metrics.per_voxel(got, SHAPE[:3]), got)
    frames = rng.normal(size=4).astype(np.float32)
    spread = metrics.per_voxel(frames, SHAPE)
    np.testing.assert_array_equal(spread, np.broadcast_to(frames[:, None, None], SHAPE[:3]))
    coarse = rng.normal(size=(2, 1, 4)).astype(np.float32)
    expected = coarse.astype(float)
    for axis, size in enumerate(SHAPE[:3]):
        small_size = coarse.shape[axis]
        middles = (np.arange(size) + 0.5) * small_size / size - 0.5

        def line(row, middles=middles, small_size=small_size):
            return np.interp(middles, np.arange(small_size), row)

        expected = np.apply_along_axis(line, axis, expected)
    np.testing.assert_allclose(metrics.per_voxel(coarse, SHAPE), expected, atol=1e-6)
    half = metrics.per_voxel(jnp.asarray(frames, jnp.bfloat16), SHAPE)
    assert half.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(3,), (5, 4, 8), (4, 4), (*SHAPE[:3], 3), (4, 0, 8)])
def test_maps_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"attribution: expected shape \(t, h, w\) = \(4, 4, 8\)"):
        metrics.per_voxel(np.zeros(shape, np.float32), SHAPE)


def test_curves_of_maps_of_every_resolution(rng):
    clip, _, target = small_case()
    for shape in (SHAPE, (4,), (2, 2, 4)):
        saliency = rng.normal(size=shape).astype(np.float32)
        voxels = metrics.per_voxel(saliency, SHAPE)
        got = metrics.deletion(small, clip, saliency, target, 4, "fade")
        np.testing.assert_array_equal(got, metrics.deletion(small, clip, voxels, target, 4, "fade"))


# Bad input


def refused(error, match, fn=small, target=0, measure=metrics.insertion, **changes):
    clip, saliency, _ = small_case()
    given_ = {"clip": clip, "saliency": saliency} | changes
    with pytest.raises(error, match=match):
        measure(fn, target=target, **given_)


def test_bad_input_is_refused():
    clip, saliency, _ = small_case()
    refused(ValueError, r"clip: expected shape \(t, h, w, c\), got .* insertion", clip=clip[None])
    refused(TypeError, "clip: expected a floating-point", clip=clip.astype(int))
    refused(ValueError, "clip: expected finite", clip=np.full(SHAPE, np.nan, np.float32))
    refused(ValueError, "saliency: expected finite", saliency=np.full_like(saliency, np.nan))
    refused(ValueError, "saliency: expected shape", saliency=saliency[:, :, :5, None])
    refused(TypeError, "saliency: expected a floating-point", saliency=saliency > 3)
    refused(ValueError, r"target: expected a class in 0\.\.2, got 3", target=3)
    refused(ValueError, r"target: expected a class in 0\.\.2, got -1", target=-1)
    refused(ValueError, r"target: expected shape \(\)", target=np.array([0, 1]))
    refused(TypeError, "target: expected a class", target=1.0)
    refused(ValueError, "steps: expected an integer >= 1", steps=0)
    refused(ValueError, "steps: expected at most 128", steps=129)
    refused(ValueError, "steps: expected at most 16", steps=17, grid=2)
    refused(ValueError, "remove: expected 'blur'", remove="noise")
    refused(ValueError, "remove: expected a shape that broadcasts", remove=np.ones(3, np.float32))
    refused(TypeError, "remove: expected a floating-point", remove=np.ones(2, int))
    refused(ValueError, "remove: expected finite", remove=np.array([0, np.inf]))
    refused(ValueError, "order: expected one of", order="most")
    refused(ValueError, "edge: expected one of", edge="mirror")
    refused(ValueError, "sigma: expected pixels", blur_sigma=-1.0)
    refused(ValueError, "grid: expected at most 4", grid=5)
    refused(ValueError, "smooth: expected an integer >= 1", smooth=0)
    refused(ValueError, "batch_size: expected an integer >= 1", batch_size=0)
    refused(ValueError, "segments: expected None beside a grid", grid=2, segments=SEGMENTS)
    refused(ValueError, "segments: expected ids of supervoxels", supervoxels=True)
    refused(ValueError, "segments: expected shape", segments=SEGMENTS[None])
    refused(TypeError, "segments: expected integer ids", segments=saliency)
    with pytest.raises(ValueError, match="segments: expected ids that are known"):
        jax.jit(lambda ids: metrics.insertion(small, clip, saliency, 0, segments=ids))(SEGMENTS)


def test_outputs_that_are_not_probabilities_are_refused():
    def logits(clips):
        return clips.mean((2, 3)).sum(-1)

    softmax = "Wrap a function that returns logits: lambda clips: jax.nn.softmax"
    refused(ValueError, rf"fn: expected probabilities, .*{softmax}", fn=logits)
    refused(ValueError, softmax, fn=lambda clips: small(clips) + 1)
    refused(ValueError, r"or jax.nn.sigmoid\(model\(clips\)\) for independent", fn=logits)
    finite = r"fn: expected finite values, got nan at index \(0, 0\)"
    refused(ValueError, finite, fn=lambda clips: small(clips) * jnp.nan)
    signed = jnp.asarray([[1.5, -0.5]])
    refused(ValueError, softmax, fn=lambda clips: jnp.tile(signed, (len(clips), 1)))
    refused(ValueError, r"fn: expected probabilities of shape \(B, C\)", fn=lambda clips: clips)
    refused(ValueError, "got tuple", fn=lambda clips: (small(clips),))
    refused(ValueError, "from 17 clips", fn=lambda clips: small(clips)[0])
    refused(TypeError, "floating-point prob", fn=lambda clips: jnp.ones((len(clips), 1), int))
    refused(TypeError, "fn: expected a function", fn=None)
    half = functools.partial(metrics.insertion, lambda clips: small(clips).astype(jnp.bfloat16))
    clip, saliency, target = small_case()
    np.testing.assert_allclose(
        metrics.insertion(host_side, clip, saliency, target),
        metrics.insertion(small, clip, saliency, target),
        atol=1e-6,
    )
    assert half(clip, saliency, target).curve.dtype == jnp.float32
    run = jax.jit(functools.partial(metrics.insertion, logits))
    assert np.isfinite(np.asarray(run(clip, saliency, 1))).all()
    run = jax.jit(functools.partial(metrics.insertion, small))
    assert np.isnan(np.asarray(run(clip, saliency, 3))).all()


def test_bad_sets_are_refused():
    clip, saliency, _ = small_case()
    clips, maps = np.stack([clip] * 2), np.stack([saliency] * 2)
    run = functools.partial(metrics.insertion_deletion, small)
    with pytest.raises(ValueError, match=r"clips: expected shape \(V, t, h, w, c\)"):
        run(clip, maps, np.zeros(2, int))
    with pytest.raises(ValueError, match="saliencies: expected 2 maps"):
        run(clips, maps[:1], np.zeros(2, int))
    with pytest.raises(ValueError, match=r"targets: expected shape \(V,\) = \(2,\)"):
        run(clips, maps, 0)
    with pytest.raises(ValueError, match=r"clips: expected at least one number"):
        run(clips[:0], maps[:0], np.zeros(0, int))


# Pointing


@pytest.mark.parametrize("name", ["01", "02"])
def test_pointing_game_equals_the_published_code(fixtures, name):
    z = np.load(fixtures / "metrics" / f"pointing_game_{name}.npz", allow_pickle=False)
    got = pointing_game(z["points"], z["boxes"], z["labels"], int(z["tolerance"]))
    np.testing.assert_array_equal(got.hits, z["hits"])
    np.testing.assert_array_equal(got.class_accuracies, z["class_accuracies"])
    assert got.accuracy == z["accuracy"]


def test_pointing_game_by_hand():
    points, boxes = [(4, 9), (5, 9), (-1, 3)], [(10, 10, 20, 20), (10, 10, 20, 20), (2, 2, 4, 4)]
    got = pointing_game(points, boxes, [0, 0, 2], tolerance=5, n_classes=4)
    assert got.hits.tolist() == [-1, 1, -1]  # the last lies before pixel 0, where boxes end
    assert got.class_accuracies.tolist() == [0.5, 0, 0, 0] and got.accuracy == 0.125
    with pytest.raises(ValueError, match=r"labels: expected classes in 0\.\.1, got 2"):
        pointing_game(points, boxes, [0, 0, 2], n_classes=2)
    with pytest.raises(ValueError, match=r"boxes: expected shape \(n, 4\) = \(3, 4\)"):
        pointing_game(points, boxes[:2], [0, 0, 2])
    with pytest.raises(ValueError, match="points: expected shape"):
        pointing_game([], [], [])
    with pytest.raises(ValueError, match="tolerance: expected pixels"):
        pointing_game(points, boxes, [0, 0, 2], tolerance=-1)


def around_twin(mask, tolerance, frame_tolerance):
    found = np.zeros_like(mask)
    for t, y, x in np.argwhere(mask):
        for other in np.ndindex(mask.shape):
            apart = np.abs(np.subtract(other, (t, y, x)))
            near = apart[0] <= frame_tolerance and max(apart[1:]) <= tolerance
            found[other] |= near
    return found


def evidence_case(rng, v=4):
    maps = rng.normal(size=(v, 3, 5, 6)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    for i, t, y, x in ((0, 1, 2, 3), (0, 2, 0, 0), (1, 0, 4, 4), (2, 2, 1, 1)):
        masks[i, t, y : y + 2, x : x + 2] = True
    return maps, masks


@pytest.mark.parametrize(("tolerance", "frame_tolerance"), [(0, 0), (1, 0), (2, 1)])
def test_pointing_and_mass_equal_plain_loops(rng, tolerance, frame_tolerance):
    maps, masks = evidence_case(rng)
    hits, shares = [], []
    for row, mask in zip(maps, masks, strict=True):
        inside = around_twin(mask, tolerance, frame_tolerance)
        highest = max(np.ndindex(row.shape), key=lambda voxel, row=row: row[voxel])
        positive = np.maximum(row.astype(float), 0)
        known = inside.any()
        hits.append(float(inside[highest]) if known else np.nan)
        shares.append(positive[inside].sum() / positive.sum() if known else np.nan)
    assert np.isnan(hits[3])
    given_ = (maps, masks, tolerance, frame_tolerance)
    np.testing.assert_array_equal(metrics.pointing_hits(*given_), np.float32(hits))
    np.testing.assert_allclose(metrics.mass_inside(*given_), shares, rtol=1e-5)
    run = functools.partial(
        metrics.pointing_hits, tolerance=tolerance, frame_tolerance=frame_tolerance
    )
    np.testing.assert_array_equal(jax.jit(jax.vmap(run))(maps, masks), np.float32(hits))
    assert run(maps[0], masks[0]).shape == ()


def test_ties_of_voxels_take_the_first():
    flat = np.zeros((2, 2, 2), np.float32)
    first = np.zeros(flat.shape, bool)
    first[0, 0, 0] = True
    assert float(metrics.pointing_hits(flat, first)) == 1
    assert float(metrics.pointing_hits(flat, ~first)) == 0
    assert float(metrics.mask_coverage(flat, first, 1 / 8)) == 1
    assert np.isnan(metrics.mass_inside(flat, first))
    assert float(metrics.mass_inside(flat + np.float32(1e-37), first)) == pytest.approx(1 / 8)


def test_coverage_equals_plain_loops(rng):
    maps, masks = evidence_case(rng)
    for area in (0.01, 0.3, 1.0):
        count = max(1, round(area * 90))
        expected = []
        for row, mask in zip(maps, masks, strict=True):
            order = sorted(np.ndindex(row.shape), key=lambda voxel, row=row: -row[voxel])
            found = sum(bool(mask[voxel]) for voxel in order[:count])
            expected.append(found / mask.sum() if mask.any() else np.nan)
        np.testing.assert_allclose(metrics.mask_coverage(maps, masks, area), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"area: expected a share in \(0, 1\], got 0"):
        metrics.mask_coverage(maps, masks, 0)


def test_bad_evidence_is_refused(rng):
    maps, masks = evidence_case(rng)
    with pytest.raises(ValueError, match=r"masks: expected shape \(4, 3, 5, 6\) like maps"):
        metrics.pointing_hits(maps, masks[:, 0])
    with pytest.raises(TypeError, match="masks: expected bool"):
        metrics.mass_inside(maps, masks.astype(int))
    with pytest.raises(ValueError, match="maps: expected finite"):
        metrics.mass_inside(maps * np.nan, masks)
    with pytest.raises(ValueError, match="tolerance: expected an integer >= 0"):
        metrics.pointing_hits(maps, masks, -1)
    with pytest.raises(ValueError, match="maps: expected shape"):
        metrics.pointing_hits(maps[0, 0], masks[0, 0])


# Temporal grounding


def grounding_twin(values, evidence, k):
    n, k = len(values), k or int(evidence.sum())
    if not evidence.any():
        return np.nan
    chosen = set(sorted(range(n), key=lambda i: -values[i])[:k])
    right = set(np.flatnonzero(evidence).tolist())
    return len(chosen & right) / len(chosen | right)


@pytest.mark.parametrize("k", [None, 1, 3, 7])
def test_grounding_equals_plain_loops(rng, k):
    values = rng.integers(-4, 5, size=(12, 7)).astype(np.float32)
    evidence = rng.random((12, 7)) < 0.4
    evidence[0], evidence[1] = False, True
    run = functools.partial(metrics.temporal_grounding, k=k)
    expected = [grounding_twin(*row, k) for row in zip(values, evidence, strict=True)]
    np.testing.assert_allclose(run(values, evidence), np.float32(expected), rtol=1e-6)
    mapped = jax.jit(jax.vmap(run))(values, evidence)
    np.testing.assert_allclose(mapped, np.float32(expected), rtol=1e-6)


def test_grounding_of_maps_sums_positive_values():
    maps = np.zeros((4, 2, 3), np.float32)
    maps[1], maps[2], maps[2, 0, 0], maps[3, 0, :2] = 0.5, -9, 2, 1.5
    evidence = np.array([False, True, False, True])
    assert float(metrics.temporal_grounding(maps, evidence)) == 1
    assert float(metrics.temporal_grounding(maps[None], evidence[None], 3)[0]) == pytest.approx(
        2 / 3
    )
    with pytest.raises(ValueError, match=r"k: expected 1\.\.4 frames, got 5"):
        metrics.temporal_grounding(maps, evidence, 5)
    with pytest.raises(ValueError, match=r"values: expected shape \(4,\) like evidence"):
        metrics.temporal_grounding(maps[:3], evidence)
    with pytest.raises(TypeError, match="evidence: expected bool"):
        metrics.temporal_grounding(maps, evidence.astype(int))


# Structured outputs and targets


@jax.jit
def sigmoids(clips):
    """Three labels, each probability on its own."""
    x = jnp.tanh(clips).reshape(len(clips), -1)
    return jax.nn.sigmoid(jnp.matmul(x, jnp.asarray(WEIGHTS, x.dtype), precision="highest"))


def test_independent_sigmoids_are_probabilities():
    """Curves of one label equal those of a model without other labels."""
    clip, saliency, target = small_case()
    totals = np.asarray(sigmoids(np.stack([clip, 0 * clip]))).sum(-1)
    assert np.abs(totals - 1).min() > 0.1
    fill = np.zeros(SHAPE, np.float32)
    order = np.argsort(-saliency.ravel())
    shown = np.zeros((5, 128), bool)
    for k in range(5):
        shown[k, order[: 32 * k]] = True
    clips = np.where(shown.reshape(5, *SHAPE[:3], 1), clip, fill)
    expected = 1 / (1 + np.exp(-np.tanh(clips.astype(float)).reshape(5, -1) @ WEIGHTS))
    shifted = functools.partial(metrics.insertion, clip=clip, saliency=saliency, steps=4)
    for remove in ("fade", fill):
        several = shifted(sigmoids, target=target, remove=remove)
        np.testing.assert_allclose(several, expected[:, target], atol=1e-6)
    one = lambda clips: sigmoids(clips)[:, target]  # noqa: E731
    for fn in (one, lambda clips: one(clips)[:, None], lambda clips: np.asarray(one(clips))):
        np.testing.assert_array_equal(shifted(fn, target=0, remove="fade"), several)
    both = metrics.insertion_deletion(
        one, clip[None], saliency[None], np.array([0]), 4, "fade", batch_size=3
    )
    np.testing.assert_allclose(both.insertion[0], several, atol=1e-6)
    gone = metrics.deletion(one, clip, saliency, 0, 4, "fade")
    np.testing.assert_allclose(both.deletion[0], gone, atol=1e-6)


class Recorded:
    """A tensor that records gradients, as far as the package uses it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, "float32"

    def detach(self):
        return np.asarray(self.array)


def test_models_of_one_clip_are_taken():
    clip, saliency, target = small_case()

    def logits(clip):
        return jnp.matmul(jnp.tanh(clip).reshape(-1), jnp.asarray(WEIGHTS, clip.dtype))

    for model in (logits, types.SimpleNamespace(logits=logits)):
        found = metrics.insertion(model, clip, saliency, target, 4)
        expected = metrics.insertion(small, clip, saliency, target, 4)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("batch", range(1, 7))
def test_models_of_one_clip_differ_from_those_of_a_batch(rng, batch):
    """Also where an axis that the model computes is as long as the batch."""
    weights = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    clips = jnp.asarray(rng.normal(size=(batch, 5, 3, 4, 3)), jnp.float32)

    def columns(clip):  # (t, h, w, c); of a batch (B, t, h, w, c) scores by column, (w, C)
        return jnp.tanh(clip).mean((1, 2)).max(0) @ weights

    for one in (columns, lambda clip: columns(clip[..., ::2, :])):
        each = jax.vmap(one)
        expected = jax.nn.softmax(each(clips))
        models = [
            one,
            types.SimpleNamespace(logits=one),
            lambda clips, each=each: jax.nn.softmax(each(clips)),
            lambda clips, each=each: jax.nn.softmax(each(clips.reshape(batch, 5, 3, 4, 3))),
            lambda clips, each=each: np.asarray(jax.nn.softmax(each(np.asarray(clips)))),
        ]
        for model in models:
            scores = ScoresOf(model, "clips")
            np.testing.assert_allclose(scores(clips), expected, atol=1e-6)
            np.testing.assert_allclose(scores(clips), expected, atol=1e-6)


def test_structured_outputs():
    clip, saliency, target = small_case()
    run = functools.partial(metrics.insertion, clip=clip, saliency=saliency, steps=4)
    expected = run(small, target=target)
    outputs = [lambda p: {"logits": p}, lambda p: types.SimpleNamespace(logits=p), Recorded]
    for output in outputs:
        found = run(lambda clips, output=output: output(small(clips)), target=target)
        np.testing.assert_array_equal(found, expected)
    refused(
        ValueError, "got dict with 'a'. Return the scores", fn=lambda clips: {"a": small(clips)}
    )
    refused(ValueError, "got NoneType. Return the scores", fn=lambda clips: None)
    refused(TypeError, "got SimpleNamespace", fn=types.SimpleNamespace(logits=1))
    refused(TypeError, "clip: expected an array, got dict. Pass one of its", clip={"a": clip})
    refused(TypeError, "saliency: expected an array, got NoneType", saliency=None)


def test_invalid_targets_are_refused():
    for target in (True, np.bool_(True), jnp.asarray(1.0), "1", None):
        refused(TypeError, "target: expected a class, got", target=target)
    for target in (jnp.asarray(3), np.int64(-1)):
        refused(ValueError, r"target: expected a class in 0\.\.2, got", target=target)
    refused(ValueError, "target: expected a class in 0.*got 4294967296", target=2**32)
    clip, saliency, _ = small_case()
    for targets in ([0.0, 1.0], [True, False], [1.7, 1]):
        with pytest.raises(TypeError, match="targets: expected a class, got dtype"):
            metrics.insertion_deletion(
                small, np.stack([clip] * 2), np.stack([saliency] * 2), targets
            )


def test_voxel_metrics_work_under_debug_nans():
    clip, saliency, target = small_case()
    masks = np.asarray(saliency) > 100
    expected = metrics.insertion(small, clip, saliency, target, 4)
    with jax.debug_nans(True):
        np.testing.assert_array_equal(metrics.insertion(small, clip, saliency, target, 4), expected)
        assert float(metrics.pointing_hits(saliency, masks)) == 1
        assert 0 < float(metrics.mass_inside(saliency, masks)) < 1
        assert float(metrics.temporal_grounding(saliency, masks.any((1, 2)))) == 1


def test_evidence_of_wrong_type_is_refused():
    maps = np.ones((2, 3, 3), np.float32)
    with pytest.raises(TypeError, match="masks: expected an array, got dict"):
        metrics.pointing_hits(maps, {"a": maps > 0})
    with pytest.raises(TypeError, match="evidence: expected an array, got NoneType"):
        metrics.temporal_grounding(maps, None)
    with pytest.raises(TypeError, match="points: expected numbers, got dict"):
        pointing_game({"x": 1}, [[0, 0, 1, 1]], [0])
    with pytest.raises(TypeError, match="shape: expected an integer, got float"):
        metrics.per_voxel(maps, (2, 3.5, 3))
