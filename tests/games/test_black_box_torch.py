"""Black boxes around video models of PyTorch and Flax, as people have them."""

import itertools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esv_jax as ej
from tests.reference import plain

C, N, SIDE = 3, 5, 8
PRIOR = np.full(C, 1 / C, np.float32)


@pytest.fixture
def frames(rng):
    """Video as decoders give it: (n, h, w, 3), 0..255."""
    return rng.integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)


def exact_by_loops(score, frames, prior=PRIOR):
    """ESVs from a score of one clip, subsequence after subsequence, float64."""
    table = [prior.astype(np.float64)]
    for code in range(1, 2 ** len(frames)):
        kept = [i for i in range(len(frames)) if code >> i & 1]
        table.append(np.asarray(score(frames[kept]), np.float64))
    return plain.shapley_by_weights(np.array(table))


# PyTorch


@pytest.fixture
def network():
    """A small 3D network on (B, 3, t, h, w) that takes any number of frames."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv3d(3, 6, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool3d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, C),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


def of_torch(network):
    import torch

    def fn(clips):
        assert not torch.is_grad_enabled()  # as the caller has set it
        video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 255
        return network(video).softmax(-1)

    return fn


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_torch_video_model(dtype, network, frames):
    import torch

    fn = of_torch(network)
    with torch.no_grad():
        result = ej.explain(ej.BlackBox(fn), frames.astype(dtype), prior=PRIOR)
        expected = exact_by_loops(lambda clip: fn(clip[None])[0], frames)
    np.testing.assert_allclose(result.values, expected, atol=1e-5)
    assert result.removal == "drop" and not result.warnings


def test_a_torch_model_that_records_gradients_or_halves_its_numbers(network, frames):
    import torch

    fn = of_torch(network)
    with torch.no_grad():
        expected = ej.explain(ej.BlackBox(fn), frames, prior=PRIOR).values

    def recording(clips):
        video = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 255
        scores = network(video).softmax(-1)
        assert scores.requires_grad
        return scores

    result = ej.explain(ej.BlackBox(recording), frames, prior=PRIOR)
    np.testing.assert_allclose(result.values, expected, atol=1e-6)
    half = ej.BlackBox(lambda clips: recording(clips).bfloat16())
    result = ej.explain(half, frames, prior=PRIOR)
    np.testing.assert_allclose(result.values, expected, atol=0.02)


def test_sixteen_frames_with_error_bars_are_one_line(network, rng):
    import torch

    x, fn = rng.integers(0, 256, (16, SIDE, SIDE, 3), dtype=np.uint8), of_torch(network)
    with torch.no_grad():
        att = ej.explain(ej.BlackBox(fn), x, prior=PRIOR, key=jax.random.key(0))
    low, high = att.interval()
    assert low.shape == high.shape == (16, C) and not att.exact
    assert float(abs(att.efficiency_gap()).max()) < 1e-5
    assert bool((high > low).all()) and float((high - low).max()) < 0.05


def test_a_torch_model_that_fails_midway_goes_on_from_there(network, frames):
    import torch

    calls, failed, inner = [], [], of_torch(network)

    def fn(clips):
        calls.append(len(clips))
        if len(calls) == 4 and not failed:
            failed.append(calls.pop())
            raise torch.OutOfMemoryError("out of memory")
        return inner(clips)

    game = ej.BlackBox(fn, batch_size=4)
    with torch.no_grad():
        with pytest.raises(torch.OutOfMemoryError):
            ej.explain(game, frames, prior=PRIOR)
        result = ej.explain(game, frames, prior=PRIOR)
        expected = exact_by_loops(lambda clip: inner(clip[None])[0], frames)
    assert sum(calls) == 31 + 2 and len(failed) == 1
    np.testing.assert_allclose(result.values, expected, atol=1e-5)


# Flax


class VideoNet(nn.Module):
    """A small 3D network on (B, t, h, w, 3) in 0..1 that takes any number of frames."""

    @nn.compact
    def __call__(self, video):
        hidden = nn.relu(nn.Conv(6, (3, 3, 3))(video))
        return nn.softmax(5 * nn.Dense(C)(hidden.mean((1, 2, 3))))


@pytest.fixture
def flax_model():
    net = VideoNet()
    params = net.init(jax.random.key(1), jnp.zeros((1, 2, SIDE, SIDE, 3)))
    return jax.jit(lambda video: net.apply(params, video))  # compiles per shape of the batch


def test_a_flax_video_model(flax_model, frames):
    shapes = set()

    def fn(clips):
        shapes.add(clips.shape[:2])
        return flax_model(clips.astype(np.float32) / 255)

    game = ej.BlackBox(fn, batch_size=10)
    result = ej.explain(game, frames, prior=PRIOR)
    expected = exact_by_loops(lambda clip: fn(clip[None])[0], frames)
    np.testing.assert_allclose(result.values, expected, atol=1e-5)
    assert {s for _, s in shapes} == set(range(1, N + 1))  # clips of one length together
    assert game.counts == (N + 1, 31 + 1)  # a batch per length, and the whole one again


@pytest.mark.parametrize("removal", ["zeros", "freeze", "mean"])
def test_the_same_flax_model_in_jax_itself(removal, flax_model, frames):
    """Frames replaced by a mask within JAX, and on the host."""
    x = frames.astype(np.float32) / 255

    def masked(x, mask):
        own = np.arange(N)
        if removal == "freeze":
            far = 2 * abs(own[:, None] - own[None]) + (own[None] > own[:, None])
            video = x[jnp.where(mask[None, :], far, 100).argmin(1)]
        else:
            substitute = jnp.zeros_like(x) if removal == "zeros" else 0 * x + x.mean(0)[None]
            video = jnp.where(mask[:, None, None, None], x, substitute)
        return flax_model(video[None])[0]

    with warnings.catch_warnings():
        if removal == "mean":  # the mean contains the absent frames: noticed, and meant
            warnings.filterwarnings("ignore", "apply_fn: absent elements still affect")
        inside = ej.explain(ej.VariableLength(masked, link="identity"), x, prior=PRIOR)
    assert bool(inside.warnings) == (removal == "mean")
    outside = ej.explain(ej.BlackBox(flax_model, removal), x, prior=PRIOR)
    np.testing.assert_allclose(outside.values, inside.values, atol=1e-5)
    assert int(outside.n_evaluations) == int(inside.n_evaluations) == 31


def test_tubelets_that_drop_frames_are_noticed(flax_model, rng):
    """A model that reads every second frame, as strides and tubelets do."""
    x = rng.random((6, SIDE, SIDE, 3), np.float32)
    game = ej.BlackBox(lambda clips: flax_model(clips[:, ::2]), "zeros", probe=True)
    result = ej.explain(game, x, prior=PRIOR)
    assert result.warnings == ("The model ignores positions 1, 3, 5 of 6.",)
    np.testing.assert_allclose(result.values[1::2], 0, atol=1e-6)
    for i, j in itertools.pairwise((0, 2, 4)):
        assert not np.allclose(result.values[i], result.values[j], atol=1e-5)
