"""STEP: traces of the published program, properties of the masks, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from esv_jax.perturbation import Core, Masking, step
from esv_jax.perturbation.descent import published_weights, ramped_weights
from tests.perturbation.test_masks import step_fixture

KEY = jax.random.key(0)
PUBLISHED = {"weights": published_weights(), "padded": True, "dropout": 0, "key": KEY}
GRADIENTS = [f"step_gradient_0{i}" for i in range(1, 8)]
TRACES = [f"step_trace_0{i}" for i in range(1, 10)]
ONES = [f"step_trace_ones_0{i}" for i in range(1, 5)]
QUICK = {"step_gradient_01", "step_gradient_02", "step_trace_01", "step_trace_ones_01"}


def cases(names):
    """Cases with a compilation of their own, or many iterations, are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in names]


def classifier(weights):
    """The small network of the fixtures, clips (B, t, h, w, c) -> probabilities (B, C)."""
    conv1, bias1, conv2, bias2, fc, bias = (
        jnp.asarray(weights[f"param_{name}"])
        for name in (
            "conv1_weight",
            "conv1_bias",
            "conv2_weight",
            "conv2_bias",
            "fc_weight",
            "fc_bias",
        )
    )

    def layer(x, kernel, bias, strides, padding):
        out = jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=("NDHWC", "OIDHW", "NDHWC")
        )
        return jax.nn.relu(out + jnp.broadcast_to(bias, out.shape))

    def fn(clips):
        x = layer(clips, conv1, bias1, (1, 2, 2), ((1, 1), (2, 2), (2, 2)))
        x = layer(x, conv2, bias2, (2, 2, 2), ((1, 1),) * 3).mean((1, 2, 3))
        logits = jnp.matmul(x, fc.T, precision="highest")
        return jax.nn.softmax(logits + jnp.broadcast_to(bias, logits.shape))

    return fn


@pytest.fixture(scope="module")
def public():
    """One function for all fixtures, which share weights, so that compiled programs are shared."""
    return {}


def replayed(fixtures, request, public, name):
    """A fixture, and the result of the same call."""
    want = step_fixture(fixtures, request, name)
    fn = public.setdefault("fn", classifier(want))
    clips = jnp.asarray(np.moveaxis(want["input"], 1, -1))
    areas = tuple(float(area) for area in want["opt_areas"])
    n, t = clips.shape[:2]

    def by_clip(small):  # (A * N * t, h, w), area first -> (N, A, t, h, w)
        rows = np.asarray(small)
        return rows.reshape(len(areas), n, t, *rows.shape[1:]).swapaxes(0, 1)

    core = None
    if want["opt_with_core"]:
        size = int(want["opt_core_spatial_size"])
        core = Core(str(want["opt_core_shape"]), int(want["opt_core_num_keyframe"]), size)
    result = step(
        fn,
        clips,
        want["target"],
        areas=areas,
        mode=str(want["opt_variant"]),
        iterations=int(want["opt_max_iter"]),
        core=core,
        difference=bool(want["opt_with_diff"]),
        masking=Masking(str(want["opt_perturb_type"]), edge="zero", step=7, sigma=11),
        start=by_clip(want["pmasks"][0]),
        **PUBLISHED,
    )
    return want, result, by_clip


def energies_of(want):
    return np.moveaxis(want["reward"] + want["regul"], 0, 1)


@pytest.mark.parametrize("name", cases(GRADIENTS))
def test_first_iterations_equal_the_published_code(fixtures, request, public, name):
    want, result, by_clip = replayed(fixtures, request, public, name)
    reward = np.moveaxis(want["reward"], 0, 1)
    np.testing.assert_allclose(result.reward[..., 0], reward[..., 0], rtol=1e-5)
    np.testing.assert_allclose(result.energy[..., 0], energies_of(want)[..., 0], rtol=1e-5)
    np.testing.assert_allclose(result.reward, reward, rtol=1e-4)
    np.testing.assert_allclose(result.energy, energies_of(want), rtol=1e-4)
    np.testing.assert_allclose(result.small_masks, by_clip(want["final_pmask"]), atol=1e-3)


@pytest.mark.slow  # many iterations
@pytest.mark.parametrize("name", cases(TRACES))
def test_traces_equal_the_published_code(fixtures, request, public, name):
    want, result, by_clip = replayed(fixtures, request, public, name)
    np.testing.assert_allclose(result.energy, energies_of(want), rtol=1e-2)
    # Masks there are those before the last step; one step moves them by little.
    np.testing.assert_allclose(result.small_masks, by_clip(want["final_pmask"]), atol=2e-2)
    alike = np.corrcoef(np.ravel(result.masks), np.ravel(want["final_masks"]))[0, 1]
    assert alike > 0.999
    assert result.probability.shape == result.masks.shape[:2]


