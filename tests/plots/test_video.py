"""Figures of videos show the frames they are given and the numbers of the record."""

import dataclasses
import subprocess
import sys
from itertools import pairwise
from statistics import NormalDist

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from esv_jax import plots
from esv_jax.attribution import Attribution
from esv_jax.plots import style
from tests.plots.records_for_tests import LONG, is_inside, make_record

BLUE, VERMILLION, INK = (
    np.rint(255 * np.array(to_rgb(colour))).astype(np.uint8)
    for colour in (style.SUPPORTING, style.DISTRACTING, style.INK)
)


def _of(values) -> Attribution:
    values = jnp.asarray(values, jnp.float32)[:, None]
    return Attribution(values=values, scores=values.sum(0), prior=jnp.zeros(1), exact=True)


def _frames(rng, n, h=12, w=16) -> np.ndarray:
    return rng.integers(0, 255, (n, h, w, 3), dtype=np.uint8)


def _bars(figure) -> list:
    return [bar for ax in figure.axes[1::2] for bar in ax.patches]


# Strips


@pytest.mark.parametrize(("n", "rows"), [(1, [1]), (8, [8]), (9, [5, 4]), (16, [8, 8])])
@pytest.mark.parametrize("exact", [True, False])
def test_a_strip_has_each_frame_above_the_bar_of_its_value(rng, n, rows, exact):
    record, frames = make_record(rng, n, exact=exact), _frames(rng, n)
    figure = plots.plot_frame_strip(record, frames, 1, class_name="Holding something")
    assert [len(ax.images) for ax in figure.axes[::2]] == rows
    thumbs = [(ax, image) for ax in figure.axes[::2] for image in ax.images]
    np.testing.assert_array_equal([image.get_array() for _, image in thumbs], frames)
    bars = _bars(figure)
    np.testing.assert_allclose([b.get_height() for b in bars], record.for_class(1), rtol=1e-6)
    expected = np.where(record.supporting(1), style.SUPPORTING, style.DISTRACTING)
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == expected.tolist()
    assert is_inside(figure)
    for (_, image), bar in zip(thumbs, bars, strict=True):
        above, below = image.get_window_extent(), bar.get_window_extent()
        assert abs((above.x0 + above.x1) - (below.x0 + below.x1)) < 1
        assert above.y0 > below.y1
    assert len({ax.get_ylim() for ax in figure.axes[1::2]}) == 1
    assert figure.axes[0].get_legend() is not None
    text = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert ("whiskers" in text) == (not exact)


@pytest.mark.parametrize(("h", "w"), [(12, 16), (64, 64), (32, 18), (10, 47), (300, 2)])
def test_frames_keep_their_proportions(rng, h, w):
    figure = plots.plot_frame_strip(make_record(rng, 10), _frames(rng, 10, h, w), 0)
    assert is_inside(figure)
    boxes = [image.get_window_extent() for ax in figure.axes[::2] for image in ax.images]
    for box in boxes:
        assert box.height / box.width == pytest.approx(h / w, rel=0.03)
    for first, second in pairwise(boxes[:5]):
        assert first.x1 < second.x0
    panels = [ax.get_tightbbox() for ax in figure.axes]
    for above, below in pairwise(panels):
        assert above.y0 >= below.y1 - 1


def test_frames_of_many_elements_are_evenly_spread_over_all_bars(rng):
    n = 100
    record, frames = make_record(rng, n), _frames(rng, n)
    figure = plots.plot_frame_strip(record, frames, 2)
    above, below = figure.axes
    np.testing.assert_allclose(
        [bar.get_height() for bar in below.patches], record.for_class(2), rtol=1e-6
    )
    shown = [6, 18, 31, 43, 56, 68, 81, 93]
    assert [tick.get_text() for tick in above.get_xticklabels()] == [str(i) for i in shown]
    np.testing.assert_array_equal([image.get_array() for image in above.images], frames[shown])
    assert is_inside(figure)
    bars = below.patches
    for image, i in zip(above.images, shown, strict=True):
        box, bar = image.get_window_extent(), bars[i].get_window_extent()
        assert abs((box.x0 + box.x1) / 2 - (bar.x0 + bar.x1) / 2) < bar.width
    assert len(plots.plot_frame_strip(make_record(rng, 32), frames[:32], 2).axes) == 8
    assert len(plots.plot_frame_strip(make_record(rng, 33), frames[:33], 2).axes) == 2


