"""Figures look as their stored references do, which a person has looked at.

References lie in `fixtures/images`. To draw new ones after a figure was changed on purpose, run

    ESV_JAX_NEW_IMAGES=1 python -m pytest -n 0 tests/plots/test_images.py

and look at each before keeping it. Everything drawn is made up by whole-number arithmetic.
"""

import dataclasses
import functools
import io
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs the plots extra")
import matplotlib as mpl
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from esv_jax import metrics, plots
from esv_jax.attribution import Attribution
from esv_jax.plots import style
from tests.conftest import FIXTURES

REFERENCES = FIXTURES / "images"
NEW = os.environ.get("ESV_JAX_NEW_IMAGES") == "1"
DPI = 60

# Another release of matplotlib or of its type renderer may draw letters a little differently and
# move what stands beside them, by which the error of all pixels grows more than by a lost line. So
# means over narrow patches are compared, each looked for a little around its place: letters blur
# to one grey, lines and areas do not.
PATCHES = ((4, 24), (24, 4), (12, 6))  # pixels: lines across, lines up, labels
SLACK = 3  # pixels
TOLERANCE = 22.0  # of the mean colour of a patch, 0..255
# Other releases of matplotlib lay panels out a little differently: there references need only be
# alike roughly, and what the comparison refuses is measured against pictures of that release.
AS_STORED = mpl.__version__.startswith("3.11.")
ROUGH_SLACK, ROUGH_TOLERANCE = 8, 60.0
EXACT = ("overlay_mask", "overlay_relevance", "render_clips")  # without letters: pixels, within 1
LETTERS = {
    "text.hinting": "none",
    "font.family": "DejaVu Sans",
}  # that change least between releases


# What is drawn


