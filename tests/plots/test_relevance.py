"""Relevance over frames: colours, one scale, strips and videos."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the plots extra")

from esv_jax.plots import plot_relevance_strip, save_figure
from esv_jax.plots.relevance import full_colour, overlay_relevance, render_relevance


@pytest.fixture
def case(rng):
    frames = rng.integers(0, 256, (5, 12, 16, 3)).astype(np.uint8)
    return frames, rng.normal(size=(5, 12, 16)).astype(np.float32)


def test_colours_encode_sign_and_size(case):
    frames, relevance = case
    relevance[0, 0, :4] = 100, -100, 0, 1e-9
    drawn = overlay_relevance(frames, relevance, limit=100)
    assert drawn.shape == frames.shape and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[0, 0, 0], (0x00, 0x72, 0xB2))
    np.testing.assert_array_equal(drawn[0, 0, 1], (0xD5, 0x5E, 0x00))
    assert len(set(drawn[0, 0, 2])) == 1 and drawn[0, 0, 2, 0] >= 140  # pale grey
    by_channel = np.stack([relevance, relevance, -relevance], -1)
    np.testing.assert_array_equal(overlay_relevance(frames, by_channel, limit=100), drawn)


def test_the_colour_scale_clips_under_one_percent_and_accepts_zeros(case):
    frames, relevance = case
    limit = full_colour(relevance)
    assert 0 < (abs(relevance) > limit).mean() < 0.01
    assert full_colour(np.zeros((2, 3, 4))) == 1
    grey = overlay_relevance(frames, np.zeros_like(relevance))
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize("t", [1, 5, 40])
def test_a_strip_has_rows_for_all_parts_with_one_axis(rng, t, tmp_path):
    frames = rng.integers(0, 256, (t, 8, 8, 3)).astype(np.uint8)
    parts = {"spatial": rng.normal(size=(t, 8, 8)), "temporal": rng.normal(size=(t, 8, 8, 3))}
    figure = plot_relevance_strip(
        frames, parts, frame_labels=[str(3 * i) for i in range(t)], title="clip", lines=["word"]
    )
    assert len(figure.axes) == 5
    assert [len(ax.images) for ax in figure.axes[:2]] == [min(t, 16)] * 2
    bars = figure.axes[2], figure.axes[4]
    for ax, volume in zip(bars, parts.values(), strict=True):
        heights = [patch.get_height() for patch in ax.patches]
        wanted = volume.reshape(t, -1).sum(1)
        np.testing.assert_allclose(heights, wanted, rtol=1e-4, atol=1e-5)
    assert bars[0].get_ylim() == bars[1].get_ylim()
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert any("word" in text for text in texts)
    assert save_figure(figure, tmp_path / "strip.png").stat().st_size > 1000


def test_a_video_shows_frame_and_parts_side_by_side(case):
    frames, relevance = case
    pictures = list(
        render_relevance(frames, {"all": relevance, "half": relevance / 2}, index=[2, 4, 6, 8, 9])
    )
    assert len(pictures) == 5 and len({picture.shape for picture in pictures}) == 1
    h, w, _ = pictures[0].shape
    assert w >= 640 and h % 2 == 0 and w % 2 == 0
    factor = w // (3 * 16 + 2 * 4)
    np.testing.assert_array_equal(
        pictures[3][: 12 * factor : factor, : 16 * factor : factor], frames[3]
    )
    shown = pictures[3][: 12 * factor : factor, 20 * factor : 36 * factor : factor]
    limit = max(full_colour(relevance), full_colour(relevance / 2))
    np.testing.assert_array_equal(shown, overlay_relevance(frames, relevance, limit)[3])


def test_bad_input_is_refused(case):
    frames, relevance = case
    with pytest.raises(TypeError, match=r"frames: expected uint8, 0\.\.255"):
        overlay_relevance(frames / 255, relevance)
    with pytest.raises(ValueError, match=r"relevance: expected shape \(5, 12, 16\), as the frames"):
        overlay_relevance(frames, relevance[:4])
    with pytest.raises(ValueError, match="limit: expected a number > 0"):
        overlay_relevance(frames, relevance, limit=0)
    with pytest.raises(ValueError, match="part: expected finite values"):
        plot_relevance_strip(frames, {"part": np.full_like(relevance, np.nan)})
    with pytest.raises(ValueError, match="parts: expected at least one volume"):
        plot_relevance_strip(frames, {})
    with pytest.raises(ValueError, match="frame_labels: expected 5 labels"):
        plot_relevance_strip(frames, {"part": relevance}, frame_labels=["a"])
    with pytest.raises(ValueError, match="index: expected 5 frame numbers"):
        render_relevance(frames, {"part": relevance}, index=[1, 2])
