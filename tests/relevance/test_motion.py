"""Selective and discriminative relevance: masks of the authors' code, identities, plain twins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax.relevance import Epsilon, ZPlus, discriminative, lrp, selective
from esv_jax.relevance.temporal import motion_share, temporal_derivative
from tests.conftest import FIXTURES, SHARED


def cases():
    paths = {}
    for folder in (SHARED / "fixtures", FIXTURES):
        paths |= {path.stem: path for path in (folder / "selective_relevance").glob("*.npz")}
    assert len(paths) >= 2
    return [pytest.param(path, id=name[-2:]) for name, path in sorted(paths.items())]


@pytest.mark.parametrize("path", cases())
def test_agrees_with_code_of_the_authors_for_zero_edges(path):
    z = np.load(path)
    volume = jnp.asarray(np.moveaxis(z["relevance"], 0, -1))
    derivative = np.asarray(temporal_derivative(volume, "zero"))
    np.testing.assert_allclose(derivative, z["derivative"], atol=1e-5 * z["derivative"].max())
    assert derivative.std(ddof=1) == pytest.approx(z["derivative_std"], rel=1e-5)
    for i, sigma in enumerate(z["sigmas"]):
        found = np.moveaxis(np.asarray(selective(volume, float(sigma), "zero")), -1, 0)
        clear = abs(z["derivative"] / z["derivative_std"] - sigma) >= 1e-4
        np.testing.assert_array_equal(found[:, clear], z["outputs"][i][:, clear])
        moved = (found != 0).any(0) | (z["relevance"] == 0).all(0)
        np.testing.assert_array_equal(moved[clear] & z["masks"][i][clear], z["masks"][i][clear])


@pytest.mark.parametrize("edge", ["replicate", "zero"])
def test_the_derivative_is_a_plain_loop(edge):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(4, 3, 5, 2)).astype(np.float32)
    flat = volume.sum(-1).astype(float)
    mode = {"replicate": "edge", "zero": "constant"}[edge]
    padded = np.pad(flat, 1, mode=mode)
    expected = np.zeros(flat.shape)
    for t in range(4):
        for h in range(3):
            for w in range(5):
                for dt, a in ((0, 1.0), (2, -1.0)):
                    for dh, b in enumerate((1, 2, 1)):
                        for dw, c in enumerate((1, 2, 1)):
                            expected[t, h, w] += a * b * c * padded[t + dt, h + dh, w + dw]
    np.testing.assert_allclose(temporal_derivative(volume, edge), abs(expected), atol=1e-5)


def test_constant_volume_has_no_motion_unless_edges_are_zero():
    frame = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
    still = np.broadcast_to(frame, (5, 6, 7))
    assert not selective(still, 0.5).any() and not selective(still, 0.0).any()
    assert float(motion_share(still, [0.5])[0]) == 0
    zero = selective(np.abs(still), 0.5, "zero")
    assert zero[0].any() and zero[-1].any() and not zero[2].any()


def test_shares_fall_with_sigma_and_are_those_of_selective():
    volume = np.random.default_rng(2).normal(size=(6, 5, 5, 3)).astype(np.float32)
    sigmas = np.array([0.0, 0.5, 1.0, 2.0, 9.0], np.float32)
    shares = np.asarray(jax.jit(motion_share)(volume, sigmas))
    assert (np.diff(shares) <= 0).all() and shares[-1] == 0
    for share, sigma in zip(shares, sigmas, strict=True):
        kept = np.abs(selective(volume, float(sigma)))
        assert share == pytest.approx(kept.sum() / np.abs(volume).sum(), rel=1e-5)
    assert float(motion_share(np.zeros((3, 2, 2), np.float32), sigmas)[0]) == 0


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda v: selective(v[0, 0]), ValueError, r"shape \(t, h, w\)"),
        (lambda v: selective(v, -1.0), ValueError, "sigma: expected a number >= 0"),
        (lambda v: selective(v, edge="wrap"), ValueError, "edge"),
        (lambda v: selective(v * np.nan), ValueError, "finite"),
        (lambda v: selective(v.astype(int)), TypeError, "floating"),
        (lambda v: selective(v[:1, :1, :1]), ValueError, "two places"),
        (lambda v: motion_share(v, 1.0), ValueError, r"shape \(S,\)"),
        (lambda v: motion_share(v, np.array([-1.0])), ValueError, "sigmas"),
    ],
)
def test_bad_volumes_are_refused(call, kind, text):
    with pytest.raises(kind, match=text):
        call(np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32))


# Discriminative relevance


def network():
    """A clip (t, h, w, 2) to three logits, with padding in time and space."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 6)).astype(np.float32))
    last = jnp.asarray(rng.normal(size=(6, 3)).astype(np.float32))

    def fn(x):
        layout = ("NDHWC", "DHWIO", "NDHWC")
        x = jax.lax.conv_general_dilated(
            x[None], kernel, (1, 2, 2), "SAME", dimension_numbers=layout, precision="highest"
        )
        return jnp.matmul(jax.nn.relu(x).mean((0, 1, 2, 3)), last, precision="highest")

    return fn, jnp.asarray(rng.uniform(size=(5, 4, 4, 2)).astype(np.float32))


@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.parametrize("scale", ["score", "clip"])
def test_parts_are_the_plain_loop(scale, batch_size):
    fn, clip = network()
    run = jax.jit(
        lambda x: discriminative(fn, x, 1, composite=ZPlus(), scale=scale, batch_size=batch_size)
    )
    found = run(clip)
    relevance = jax.jit(lambda x: lrp(fn, x, 1, composite=ZPlus()))
    own = np.asarray(relevance(clip))
    for t in range(5):
        still = jnp.stack([clip[t]] * 5)
        part = np.asarray(relevance(still))[t]
        if scale == "clip":
            part = part * float(fn(clip)[1] / fn(still)[1])
        np.testing.assert_allclose(found.spatial[t], part, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(found.spatial + found.temporal, own, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("scale", ["score", "clip"])
@pytest.mark.parametrize("composite", [ZPlus(), Epsilon(0.01), "epsilon_gamma"])
def test_a_static_clip_has_no_temporal_part(composite, scale):
    fn, clip = network()
    still = jnp.stack([clip[2]] * 5)
    run = jax.jit(lambda x: discriminative(fn, x, 0, composite=composite, scale=scale))
    spatial, temporal, *_ = run(still)
    size = np.abs(np.asarray(spatial)).max()
    assert size > 0
    assert np.abs(np.asarray(temporal)).max() < 1e-5 * size


def test_known_relevance_is_not_computed_again():
    fn, clip = network()
    known = discriminative(fn, clip, 0, relevance=jnp.zeros_like(clip))
    np.testing.assert_array_equal(known.temporal, -known.spatial)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": 3}, r"classes in 0\.\.2"),
        ({"target": np.array([0, 1])}, "one class"),
        ({"scale": "sum"}, "scale"),
        ({"batch_size": 0}, "batch_size"),
        ({"relevance": np.zeros(3, np.float32)}, "the clip's shape"),
    ],
)
def test_bad_arguments_of_discriminative_are_refused(options, text):
    fn, clip = network()
    with pytest.raises(ValueError, match=text):
        discriminative(fn, clip, **{"target": 0} | options)
