"""Segmentation against exhaustive search, on synthetic shots, and in edge cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esv_jax.data import propose_segments
from tests.reference import interactions as twin


def within(features, labels):
    groups = [features[labels == k] for k in range(labels.max() + 1)]
    return sum(((group - group.mean(0)) ** 2).sum() for group in groups)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 9), data=st.data())
def test_the_segmentation_is_optimal(seed, n, data):
    k = data.draw(st.integers(1, n))
    features = np.random.default_rng(seed).normal(size=(n, 2)) + 100
    labels = propose_segments(features, n_segments=k)
    assert labels.shape == (n,) and labels.dtype == np.int64
    np.testing.assert_array_equal(np.unique(labels), np.arange(k))
    assert set(np.diff(labels)) <= {0, 1}
    np.testing.assert_allclose(within(features, labels), twin.least_distance(features, k))


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("lengths", [(4, 4), (2, 5, 3), (6, 1, 7), (3, 3, 3, 3)])
def test_shots_are_found_at_any_noise_level(rng, lengths, noise):
    expected = np.repeat(np.arange(len(lengths)), lengths)
    shots = rng.normal(size=(len(lengths), 64))
    features = shots[expected] + noise * rng.normal(size=(len(expected), 64))
    np.testing.assert_array_equal(propose_segments(features.astype(np.float32)), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 30])
def test_noise_or_constant_features_are_one_segment(rng, n):
    assert not propose_segments(rng.normal(size=(n, 32))).any()
    assert not propose_segments(np.ones((n, 5))).any()
    assert not propose_segments(np.ones((n, 5)) * 1e9 + 0.1).any()


def test_invariance_to_scale_and_shift(rng):
    features = rng.normal(size=(3, 8))[[0, 0, 0, 1, 1, 2, 2, 2]] + 0.1 * rng.normal(size=(8, 8))
    expected = propose_segments(features)
    np.testing.assert_array_equal(propose_segments(1e3 * features - 50), expected)


def test_ties_are_cut_as_early_as_possible():
    np.testing.assert_array_equal(propose_segments(np.zeros((4, 1)), n_segments=2), [0, 1, 1, 1])


def test_messages():
    features = np.zeros((4, 2))
    cases = [
        ((features[0],), {}, ValueError, r"features: expected shape \(n, D\), got \(2,\)"),
        ((features[:0],), {}, ValueError, "features: expected at least one element"),
        ((features * np.nan,), {}, ValueError, "features: expected finite values"),
        ((features.astype(str),), {}, TypeError, "features: expected real numbers"),
        ((features * 1j,), {}, TypeError, "features: expected real numbers, got dtype complex"),
        ((features, 5), {}, ValueError, "n_segments: expected at most n = 4 segments, got 5"),
        ((features, 0), {}, ValueError, "n_segments: expected an integer >= 1, got 0"),
        ((features, 2.0), {}, TypeError, "n_segments: expected an integer, got float"),
    ]
    for args, kwargs, kind, match in cases:
        with pytest.raises(kind, match=match):
            propose_segments(*args, **kwargs)