@pytest.mark.slow  # many iterations
@pytest.mark.parametrize("name", cases(ONES))
def test_traces_from_constant_masks_resemble_the_published_code(fixtures, request, public, name):
    want, result, _ = replayed(fixtures, request, public, name)
    np.testing.assert_allclose(result.energy[..., -1], energies_of(want)[..., -1], rtol=0.2)
    alike = np.corrcoef(np.ravel(result.masks), np.ravel(want["final_masks"]))[0, 1]
    assert alike >= 0.85


# A network that uses one region of two frames


SHAPE = (6, 16, 16, 3)
PLACE = (slice(1, 3), slice(4, 9), slice(8, 13))  # frames, rows, columns


@pytest.fixture(scope="module")
def spotter():
    """Class 1 for a bright and sharp pattern in one region; ignores other regions."""
    pattern = np.indices((5, 5)).sum(0) % 2 * 2.0 - 1  # a blur takes it away

    def fn(clips):
        seen = (clips[:, *PLACE].mean(-1) * pattern[None, None]).mean((1, 2, 3))
        logits = jnp.stack([jnp.zeros_like(seen), 40 * seen - 4], 1)
        return jax.nn.softmax(logits.astype(clips.dtype))

    return fn


@pytest.fixture(scope="module")
def clip():
    checks = np.indices((16, 16)).sum(0) % 2
    return jnp.asarray(np.broadcast_to(checks[None, :, :, None], SHAPE), jnp.float32)


def found(spotter, clip, **options):
    chosen = {"areas": (0.05,), "iterations": 120, "key": jax.random.key(0)} | options
    return step(spotter, clip, 1, **chosen)


@pytest.fixture(scope="module")
def kept(spotter, clip):
    return found(spotter, clip, areas=(0.03, 0.1), dropout=0.0)


def inside(mask):
    """The share of a mask (t, h, w) in the region dilated by 2 pixels."""
    around = np.zeros(SHAPE[:3], bool)
    around[PLACE[0], 2:11, 6:15] = True
    return float(np.asarray(mask)[around].sum() / np.asarray(mask).sum())


def test_masks_cover_the_region_that_the_network_uses(kept):
    assert kept.masks.shape == (2, *SHAPE[:3])
    assert kept.energy.shape == kept.reward.shape == (2, 120)
    assert kept.clean_probability > 0.99
    assert (np.asarray(kept.probability) > 0.95).all()
    assert inside(kept.masks[0]) > 0.8
    for mask, area in zip(kept.masks, kept.areas, strict=True):
        assert float((np.asarray(mask) > 0.5).mean()) == pytest.approx(area, abs=0.03)
    np.testing.assert_allclose(kept.saliency, kept.masks.sum(0), rtol=1e-6)
    assert (kept.energy[:, -1] < kept.energy[:, 0]).all()
    assert kept.warnings == () and (kept.stopped_at == 120).all()


@pytest.mark.parametrize("mode", ["delete", pytest.param("dual", marks=pytest.mark.slow)])
def test_delete_and_dual_modes(spotter, clip, mode):
    result = found(spotter, clip, mode=mode)
    assert inside(result.masks[0]) > 0.7
    if mode == "delete":
        assert result.probability[0] < 0.1
    else:
        assert result.probability[0] > 0.9


def test_area_per_frame(spotter, clip):
    result = found(spotter, clip, areas=(0.15,), per_frame=True, dropout=0.0)
    by_frame = np.asarray(result.masks[0] > 0.5).mean((1, 2))
    np.testing.assert_allclose(by_frame, np.full(6, 0.15), atol=0.07)


@pytest.mark.slow
def test_core_and_difference_loss_reduce_flicker(rng):
    """At equal area, with the prediction preserved."""

    def fn(clips):  # uses one region of each frame, all different
        places = [(2, 2), (10, 3), (4, 10), (11, 11), (2, 6), (8, 8)]
        seen = jnp.stack(
            [clips[:, t, y : y + 4, x : x + 4].std((1, 2, 3)) for t, (y, x) in enumerate(places)]
        ).mean(0)
        return jax.nn.softmax(jnp.stack([jnp.zeros_like(seen), 20 * seen - 3], 1))

    clip = jnp.asarray(rng.uniform(size=SHAPE), jnp.float32)
    plain, core, even = (
        found(fn, clip, areas=(0.2,), iterations=60, **options)
        for options in ({}, {"core": Core("cylinder", 4, 4)}, {"difference": True})
    )

    def flicker(result):
        return float(np.abs(np.diff(result.masks[0], axis=0)).mean())

    assert flicker(core) < 0.8 * flicker(plain)
    assert flicker(even) < 0.8 * flicker(plain)
    assert core.probability[0] > 0.5


