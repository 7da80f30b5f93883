"""Segment centres: parity with play-fair's frames, exact arithmetic, messages."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esv_jax.data import segment_centres


def test_indices_are_those_of_play_fair(fixtures):
    with np.load(fixtures / "play_fair_project" / "frame_indices.npz") as stored:
        rows = [stored[key] for key in ("video_length", "n_frames", "indices")]
    for length, n, padded in zip(*rows, strict=True):
        np.testing.assert_array_equal(segment_centres(length, n), padded[padded >= 0])


@given(st.integers(1, 40), st.integers(0, 1000))
def test_exact_up_to_rounding_at_whole_numbers(n, more):
    length = n + more
    centres = [Fraction(i * length, n) + Fraction(length, 2 * n) for i in range(n)]
    for index, centre in zip(segment_centres(length, n), centres, strict=True):
        rounded_down = centre.denominator == 1 and index == centre - 1
        assert index == centre.numerator // centre.denominator or rounded_down


def test_the_example_of_the_docstring():
    assert segment_centres(16, 12)[7] == 9


@pytest.mark.parametrize("n", range(1, 7))
def test_exact_for_few_elements(n):
    for length in range(n, 2000):
        exact = (2 * np.arange(n) + 1) * length // (2 * n)
        np.testing.assert_array_equal(segment_centres(length, n), exact)


@given(st.integers(1, 40), st.integers(0, 1000))
def test_distinct_ordered_and_inside(n, more):
    indices = segment_centres(n + more, n)
    assert indices.shape == (n,) and indices.dtype == np.int64
    assert indices[0] >= 0 and indices[-1] < n + more
    assert (np.diff(indices) > 0).all()


@given(st.integers(1, 60))
def test_all_elements(n):
    np.testing.assert_array_equal(segment_centres(n, n), np.arange(n))


def test_messages():
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        segment_centres(5, 0)
    with pytest.raises(TypeError, match=r"n: expected an integer, got float 2\.0"):
        segment_centres(5, 2.0)
    with pytest.raises(ValueError, match="length: expected an integer >= 1, got 0"):
        segment_centres(0, 1)
    with pytest.raises(ValueError, match=r"at least n = 8 elements, got 5\. Skip sequences"):
        segment_centres(5, 8)
