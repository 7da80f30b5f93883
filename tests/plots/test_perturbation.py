"""Masks over frames: where they are drawn, strips, curves and videos."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the plots extra")

from esv_jax.plots import save_figure
from esv_jax.plots.curves import plot_descent
from esv_jax.plots.perturbation import (
    overlay_mask,
    plot_perturbation_strip,
    render_perturbation,
)
from esv_jax.plots.video import render_clips
from tests.plots.records_for_tests import is_inside

OUTLINE = (0xD5, 0x5E, 0x00)


@pytest.fixture
def case(rng):
    frames = rng.integers(0, 256, (5, 12, 16, 3)).astype(np.uint8)
    small, large = np.zeros((2, 5, 12, 16), np.float32)
    small[1, 3:9, 4:10] = 1
    large[:, 2:10, :8] = 1
    return frames, {"area 0.1": small, "area 0.3": large}


def test_frames_are_unchanged_within_a_mask_and_pale_outside(case):
    frames, masks = case
    drawn = overlay_mask(frames, masks["area 0.1"])
    assert drawn.shape == frames.shape and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[1, 4:8, 5:9], frames[1, 4:8, 5:9])
    edge = drawn[1, [3, 3, 8, 5], [4, 9, 6, 4]]
    np.testing.assert_array_equal(edge, [OUTLINE] * 4)
    outside = drawn[0].astype(int)
    assert (outside.max(-1) == outside.min(-1)).all() and outside.min() >= 165  # pale grey
    assert (overlay_mask(frames, np.ones(frames.shape[:3])) == frames).all()  # no edge, no outline


def test_an_outline_has_no_line_where_the_mask_meets_the_border(case):
    frames, masks = case
    drawn = overlay_mask(frames, masks["area 0.3"])
    is_outline = (drawn == OUTLINE).all(-1)[0]
    rows, columns = np.nonzero(is_outline)
    assert set(rows) == set(range(2, 10)) and set(columns) == set(range(8))
    assert not is_outline[3:9, :7].any()  # column 0 has none but at its two corners


@pytest.mark.parametrize("t", [1, 5, 40])
def test_a_strip_has_a_row_for_every_mask_and_bars_for_all(rng, t, tmp_path):
    frames = rng.integers(0, 256, (t, 8, 8, 3)).astype(np.uint8)
    masks = {f"area {k}": rng.uniform(size=(t, 8, 8)) for k in range(3)}
    figure = plot_perturbation_strip(
        frames, masks, frame_labels=[str(3 * i) for i in range(t)], title="clip", lines=["word"]
    )
    *rows, bars = figure.axes
    assert [ax.get_ylabel() for ax in rows] == ["frame", *masks, "all masks"]
    assert [len(ax.images) for ax in rows] == [min(t, 16)] * 5
    heights = [patch.get_height() for patch in bars.patches]
    wanted = np.concatenate([mask.mean((1, 2)) for mask in masks.values()])
    np.testing.assert_allclose(heights, wanted, rtol=1e-5)
    assert [text.get_text() for text in bars.get_legend().get_texts()] == list(masks)
    assert any("word" in text.get_text() for text in rows[0].texts)
    assert save_figure(figure, tmp_path / "strip.png").stat().st_size > 1000


@pytest.mark.parametrize("t", [1, 6])
def test_many_masks_with_long_names_fit(rng, t):
    frames = rng.integers(0, 256, (t, 24, 32, 3)).astype(np.uint8)
    masks = {f"a mask of area 0.{k} for $5": rng.uniform(size=(t, 24, 32)) for k in range(1, 8)}
    labels = [f"00:00:0{i}.040 of a clip" for i in range(t)]
    figure = plot_perturbation_strip(frames, masks, frame_labels=labels, title=40 * "long ")
    assert is_inside(figure)
    image = figure.axes[0].images[0].get_window_extent()
    assert image.width / image.height == pytest.approx(32 / 24, rel=0.03)
    assert image.width / figure.dpi < 2
    names = figure.axes[-1].get_legend().get_window_extent()
    assert names.x1 < figure.bbox.x1 and not names.overlaps(figure.axes[-2].get_window_extent())
    ticks = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in pairwise(ticks))


def test_the_colour_is_proportional_to_the_sum_of_masks(case):
    frames, masks = case
    none = {name: np.zeros_like(mask) for name, mask in masks.items()}
    last = {name: plot_perturbation_strip(frames, m).axes[3] for name, m in
            (("some", masks), ("none", none))}  # fmt: skip
    some, plain = (np.asarray(ax.images[1].get_array()).astype(int) for ax in last.values())
    blue = np.array((0x00, 0x72, 0xB2))
    np.testing.assert_array_equal(some[4, 5], blue)  # in both
    half = np.rint((plain[4, 1] + blue) / 2)
    assert abs(some[4, 1] - half).max() <= 1  # in one of two
    np.testing.assert_array_equal(some[0], plain[0])


def test_a_video_shows_frame_masks_and_the_perturbed_clip(case):
    frames, masks = case
    perturbed = 255 - frames
    pictures = list(render_perturbation(frames, masks, perturbed, index=[2, 4, 6, 8, 9]))
    assert len(pictures) == 5 and len({picture.shape for picture in pictures}) == 1
    h, w, _ = pictures[0].shape
    assert w >= 640 and h % 2 == 0 and w % 2 == 0
    factor = w // (3 * 16 + 2 * 4)
    small = pictures[1][: 12 * factor : factor, ::factor]
    np.testing.assert_array_equal(small[:, :16], frames[1])
    np.testing.assert_array_equal(small[:, 40:56], perturbed[1])
    over = small[:, 20:36]
    np.testing.assert_array_equal(over[3, 5], OUTLINE)  # of the first, that in the middle
    other = next(render_perturbation(frames, masks, perturbed, shown="area 0.3"))
    np.testing.assert_array_equal(other[2 * factor, 23 * factor], OUTLINE)


def test_clips_are_enlarged_side_by_side(case):
    frames, _ = case
    pictures = list(render_clips([frames, 255 - frames], min_height=24))
    assert [picture.shape for picture in pictures] == [(24, 72, 3)] * 5
    np.testing.assert_array_equal(pictures[3][1::2, 1:32:2], frames[3])
    np.testing.assert_array_equal(pictures[3][::2, 40::2], 255 - frames[3])
    assert (pictures[0][:, 32:40] == 255).all()


@pytest.mark.parametrize(
    ("mode", "label"), [("preserve", "p kept"), ("delete", "1 - p left"), ("dual", "p kept x (1 -")]
)
def test_descent_curves_are_energies_and_probabilities(mode, label, tmp_path):
    reward = np.array([[2.0, 1.0, 0.0], [3.0, np.nan, np.nan]])
    figure = plot_descent(10 * reward + 1, reward, ["a", "b"], mode=mode, title="clip")
    left, right = figure.axes
    for line, row in zip(left.lines, 10 * reward + 1, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), row)
    for line, row in zip(right.lines, reward, strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.exp(-row))
    assert right.get_ylabel().startswith(label) and left.get_yscale() == "log"
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["a", "b"]
    assert save_figure(figure, tmp_path / "curves.png").stat().st_size > 1000


def test_names_beside_curves_do_not_overlap_panels():
    name = 20 * "a mask of $5 " + "$6"
    figure = plot_descent(np.ones((2, 4)), np.ones((2, 4)), [name, "b"])
    figure.draw_without_rendering()
    left, right = figure.axes
    names = left.get_legend().get_window_extent()
    assert left.get_window_extent().x1 <= names.x0 and names.x1 < right.get_window_extent().x0
    assert not left.get_legend().get_texts()[0].get_parse_math()


def test_descent_of_nan_is_drawn(tmp_path):
    nothing = np.full((1, 1), np.nan)
    figure = plot_descent(nothing, nothing, ["a"])
    assert figure.axes[0].get_yscale() == "linear"
    assert save_figure(figure, tmp_path / "curves.png").exists()


def test_bad_input_is_refused(case):
    frames, masks = case
    mask = masks["area 0.1"]
    with pytest.raises(TypeError, match=r"frames: expected uint8, 0\.\.255"):
        overlay_mask(frames / 255, mask)
    with pytest.raises(ValueError, match=r"mask: expected shape \(5, 12, 16\), as the frames"):
        overlay_mask(frames, mask[:4])
    with pytest.raises(ValueError, match=r"mask: expected numbers in 0\.\.1, got 0\.\.2"):
        overlay_mask(frames, 2 * mask)
    with pytest.raises(ValueError, match="a: expected finite values"):
        plot_perturbation_strip(frames, {"a": np.full_like(mask, np.nan)})
    with pytest.raises(ValueError, match="masks: expected at least one"):
        plot_perturbation_strip(frames, {})
    with pytest.raises(ValueError, match="frame_labels: expected 5 labels"):
        plot_perturbation_strip(frames, masks, frame_labels=["a"])
    with pytest.raises(ValueError, match="index: expected 5 frame numbers"):
        render_perturbation(frames, masks, frames, index=[1, 2])
    with pytest.raises(ValueError, match="perturbed: expected shape"):
        render_perturbation(frames, masks, frames[:4])
    with pytest.raises(ValueError, match=r"shown: expected one of 'area 0\.1', 'area 0\.3'"):
        render_perturbation(frames, masks, frames, shown="area 0.2")
    with pytest.raises(ValueError, match="clips: expected one shape"):
        render_clips([frames, frames[:4]])
    with pytest.raises(ValueError, match="clips: expected at least one"):
        render_clips([])
    with pytest.raises(ValueError, match=r"names: expected 2 names, got 1"):
        plot_descent(np.ones((2, 3)), np.ones((2, 3)), ["a"])
    with pytest.raises(ValueError, match=r"expected one shape \(A, iterations\)"):
        plot_descent(np.ones((2, 3)), np.ones((2, 4)), ["a", "b"])
