"""Figures show the numbers of the record, and touch nothing beside their own canvas."""

import dataclasses
import os
from itertools import pairwise
from statistics import NormalDist

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from esv_jax import plots
from esv_jax.plots import style
from tests.plots.records_for_tests import LONG, is_inside, make_record, texts_of


@pytest.mark.parametrize("n", [1, 8, 29, 100])
@pytest.mark.parametrize("exact", [True, False])
def test_bars_are_the_values(rng, n, exact):
    record = make_record(rng, n, exact=exact)
    ax = plots.plot_elements(record, 1, class_name="Holding something")
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, record.for_class(1), rtol=1e-6)
    centres = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches]
    np.testing.assert_allclose(centres, np.arange(n), atol=1e-9)
    expected = np.where(record.supporting(1), style.SUPPORTING, style.DISTRACTING)
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == expected.tolist()
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["supporting", "distracting"]
    ticks = ax.get_xticklabels()
    assert 1 <= len(ticks) <= 30 and ticks[0].get_text() == "0"
    assert is_inside(ax.figure)
    boxes = [tick.get_window_extent() for tick in ticks]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_zero_is_distracting(rng):
    record = dataclasses.replace(make_record(rng, 2), values=jnp.zeros((2, 3)))
    ax = plots.plot_elements(record, 0)
    assert {to_hex(bar.get_facecolor()).upper() for bar in ax.patches} == {style.DISTRACTING}


def test_whiskers_are_95_percent_intervals(rng):
    record = make_record(rng, 8, exact=False)
    ax = plots.plot_elements(record, 2)
    (whiskers,) = ax.containers[1].lines[2]
    ends = np.array([segment[:, 1] for segment in whiskers.get_segments()])
    half = NormalDist().inv_cdf(0.975) * np.asarray(record.std_error[:, 2])
    middle = np.asarray(record.for_class(2))
    np.testing.assert_allclose(ends, np.stack([middle - half, middle + half], 1), rtol=1e-5)
    assert "whiskers: 95 % interval" in texts_of(ax)
    assert len(plots.plot_elements(make_record(rng, 8), 2).containers) == 1


def test_unknown_errors_are_left_out(rng):
    record = make_record(rng, 3, exact=False)
    record = dataclasses.replace(record, std_error=record.std_error.at[1].set(jnp.nan))
    ax = plots.plot_elements(record, 0)
    (whiskers,) = ax.containers[1].lines[2]
    assert [len(segment) for segment in whiskers.get_segments()] == [2, 0, 2]
    assert is_inside(ax.figure)


def test_the_text_states_the_numbers(rng):
    record = dataclasses.replace(
        make_record(rng, 4), scores=jnp.array([0.87, 0.1, 0.03]), n_evaluations=jnp.asarray(4096)
    )
    text = texts_of(plots.plot_elements(record, 0, class_name="Holding something"))
    assert "Holding something" in text
    assert "score 0.870 - prior 0.110 = 0.760" in text
    assert "exact, 4,096 evaluations" in text
    text = texts_of(
        plots.plot_elements(make_record(rng, 1, exact=False, n_evaluations=1), 0, title="video 7")
    )
    assert "video 7" in text and "class 0" in text
    assert "sampled, 1 evaluation;" in text


def test_small_and_negative_numbers_stay_readable(rng):
    record = dataclasses.replace(
        make_record(rng, 2),
        scores=jnp.array([2e-5, -1.5, 0.0]),
        prior=jnp.array([0.25, -0.5, 0.0]),
    )
    assert "score 2.0e-5 - prior 0.250 = -0.250" in texts_of(plots.plot_elements(record, 0))
    assert "score -1.500 - prior (-0.500) = -1.000" in texts_of(plots.plot_elements(record, 1))
    assert "score 0.000 - prior 0.000 = 0.000" in texts_of(plots.plot_elements(record, 2))


def test_units_of_the_y_axis(rng):
    record = make_record(rng, 2)
    assert "score - prior" in plots.plot_elements(record, 0).get_ylabel()
    assert plots.plot_elements(record, 0, units="logit").get_ylabel() == "ESV (logit)"


@pytest.mark.parametrize("n", [1, 29])
def test_long_names_and_labels_fit_the_canvas(rng, n):
    labels = [f"00:0{i}.000 of a long recording" for i in range(n)]
    ax = plots.plot_elements(make_record(rng, n), 0, class_name=LONG, element_labels=labels)
    assert is_inside(ax.figure)
    assert ax.get_window_extent().height / ax.figure.dpi > 1.5
    assert ax.get_title(loc="left").replace("\n", " ") == LONG


def test_axes_of_the_caller_are_drawn_into(rng):
    figure = Figure(figsize=(6, 5), layout="constrained")
    for ax in figure.subplots(2, 2).flat:
        assert plots.plot_elements(make_record(rng, 20), 1, ax=ax) is ax
        assert ax.get_legend() is None
    assert figure.get_size_inches().tolist() == [6, 5]
    assert is_inside(figure)
    ax = Figure().subfigures(1, 2)[0].subplots()
    assert plots.plot_contrast(make_record(rng, 3), 1, 0, ax=ax) is ax


