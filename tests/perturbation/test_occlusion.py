"""Occlusion against a plain loop and its properties."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax.blur import gaussian_blur
from esv_jax.perturbation.occlusion import BLUR_SIGMA, occlusion

SHAPE = (5, 7, 6, 2)
C = 3
WEIGHT = (np.random.default_rng(7).normal(size=(math.prod(SHAPE), C)) / 10).astype(np.float32)


def fn(clips):
    """Scores (B, C) of a function that is not additive over voxels."""
    flat = clips.reshape(clips.shape[0], -1)
    return jnp.tanh(jnp.matmul(flat, jnp.asarray(WEIGHT), precision="highest")) * 2


@pytest.fixture
def clip(rng):
    return rng.random(SHAPE, np.float32)


def twin(clip, target, window, stride, filled):
    """Window after window in float64."""

    def score(clip):
        return 2 * np.tanh(clip.ravel().astype(np.float64) @ WEIGHT[:, target])

    total, count = np.zeros(clip.shape[:3]), np.zeros(clip.shape[:3])
    whole = score(clip)
    starts = []
    for size, length, step in zip(clip.shape, window, stride, strict=False):
        one = [0]
        while one[-1] + length < size:
            one.append(one[-1] + step)
        starts.append(one)
    for corner in itertools.product(*starts):
        place = tuple(slice(a, a + length) for a, length in zip(corner, window, strict=True))
        without = clip.copy()
        without[place] = filled[place]
        total[place] += whole - score(without)
        count[place] += 1
    assert (count > 0).all()
    return total / count


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        ((2, 3, 2), (1, 2, 2)),
        ((2, 3, 4), None),
        ((1, 1, 1), (1, 1, 1)),
        ((3, 4, 4), (3, 4, 4)),
        ((9, 9, 9), (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("remove", ["blur", "fade", "array"])
def test_equals_a_plain_loop(clip, rng, window, stride, remove):
    if remove == "array":
        remove = filled = rng.random(SHAPE, np.float32)
    else:
        filled = np.asarray(gaussian_blur(clip, BLUR_SIGMA)) if remove == "blur" else 0 * clip
    found = occlusion(fn, clip, 1, window=window, stride=stride, remove=remove)
    steps = stride or tuple(math.ceil(size / 2) for size in window)
    expected = twin(clip, 1, window, steps, filled)
    chex.assert_shape(found, SHAPE[:3])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_single_voxel_windows_of_a_linear_function(clip):
    found = occlusion(
        lambda clips: jnp.matmul(
            clips.reshape(len(clips), -1), jnp.asarray(WEIGHT), precision="highest"
        ),
        clip,
        2,
        window=(1, 1, 1),
        remove="fade",
    )
    own = (WEIGHT[:, 2].reshape(SHAPE) * clip).sum(-1)
    np.testing.assert_allclose(found, own, atol=2e-5)


def test_a_window_of_the_whole_clip_gives_a_constant_map(clip):
    found = occlusion(fn, clip, 0, window=(5, 7, 6), remove=0.5)
    whole = fn(clip[None])[0, 0] - fn(jnp.full((1, *SHAPE), 0.5))[0, 0]
    np.testing.assert_allclose(found, np.full(SHAPE[:3], whole), rtol=1e-6)


def test_irrelevant_voxels_are_zero(clip):
    """Windows that miss the only voxel of a function have no effect."""
    found = np.asarray(
        occlusion(lambda clips: clips[:, 2, 3, 3], clip, 1, window=(1, 2, 2), remove="fade")
    )
    assert (found[[0, 1, 3, 4]] == 0).all() and found[2, 3, 3] > 0
    assert (found[2, :2] == 0).all() and (found[2, :, :1] == 0).all()


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_batch_size_and_traced_targets(clip, batch_size):
    chex.clear_trace_counter()
    expected = occlusion(fn, clip, 2, window=(2, 3, 3))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def explain(clip, target):
        return occlusion(fn, clip, target, window=(2, 3, 3), batch_size=batch_size)

    np.testing.assert_allclose(explain(clip, jnp.asarray(2)), expected, atol=1e-6)
    assert np.abs(explain(clip, jnp.asarray(0)) - expected).max() > 1e-3
    for wrong in (C, -1):
        assert np.isnan(explain(clip, jnp.asarray(wrong))).all()


def test_half_precision_clips_give_single_precision(clip):
    half = jnp.asarray(clip, jnp.float16)
    found = occlusion(lambda clips: fn(clips.astype(jnp.float32)), half, 0, window=(2, 2, 2))
    assert found.dtype == jnp.float32
    expected = occlusion(fn, clip, 0, window=(2, 2, 2))
    np.testing.assert_allclose(found, expected, atol=5e-2)


@pytest.mark.parametrize(
    ("error", "match", "changed"),
    [
        (TypeError, "fn: expected a function of clips", {"fn": 3}),
        (
            ValueError,
            r"fn: expected scores of shape \(B, C\) .* got shape \(3,\)",
            {"fn": lambda c: fn(c)[0]},
        ),
        (
            TypeError,
            "fn: expected floating-point scores",
            {"fn": lambda c: fn(c).astype(jnp.int32)},
        ),
        (TypeError, "clip: expected a floating-point", {"clip": np.zeros(SHAPE, np.uint8)}),
        (ValueError, r"clip: expected shape \(t, h, w, c\)", {"clip": np.zeros(3, np.float32)}),
        (
            ValueError,
            "clip: expected finite values",
            {"clip": np.full(SHAPE, np.nan, np.float32)},
        ),
        (ValueError, r"target: expected a class in 0\.\.2, got 3", {"target": 3}),
        (ValueError, r"target: expected a class in 0\.\.2, got -1", {"target": -1}),
        (TypeError, "target: expected a class, got dtype float64", {"target": 1.0}),
        (TypeError, "window: expected three integers", {"window": 3}),
        (ValueError, "window: expected three integers", {"window": (3, 3)}),
        (ValueError, "window: expected an integer >= 1, got 0", {"window": (1, 0, 1)}),
        (
            ValueError,
            r"stride: expected at most the window \(2, 2, 2\), got \(3, 2, 2\)",
            {"stride": (3, 2, 2)},
        ),
        (ValueError, "remove: expected 'blur', 'fade' or an array", {"remove": "blurr"}),
        (
            ValueError,
            "remove: expected a shape that broadcasts",
            {"remove": np.zeros(5, np.float32)},
        ),
        (ValueError, "batch_size: expected an integer >= 1", {"batch_size": 0}),
    ],
)
def test_bad_input_is_refused(clip, error, match, changed):
    given = {"fn": fn, "clip": clip, "target": 1, "window": (2, 2, 2)} | changed
    with pytest.raises(error, match=match):
        occlusion(**given)


def test_structured_outputs(clip):
    expected = occlusion(fn, clip, 1, window=(2, 3, 3))
    run = functools.partial(occlusion, clip=clip, window=(2, 3, 3))
    np.testing.assert_array_equal(run(lambda c: {"logits": fn(c), "x": c}, target=1), expected)
    np.testing.assert_array_equal(run(lambda c: fn(c)[:, 1], target=0), expected)  # one column
    with pytest.raises(ValueError, match=r"got tuple. Return the scores alone, e.g. lambda x: fn"):
        run(lambda c: (fn(c), c), target=1)
    with pytest.raises(TypeError, match=r"got one that leaves JAX. .* use metrics\.insertion"):
        run(lambda c: np.asarray(c).reshape(len(c), -1), target=1)
    for wrong in (np.bool_(True), True, jnp.asarray(1.0), "1"):
        with pytest.raises(TypeError, match="target: expected a class, got"):
            run(fn, target=wrong)
    with pytest.raises(ValueError, match=r"target: expected a class in 0\.\.2, got 3"):
        run(fn, target=jnp.asarray(3))
    with pytest.raises(ValueError, match=r"target: expected one class, got shape \(2,\)"):
        run(fn, target=[0, 1])


def test_non_finite_scores_are_refused(clip):
    def fragile(clips):  # NaN once the first voxel is gone
        return jnp.where(clips[:, 0, 0, 0, :1] == 0, jnp.nan, fn(clips))

    with pytest.raises(
        ValueError, match=r"occlusion: expected finite .* got nan at index \(0, 0, 0"
    ):
        occlusion(fragile, clip, 1, window=(2, 3, 3), remove="fade")


def test_works_under_debug_nans(clip):
    expected = occlusion(fn, clip, 1, window=(2, 3, 3))
    with jax.debug_nans(True):
        np.testing.assert_array_equal(occlusion(fn, clip, 1, window=(2, 3, 3)), expected)