def test_batch_equals_single_clips(spotter, clip):
    clips = jnp.stack([clip, clip[:, ::-1]])
    options = {"areas": (0.05, 0.1), "iterations": 12, "dropout": 0, "key": KEY}
    together = step(spotter, clips, [1, 0], **options)
    assert together.masks.shape == (2, 2, *SHAPE[:3]) and together.energy.shape == (2, 2, 12)
    start = np.random.default_rng(0).uniform(0.4, 0.6, size=together.small_masks.shape)
    started = step(spotter, clips, [1, 0], start=start, **options)
    for i, target in enumerate((1, 0)):
        alone = step(spotter, clips[i], target, **options)  # its noise is other
        np.testing.assert_allclose(alone.energy[:, 0], together.energy[i, :, 0], rtol=0.1)
        alone = step(spotter, clips[i], target, start=start[i], **options)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(started), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-5, atol=1e-5)


def test_jit_and_vmap_equal_the_eager_call(spotter, clip):
    options = {"areas": (0.05,), "iterations": 6, "key": jax.random.key(3)}
    eager = step(spotter, clip, 1, **options)
    run = jax.jit(lambda clip: step(spotter, clip, 1, **options))
    compiled, mapped = run(clip), jax.jit(jax.vmap(run))(clip[None])
    for a, b, c in zip(*map(jax.tree.leaves, (eager, compiled, mapped)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(a, c[0], rtol=1e-5, atol=1e-5)
    again = step(spotter, clip, 1, **options)
    np.testing.assert_array_equal(again.masks, eager.masks)
    other = step(spotter, clip, 1, **options | {"key": jax.random.key(4)})
    assert np.abs(np.asarray(other.masks - eager.masks)).max() > 1e-4


def test_patience_stops_masks(spotter, clip):
    seen = []
    result = found(
        spotter,
        clip,
        areas=(0.05, 0.1),
        iterations=300,
        dropout=0.0,
        patience=5,
        tolerance=0.01,
        on_progress=lambda done, energy: seen.append((done, energy.total.shape)),
    )
    stops = np.asarray(result.stopped_at)
    assert (stops < 300).all()
    assert seen == [(i + 1, (1, 2)) for i in range(stops.max())]
    for energies, stop in zip(result.energy, stops, strict=True):
        assert (energies[stop:] == energies[stop - 1]).all()
    assert result.energy.shape == (2, 300)


@pytest.mark.slow
def test_a_non_finite_energy_stops_a_mask(spotter, clip):
    """One of two clips gives NaN once much of it is removed; the other one continues."""

    def fn(clips):
        p = spotter(clips)
        fragile = clips[:, 0, 0, 0, 0] > 2  # the mark of the second clip
        gone = clips.std((1, 2, 3, 4)) < 0.3
        return jnp.where((fragile & gone)[:, None], jnp.nan, p)

    clips = jnp.stack([clip, clip.at[0, 0, 0].set(3.0)])
    start, weights = jnp.ones((2, 1, 6, 16, 16)), ramped_weights(60)
    chosen = {"areas": (0.05,), "start": start, "weights": weights, "dropout": 0, "key": KEY}
    result = step(fn, clips, [1, 1], iterations=60, **chosen)
    assert result.failed_at[0, 0] == -1
    at = int(result.failed_at[1, 0])
    assert 0 < at < 60 and result.stopped_at[1, 0] == at
    assert result.warnings == (
        f"area 0.05 of clip 1: the energy was not finite at iteration {at}; its mask is the last"
        " before that.",
    )
    assert np.isfinite(result.energy).all() and np.isfinite(result.masks).all()
    shorter = step(fn, clips, [1, 1], iterations=at, **chosen)
    assert shorter.failed_at[1, 0] == -1
    before = step(fn, clips, [1, 1], iterations=at - 1, **chosen)
    np.testing.assert_allclose(result.small_masks[1], before.small_masks[1], atol=1e-5)


# Bad input


def host(clips):
    return np.asarray(clips).mean((1, 2, 3))


def called_back(clips):
    shape = jax.ShapeDtypeStruct((len(clips), 3), jnp.float32)
    p = jax.pure_callback(lambda x: np.full((len(x), 3), 1 / 3, np.float32), shape, clips)
    return p


def rounded(clips):
    return jax.nn.softmax(jnp.round(clips.mean((1, 2, 3))))


def even(clips):
    return jax.nn.softmax(clips.mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"areas": (0.1, 1.0)}, ValueError, r"areas: expected shares of the volume in \(0, 1\)"),
        ({"areas": ()}, ValueError, "areas: expected at least one"),
        ({"target": 3}, ValueError, r"target: expected a class in 0..2, got 3"),
        ({"target": [0, 1]}, ValueError, "target: expected one class per clip"),
        ({"mode": "keep"}, ValueError, "mode: expected one of 'preserve', 'delete', 'dual'"),
        ({"iterations": 0}, ValueError, "iterations: expected an integer >= 1"),
        ({"dropout": 1.0}, ValueError, r"dropout: expected a share in \[0, 1\)"),
        ({"patience": 0}, ValueError, "patience: expected an integer >= 1"),
        ({"key": 0}, TypeError, "key: expected a typed PRNG key"),
        ({"areas": {"a": 1}}, TypeError, "areas: expected numbers, got dict"),
        ({"core": "ellipsoid"}, TypeError, "core: expected a Core or None, got str"),
        ({"masking": "blur"}, TypeError, "masking: expected a Masking or None, got str"),
        ({"weights": 300.0}, TypeError, "weights: expected a Weights or None, got float"),
        ({"tolerance": -1.0}, ValueError, "tolerance: expected a number >= 0"),
        ({"tolerance": 0.1}, ValueError, "patience: expected iterations beside tolerance"),
        ({"masking": Masking(step=17)}, ValueError, "clip: expected frames of 17 pixels"),
        ({"core": Core(frames=7)}, ValueError, "clip: expected at least 7 frames"),
        ({"start": jnp.ones((1, 6, 2, 2))}, ValueError, "start: expected shape"),
        ({"start": jnp.full((1, 6, 16, 16), 1.5)}, ValueError, r"start: expected numbers in 0..1"),
        ({"clip": jnp.zeros(SHAPE, jnp.uint8)}, TypeError, "clip: expected a floating-point array"),
        (
            {"clip": jnp.zeros((0, *SHAPE)), "target": []},
            ValueError,
            r"clip: expected shape \(t, h",
        ),
        ({"clip": jnp.zeros(SHAPE[1:])}, ValueError, r"clip: expected shape \(t, h, w, c\)"),
        ({"clip": jnp.full(SHAPE, jnp.nan)}, ValueError, "clip: expected finite values"),
        ({"fn": "x3d"}, TypeError, "fn: expected a function of clips"),
        ({"fn": lambda clips: clips.mean((1, 2, 3)) - 1}, ValueError, "jax.nn.softmax"),
        ({"fn": lambda clips: even(clips)[0]}, ValueError, r"fn: expected .*shape \(B, C\)"),
        (
            {"fn": host},
            TypeError,
            "fn: expected a function in JAX.*Methods that need only forward passes",
        ),
        (
            {"fn": called_back},
            TypeError,
            "calls back to the host. Methods that need only forward passes",
        ),
        ({"fn": rounded}, ValueError, "gradients that are zero everywhere. Rounding"),
    ],
)
def test_bad_input(change, kind, match):
    clip = jnp.asarray(np.random.default_rng(0).uniform(size=SHAPE), jnp.float32)
    given = {"fn": even, "clip": clip, "target": 0, "areas": (0.1,), "iterations": 2} | change
    given.setdefault("key", jax.random.key(0))
    fn, clip, target = (given.pop(name) for name in ("fn", "clip", "target"))
    with pytest.raises(kind, match=match):
        ej.perturbation.step(fn, clip, target, **given)