def test_contrast_is_one_class_minus_another(rng):
    record = make_record(rng, 6, exact=False)
    ax = plots.plot_contrast(record, 2, 0, class_names=["up", "down", "left"])
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, record.contrast(2, 0), rtol=1e-5)
    evidence = [float(record.evidential_score(c)) for c in (2, 0)]
    assert ax.get_title(loc="left") == "left - up"
    assert f"= {evidence[0] - evidence[1]:.3f}" in texts_of(ax)
    assert len(ax.containers) == 1
    assert "difference (logit)" in plots.plot_contrast(record, 1, 0, units="logit").get_ylabel()
    assert "class 1 - class 0" in texts_of(plots.plot_contrast(record, 1, 0, title="video 7"))


def test_a_sequence_has_one_panel_per_class(rng):
    record = make_record(rng, 12, exact=False)
    names = ["up", LONG, "left"]
    figure = plots.plot_sequence(
        record,
        [2, 1],
        features=rng.normal(size=(12, 5)).astype(np.float32),
        class_names=names,
        title=LONG,
        share_y=True,
    )
    heat, first, second = figure.axes
    assert heat.images[0].get_array().shape == (5, 12)
    for ax, c in ((first, 2), (second, 1)):
        heights = [bar.get_height() for bar in ax.patches]
        np.testing.assert_allclose(heights, record.for_class(c), rtol=1e-6)
    assert first.get_xlim() == second.get_xlim() == heat.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    assert (first.get_xlabel(), second.get_xlabel()) == ("", "element")
    assert first.get_legend() is not None and second.get_legend() is None
    assert is_inside(figure)


def test_a_sequence_of_one_class_and_constant_features(rng):
    figure = plots.plot_sequence(make_record(rng, 1), [0], features=np.ones((1, 2)))
    assert len(figure.axes) == 2 and not figure.axes[0].images[0].get_array().any()
    assert is_inside(figure)


def test_bad_input_is_refused(rng):
    record = make_record(rng, 4)
    batch = dataclasses.replace(record, values=jnp.zeros((2, 4, 3)), lengths=jnp.array([4, 3]))
    for draw in (
        lambda: plots.plot_elements(batch, 0),
        lambda: plots.plot_contrast(batch, 0, 1),
        lambda: plots.plot_sequence(batch, [0]),
    ):
        with pytest.raises(ValueError, match="attribution: expected one sequence, got a batch"):
            draw()
    with pytest.raises(ValueError, match=r"class: expected a class in 0\.\.2, got 3"):
        plots.plot_elements(record, 3)
    with pytest.raises(ValueError, match=r"class: expected an index in 0\.\.2, got -1"):
        plots.plot_sequence(record, [-1])
    with pytest.raises(ValueError, match="classes: expected at least one class"):
        plots.plot_sequence(record, [])
    with pytest.raises(ValueError, match="class_names: expected 3 names, got 1"):
        plots.plot_contrast(record, 0, 1, class_names=["x"])
    with pytest.raises(ValueError, match="element_labels: expected 4 labels, got 2"):
        plots.plot_elements(record, 0, element_labels=["a", "b"])
    with pytest.raises(ValueError, match=r"features: expected shape \(n, D\) with n = 4"):
        plots.plot_sequence(record, [0], features=np.ones((3, 2)))


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG\r\n\x1a\n"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_figures_are_written_in_the_format_of_the_suffix(rng, tmp_path, suffix, start):
    ax = plots.plot_elements(make_record(rng, 8), 0, class_name=LONG)
    path = tmp_path / f"figure{suffix}"
    path.write_text("old")
    assert plots.save_figure(ax.figure, path) == path
    content = path.read_bytes()
    assert content.startswith(start) and len(content) > 5_000
    assert list(tmp_path.iterdir()) == [path]
    if suffix == ".png":
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        assert 900 < width < 1100 and 400 < height < 700


def test_paths_that_cannot_be_written(rng, tmp_path, monkeypatch):
    figure = plots.plot_elements(make_record(rng, 2), 0).figure
    with pytest.raises(ValueError, match=r"path: expected a name ending in \.png, \.svg, \.pdf"):
        plots.save_figure(figure, tmp_path / "figure.bmp")
    with pytest.raises(FileNotFoundError, match="path: expected an existing folder"):
        plots.save_figure(figure, tmp_path / "absent" / "figure.png")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"path: expected a path that can be written.*disk full"):
        plots.save_figure(figure, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())


def test_settings_of_matplotlib_do_not_change(rng, tmp_path):
    before = dict(mpl.rcParams)
    figure = plots.plot_sequence(make_record(rng, 3), [0, 1])
    plots.save_figure(figure, tmp_path / "figure.png")
    assert dict(mpl.rcParams) == before
