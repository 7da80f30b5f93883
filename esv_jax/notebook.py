"""Notebook view of a record: HTML without scripts, files or libraries."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, TypeAlias

import jax
import numpy as np

from esv_jax.checks import is_concrete
from esv_jax.display import (
    DISTRACTING,
    MEANINGS,
    MOST_BARS,
    SUPPORTING,
    count_text,
    element_text,
    evaluations_text,
    label_steps,
    number,
)
from esv_jax.svg import bar_paths, bars_svg

Record: TypeAlias = Any  # an Attribution, whose module imports this one

_MOST_ROWS = 10  # sequences of a batch
_LEFT, _TOP, _WIDTH, _HEIGHT, _BELOW = 52, 8, 480, 112, 18  # pixels
_MOST_LABELS = 16
_CELL = 'style="text-align:left;padding:0 1em 0 0"'


def record_html(record: Record) -> str:
    """An `Attribution` as HTML: its numbers and the ESVs of the class with the highest score.

    ESVs are drawn as in the report: bars in temporal order with 95 % intervals, more than 40
    elements as a line of steps. A closed table below lists them, of more than 40 the 40 strongest.
    A batch is a table of its first sequences. All text is escaped. Under `jit` and other
    transformations, the plain `repr`.
    """
    known = (np.ndarray, np.generic, jax.Array, int, float)
    leaves = jax.tree.leaves(record)
    batch = record.lengths is not None
    shapes = [np.ndim(leaf) for leaf in (record.values, record.scores, record.prior)]
    fits = shapes == ([3, 2, 1] if batch else [2, 1, 1]) and np.size(record.values) > 0
    if not (fits and all(isinstance(leaf, known) and is_concrete(leaf) for leaf in leaves)):
        return f"<pre>{escape(repr(record))}</pre>"
    body = _batch(record) if batch else _one(record)
    notes = [*record.warnings]
    if record.removal is not None:
        notes.insert(0, f"elements removed by: {record.removal}")
    listed = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
    return f"<div>{body}{f'<ul>{listed}</ul>' if notes else ''}</div>"


def _one(record: Record) -> str:
    c = int(np.argmax(np.asarray(record.scores)))
    numbers = {
        "top class": str(c),
        "score": number(float(record.scores[c])),
        "prior": number(float(record.prior[c])),
        "evidence (score - prior)": number(float(record.evidential_score()[c])),
        "efficiency gap": f"{float(record.efficiency_gap()[c]):.1e}",
    }
    size = f"{count_text(record.n, 'element')}, {count_text(record.n_classes, 'class', 'classes')}"
    heading = f"<b>Attribution</b>: {size}; {_evaluations(record)}"
    values = np.asarray(record.values, np.float64)[:, c]
    half = None
    if record.std_error is not None:
        half = np.asarray(record.half_width(), np.float64)[:, c]
    parts = [_table(list(numbers), [list(numbers.values())]), _bars(values, half, c)]
    return heading + "".join([*parts, _values(values, half)])


def _batch(record: Record) -> str:
    lengths = np.asarray(record.lengths)
    scores, evidence = np.asarray(record.scores), np.asarray(record.evidential_score())
    gap = np.asarray(record.efficiency_gap())
    rows = []
    for i, c in enumerate(scores.argmax(1)[:_MOST_ROWS]):
        numbers = [number(scores[i, c]), number(evidence[i, c]), f"{gap[i, c]:.1e}"]
        rows.append([str(i), str(lengths[i]), str(c), *numbers])
    names = ["sequence", "elements", "top class", "score", "evidence", "efficiency gap"]
    size = f"{count_text(len(lengths), 'sequence')} of {lengths.min()}..{lengths.max()} elements"
    classes = count_text(record.n_classes, "class", "classes")
    heading = f"<b>Attribution</b> of a batch: {size}, {classes}; {_evaluations(record)}"
    left = len(lengths) - len(rows)
    return heading + _table(names, rows) + (f"<p>and {left:,} more</p>" if left else "")


def _evaluations(record: Record) -> str:
    n = int(np.sum(np.asarray(record.n_evaluations, np.int64)))
    return evaluations_text(bool(record.exact), n)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in names)
    lines = ["".join(f"<td {_CELL}>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="font-size:inherit"><tr>{head}</tr>{body}</table>'


def _bars(values: np.ndarray, half: np.ndarray | None, c: int) -> str:
    """The bars of all elements, with the ends of their axis and some of their indices."""
    n = len(values)
    paths = bar_paths(
        np.where(np.isfinite(values), values, 0),
        None if half is None else np.where(np.isfinite(half), half, 0),
    )
    halves = [None] * n if half is None else half.tolist()
    texts = [element_text(i, values[i], halves[i], "element") for i in range(n)]
    box = f'x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" overflow="visible"'
    bars = bars_svg(paths, texts, f"ESVs for class {c}", attributes=box)
    zero = _TOP + float(paths.zero_height) * _HEIGHT / 100
    ends = ((paths.top, _TOP), ("0", zero), (paths.bottom, _TOP + _HEIGHT))
    axis = [
        f'<text x="{_LEFT - 6}" y="{y + 4:.4g}" text-anchor="end">{text}</text>'
        for text, y in ends
        if text
    ]
    below = _TOP + _HEIGHT + _BELOW
    indices = [
        f'<text x="{_LEFT + _WIDTH * (i + 0.5) / n:.4g}" y="{below}" text-anchor="middle">{i}'
        "</text>"
        for i in label_steps(n, _MOST_LABELS)
    ]
    # Words beside a coloured square keep the colour of the page, light or dark.
    meanings = ", ".join(
        f'<span style="color:{colour}">&#9632;</span> {meaning}'
        for colour, meaning in zip((SUPPORTING, DISTRACTING), MEANINGS, strict=True)
    )
    intervals = "" if half is None else "; 95 % intervals"
    return (
        f'<p style="margin:0.3em 0">ESVs of the elements for class {c}: {meanings}{intervals}</p>'
        f'<svg width="{_LEFT + _WIDTH + _TOP}" height="{below + _TOP}" font-size="11" '
        f'fill="currentColor">{"".join(axis)}{bars}{"".join(indices)}</svg>'
    )


def _values(values: np.ndarray, half: np.ndarray | None) -> str:
    """A closed table of the values, at most those of the 40 strongest elements."""
    sizes = np.nan_to_num(np.abs(values), posinf=0, neginf=0)
    shown = np.sort(np.argsort(-sizes, kind="stable")[:MOST_BARS])
    rows = [[str(i), number(values[i], sign=True)] for i in shown]
    names = ["element", "ESV"]
    if half is not None:
        names.append("half-width of the 95 % interval")
        rows = [[*row, number(half[i])] for row, i in zip(rows, shown, strict=True)]
    few = f"; the {MOST_BARS} strongest of {len(values):,}" if len(shown) < len(values) else ""
    summary = f'<summary style="cursor:pointer">Table of values{few}</summary>'
    return f"<details>{summary}{_table(names, rows)}</details>"
