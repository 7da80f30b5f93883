"""Parts of perturbation masks: generator, pyramids, regularisers, against fixtures and twins."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from esv_jax.blur import blur_levels, blur_matrices, gaussian_blur
from esv_jax.metrics.curves import _probabilities
from esv_jax.metrics.voxels import replacement
from esv_jax.perturbation import Core, Masking, perturb, pyramid
from esv_jax.perturbation.descent import published_weights, ramped_weights
from esv_jax.perturbation.masks import MaskGenerator
from esv_jax.perturbation.regularisers import (
    area_loss,
    core_filled,
    core_kernel,
    core_loss,
    difference_loss,
    upper_share,
)
from tests.reference.plain_perturbation import (
    plain_area_loss,
    plain_core_loss,
    plain_mask,
    plain_perturb,
)

MASKS = {
    "01": ((32, 32), 7, 11),
    "02": ((112, 112), 7, 11),
    "03": ((32, 32), 4, 5),
    "04": ((24, 40), 7, 11),
    "05": ((16, 16), 3, 3),
}


def frames_last(clip):
    """(n, channel, h, w) -> (n, h, w, channel)."""
    return np.moveaxis(clip, -3, -1)


def step_fixture(fixtures, request, name):
    """A fixture from the tests, or from the shared inputs where it is too large for them."""
    path = fixtures / "step" / f"{name}.npz"
    if not path.is_file():
        path = request.getfixturevalue("shared") / "fixtures" / "step" / f"{name}.npz"
    return np.load(path, allow_pickle=False)


# Masks


@pytest.mark.parametrize("number", list(MASKS))
def test_masks_equal_the_published_code(fixtures, request, number):
    want = step_fixture(fixtures, request, f"step_mask_{number}")
    small = jnp.asarray(want["pmask"][:, 0])
    generator = MaskGenerator(*MASKS[number])
    make = jax.jit(lambda small: (generator(small), generator.padded(small)))
    mask, padded = make(small)
    assert generator.padded_shape == want["mask_padded"].shape[-2:]
    np.testing.assert_allclose(mask, want["mask"][:, 0], atol=1e-5)
    np.testing.assert_allclose(padded, want["mask_padded"][:, 0], atol=1e-5)
    np.testing.assert_array_equal(generator.crop(padded), mask)
    np.testing.assert_allclose(
        jax.jit(generator)(jnp.ones(generator.small_shape)), want["mask_of_ones"][0, 0], atol=1e-5
    )


@pytest.mark.parametrize(("shape", "step", "sigma"), [((13, 9), 4, 3), ((8, 8), 2, 5)])
def test_masks_equal_a_plain_loop(x64, rng, shape, step, sigma):
    generator = MaskGenerator(shape, step, sigma)
    small = rng.uniform(size=generator.small_shape)
    found = jax.jit(generator)(jnp.asarray(small))
    np.testing.assert_allclose(found, plain_mask(small, shape, step, sigma), atol=1e-12)


def test_mask_gradients_equal_finite_differences(x64, rng):
    generator = MaskGenerator((10, 12), 4, 3)
    small = jnp.asarray(rng.uniform(0.1, 0.9, size=(2, *generator.small_shape)))
    weights = jnp.asarray(rng.normal(size=(2, 10, 12)))

    @jax.jit
    def value(small):
        return (generator(small) * weights).sum()

    gradient = jax.jit(jax.grad(value))(small)
    for place in [(0, 0, 0), (1, 1, 2), (0, 2, 1)]:
        off = jnp.zeros_like(small).at[place].set(1e-5)
        difference = (value(small + off) - value(small - off)) / 2e-5
        np.testing.assert_allclose(gradient[place], difference, rtol=1e-6)


def test_scaled_gradients_of_all_cells_are_equal():
    generator = MaskGenerator((32, 32), 4, 6)
    scale = np.asarray(generator.gradient_scale())
    total = jax.jit(jax.grad(lambda small: generator(small).sum()))
    gradient = np.asarray(total(jnp.ones(generator.small_shape)))
    scaled = np.full(scale.shape, gradient.max())
    np.testing.assert_allclose(scale * gradient, scaled, rtol=1e-5)
    assert scale.min() == pytest.approx(1)
    assert scale[0, 0] > scale[0, 4] > scale[4, 4]


def test_default_step_scales_with_the_frames():
    as_published = Masking().generator((112, 112))
    assert (as_published.step, as_published.sigma) == (7, 11)
    smaller = Masking().generator((64, 80))
    assert (smaller.step, smaller.sigma) == (4, 6)
    assert Masking(step=5, sigma=2).generator((64, 64)) == MaskGenerator((64, 64), 5, 2)


# Blur and pyramids


def test_blur_equals_the_published_code(fixtures):
    want = np.load(fixtures / "step" / "step_smooth_01.npz")
    frames = frames_last(want["input"])
    found = jax.jit(lambda x: blur_levels(x, tuple(map(float, want["sigmas"])), "zero"))(frames)
    np.testing.assert_allclose(found, frames_last(want["smoothed"]), atol=2e-5)
    np.testing.assert_array_equal(gaussian_blur(frames, 0.0), frames)


def test_replicating_blur_keeps_constant_frames(rng):
    even = jnp.full((2, 9, 7, 3), 0.4)
    np.testing.assert_allclose(gaussian_blur(even, 3.0, "replicate"), even, atol=1e-6)
    assert gaussian_blur(even, 3.0, "zero")[0, 0, 0, 0] < 0.2
    frame = rng.uniform(size=(9, 7, 1)).astype(np.float32)
    padded = np.pad(frame, ((12, 12), (12, 12), (0, 0)), mode="edge")
    wide = gaussian_blur(padded, 3.0, "zero")[12:-12, 12:-12]
    np.testing.assert_allclose(gaussian_blur(frame, 3.0, "replicate"), wide, atol=1e-6)


@pytest.mark.parametrize(("edge", "mode"), [("zero", "constant"), ("replicate", "nearest")])
@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0])  # 4 sigma is whole, as scipy rounds otherwise
def test_blur_agrees_with_scipy(rng, edge, mode, sigma):
    frames = rng.uniform(size=(2, 9, 7, 3)).astype(np.float32)
    sigmas = (0, sigma, sigma, 0)
    expected = ndimage.gaussian_filter(frames.astype(float), sigmas, mode=mode, truncate=4)
    np.testing.assert_allclose(gaussian_blur(frames, sigma, edge), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("number", "kind", "levels", "most"),
    [("01", "blur", 8, 20.0), ("02", "fade", 8, 20.0), ("03", "blur", 5, 6.0)],
)
def test_pyramids_equal_the_published_code(fixtures, request, number, kind, levels, most):
    want = step_fixture(fixtures, request, f"step_perturbation_{number}")
    clip = jnp.asarray(frames_last(want["input"]))
    found = jax.jit(lambda x: pyramid(x, kind, levels, most, "zero"))(clip)
    np.testing.assert_allclose(found, frames_last(want["pyramid"]).swapaxes(0, 1), atol=2e-5)
    masks = want["mask"][:, 0].reshape(-1, *clip.shape[:-1])
    perturbed = jax.jit(jax.vmap(perturb, (None, 0)))(found, masks)
    expected = frames_last(want["perturbed"]).reshape(perturbed.shape)
    np.testing.assert_allclose(perturbed, expected, atol=2e-5)


def test_perturbed_clips_and_their_gradients(x64, rng):
    levels = jnp.asarray(rng.uniform(size=(4, 2, 3, 5, 3)))
    mask = rng.uniform(size=(2, 3, 5))
    mask[0, 0] = [0, 1, 1 / 3, 2 / 3, 0.5]  # ends, and the values of levels
    found = jax.jit(perturb)(levels, jnp.asarray(mask))
    np.testing.assert_allclose(found, plain_perturb(levels, mask), atol=1e-12)
    weights = jnp.asarray(rng.normal(size=found.shape))

    @jax.jit
    def value(levels, mask):
        return (perturb(levels, mask) * weights).sum()

    gradients = jax.jit(jax.grad(value, (0, 1)))(levels, jnp.asarray(mask))
    by_levels, by_mask = map(np.asarray, gradients)
    levels, weights = np.asarray(levels), np.asarray(weights)
    below = np.clip(np.floor(mask * 3), 0, 2).astype(int)
    for place in np.ndindex(mask.shape):
        k = below[place]
        rise = 3 * (levels[(k + 1, *place)] - levels[(k, *place)])
        np.testing.assert_allclose(by_mask[place], (rise * weights[place]).sum(), rtol=1e-9)
    step = rng.normal(size=levels.shape)
    np.testing.assert_allclose((by_levels * step).sum(), value(step, jnp.asarray(mask)), rtol=1e-9)


# Regularisers


def test_energies_equal_the_published_code(fixtures, request):
    for number, areas, frames, size in [("01", [0.1, 0.2], 5, 11), ("02", [0.05, 0.1, 0.3], 7, 8)]:
        want = step_fixture(fixtures, request, f"step_energy_{number}")
        masks = jnp.asarray(want["masks_padded"][:, :, 0])
        area = np.broadcast_to(np.float32(areas)[:, None], masks.shape[:2])
        for ties in ("share", "first"):
            found = jax.jit(lambda m, a, ties=ties: area_loss(m, a, ties=ties))(masks, area)
            np.testing.assert_allclose(found, want["area_loss"], rtol=1e-5)
        found = jax.jit(difference_loss)(masks)
        np.testing.assert_allclose(found, want["diff_loss"], rtol=1e-5)
        for shape in ("ellipsoid", "cylinder"):
            core = Core(shape, frames, size)
            np.testing.assert_array_equal(core.kernel, want[f"core_kernel_{shape}"])
            convolved = jax.jit(core_filled, static_argnums=1)(masks, core)
            convolved = np.asarray(convolved) * float(core.kernel.sum())
            expected = want[f"core_conv_{shape}"].reshape(convolved.shape)
            np.testing.assert_allclose(convolved, expected, rtol=1e-5, atol=1e-4)
            of_core = jax.jit(lambda m, a, c=core: core_loss(m, a, c, nominal=True, ties="first"))
            found = of_core(masks, area)
            np.testing.assert_allclose(found, want[f"core_loss_{shape}"], rtol=1e-5)


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05"])
def test_core_kernels_equal_the_published_code(fixtures, number):
    want = np.load(fixtures / "step" / f"step_core_kernel_{number}.npz")
    dims = tuple(map(int, want["dims"]))
    np.testing.assert_array_equal(core_kernel("cylinder", dims), want["cylinder"])
    ellipsoid = core_kernel("ellipsoid", dims)
    if dims[0] > 1:
        np.testing.assert_array_equal(ellipsoid, want["ellipsoid"])
    else:  # one frame is at 0 here, a disc; at -1 there, one voxel
        np.testing.assert_array_equal(ellipsoid, core_kernel("cylinder", dims))


def test_regularisers_equal_plain_loops(x64, rng):
    mask = rng.uniform(size=(6, 10, 9))
    of_area = jax.jit(area_loss, static_argnames="per_frame")
    for area in (0.1, 0.5):
        np.testing.assert_allclose(of_area(mask, area), plain_area_loss(mask, area))
        frames = [plain_area_loss(frame[None], area) for frame in mask]
        by_frame = of_area(mask, area, per_frame=True)
        np.testing.assert_allclose(by_frame, np.mean(frames))
    of_core = jax.jit(core_loss, static_argnums=(1, 2), static_argnames="nominal")
    for core in (Core("ellipsoid", 3, 4), Core("cylinder", 2, 3)):
        for area in (0.05, 0.2, 0.9):
            for nominal in (True, False):
                ones = core.nominal if nominal else core.kernel.sum()
                found = of_core(jnp.asarray(mask), area, core, nominal=nominal)
                expected = plain_core_loss(mask, area, core.kernel, ones)
                np.testing.assert_allclose(found, expected)
    differences = [np.mean(np.diff(mask, order, axis=0) ** 2) for order in (1, 2, 3)]
    np.testing.assert_allclose(difference_loss(jnp.asarray(mask)), np.mean(differences))
    assert difference_loss(jnp.asarray(mask[:1])) == 0


def test_ties_share_their_reference():
    """Equal to the mean over all orders of equal numbers."""
    values = np.float32([0.2, 0.7, 0.2, 0.2, 0.9])
    losses, gradients = [], []
    by_order = jax.jit(jax.value_and_grad(lambda m: area_loss(m, 0.6, ties="first")))
    for order in itertools.permutations(range(5)):
        mask = jnp.asarray(values[list(order)]).reshape(1, 1, 5)
        loss, gradient = by_order(mask)
        losses.append(loss)
        gradients.append(np.asarray(gradient).ravel()[np.argsort(order)])
        if len(losses) == 30:
            break
    mask = jnp.asarray(values).reshape(1, 1, 5)
    loss, gradient = jax.value_and_grad(lambda m: area_loss(m, 0.6))(mask)
    np.testing.assert_allclose(loss, losses, rtol=1e-5)  # every order has the same loss
    np.testing.assert_allclose(gradient[0, 0, [0, 2, 3]], gradient[0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0, 0], 2 * (0.2 - 1 / 3) / 5, rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0, [1, 4]], np.mean(gradients, 0)[[1, 4]], rtol=1e-5)


@given(
    values=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=12, max_size=12),
    below=st.integers(0, 12),
)
def test_upper_share_equals_a_stable_sort(values, below):
    flat = jnp.asarray(values, jnp.float32)
    found = {ties: np.asarray(_UPPER[ties](flat, below)) for ties in _UPPER}
    order = np.argsort(np.asarray(flat), kind="stable")
    first = np.ones(12)
    first[order[:below]] = 0
    np.testing.assert_array_equal(found["first"], first)
    backwards = np.argsort(np.asarray(flat)[::-1], kind="stable")
    last = np.ones(12)
    last[backwards[:below]] = 0
    np.testing.assert_array_equal(found["last"], last[::-1])
    for value in set(values):
        equal = np.asarray(flat) == np.float32(value)
        np.testing.assert_allclose(found["share"][equal], first[equal].mean(), rtol=1e-6)


_UPPER = {
    ties: jax.jit(lambda flat, below, ties=ties: upper_share(flat, below, ties))
    for ties in ("share", "first", "last")
}


def test_weights_by_iteration():
    at = jnp.arange(0, 400, 100)
    published = published_weights()
    np.testing.assert_allclose(published.area_at(at), 300 * 1.0008668 ** np.asarray(at), rtol=1e-5)
    assert published.core_at(jnp.asarray(100)) == 0
    assert published.core_at(jnp.asarray(101)) == 300
    ramped = ramped_weights(400)
    np.testing.assert_allclose(ramped.area_at(at), [10, 10 * 60**0.5, 600, 600], rtol=1e-4)


def test_default_core_scales_with_the_frames():
    assert Core().for_frames((112, 120)).size == 11
    assert Core(size=3).for_frames((112, 120)).size == 3
    with pytest.raises(ValueError, match=r"core: expected a size, got None. Give one"):
        Core().kernel  # noqa: B018
    with pytest.raises(ValueError, match="clip: expected at least 5 frames of 6 pixels"):
        core_filled(jnp.ones((4, 8, 8)), Core(size=6))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: MaskGenerator((6, 20), 7), "clip: expected frames of 7 pixels, the mask step"),
        (lambda: MaskGenerator((20, 20), 0), "step: expected an integer >= 1"),
        (lambda: MaskGenerator((20, 20), 7)(jnp.ones((2, 2))), r"small: expected shape \(..., 3"),
        (lambda: pyramid(jnp.ones((2, 8, 8, 3)), levels=1), "levels: expected an integer >= 2"),
        (lambda: pyramid(jnp.ones((2, 8, 8, 3)), "mean"), "perturbation: expected one of 'blur'"),
        (lambda: pyramid(jnp.ones((8, 8, 3))), "clip: expected shape"),
        (lambda: gaussian_blur(jnp.ones((8, 8, 3)), -1.0), "sigma: expected pixels >= 0"),
        (lambda: gaussian_blur(jnp.ones((8, 8, 3)), 1.0, "wrap"), "edge: expected one of 'zero'"),
        (lambda: Core("ball"), "shape: expected one of 'ellipsoid'"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_functions_that_blur_share_defaults():
    """So that results of `step` can be reconstructed with the defaults."""
    defaults = Masking()
    functions = (pyramid, gaussian_blur, blur_levels, blur_matrices, _probabilities)
    for function in functions:
        assert inspect.signature(function).parameters["edge"].default == defaults.edge, function
    parameters = inspect.signature(pyramid).parameters
    for name in ("perturbation", "levels", "max_blur"):
        assert parameters[name].default == getattr(defaults, name)
    clip = jnp.ones((1, 4, 4, 1))
    np.testing.assert_allclose(replacement(clip[None], "blur", 20.0, defaults.edge)[0], clip)
    np.testing.assert_allclose(pyramid(clip)[0], clip, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (
            lambda x: perturb(x, x[0, ..., 0] + 1),
            ValueError,
            "mask: expected values in 0..1, got 2",
        ),
        (lambda x: perturb(x, x[0]), ValueError, r"mask: expected shape .* = \(2, 4, 4\), got"),
        (lambda x: perturb(x[0], x[0, ..., 0]), ValueError, r"levels: expected shape \(L, ..., t"),
        (
            lambda x: perturb({"a": x}, x),
            TypeError,
            "levels: expected an array, got dict. Pass one",
        ),
        (lambda x: perturb(x, x[0, ..., 0] > 0), TypeError, "mask: expected a floating-point"),
        (lambda x: pyramid([{"a": 1}]), TypeError, "clip: expected an array, got list"),
        (lambda x: area_loss(x > 0, 0.1), TypeError, "masks: expected a floating-point"),
        (
            lambda x: difference_loss(x[0, 0, 0]),
            ValueError,
            r"masks: expected shape \(..., t, h, w",
        ),
        (
            lambda x: core_filled(None, Core(size=2)),
            TypeError,
            "masks: expected an array, got None",
        ),
    ],
)
def test_inputs_of_wrong_type_or_shape_are_refused(call, kind, match):
    with pytest.raises(kind, match=match):
        call(jnp.ones((3, 2, 4, 4, 1)))
