"""Figures of long videos, scales, sets of sequences, curves and pairs."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from esv_jax import metrics, plots
from esv_jax.attribution import Attribution
from esv_jax.display import sign_colours
from esv_jax.metrics.discard import DiscardCurve
from esv_jax.plots import style
from tests.plots.records_for_tests import LONG, is_inside, make_record, texts_of


def _record(rng, n, *, exact=True) -> Attribution:
    coverage = rng.integers(1, 4, (n, n))
    coverage[0, n - 1] = 0
    marginals = jnp.asarray(rng.normal(size=(n, n, 3)).astype(np.float32))
    fields = {} if exact else {"coverage": jnp.asarray(coverage)}
    return make_record(rng, n, exact=exact, marginals=marginals, **fields)


def _symmetric(rng, n) -> np.ndarray:
    matrix = rng.normal(size=(n, n))
    matrix = matrix + matrix.T
    np.fill_diagonal(matrix, 0)
    return matrix


def _cells(ax) -> np.ndarray:
    """Drawn numbers, NaN where grey."""
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def _is_centred(ax) -> bool:
    """Whether zero is white and both signs have one scale."""
    low, high = ax.images[0].get_clim()
    middle = to_hex(ax.images[0].cmap(0.5))
    return low == -high < 0 and all(int(middle[k : k + 2], 16) >= 0xFD for k in (1, 3, 5))


def _legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def _bar_label(ax) -> str:
    return ax.images[0].colorbar.ax.get_ylabel()


def test_signed_colours_are_those_of_the_bars():
    scale = style.diverging()
    ends = [to_hex(scale(end)).upper() for end in (0.0, 1.0)]
    assert ends == [style.DISTRACTING, style.SUPPORTING]
    assert to_hex(scale(np.ma.masked_all(1))[0]).upper() == style.GRID


# Long videos


def test_a_timeline_holds_values_band_and_exact_dots(rng):
    record = _record(rng, 100, exact=False)
    exact = dataclasses.replace(_record(rng, 100), values=record.values + 0.5)
    frames = np.arange(100) * 8 + 5
    ax = plots.plot_timeline(
        record, 1, element_index=frames, exact=exact, class_name=LONG, confidence=0.9
    )
    value, dots, zero = ax.lines
    np.testing.assert_array_equal(value.get_xdata(), frames)
    np.testing.assert_allclose(value.get_ydata(), record.for_class(1), rtol=1e-6)
    np.testing.assert_allclose(dots.get_ydata(), exact.for_class(1), rtol=1e-6)
    assert dots.get_linestyle() == "None" and zero.get_ydata() == [0, 0]
    band = next(shape for shape in ax.collections if shape.get_label() == "interval")
    low, high = (np.asarray(end[:, 1]) for end in record.interval(0.9))
    drawn = band.get_paths()[0].vertices
    for k in (0, 7, 99):
        ends = drawn[drawn[:, 0] == frames[k], 1]
        np.testing.assert_allclose([ends.min(), ends.max()], [low[k], high[k]], rtol=1e-4)
    bottom, top = ax.get_ylim()
    assert bottom < low.min() and top > max(high.max(), exact.for_class(1).max())
    assert ax.get_xlabel() == "frame number" and "score - prior" in ax.get_ylabel()
    assert "band: 90 % interval; dots: exact values" in texts_of(ax)
    assert _legend(ax) == ["supporting", "distracting"]
    assert is_inside(ax.figure)


def test_signs_are_filled_with_their_colours(rng):
    ax = plots.plot_timeline(_record(rng, 30), 0, units="probability")
    above, below = ax.collections
    assert to_hex(above.get_facecolor()[0]).upper() == style.SUPPORTING
    assert to_hex(below.get_facecolor()[0]).upper() == style.DISTRACTING
    assert min(path.vertices[:, 1].min() for path in above.get_paths()) >= -1e-9
    assert max(path.vertices[:, 1].max() for path in below.get_paths()) <= 1e-9
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("element", "ESV (probability)")
    assert "band" not in texts_of(ax)
    one = plots.plot_timeline(_record(rng, 1), 0)
    assert one.lines[0].get_marker() == "." and is_inside(one.figure)


def test_bad_input_of_timelines_is_refused(rng):
    record = _record(rng, 4)
    with pytest.raises(ValueError, match=r"element_index: expected 4 frame numbers, got \(3,\)"):
        plots.plot_timeline(record, 0, element_index=[0, 1, 2])
    with pytest.raises(ValueError, match="element_index: expected increasing numbers"):
        plots.plot_timeline(record, 0, element_index=[0, 2, 2, 3])
    with pytest.raises(ValueError, match=r"exact: expected values \(4, 3\), got \(5, 3\)"):
        plots.plot_timeline(record, 0, exact=_record(rng, 5))
    with pytest.raises(ValueError, match="exact: expected an exact record, got a sampled one"):
        plots.plot_timeline(record, 0, exact=_record(rng, 4, exact=False))
    with pytest.raises(ValueError, match=r"confidence: expected a share in \(0, 1\), got 95"):
        plots.plot_timeline(record, 0, confidence=95)
    with pytest.raises(ValueError, match=r"class: expected a class in 0\.\.2, got 3"):
        plots.plot_timeline(record, 3)


def test_plot_draws_bars_or_a_line_by_length(rng):
    record = _record(rng, 16)
    top = int(record.scores.argmax())
    bars = plots.plot(record)
    heights = [bar.get_height() for bar in bars.patches]
    np.testing.assert_allclose(heights, record.for_class(top), rtol=1e-6)
    longer = _record(rng, 17)
    ax = plots.plot(longer, 2, class_name="Holding something")
    assert not ax.patches and "Holding something" in texts_of(ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), longer.for_class(2), rtol=1e-6)
    with pytest.raises(ValueError, match="attribution: expected one sequence, got a batch"):
        plots.plot(dataclasses.replace(record, lengths=jnp.array([16])))


def test_the_plot_method_of_a_record_calls_plot(rng):
    record = _record(rng, 6)
    ax = record.plot(1, title="mine")
    assert texts_of(ax) == texts_of(plots.plot(record, 1, title="mine"))
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, record.for_class(1), rtol=1e-6)
    assert record.plot(ax=ax) is ax


# Scales


def test_a_scale_profile_is_the_marginals(rng):
    record = _record(rng, 8)
    ax = plots.plot_scale_profile(record, 1, class_name="Up", units="probability")
    np.testing.assert_allclose(_cells(ax), record.marginals[:, :, 1], rtol=1e-6)
    assert _is_centred(ax)
    np.testing.assert_allclose(ax.images[0].get_clim()[1], abs(record.marginals[:, :, 1]).max())
    assert ax.images[0].origin == "lower"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("element", "scale (elements)")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [str(s) for s in range(1, 9)]
    assert _bar_label(ax) == "mean marginal contribution\n(probability)"
    assert "Up" in texts_of(ax) and "the mean of a column is its ESV" in texts_of(ax)
    assert is_inside(ax.figure)


def test_scales_that_no_subsequence_reached_are_grey(rng):
    ax = plots.plot_scale_profile(_record(rng, 40, exact=False), 0, class_name=LONG)
    unknown = np.isnan(_cells(ax))
    assert unknown[0, 39] and unknown.sum() == 1
    assert "grey: no subsequence there" in texts_of(ax) and "whiskers" not in texts_of(ax)
    assert "mean of a column" not in texts_of(ax)
    assert len(ax.get_yticklabels()) == 20 and is_inside(ax.figure)


def test_bad_input_of_scale_profiles_is_refused(rng):
    record = dataclasses.replace(_record(rng, 4), marginals=None)
    way_out = r"expected marginals, got none\. Explain with marginals=True\."
    with pytest.raises(ValueError, match=f"attribution: {way_out}"):
        plots.plot_scale_profile(record, 0)
    with pytest.raises(ValueError, match="element_labels: expected 4 labels, got 1"):
        plots.plot_scale_profile(_record(rng, 4), 0, element_labels=["a"])


# Sets of sequences


def test_boxes_are_percentiles(rng):
    values = rng.normal(size=(50, 6)) + np.linspace(-1, 1, 6)
    values[3, 5] = np.nan
    ax = plots.plot_positions(values, units="probability")
    quartiles = np.nanpercentile(values, (25, 75), axis=0)
    medians = np.nanmedian(values, axis=0)
    for i, box in enumerate(ax.patches):
        height = box.get_path().vertices[:, 1]
        np.testing.assert_allclose([height.min(), height.max()], quartiles[:, i])
    expected = np.where(medians > 0, style.SUPPORTING, style.DISTRACTING).tolist()
    assert [to_hex(box.get_facecolor()).upper() for box in ax.patches] == expected
    ends = np.array([line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2])
    assert np.isin(np.nanpercentile(values, 5, axis=0), ends).all()
    assert "50 sequences" in texts_of(ax) and "5th to 95th percentile" in texts_of(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("position", "ESV (probability)")
    assert is_inside(ax.figure)


def test_many_positions_are_bands(rng):
    values = rng.normal(size=(50, 60))
    ax = plots.plot_positions(values, title=LONG)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(values, axis=0))
    wide = ax.collections[0].get_paths()[0].vertices
    at = wide[wide[:, 0] == 7, 1]
    np.testing.assert_allclose([at.min(), at.max()], np.percentile(values[:, 7], (5, 95)))
    assert ax.get_legend() is None and is_inside(ax.figure)


def test_statistics_are_shares_of_sequences(rng):
    found = metrics.position_statistics(rng.normal(size=(20, 5)))
    ax = plots.plot_positions(found)
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(2, 5)
    np.testing.assert_allclose(heights[0], 5 * found.most_supporting)
    np.testing.assert_allclose(heights[1], -5 * found.most_distracting)
    np.testing.assert_allclose(np.abs(heights).sum(1), 100)
    assert ax.get_ylabel() == "share of sequences (%)"
    assert ax.yaxis.get_major_formatter()(-20, 0) == "20"
    assert _legend(ax) == ["most supporting", "most distracting"]


def test_bad_input_of_positions_is_refused():
    with pytest.raises(ValueError, match=r"values: .*rows of several lengths\. Fill shorter"):
        plots.plot_positions([[0.1, 0.2], [0.3]])
    with pytest.raises(ValueError, match=r"values: expected shape \(V, n\), got \(2, 3, 4\)"):
        plots.plot_positions(np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match=r"values: expected a value at every position, .*\[1\]"):
        plots.plot_positions([[0.1, np.nan], [0.3, np.nan]])


# Curves


def _discard(rng) -> DiscardCurve:
    right = rng.integers(0, 2, (6, 5)).astype(float)
    right[0, 3:] = np.nan
    scores = np.where(np.isnan(right), np.nan, rng.random((6, 5)))
    return DiscardCurve(right, scores, np.array([3, 5, 5, 5, 5, 5]), "ascending")


def test_each_discard_curve_has_its_own_look(rng):
    steps = np.arange(8)
    ends = rng.random(9)
    curves = {f"method {k} $x_1$": (steps, end * steps / 7) for k, end in enumerate(ends)}
    curves["method 0 $x_1$"] += (ends[0] * steps / 7 - 0.1, ends[0] * steps / 7 + 0.1)
    ax = plots.plot_discard_curves(curves, y_label="accuracy (%)")
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 9
    for line, (name, curve) in zip(ax.lines, curves.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xdata(), steps)
        np.testing.assert_array_equal(line.get_ydata(), curve[1])
    (band,) = ax.collections
    drawn = band.get_paths()[0].vertices
    at = drawn[drawn[:, 0] == 7, 1]
    np.testing.assert_allclose([at.min(), at.max()], [ends[0] - 0.1, ends[0] + 0.1])
    assert _legend(ax) == [f"method {k} $x_1$" for k in np.argsort(-ends)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("elements dropped", "accuracy (%)")
    assert is_inside(ax.figure)
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_discard_curve_results_are_accepted(rng):
    curve = _discard(rng)
    ax = plots.plot_discard_curves({"ESV": curve})
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(5))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curve.accuracy)
    assert ax.get_ylabel() == "accuracy (share)"
    ax = plots.plot_discard_curves({"ESV": curve}, what="class_score")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curve.class_score)
    assert ax.get_ylabel() == "score of the class"


def test_bad_input_of_discard_curves_is_refused():
    with pytest.raises(ValueError, match="curves: expected at least one, got none"):
        plots.plot_discard_curves({})
    with pytest.raises(ValueError, match=r"curves\['a'\]: expected \(steps, values\).*3 parts"):
        plots.plot_discard_curves({"a": ([0], [1], [2])})
    with pytest.raises(ValueError, match=r"curves\['a'\]: expected arrays of one shape \(k,\)"):
        plots.plot_discard_curves({"a": ([0, 1], [1])})
    with pytest.raises(ValueError, match=r"curves\['a'\]: expected finite values"):
        plots.plot_discard_curves({"a": ([0, 1], [1, np.nan])})
    with pytest.raises(ValueError, match="what: expected one of 'accuracy', 'class_score'"):
        plots.plot_discard_curves({"a": ([0], [1])}, what="acuracy")


# Pairs


@pytest.mark.parametrize("n", [2, 12, 13])
def test_interactions_are_the_matrix(rng, n):
    matrix = _symmetric(rng, n)
    ax = plots.plot_interactions(matrix, class_name="Holding something", units="probability")
    off = ~np.eye(n, dtype=bool)
    np.testing.assert_allclose(_cells(ax)[off], matrix[off])
    assert np.isnan(np.diag(_cells(ax))).all() and _is_centred(ax)
    assert ax.images[0].get_clim()[1] == np.abs(matrix).max()
    numbers = [text for text in ax.texts if re.fullmatch(r"-?\d+\.\d+", text.get_text())]
    assert len(numbers) == (n * (n - 1) if n <= 12 else 0)
    for text in numbers:
        j, i = text.get_position()
        assert float(text.get_text()) == pytest.approx(matrix[i, j], abs=0.051)
        assert text.get_text() not in ("-0.0", "-0.00")
    assert _bar_label(ax) == "interaction (probability)"
    assert "Holding something" in texts_of(ax) and is_inside(ax.figure)
    ax.figure.draw_without_rendering()
    box = ax.get_window_extent()
    assert abs(box.width - box.height) < 2


def test_arcs_are_the_strongest_pairs(rng):
    matrix, esv = _symmetric(rng, 9), rng.normal(size=9)
    ax = plots.plot_interaction_arcs(matrix, esv, strongest=7, class_name="Up", units="probability")
    i, j = np.triu_indices(9, 1)
    order = np.argsort(-np.abs(matrix[i, j]))[:7]
    expected = [f"{i[k]}-{j[k]}" for k in reversed(order)]
    assert [line.get_label() for line in ax.lines] == expected
    widest = np.abs(matrix).max()
    for line in ax.lines:
        a, b = map(int, line.get_label().split("-"))
        x = line.get_xdata()
        np.testing.assert_allclose([x[0], x[-1]], [a, b], atol=1e-9)
        assert np.max(line.get_ydata()) == pytest.approx((b - a) / 2)
        assert line.get_linewidth() == pytest.approx(5 * abs(matrix[a, b]) / widest)
        colour = style.SUPPORTING if matrix[a, b] > 0 else style.DISTRACTING
        assert line.get_color() == colour
    marks = ax.collections[-1]
    np.testing.assert_allclose(
        marks.get_sizes() / marks.get_sizes().max(), abs(esv) / abs(esv).max()
    )
    colours = [to_hex(colour).upper() for colour in marks.get_facecolor()]
    assert colours == sign_colours(esv)
    text = texts_of(ax)
    assert "Up" in text and f"7 strongest of 36 pairs; widest: {widest:.3f} (probability)" in text
    assert f"areas: |ESV|, at most {abs(esv).max():.3f} (probability)" in text
    assert _legend(ax) == ["worth more together", "dispensable beside each other"]
    assert ax.get_xlabel() == "element" and is_inside(ax.figure)


def test_arcs_without_interactions_and_of_one_element(rng):
    assert "no interaction among 3 pairs" in texts_of(plots.plot_interaction_arcs(np.zeros((3, 3))))
    one = plots.plot_interaction_arcs(np.zeros((1, 1)))
    assert not one.lines and is_inside(one.figure)
    assert is_inside(plots.plot_interactions(np.zeros((1, 1))).figure)


@pytest.mark.parametrize("draw", [plots.plot_interactions, plots.plot_interaction_arcs])
def test_bad_input_of_interactions_is_refused(rng, draw):
    with pytest.raises(ValueError, match=r"got \(4, 4, 3\)\. Index the class: interactions"):
        draw(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="matrix: expected a symmetric one, got one that differs"):
        draw(np.triu(np.ones((4, 4))))
    with pytest.raises(ValueError, match="matrix: expected finite values"):
        draw(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="element_labels: expected 2 labels, got 3"):
        draw(np.zeros((2, 2)), element_labels="abc")


def test_bad_input_of_arcs_is_refused():
    with pytest.raises(ValueError, match=r"esv: expected shape \(2,\), one value per element"):
        plots.plot_interaction_arcs(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="strongest: expected an integer >= 1, got 0"):
        plots.plot_interaction_arcs(np.zeros((2, 2)), strongest=0)


# All of them


def _draw_all(rng, **ax):
    record = _record(rng, 6, exact=False)
    return [
        plots.plot(record, **ax),
        plots.plot_timeline(record, 0, **ax),
        plots.plot_scale_profile(record, 0, **ax),
        plots.plot_positions(rng.normal(size=(9, 6)), **ax),
        plots.plot_discard_curves({"ESV": ([0, 1], [1, 0.5])}, **ax),
        plots.plot_interactions(_symmetric(rng, 6), **ax),
        plots.plot_interaction_arcs(_symmetric(rng, 6), **ax),
    ]


def test_axes_of_the_caller_are_returned(rng):
    ax = Figure(figsize=(9, 5), layout="constrained").subplots()
    assert all(drawn is ax for drawn in _draw_all(rng, ax=ax))
    assert ax.figure.get_size_inches().tolist() == [9, 5]


@pytest.mark.slow
def test_all_figures_are_written_as_png_and_pdf(rng, tmp_path):
    for k, ax in enumerate(_draw_all(rng)):
        for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
            content = plots.save_figure(ax.figure, tmp_path / f"{k}{suffix}", dpi=60).read_bytes()
            assert content.startswith(start) and len(content) > 4_000


def test_tick_labels_are_complete_numbers(rng):
    def labels(ax):
        ax.figure.draw_without_rendering()
        assert ax.yaxis.get_offset_text().get_text() == ""
        low, high = ax.get_ylim()
        ticks = zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        return {float(y): text.get_text() for y, text in ticks if low <= y <= high}

    record = _record(rng, 6)
    shrunk = dataclasses.replace(record, values=record.values / record.values.max() * 3e-6)
    for drawn in (labels(plots.plot_elements(shrunk, 0)), labels(plots.plot_timeline(shrunk, 0))):
        assert {"0", "1e\N{MINUS SIGN}6"} & {*drawn.values()} and len(drawn) > 3
        for y, text in drawn.items():
            assert float(text.replace("\N{MINUS SIGN}", "-")) == pytest.approx(y, abs=1e-12)
    drawn = labels(plots.plot_positions(rng.normal(size=(9, 3)) / 10))
    assert len({len(text.lstrip("\N{MINUS SIGN}")) for text in drawn.values()}) == 1
    bar = plots.plot_interactions(1e-5 * _symmetric(rng, 4)).images[0].colorbar.ax
    assert "1e\N{MINUS SIGN}5" in labels(bar).values()


def test_small_interactions_have_short_labels():
    matrix = np.array([[0, 2.7e-5, 0], [2.7e-5, 0, -8e-6], [0, -8e-6, 0]])
    ax = plots.plot_interactions(matrix)
    drawn = {text.get_position(): text.get_text() for text in ax.texts}
    assert (drawn[1, 0], drawn[2, 1], drawn[2, 0], drawn[0, 0]) == ("3e-5", "-8e-6", "0", "")


def test_text_above_does_not_overlap_the_legend(rng):
    for ax in (
        plots.plot_elements(_record(rng, 8), 0, class_name=LONG, title=LONG),
        plots.plot_interaction_arcs(_symmetric(rng, 8), class_name=LONG),
        plots.plot_positions(rng.normal(size=(9, 6)), title=LONG),
    ):
        ax.figure.draw_without_rendering()
        legend = ax.get_legend().get_window_extent()
        heading = ax._left_title.get_window_extent()
        assert not any(text.get_window_extent().overlaps(legend) for text in ax.texts)
        assert not heading.overlaps(legend)


def test_a_single_position_has_one_tick(rng):
    for ax in (
        plots.plot_timeline(_record(rng, 1), 0, element_index=[7]),
        plots.plot_discard_curves({"ESV": ([7], [0.5])}),
    ):
        ax.figure.draw_without_rendering()
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["7"]