@pytest.mark.parametrize(
    ("target", "kind", "match"),
    [
        (True, TypeError, "target: expected a class, got dtype bool"),
        (np.bool_(False), TypeError, "target: expected a class, got dtype bool"),
        (1.7, TypeError, "target: expected a class, got dtype float64"),
        ("1", TypeError, "target: expected a class, got str"),
        (-1, ValueError, r"target: expected a class in 0\.\.2, got -1"),
        (jnp.asarray(3), ValueError, r"target: expected a class in 0\.\.2, got 3"),
        (2**32, ValueError, "target: expected a class in 0.*, got 4294967296"),
        ([], ValueError, "target: expected a class, got none"),
    ],
)
def test_invalid_targets_are_refused(target, kind, match):
    with pytest.raises(kind, match=match):
        step(even, jnp.ones(SHAPE), target, areas=(0.1,), iterations=1, key=KEY)


def test_the_key_is_required():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'key'"):
        step(even, jnp.ones(SHAPE), 0, iterations=1, dropout=0)
    with pytest.raises(ValueError, match="key: expected a PRNG key, got None"):
        step(even, jnp.ones(SHAPE), 0, iterations=1, dropout=0, key=None)
    with pytest.raises(TypeError, match="key: expected a typed PRNG key"):
        step(even, jnp.ones(SHAPE), 0, iterations=1, key=jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match=r"dropout: expected a share in \[0, 1\), got str"):
        step(even, jnp.ones(SHAPE), 0, iterations=1, dropout="0.3", key=KEY)


