"""Notebook view of a record: HTML without scripts, files or libraries."""

from __future__ import annotations

from html import escape
from typing import Any

import jax
import numpy as np

from esv_jax.checks import is_concrete
from esv_jax.looks import DISTRACTING, SUPPORTING, number

_MOST_BARS = 40
_MOST_ROWS = 10  # sequences of a batch
_ROW, _LEFT, _SPAN, _RIGHT = 16, 44, 320, 76  # pixels: height of a bar, label, bars, value
_CELL = 'style="text-align:left;padding:0 1em 0 0"'


def record_html(record: Any) -> str:
    """An `Attribution` in HTML: its numbers, and bars of the ESVs of the class of highest score.

    Supporting elements are blue and to the right of zero, distracting ones vermillion and to the
    left. Of more than 40 elements the strongest 40 have bars. A batch is a table of its first
    sequences. All text is escaped. Under `jit` and other transformations, the plain `repr`.
    """
    known = (np.ndarray, np.generic, jax.Array, int, float)
    leaves = jax.tree.leaves(record)
    if not all(isinstance(leaf, known) and is_concrete(leaf) for leaf in leaves):
        return _plain(record)
    batch = record.lengths is not None
    shapes = [np.ndim(leaf) for leaf in (record.values, record.scores, record.prior)]
    if shapes != ([3, 2, 1] if batch else [2, 1, 1]) or np.size(record.values) == 0:
        return _plain(record)
    body = _batch(record) if batch else _one(record)
    notes = [*record.warnings]
    if record.removal is not None:
        notes.insert(0, f"elements removed by: {record.removal}")
    listed = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
    return f"<div>{body}{f'<ul>{listed}</ul>' if notes else ''}</div>"


def _plain(record: Any) -> str:
    return f"<pre>{escape(repr(record))}</pre>"


def _one(record: Any) -> str:
    c = int(np.argmax(np.asarray(record.scores)))
    numbers = {
        "top class": str(c),
        "score": number(float(record.scores[c])),
        "prior": number(float(record.prior[c])),
        "evidence (score - prior)": number(float(record.evidential_score()[c])),
        "efficiency gap": f"{float(record.efficiency_gap()[c]):.1e}",
    }
    what = f"{_count(record.n, 'element')}, {_count(record.n_classes, 'class', 'classes')}"
    heading = f"<b>Attribution</b>: {what}; {_how(record)}"
    values = np.asarray(record.values, np.float64)[:, c]
    return heading + _table(list(numbers), [list(numbers.values())]) + _bars(values, c)


def _batch(record: Any) -> str:
    lengths = np.asarray(record.lengths)
    scores, evidence = np.asarray(record.scores), np.asarray(record.evidential_score())
    gap = np.asarray(record.efficiency_gap())
    rows = []
    for i, c in enumerate(scores.argmax(1)[:_MOST_ROWS]):
        numbers = [number(float(scores[i, c])), number(float(evidence[i, c])), f"{gap[i, c]:.1e}"]
        rows.append([str(i), str(lengths[i]), str(c), *numbers])
    names = ["sequence", "elements", "top class", "score", "evidence", "efficiency gap"]
    spread = f"{lengths.min()}..{lengths.max()} elements"
    what = f"{_count(len(lengths), 'sequence')} of {spread}"
    classes = _count(record.n_classes, "class", "classes")
    heading = f"<b>Attribution</b> of a batch: {what}, {classes}; {_how(record)}"
    left = len(lengths) - len(rows)
    return heading + _table(names, rows) + (f"<p>and {left:,} more</p>" if left else "")


def _how(record: Any) -> str:
    n = int(np.sum(np.asarray(record.n_evaluations, np.int64)))
    return f"{'exact' if record.exact else 'sampled'}, {_count(n, 'evaluation')}"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _table(names: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in names)
    lines = ["".join(f"<td {_CELL}>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="font-size:inherit"><tr>{head}</tr>{body}</table>'


def _bars(values: np.ndarray, c: int) -> str:
    """An inline picture: a row for each element, its bar on the side of its sign."""
    sizes = np.nan_to_num(np.abs(values), posinf=0, neginf=0)
    shown = np.sort(np.argsort(-sizes, kind="stable")[:_MOST_BARS])
    finite = np.where(np.isfinite(values), values, 0)[shown]
    low, high = min(0.0, finite.min()), max(0.0, finite.max())
    scale = _SPAN / ((high - low) or 1.0)
    zero = _LEFT - low * scale
    rows = [_bar(k, int(i), values[i], finite[k], zero, scale) for k, i in enumerate(shown)]
    width, height = _LEFT + _SPAN + _RIGHT, _ROW * len(shown)
    note = f"; the {_MOST_BARS} strongest of {len(values):,}" if len(shown) < len(values) else ""
    return (
        f'<p style="margin:0.3em 0">ESVs of the elements for class {c}: {_square(DISTRACTING)} '
        f"distracting to the left, {_square(SUPPORTING)} supporting to the right{note}</p>"
        f'<svg role="img" aria-label="ESVs for class {c}" width="{width}" '
        f'height="{height}" font-size="11" fill="currentColor">{"".join(rows)}<line '
        f'x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{height}" stroke="currentColor"/></svg>'
    )


def _square(colour: str) -> str:
    """A colour, beside words that have that of the page: those are read on white and on black."""
    return f'<span style="color:{colour}">&#9632;</span>'


def _bar(k: int, i: int, value: float, size: float, zero: float, scale: float) -> str:
    """Row k: the number of element i, its bar from zero, its value."""
    x, width = zero + min(size, 0) * scale, abs(size) * scale
    colour = SUPPORTING if size > 0 else DISTRACTING
    y, text = k * _ROW, k * _ROW + 12
    end = _LEFT + _SPAN + _RIGHT
    return (
        f'<text x="{_LEFT - 8}" y="{text}" text-anchor="end">{i}</text>'
        f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="{_ROW - 4}" fill="{colour}"/>'
        f'<text x="{end}" y="{text}" text-anchor="end">{number(value)}</text>'
    )