def test_whiskers_of_a_strip_are_95_percent_intervals(rng):
    record = make_record(rng, 9, exact=False)
    figure = plots.plot_frame_strip(record, _frames(rng, 9), 2)
    ends = np.array(
        [
            segment[:, 1]
            for ax in figure.axes[1::2]
            for segment in ax.containers[1].lines[2][0].get_segments()
        ]
    )
    half = NormalDist().inv_cdf(0.975) * np.asarray(record.std_error[:, 2])
    middle = np.asarray(record.for_class(2))
    np.testing.assert_allclose(ends, np.stack([middle - half, middle + half], 1), rtol=1e-5)
    low, high = figure.axes[1].get_ylim()
    assert low < ends.min() and high > ends.max()


def test_texts_and_labels_of_a_strip(rng):
    record = dataclasses.replace(make_record(rng, 9), scores=jnp.array([0.87, 0.1, 0.03]))
    labels = [str(i) for i in range(3, 90, 10)]
    figure = plots.plot_frame_strip(
        record, _frames(rng, 9), 0, class_name=LONG, frame_labels=labels, title="a.mp4", units="u"
    )
    ticks = [tick.get_text() for ax in figure.axes[::2] for tick in ax.get_xticklabels()]
    assert ticks == labels
    first = figure.axes[0]
    assert first.get_title(loc="left") == "a.mp4"
    text = " ".join(text.get_text().replace("\n", " ") for text in first.texts)
    assert LONG in text and "exact, 4,096 evaluations" in text
    assert "score 0.870 - prior 0.110 = 0.760" in text
    legend = [entry.get_text() for entry in first.get_legend().get_texts()]
    assert legend == ["supporting", "distracting"]
    assert figure.axes[1].get_ylabel() == "ESV (u)"


@pytest.mark.parametrize("n", [2, 16, 60])
def test_long_labels_do_not_overlap(rng, n):
    labels = [f"00:{i:02d}:00.040000 of a long recording" for i in range(n)]
    figure = plots.plot_frame_strip(
        make_record(rng, n), _frames(rng, n), 0, class_name=LONG, frame_labels=labels
    )
    assert is_inside(figure)
    for ax in figure.axes[::2]:
        boxes = [tick.get_window_extent() for tick in ax.get_xticklabels()]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    assert figure.axes[0].get_title(loc="left").replace("\n", " ") == LONG


