"""Preprocessing against its definition and published presets."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esv_jax.data.preprocessing import (
    TRN_BNINCEPTION,
    TSN_RESNET50,
    Preprocessing,
    preprocess,
    resize_frame,
)


def picture(h, w, n=2, seed=0):
    """Frames with smooth parts, edges and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:h, :w]
    smooth = np.stack([np.sin(rows / 9 + k) + np.cos(columns / (5 + k)) for k in range(3)], -1)
    image = 128 + 50 * smooth + 60 * ((rows // 7 + columns // 5) % 2)[..., None]
    noise = rng.normal(0, 12, (n, h, w, 3))
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def resized(frames, short_side):
    return np.stack([resize_frame(frame, short_side) for frame in frames])


def resized_plainly(image, h, w):
    """Resize pixel by pixel in float64: columns, rounded, then rows, rounded."""

    def line(values, target):
        source = len(values)
        width = max(source / target, 1)
        out = np.zeros((target, *values.shape[1:]))
        for k in range(target):
            centre = (k + 0.5) * source / target
            weights = [max(0, 1 - abs(i + 0.5 - centre) / width) for i in range(source)]
            out[k] = np.tensordot(weights, values, 1) / sum(weights)
        return np.floor(out + 0.5)

    columns = line(image.swapaxes(0, 1).astype(float), w).swapaxes(0, 1)
    return line(columns, h)


SIZES = [(31, 47, 16), (47, 31, 16), (20, 20, 13), (12, 30, 24), (40, 64, 20), (17, 90, 5)]


@pytest.mark.parametrize(("h", "w", "short"), SIZES)
def test_resizing_equals_its_definition(h, w, short):
    frames = picture(h, w)
    new = resized(frames, short)
    expected_shape = (short, short * w // h) if h <= w else (short * h // w, short)
    assert new.shape == (2, *expected_shape, 3) and new.dtype == np.uint8
    for frame, image in zip(frames, new, strict=True):
        difference = np.abs(image - resized_plainly(frame, *expected_shape))
        assert difference.max() <= 1  # where a sum is a half, up to the fineness of weights
        assert (difference > 0).mean() < 0.02


def test_frames_of_the_right_size_are_returned_unchanged():
    frame = picture(24, 40)[0]
    assert resize_frame(frame, 24) is frame


@given(h=st.integers(1, 40), w=st.integers(1, 40), short=st.integers(1, 40))
def test_resizing_keeps_a_constant_colour(h, w, short):
    frames = np.full((1, h, w, 3), (0, 77, 255), np.uint8)
    new = resized(frames, short)
    assert min(new.shape[1:3]) == short
    assert (new == [0, 77, 255]).all()


def test_published_presets():
    assert TRN_BNINCEPTION.short_side == TSN_RESNET50.short_side == int(224 / 0.875) == 256
    frames = np.zeros((2, 256, 340, 3), np.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = 10, 20, 30  # red, green, blue
    trn = preprocess(frames, TRN_BNINCEPTION)
    assert trn.shape == (2, 224, 224, 3) and trn.dtype == np.float32
    assert (trn == np.float32([30 - 104, 20 - 117, 10 - 128])).all()
    tsn = preprocess(frames, TSN_RESNET50)
    expected = (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(tsn[1, 100, 100], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("h", "w", "short", "crop"),
    [(60, 81, 60, 50), (81, 60, 60, 51), (90, 121, 40, 33), (33, 25, 40, 40), (40, 40, 30, 1)],
)
def test_the_crop_is_the_centre_of_the_resized_frame(h, w, short, crop):
    """Cropping commutes with resizing the whole frame."""
    frames = picture(h, w)
    settings = Preprocessing(short, crop, 255.0)
    whole = resized(frames, short)
    top, left = (round((side - crop) / 2) for side in whole.shape[1:3])
    expected = whole[:, top : top + crop, left : left + crop]
    np.testing.assert_array_equal(preprocess(frames, settings), expected)


def test_frames_are_processed_independently_and_not_modified():
    frames = picture(70, 50, n=3)
    before = frames.copy()
    settings = dataclasses.replace(TSN_RESNET50, short_side=32, crop=28)
    together = preprocess(frames, settings)
    one_by_one = np.concatenate([preprocess(frames[k : k + 1], settings) for k in range(3)])
    np.testing.assert_array_equal(together, one_by_one)
    np.testing.assert_array_equal(frames, before)


def test_bad_frames():
    with pytest.raises(TypeError, match=r"frames: expected uint8, 0\.\.255, got dtype float32"):
        preprocess(np.zeros((1, 4, 4, 3), np.float32), TSN_RESNET50)
    for shape in [(4, 4, 3), (1, 4, 4, 4), (0, 4, 4, 3)]:
        with pytest.raises(ValueError, match=r"frames: expected shape \(n, h, w, 3\)"):
            preprocess(np.zeros(shape, np.uint8), TSN_RESNET50)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"crop": 300}, "crop: expected at most short_side = 256, got 300"),
        ({"short_side": 0}, "short_side: expected an integer >= 1"),
        ({"scale": 0.0}, "scale: expected a number > 0"),
        ({"channels": "GBR"}, "channels: expected one of 'RGB', 'BGR', got 'GBR'"),
        ({"mean": (1.0, 2.0)}, "mean: expected three finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std: expected numbers > 0"),
    ],
)
def test_bad_settings(wrong, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TSN_RESNET50, **wrong)
