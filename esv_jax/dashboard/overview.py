"""The page about all videos: numbers from lists in memory, values from a sample."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from esv_jax.dashboard import figures
from esv_jax.dashboard.sources import Source, State, format_query
from esv_jax.dashboard.views import Component, dcc, html, note, panel

MAX_SAMPLE = 1024  # videos whose values are read
_BLOCK = 32  # videos that are read together
_RELATIVE = 10  # positions in videos of different lengths
_FAILURES = 50  # that are listed


# Numbers


class Overview(NamedTuple):
    """Numbers of the overview page.

    Attributes:
      evidence: evidential scores of the predicted class, of videos "correct", "wrong" or "all".
      lengths: (V,) elements of the explained videos.
      accuracy: share of correct predictions, or None without labels.
      means, errors: mean ESV of the predicted class by position, and its standard error; NaN
        for positions without elements.
      relative: positions are tenths of videos of different lengths.
      above: (n, n) probability that the ESV at position i is above the one at j, see
        `metrics.position_statistics`.
      n_sampled: videos behind the four above.
      confusions: (true class, predicted class, number of videos), most videos first.
      failures: (uid, reason).
    """

    evidence: dict[str, np.ndarray]
    lengths: np.ndarray
    accuracy: float | None
    means: np.ndarray
    errors: np.ndarray
    relative: bool
    above: np.ndarray
    n_sampled: int
    confusions: list[tuple[int, int, int]]
    failures: list[tuple[str, str]]


def summarise(source: Source) -> Overview:
    """All numbers of the page.

    Cost: a pass over the list, and the values of at most `MAX_SAMPLE` videos, spread over the file
      in blocks; about a second for 25,000 videos of 174 classes.
    """
    from esv_jax.metrics import position_statistics  # imports models; the first page needs none

    browser = source.browser
    rows = [browser.row(uid) for uid in browser.find()]
    explained = [row for row in rows if not row.failed]
    known = [row for row in explained if row.correct is not None]
    right, wrong = ([row for row in known if row.correct == kind] for kind in (True, False))
    groups = {"correct": right, "wrong": wrong} if known else {"all": explained}
    confused = Counter((row.label, row.prediction) for row in wrong)
    values = sample(source)
    same = len({len(own) for own in values}) == 1
    placed = np.stack(values) if same else np.array([relative(own) for own in values])
    placed = placed.reshape(len(values), placed.shape[-1] if values else 0)
    counts = (~np.isnan(placed)).sum(0)
    means = np.where(counts > 0, np.nansum(placed, 0) / np.maximum(counts, 1), np.nan)
    squares = np.nansum((placed - means) ** 2, 0)
    errors = np.sqrt(squares / np.maximum(counts - 1, 1) / np.maximum(counts, 1))
    above = np.zeros((0, 0))
    if values:
        above = position_statistics(values, bins=None if same else _RELATIVE).above
    return Overview(
        evidence={k: np.array([row.evidence for row in own], float) for k, own in groups.items()},
        lengths=np.array([row.n for row in explained], float),
        accuracy=len(right) / len(known) if known else None,
        means=means,
        errors=errors * (counts > 1),
        relative=not same,
        above=above,
        n_sampled=len(values),
        confusions=[(*pair, count) for pair, count in confused.most_common(15)],
        failures=list(browser.failures.items()),
    )


def sample(source: Source) -> list[np.ndarray]:
    """ESVs (n_i,) of the predicted class, of at most `MAX_SAMPLE` videos spread over the file."""
    browser = source.browser
    uids = browser.find()
    count = len(uids)
    blocks = -(-count // _BLOCK) if count <= MAX_SAMPLE else max(1, MAX_SAMPLE // _BLOCK)
    step = _BLOCK if count <= MAX_SAMPLE else count / blocks
    kept = []
    for start in sorted({int(k * step) for k in range(blocks)}):
        stop = min(start + _BLOCK, count)
        values = source.read("esv", slice(start, stop))
        for k, uid in enumerate(uids[start:stop]):
            row = browser.row(uid)
            classes = browser.classes_of(uid)
            if not row.failed and row.prediction in classes and row.n > 0:
                own = values[k, : row.n, classes.index(row.prediction)]
                kept.append(own.astype(np.float64))
    return kept


def relative(own: np.ndarray, places: int = _RELATIVE) -> np.ndarray:
    """Mean value in each tenth of a video, (places,); NaN in tenths without an element."""
    at = (2 * np.arange(len(own)) + 1) * places // (2 * len(own))
    counts = np.bincount(at, minlength=places)
    sums = np.bincount(at, own, minlength=places)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


# Content


def overview(source: Source, state: State, numbers: Overview) -> Component:
    """Figures and tables of all videos."""
    browser = source.browser
    if not len(browser):
        return note("These results hold no videos.")
    planned = int(browser.dataset.attrs.get("n_videos", len(browser)))
    facts = [f"{len(browser):,} videos", f"{len(numbers.failures):,} failed"]
    if planned > len(browser):
        facts[0] += f" of {planned:,}: the sweep has not ended"
    if numbers.accuracy is not None:
        facts.append(f"right on {numbers.accuracy:.1%}")
    where = "tenth of the video" if numbers.relative else "position"
    means = figures.positions(numbers.means, numbers.errors, where)
    sampled = f"Positions: ESVs of the predicted class of {numbers.n_sampled:,} videos"
    panels = [
        panel("Evidential score", figures.histogram(numbers.evidence, "score less prior")),
        panel("Length", figures.histogram({"all": numbers.lengths}, "elements")),
        panel("Mean ESV by position", means, f"{sampled}; bars are standard errors."),
    ]
    if len(numbers.above) > 1:
        text = "How often, in these videos, an element at i has a larger ESV than one at j."
        panels.append(panel("Position against position", figures.pairs(numbers.above, where), text))
    tables = {
        "Most confused classes": _confusions(source, state, numbers),
        "Failures": _failures(state, numbers),
    }
    panels += [html.Div([html.H3(t), *content], className="panel") for t, content in tables.items()]
    head = [html.H2(source.title), html.P(" · ".join(facts), className="facts")]
    return html.Div([*head, html.Div(panels, className="panels")])


def _confusions(source: Source, state: State, numbers: Overview) -> list[Component]:
    if not numbers.confusions:
        return [html.P("No labels, or no video taken for another class.")]
    rows = []
    for true, predicted, count in numbers.confusions:
        there = State(frames=state.frames, true=true, predicted=predicted)
        link = dcc.Link(f"{count:,}", href=format_query(there))
        names = [html.Td(source.class_name(c)) for c in (true, predicted)]
        rows.append(html.Tr([*names, html.Td(link)]))
    head = html.Thead(html.Tr([html.Th("true"), html.Th("predicted"), html.Th("videos")]))
    return [html.Table([head, html.Tbody(rows)])]


def _failures(state: State, numbers: Overview) -> list[Component]:
    if not numbers.failures:
        return [html.P("Every video was explained.")]

    def link(text: str, uid: str = "") -> Component:
        there = State(frames=state.frames, outcome="failed", uid=uid)
        return dcc.Link(text, href=format_query(there))

    rows = [
        html.Tr([html.Td(link(uid, uid)), html.Td(reason)])
        for uid, reason in numbers.failures[:_FAILURES]
    ]
    more = link(f"List all {len(numbers.failures):,}")
    return [html.Table(html.Tbody(rows)), html.P(more)]