def test_a_strip_is_written(rng, tmp_path):
    before = dict(mpl.rcParams)
    figure = plots.plot_frame_strip(make_record(rng, 4), _frames(rng, 4), 0, max_columns=3)
    assert [len(ax.images) for ax in figure.axes[::2]] == [2, 2]
    path = plots.save_figure(figure, tmp_path / "strip.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


# Overlays


def _columns(frame: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """How many pixels of a colour each column has."""
    return (frame == colour).all(-1).sum(0)


def _cursor(frame: np.ndarray, top: int) -> tuple[int, int]:
    """First column and width of the cursor in what is below row `top`."""
    dark = _columns(frame[top:], INK)
    (at,) = np.nonzero(dark > 0.9 * dark.max())
    assert (np.diff(at) == 1).all()
    return int(at[0]), len(at)


def test_an_overlay_of_the_elements_alone(rng):
    record, frames = _of([0.2, -0.1, 0.0, 0.4]), _frames(rng, 4, 9, 160)
    out = list(plots.render_overlay(record, frames, 0))
    assert len(out) == 4
    assert {(frame.dtype, frame.shape) for frame in out} == {(np.dtype(np.uint8), out[0].shape)}
    assert out[0].shape[1] == 320 and out[0].shape[0] % 2 == 0
    for frame, image in zip(out, frames, strict=True):
        np.testing.assert_array_equal(frame[:18:2, ::2], image)
        np.testing.assert_array_equal(frame[1:18:2, 1::2], image)
    cursors = [_cursor(frame, 18) for frame in out]
    assert {width for _, width in cursors} == {2}
    gaps = np.diff([left for left, _ in cursors])
    assert gaps.min() > 30 and np.ptp(gaps) <= 1


def test_bars_are_at_their_frames_with_the_height_of_their_values(rng):
    values, index = np.array([0.3, -0.15, 0.6]), np.array([4, 30, 45])
    video = _frames(rng, 60, 8, 640)
    out = list(plots.render_overlay(_of(values), None, 0, video_frames=iter(video), index=index,
                                    shown=range(60)))  # fmt: skip
    assert len(out) == 60
    for frame, image in zip(out, video, strict=True):
        np.testing.assert_array_equal(frame[:8], image)
    # A panel without its cursor: what most frames have in common.
    panel = np.median([frame[8:] for frame in out[::6]], axis=0).astype(np.uint8)
    legend = 40  # rows of the heading and the legend
    heights = []
    for i, value in zip(index, values, strict=True):
        left, width = _cursor(out[i], 8)
        colour, other = (BLUE, VERMILLION) if value > 0 else (VERMILLION, BLUE)
        column = panel[legend:, left : left + width]
        heights.append(np.sign(value) * _columns(column, colour).max())
        assert not _columns(column, other).any()
    heights = np.array(heights)
    np.testing.assert_allclose(heights / heights[2], values / values[2], atol=0.05)
    for i in (15, 37, 55):  # no bar there
        left, _ = _cursor(out[i], 8)
        assert not _columns(panel[legend:, left : left + 1], BLUE).any()
    lefts = np.array([_cursor(frame, 8)[0] for frame in out])
    slope = (lefts[-1] - lefts[0]) / 59
    np.testing.assert_allclose(lefts, lefts[0] + slope * np.arange(60), atol=1.01)


def test_only_the_cursor_changes_between_frames(rng):
    still = np.full((5, 20, 400, 3), 77, np.uint8)
    kept = list(plots.render_overlay(make_record(rng, 5, exact=False), still, 2))
    out = np.array(kept)
    changed = (out != out[0]).any((0, 1, 3)).sum()
    assert 0 < changed <= 5 * 4  # a line of two pixels between two of white
    assert not any(np.shares_memory(a, b) for a, b in pairwise(kept))


@pytest.mark.parametrize(("h", "w"), [(9, 321), (10, 320), (7, 5), (33, 107), (65, 1281)])
def test_sizes_are_even_and_wide_enough(rng, h, w):
    frames = _frames(rng, 2, h, w)
    first, second = plots.render_overlay(make_record(rng, 2), frames, 0, class_name=LONG)
    assert first.shape == second.shape
    assert first.shape[0] % 2 == 0 and first.shape[1] % 2 == 0 and first.shape[1] >= 320
    factor = -(-320 // w)
    np.testing.assert_array_equal(first[: h * factor, : w * factor][::factor, ::factor], frames[0])
    panel = first[h * factor :]
    assert (panel[:2] == 255).all() and (panel[-2:] == 255).all()  # nothing is cut off
    assert (panel[:, :1] == 255).all() and (panel[:, -1:] == 255).all()


def test_a_subset_of_the_frames_may_be_shown(rng):
    shown = np.arange(100, 200, 10)
    make = plots.render_overlay
    record, frames = make_record(rng, 3), _frames(rng, 10, 8, 320)
    out = list(make(record, iter(frames), 0, index=[105, 150, 194], shown=shown))
    lefts = [_cursor(frame, 8)[0] for frame in out]
    assert len(out) == 10 and np.ptp(np.diff(lefts)) <= 1
    whole = list(make(record, frames, 0, index=[1, 5, 9]))
    assert len(whole) == 10
    (one,) = make(make_record(rng, 1), frames[:1], 0)
    assert 150 < _cursor(one, 8)[0] < 220


def test_frames_are_read_one_at_a_time(rng):
    taken = []

    def source():
        for k in range(50):
            taken.append(k)
            yield np.zeros((8, 320, 3), np.uint8)

    out = plots.render_overlay(make_record(rng, 2), source(), 0, index=[3, 40], shown=range(50))
    assert taken == []
    next(out), next(out)
    assert taken == [0, 1]


# Refusals


def test_bad_input_is_refused(rng):
    record, frames = make_record(rng, 4), _frames(rng, 4)
    batch = dataclasses.replace(record, values=jnp.zeros((2, 4, 3)), lengths=jnp.array([4, 3]))
    for draw in (plots.plot_frame_strip, plots.render_overlay):
        with pytest.raises(ValueError, match="attribution: expected one sequence, got a batch"):
            draw(batch, frames, 0)
        with pytest.raises(ValueError, match=r"class: expected a class in 0\.\.2, got 3"):
            draw(record, frames, 3)
        with pytest.raises(ValueError, match="frames: expected 4 frames, one per element, got 3"):
            draw(record, frames[:3], 0)


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"frames": np.zeros((4, 8, 8, 3))}, TypeError, "frames: expected uint8, 0..255, got dtyp"),
        ({"frames": np.zeros((4, 8, 8), np.uint8)}, ValueError, r"shape \(n, h, w, 3\), got"),
        ({"frames": np.zeros((4, 0, 8, 3), np.uint8)}, ValueError, "each at least 1"),
        ({"frame_labels": ["a"]}, ValueError, "frame_labels: expected 4 labels, got 1"),
        ({"max_columns": 0}, ValueError, "max_columns: expected an integer >= 1, got 0"),
        ({"max_columns": 2.0}, TypeError, "max_columns: expected an integer"),
    ],
)
def test_bad_input_of_strips_is_refused(rng, change, kind, match):
    arguments = {"frames": _frames(rng, 4)} | change
    with pytest.raises(kind, match=match):
        plots.plot_frame_strip(make_record(rng, 4), target=0, **arguments)


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"index": [0, 1, 2]}, ValueError, "index: expected 4 frame numbers, one per el.*got 3"),
        ({"index": [0, 2, 1, 3]}, ValueError, "index: expected increasing frame numbers"),
        ({"index": [0, 1, 1, 3]}, ValueError, "index: expected increasing frame numbers"),
        ({"index": [-1, 1, 2, 3]}, ValueError, "index: expected increasing frame numbers from 0"),
        ({"index": [0.0, 1, 2, 3]}, TypeError, "index: expected integers, got dtype float64"),
        ({"index": [0, 1, 2, 6]}, ValueError, "index: expected frame numbers below 6"),
        ({"index": None}, ValueError, "index: expected 4 frame numbers with video_frames"),
        ({"video_frames": iter(())}, ValueError, r"shown: .* Give shown=range\(t\)"),
        ({"shown": []}, ValueError, "shown: expected at least one frame number"),
        ({"frames": np.zeros((3, 8, 8, 3), np.uint8)}, ValueError, "frames: expected 4 frames"),
        ({"min_width": 100}, ValueError, "min_width: expected an integer >= 160"),
    ],
)
def test_bad_input_of_overlays_is_refused_at_the_call(rng, change, kind, match):
    arguments = {"frames": None, "video_frames": _frames(rng, 6), "index": [0, 2, 3, 5]} | change
    with pytest.raises(kind, match=match):
        plots.render_overlay(make_record(rng, 4), target=0, **arguments)


