"""JPEG encoding of frames."""

import io

import numpy as np
import PIL.Image
import pytest

from esv_jax.data.images import jpeg_still


@pytest.fixture
def frame():
    """48 high, 64 wide: red falls from left to right, green grows downwards."""
    down, right = np.mgrid[0:48, 0:64]
    return np.stack([255 - 4 * right, 5 * down, np.full_like(down, 40)], -1).astype(np.uint8)


def decoded(still):
    picture = PIL.Image.open(io.BytesIO(still))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    return np.asarray(picture)


def test_a_jpeg_shows_the_frame(frame):
    still = jpeg_still(frame)
    shown = decoded(still)
    assert shown.shape == frame.shape
    assert abs(shown.astype(float) - frame).mean() < 3
    assert jpeg_still(frame) == still
    assert len(jpeg_still(frame, quality=30)) < len(still) < len(jpeg_still(frame, quality=95))
    np.testing.assert_array_equal(
        decoded(jpeg_still(frame[::-1])), decoded(jpeg_still(frame[::-1].copy()))
    )


@pytest.mark.parametrize(
    ("most", "shape"),
    [
        ({}, (48, 64)),
        ({"max_height": 24}, (24, 32)),
        ({"max_width": 16}, (12, 16)),
        ({"max_height": 24, "max_width": 16}, (12, 16)),
        ({"max_height": 480, "max_width": 640}, (48, 64)),  # never enlarged
        ({"max_height": 1}, (1, 1)),
    ],
)
def test_sizes_are_reduced_in_proportion(frame, most, shape):
    shown = decoded(jpeg_still(frame, **most))
    assert shown.shape == (*shape, 3)
    assert abs(shown.mean((0, 1)) - frame.mean((0, 1))).max() < 4