def sigmoids(clips):
    """Independent probabilities of three labels, each from one corner of the first frame."""
    corners = [clips[:, 0, :8, :8], clips[:, 0, 8:, 8:], clips[:, 0, :8, 8:]]
    seen = jnp.stack([corner.std((1, 2, 3)) for corner in corners], 1)
    return jax.nn.sigmoid(30 * seen - 3)


def test_sigmoids_and_structured_outputs(clip):
    """The masks of a label do not depend on other labels; probabilities need not sum to 1."""
    assert float(sigmoids(clip[None]).sum()) > 2
    options = {"areas": (0.1,), "iterations": 3, "key": jax.random.key(0)}
    expected = step(sigmoids, clip, 1, **options)
    assert expected.clean_probability > 0.9
    binary = step(lambda clips: sigmoids(clips)[:, 1], clip, 0, **options)
    record = step(lambda clips: {"logits": sigmoids(clips), "clips": clips}, clip, 1, **options)
    for found in (binary, record):
        np.testing.assert_allclose(found.masks, expected.masks, atol=1e-5)
        np.testing.assert_allclose(found.energy, expected.energy, rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"fn: .*shape \(B, C\) from 1 clips, got tuple. Return the"
    ):
        step(lambda clips: (sigmoids(clips),), clip, 1, **options)
    match = r"probabilities, 0\.\.1, got .*softmax\(model\(clips\)\), or jax\.nn\.sigmoid"
    with pytest.raises(ValueError, match=match):
        step(lambda clips: 30 * sigmoids(clips), clip, 1, **options)
    with pytest.raises(ValueError, match="fn: expected finite values, got nan"):
        step(lambda clips: sigmoids(clips) * jnp.nan, clip, 1, **options)


def test_a_second_call_does_not_compile(clip):
    n_traces = 0

    def fn(clips):
        nonlocal n_traces
        n_traces += 1
        return sigmoids(clips)

    options = {"areas": (0.1,), "iterations": 1, "dropout": 0, "key": KEY}
    step(fn, clip, 1, **options)
    first = n_traces
    step(fn, clip, 0, **options)
    assert n_traces - first <= 2 < first  # its shapes, and that it has gradients


def test_works_under_debug_nans(spotter, clip):
    options = {"areas": (0.1,), "iterations": 2, "key": jax.random.key(0), "mode": "dual"}
    options |= {"core": Core("cylinder", 3, 4), "difference": True}
    expected = step(spotter, clip, 1, **options)
    with jax.debug_nans(True):
        found = step(spotter, clip, 1, **options)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_non_finite_first_energy_is_reported(spotter, clip):
    """One of two clips fails at iteration 0; the other one continues."""

    def fn(clips):
        p = spotter(clips)
        return jnp.where((clips[:, 0, 0, 0, :1] > 2) & (clips[:, 0, 0, 1, :1] != 0), jnp.nan, p)

    clips = jnp.stack([clip, clip.at[0, 0, 0].set(3.0).at[0, 0, 1].set(0.0)])
    chosen = {"areas": (0.1,), "iterations": 3, "dropout": 0, "key": KEY}
    found = step(fn, clips, [1, 1], start=jnp.full((2, 1, 6, 16, 16), 0.99), **chosen)
    np.testing.assert_array_equal(found.failed_at, [[-1], [0]])
    assert np.isnan(found.energy[1]).all() and np.isfinite(found.energy[0]).all()
    assert "at iteration 0" in found.warnings[0] and np.isfinite(found.masks).all()
    assert found.energy[0, 0, -1] < found.energy[0, 0, 0]


def test_traced_targets_out_of_range_give_nan(clip):
    run = jax.jit(lambda target: step(even, clip, target, areas=(0.1,), iterations=1, key=KEY))
    for target in (3, -1):
        found = run(target)
        assert np.isnan(found.clean_probability) and int(found.failed_at[0]) == 0
    assert np.isfinite(run(0).clean_probability)