@pytest.mark.parametrize(
    ("frames", "kind", "match"),
    [
        ([np.zeros((8, 8, 3))] * 2, TypeError, "frame 0: expected uint8"),
        ([np.zeros((8, 8), np.uint8)] * 2, ValueError, r"frame 0: expected shape \(h, w, 3\)"),
        ([np.zeros((8, 0, 3), np.uint8)] * 2, ValueError, "frame 0: .*each at least 1"),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
            ValueError,
            r"frame 1: expected shape \(8, 8, 3\), as frame 0, got \(9, 8, 3\)",
        ),
        (iter([np.zeros((8, 8, 3), np.uint8)]), ValueError, "frames: expected 2 frames, got 1"),
        (iter([np.zeros((8, 8, 3), np.uint8)] * 3), ValueError, "frames: expected 2 frames, got m"),
        (iter([]), ValueError, "frames: expected 2 frames, got 0"),
    ],
)
def test_bad_frames_of_overlays_are_refused_while_iterating(rng, frames, kind, match):
    with pytest.raises(kind, match=match):
        list(plots.render_overlay(make_record(rng, 2), frames, 0))


def test_matplotlib_is_imported_on_first_use_and_pyplot_never():
    code = (
        "import sys, jax.numpy as jnp, numpy as np, esv_jax.plots as plots\n"
        "from esv_jax.attribution import Attribution\n"
        "assert 'matplotlib' not in sys.modules\n"
        "record = Attribution(jnp.ones((2, 1)), jnp.ones(1), jnp.zeros(1))\n"
        "frames = np.zeros((2, 8, 8, 3), np.uint8)\n"
        "plots.plot_elements(record, 0)\n"
        "plots.plot_frame_strip(record, frames, 0)\n"
        "list(plots.render_overlay(record, frames, 0))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'av' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
