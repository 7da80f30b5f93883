"""The notebook view of a record."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esv_jax.attribution import Attribution
from esv_jax.display import DISTRACTING, SUPPORTING, UNKNOWN, axis_limits, element_text, number
from esv_jax.svg import bar_paths
from tests.plots.records_for_tests import make_record


def _rows(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_numbers_of_a_record(rng):
    record = make_record(rng, 8)
    c = int(record.scores.argmax())
    page = record._repr_html_()
    assert "8 elements, 3 classes; exact, 4,096 evaluations" in page
    names, cells, *rows = _rows(page)
    said = dict(zip(names, cells, strict=True))
    assert said["top class"] == str(c)
    assert said["score"] == f"{float(record.scores[c]):.3f}"
    assert said["prior"] == f"{float(record.prior[c]):.3f}"
    assert said["evidence (score - prior)"] == number(float(record.evidential_score(c)))
    assert said["efficiency gap"] == f"{float(record.efficiency_gap()[c]):.1e}"
    values = [float(value) for value in record.for_class(c)]
    assert rows == [
        ["element", "ESV"],
        *([str(i), number(v, sign=True)] for i, v in enumerate(values)),
    ]
    tips = re.findall(r"<title>(.*?)</title>", page)
    assert tips == [element_text(i, v, kind="element") for i, v in enumerate(values)]


def _chart(page: str) -> dict[str, str]:
    """Paths of the bars of a page by name."""
    return dict(re.findall(r'<path class="(\w+)" .*? d="(.*?)"/>', page))


@pytest.mark.parametrize("exact", [True, False])
def test_bars_encode_signs_by_side_and_colour(rng, exact):
    record = make_record(rng, 12, exact=exact)
    c = int(record.scores.argmax())
    values = np.asarray(record.for_class(c))
    half = None if exact else np.asarray(record.half_width())[:, c]
    page = record._repr_html_()
    drawn = _chart(page)
    paths = bar_paths(values, half)
    assert drawn == {name: getattr(paths, name) for name in drawn} and len(drawn) == 6
    assert bool(drawn["whiskers"]) == (not exact) == ("95 % intervals" in page)
    zero = float(paths.zero_height)
    low, high = axis_limits(values, np.zeros(12) if exact else half)
    colours = dict(re.findall(r'<path class="(\w+)" fill="(#\w+)"', page))
    assert colours["supporting"] == SUPPORTING
    assert colours["distracting"] == DISTRACTING
    bars = {}
    for kind in ("supporting", "distracting"):
        for left, start, top in re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H", drawn[kind]):
            assert float(start) == zero
            bars[int(float(left))] = kind, float(top)
    assert len(bars) == 12 and (values > 0).any() and (values < 0).any()
    for i, value in enumerate(values):
        kind, top = bars[i]
        assert kind == ("supporting" if value > 0 else "distracting")
        assert top == pytest.approx(100 * (high - value) / (high - low), abs=0.01)


def test_text_has_the_colour_of_its_surroundings(rng):
    page = make_record(rng, 5)._repr_html_()
    coloured = re.findall(r'style="color:(#\w+)">(.*?)<', page)
    assert coloured == [(SUPPORTING, "&#9632;"), (DISTRACTING, "&#9632;")]
    texts = re.findall(r"<text[^>]*>", page)
    assert len(texts) >= 5 and not any("fill" in text for text in texts)
    assert 'fill="currentColor"' in page and 'stroke="currentColor"' in page


def test_many_elements_are_a_line_and_a_table_of_the_strongest(rng):
    record = make_record(rng, 100)
    page = record._repr_html_()
    assert _chart(page)["step"].endswith("H100") and page.count("<title>") == 100
    values = np.abs(record.for_class(int(record.scores.argmax())))
    shown = [int(row[0]) for row in _rows(page)[3:]]
    assert shown == sorted(np.argsort(-values)[:40].tolist())
    assert "the 40 strongest of 100" in page


def test_all_text_is_escaped(rng):
    evil = "<script>alert('1')</script>"
    record = dataclasses.replace(make_record(rng, 2), warnings=(evil,), removal=evil)
    page = record._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;") == 2
    batch = dataclasses.replace(record, values=jnp.zeros((1, 2, 2, 3)))  # of no known shape
    page = batch._repr_html_()
    assert page.startswith("<pre>Attribution(") and "<script" not in page


def test_a_batch_is_a_table():
    values = jnp.zeros((12, 4, 3)).at[:, 0, 1].set(0.25)
    batch = Attribution(
        values=values,
        scores=jnp.tile(jnp.array([0.25, 0.5, 0.25]), (12, 1)),
        prior=jnp.array([0.5, 0.25, 0.25]),
        n_evaluations=jnp.full(12, 15),
        lengths=jnp.array([4, 3] * 6),
        exact=True,
    )
    page = batch._repr_html_()
    assert "12 sequences of 3..4 elements, 3 classes; exact, 180 evaluations" in page
    rows = _rows(page)
    assert len(rows) == 11 and "and 2 more" in page and "<svg" not in page
    assert rows[2] == ["1", "3", "1", "0.500", "0.250", "0.0e+00"]


def test_tracers_nan_infinities_and_zeros(rng):
    record, pages = make_record(rng, 3), []

    @jax.jit
    def look(given):
        pages.append(given._repr_html_())
        return given.values

    look(record)
    assert pages[0].startswith("<pre>Attribution(values=")
    assert jax.eval_shape(lambda x: x, record)._repr_html_().startswith("<pre>")
    odd = dataclasses.replace(record, values=record.values.at[0].set(jnp.nan))
    assert f">{UNKNOWN}<" in odd._repr_html_() and "ESV not known" in odd._repr_html_()
    assert "nan" not in "".join(_chart(odd._repr_html_()).values())
    infinite = dataclasses.replace(record, values=record.values.at[0].set(jnp.inf))
    assert "inf" not in "".join(_chart(infinite._repr_html_()).values())
    still = dataclasses.replace(record, values=jnp.zeros((3, 3)))
    assert _chart(still._repr_html_())["distracting"].count("V100") == 6