def _wave(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers in -1..1 without a pattern to the eye, multiples of 1/64."""
    k = np.arange(np.prod(shape)) + 17 * seed
    return ((k * k * 37 + k * 11 + 5) % 127 - 63).reshape(shape) / 64


def _record(n: int = 8, *, exact: bool = False, seed: int = 0) -> Attribution:
    values = _wave(n, 3, seed=seed) / 8
    prior = np.array([0.25, 0.125, 0.375])
    coverage = np.ones((n, n), int)
    coverage[0, n - 1] = 0
    arrays = {
        "values": values,
        "scores": prior + values.sum(0),
        "prior": prior,
        "marginals": _wave(n, n, 3, seed=3) / 4,
        "std_error": (2 + np.arange(3 * n).reshape(n, 3) % 5) / 256,
    }
    floats = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
    record = Attribution(**floats, coverage=jnp.asarray(coverage), n_evaluations=96, exact=False)
    if not exact:
        return record
    return dataclasses.replace(record, std_error=None, coverage=None, exact=True)


def _pairs(n: int) -> np.ndarray:
    half = np.triu(_wave(n, n, seed=5) / 4, 1)
    return half + half.T


def _clip(t: int = 6, h: int = 24, w: int = 32) -> np.ndarray:
    """A square that moves to the right over a slope of colours, (t, h, w, 3) uint8."""
    y, x = np.mgrid[:h, :w]
    clip = np.stack([40 + 4 * y, 70 + 3 * x, 170 - 2 * y], -1)[None].repeat(t, 0)
    for i in range(t):
        left = 3 + i * (w - 14) // t
        clip[i, 8:16, left : left + 8] = 250, 230, 90
    return clip.astype(np.uint8)


def _relevance(t: int = 6, h: int = 24, w: int = 32) -> np.ndarray:
    """A round spot for the class that moves with the square, one against it that rests."""
    y, x = np.mgrid[:h, :w]
    left = 7 + np.arange(t)[:, None, None] * (w - 14) // t
    spot = np.clip(1 - ((y - 12) ** 2 + (x - left) ** 2) / 40, 0, None)
    rest = np.clip(1 - ((y - 5) ** 2 + (x - 25) ** 2) / 16, 0, None)
    return (spot - 0.75 * rest).astype(np.float32)


def _masks(t: int = 6) -> dict[str, np.ndarray]:
    spot = _relevance(t)
    return {
        f"area {least}": (spot > least).astype(np.float32) * (np.arange(t) > 0)[:, None, None]
        for least in (0.5, 0.25)
    }


def _column(pictures) -> np.ndarray:
    """The second and the last picture of a video, above each other."""
    kept = list(pictures)
    return np.concatenate([kept[1], kept[-1]])


def _timeline():
    exact = dataclasses.replace(_record(40, exact=True), values=_record(40).values * 0.5)
    return plots.plot_timeline(
        _record(40),
        1,
        element_index=3 + 5 * np.arange(40),
        exact=exact,
        class_name="Holding something",
        units="probability",
    )


def _descent():
    cost = np.array([[9.0, 6, 4, 3, 2.5, 2.25], [8, 5, 3, 2, 1.5, 1.25]])
    worth = np.array([[2.0, 1.5, 1, 0.5, 0.25, 0.125], [1.5, 1, 0.5, 0.25, 0.125, np.nan]])
    return plots.curves.plot_descent(cost, worth, ["area 0.05", "area 0.1"], title="a clip")


CASES = {
    "plot": lambda: plots.plot(_record(exact=True), units="probability"),
    "elements": lambda: plots.plot_elements(_record(), 0, class_name="Holding something"),
    "contrast": lambda: plots.plot_contrast(
        _record(exact=True), 0, 2, class_names=["up", "down", "left"], units="logit"
    ),
    "sequence": lambda: plots.plot_sequence(
        _record(), [0, 2], features=_wave(8, 4), class_names=["up", "down", "left"], title="a clip"
    ),
    "timeline": _timeline,
    "frame_strip": lambda: plots.plot_frame_strip(_record(6), _clip(), 0, units="probability"),
    "scale_profile": lambda: plots.plot_scale_profile(_record(), 0, units="probability"),
    "positions": lambda: plots.plot_positions(_wave(20, 7) / 4, units="probability"),
    "positions_many": lambda: plots.plot_positions(_wave(20, 30) / 4, units="probability"),
    "positions_extremes": lambda: plots.plot_positions(metrics.position_statistics(_wave(20, 7))),
    "discard_curves": lambda: plots.plot_discard_curves(
        {
            "ESV": (np.arange(6), 1 - np.arange(6) / 8),
            "Grad-CAM": (np.arange(6), 0.75 - np.arange(6) / 16),
            "random": (np.arange(6), np.full(6, 0.5), np.full(6, 0.375), np.full(6, 0.625)),
        }
    ),
    "interactions": lambda: plots.plot_interactions(_pairs(7), units="probability"),
    "interaction_arcs": lambda: plots.plot_interaction_arcs(
        _pairs(9), _wave(9) / 8, strongest=12, units="probability"
    ),
    "relevance_strip": lambda: plots.plot_relevance_strip(
        _clip(), {"spatial": _relevance(), "temporal": -_relevance()[::-1] / 2}
    ),
    "perturbation_strip": lambda: plots.perturbation.plot_perturbation_strip(_clip(), _masks()),
    "descent": _descent,
    "overlay_mask": lambda: _column(
        plots.perturbation.overlay_mask(_clip(), _masks()["area 0.25"])
    ),
    "overlay_relevance": lambda: _column(plots.relevance.overlay_relevance(_clip(), _relevance())),
    "render_overlay": lambda: _column(
        plots.render_overlay(_record(6), _clip(), 0, class_name="up", min_width=240)
    ),
    "render_relevance": lambda: _column(
        plots.relevance.render_relevance(_clip(), {"spatial": _relevance()}, min_width=240)
    ),
    "render_perturbation": lambda: _column(
        plots.perturbation.render_perturbation(_clip(), _masks(), _clip() // 2, min_width=240)
    ),
    "render_clips": lambda: _column(
        plots.video.render_clips([_clip(), 255 - _clip()], min_height=48)
    ),
}


# How it is compared


def figure_of(drawn):
    return drawn if isinstance(drawn, Figure) else drawn.figure


def pixels_of(draw, change=None) -> np.ndarray:
    """What `draw` gives, (h, w, 3) uint8; of a figure, after `change` has been made to it."""
    with mpl.rc_context(LETTERS):
        drawn = draw()
        if isinstance(drawn, np.ndarray):
            return drawn
        figure, buffer = figure_of(drawn), io.BytesIO()
        if change is not None:
            change(figure)
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    return load_image(buffer)


def load_image(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def save_image(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path, optimize=True)
    return path


def lost(expected: np.ndarray, actual: np.ndarray, slack: int = SLACK) -> float:
    """By how much a patch of `expected` differs at most from the most similar one near it."""
    height, width = np.subtract(actual.shape, expected.shape)[:2]
    if max(abs(height), abs(width)) > slack:
        return np.inf
    margin = max(map(max, PATCHES))  # a last patch may reach beyond the picture
    ends = ((slack, slack + margin - height), (slack, slack + margin - width), (0, 0))
    expected_sums = sums(np.pad(expected, ((0, margin), (0, margin), (0, 0)), constant_values=255))
    found = sums(np.pad(actual, ends, constant_values=255))
    near = [(i, j) for i in range(2 * slack + 1) for j in range(2 * slack + 1)]
    greatest = 0.0
    for size in PATCHES:
        count = [
            (length + margin) // side for length, side in zip(expected.shape, size, strict=False)
        ]
        wanted = means(expected_sums, size, count, (0, 0))
        apart = (np.abs(means(found, size, count, at) - wanted).max(-1) for at in near)
        greatest = max(greatest, float(functools.reduce(np.minimum, apart).max()))
    return greatest


def sums(pixels: np.ndarray) -> np.ndarray:
    """Sums of all pixels above and to the left of each corner, (h + 1, w + 1, 3)."""
    return np.pad(pixels.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))


def means(total: np.ndarray, size: tuple, count: list, start: tuple) -> np.ndarray:
    """Mean colours of so many patches of a size, side by side from a place on."""
    places = [at + side * np.arange(n + 1) for at, side, n in zip(start, size, count, strict=True)]
    corners = total[np.ix_(*places)]
    return np.diff(np.diff(corners, axis=0), axis=1) / (size[0] * size[1])


def distance(expected: np.ndarray, actual: np.ndarray, slack: int = SLACK) -> float:
    """How much one of two pictures has that the other has not, 0..255."""
    return max(lost(expected, actual, slack), lost(actual, expected, slack))


def looks_alike(
    name: str, expected: np.ndarray, actual: np.ndarray, limits: tuple = (SLACK, TOLERANCE)
) -> bool:
    if name in EXACT:
        return expected.shape == actual.shape and bool(
            np.allclose(expected, actual, atol=1, rtol=0)
        )
    slack, tolerance = limits
    return distance(expected, actual, slack) <= tolerance


def stored(name: str) -> np.ndarray:
    return load_image(REFERENCES / f"{name}.png")


@functools.cache
def reference(name: str) -> np.ndarray:
    """The stored picture, or what this release of matplotlib makes of the same figure."""
    return stored(name) if AS_STORED else pixels_of(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_a_figure_looks_as_its_reference(name, tmp_path):
    pixels, path = pixels_of(CASES[name]), REFERENCES / f"{name}.png"
    if NEW:
        REFERENCES.mkdir(parents=True, exist_ok=True)
        save_image(path, pixels)
    expected = stored(name)
    limits = (SLACK, TOLERANCE) if AS_STORED else (ROUGH_SLACK, ROUGH_TOLERANCE)
    if not looks_alike(name, expected, pixels, limits):
        drawn = save_image(tmp_path / f"{name}.png", pixels)
        common = tuple(map(slice, np.minimum(expected.shape, pixels.shape)))
        apart = np.abs(np.subtract(expected[common], pixels[common], dtype=np.int16))
        difference = save_image(tmp_path / f"{name}_difference.png", apart.astype(np.uint8))
        pytest.fail(
            f"{name}: {distance(expected, pixels, limits[0]):.1f} apart, more than {limits[1]}.\n"
            f"reference: {path}\ndrawn: {drawn}\ndifference: {difference}\n"
            "Where the figure was changed on purpose, see the top of this file."
        )


def test_every_public_figure_has_a_reference():
    starts = ("plot", "render_", "overlay_")
    public = {name.removeprefix("plot_") for name in plots.__all__ if name.startswith(starts)}
    assert public <= {*CASES}
    files = [*REFERENCES.iterdir()]
    assert {path.name for path in files} == {f"{name}.png" for name in CASES}
    assert sum(path.stat().st_size for path in files) < 600_000


# What the comparison refuses, and what it lets pass


def _without_zero_line(figure):
    lines = [line for ax in figure.axes for line in ax.lines]
    (zero,) = [line for line in lines if [*line.get_ydata()] == [0, 0]]
    zero.remove()


def _without_title(figure):
    figure.axes[0].set_title("", loc="left")


def _without_text_above(figure):
    for text in figure.axes[0].texts:
        text.set_text("")


def _without_x_label(figure):
    figure.axes[-1].set_xlabel("")


def _without_y_label(figure):
    figure.axes[0].set_ylabel("")


def _without_tick_labels(figure):
    ax = figure.axes[0]
    ax.set_xticks(ax.get_xticks(), [""] * len(ax.get_xticks()))


def _without_legend(figure):
    figure.axes[0].get_legend().remove()


def _without_a_bar(figure):
    figure.axes[0].patches[4].remove()


def _with_a_bar_turned(figure):
    bar = figure.axes[0].patches[4]
    bar.set_height(-bar.get_height())


def _with_a_bar_of_the_other_colour(figure):
    bar = figure.axes[0].patches[4]
    other = {style.SUPPORTING: style.DISTRACTING, style.DISTRACTING: style.SUPPORTING}
    bar.set_color(other[to_hex(bar.get_facecolor()).upper()])


def _without_whiskers(figure):
    figure.axes[0].containers[1].remove()


def _with_the_palette_turned(figure):
    (image,) = figure.axes[0].images
    image.set_cmap(image.cmap.reversed())


def _without_the_band(figure):
    shapes = figure.axes[0].collections
    next(shape for shape in shapes if shape.get_label() == "interval").remove()


WORDS = [_without_title, _without_text_above, _without_x_label]
BARS = [_without_a_bar, _with_a_bar_turned, _with_a_bar_of_the_other_colour, _without_zero_line]
LOSSES = [
    *(("elements", change) for change in (*WORDS, *BARS, _without_whiskers, _without_legend)),
    *(("elements", change) for change in (_without_y_label, _without_tick_labels)),
    *(("contrast", change) for change in (*WORDS, *BARS)),
    *(("timeline", change) for change in (*WORDS, _without_zero_line, _without_the_band)),
    ("timeline", _without_y_label),
    *(("positions", change) for change in (*WORDS, _without_zero_line, _without_y_label)),
    *(
        (name, change)
        for name in ("scale_profile", "interactions")
        for change in (_with_the_palette_turned, _without_title)
    ),
    ("discard_curves", _without_legend),
    ("interaction_arcs", _without_legend),
    ("interaction_arcs", _without_text_above),
]


@pytest.mark.parametrize(
    ("name", "change"), [pytest.param(*loss, id=f"{loss[0]}{loss[1].__name__}") for loss in LOSSES]
)
def test_a_figure_that_lost_something_is_refused(name, change):
    assert not looks_alike(name, reference(name), pixels_of(CASES[name], change))


def _turned(record: Attribution) -> Attribution:
    return dataclasses.replace(record, values=-record.values, marginals=-record.marginals)


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("plot", lambda: plots.plot(_turned(_record(exact=True)), units="probability")),
        ("plot", lambda: plots.plot(_record(exact=True), units="logit")),
        ("frame_strip", lambda: plots.plot_frame_strip(_turned(_record(6)), _clip(), 0)),
        ("frame_strip", lambda: plots.plot_frame_strip(_record(6), _clip()[::-1], 0)),
        ("interactions", lambda: plots.plot_interactions(-_pairs(7), units="probability")),
        (
            "interaction_arcs",
            lambda: plots.plot_interaction_arcs(
                -_pairs(9), _wave(9) / 8, strongest=12, units="probability"
            ),
        ),
        (
            "overlay_relevance",
            lambda: _column(plots.relevance.overlay_relevance(_clip(), -_relevance())),
        ),
        (
            "overlay_mask",
            lambda: _column(plots.perturbation.overlay_mask(_clip(), _masks()["area 0.5"])),
        ),
        (
            "relevance_strip",
            lambda: plots.plot_relevance_strip(
                _clip(), {"spatial": _relevance(), "temporal": _relevance()[::-1] / 2}
            ),
        ),
        (
            "render_overlay",
            lambda: _column(
                plots.render_overlay(
                    _turned(_record(6)), _clip(), 0, class_name="up", min_width=240
                )
            ),
        ),
        (
            "render_relevance",
            lambda: _column(
                plots.relevance.render_relevance(_clip(), {"spatial": -_relevance()}, min_width=240)
            ),
        ),
        (
            "render_clips",
            lambda: _column(plots.video.render_clips([255 - _clip(), _clip()], min_height=48)),
        ),
    ],
)
def test_a_figure_of_other_numbers_is_refused(name, draw):
    assert not looks_alike(name, reference(name), pixels_of(draw))


@pytest.mark.parametrize("name", ["elements", "discard_curves", "descent"])
def test_letters_of_another_renderer_pass(name, monkeypatch):
    expected = pixels_of(CASES[name])
    monkeypatch.setitem(LETTERS, "text.hinting", "default")
    other = pixels_of(CASES[name])
    assert not np.array_equal(expected, other) and distance(expected, other) <= TOLERANCE


def test_a_picture_of_another_size_is_refused():
    pixels = reference("elements")
    assert distance(pixels, pixels) == 0
    assert distance(pixels, np.pad(pixels, ((0, 0), (0, SLACK + 1), (0, 0)))) == np.inf
    moved = np.pad(pixels, ((SLACK, 0), (0, 0), (0, 0)), constant_values=255)
    assert distance(pixels, moved) == 0


# Vector files


@pytest.mark.parametrize("name", ["elements", "sequence", "timeline", "frame_strip", "descent"])
def test_letters_are_outlines_in_svg_and_text_in_pdf(name, tmp_path):
    figure = figure_of(CASES[name]())
    svg = plots.save_figure(figure, tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert "<text" not in svg and svg.count("<use ") > 50
    pdf = plots.save_figure(figure, tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf


FIGURES = [name for name in CASES if not name.startswith(("render_", "overlay_"))]


@pytest.mark.parametrize("suffix", [".svg", pytest.param(".pdf", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written_as_a_vector_file(name, suffix, tmp_path):
    path = plots.save_figure(figure_of(CASES[name]()), tmp_path / f"{name}{suffix}")
    start = {".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start) and path.stat().st_size > 5_000
