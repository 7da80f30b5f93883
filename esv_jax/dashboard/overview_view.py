"""The page about a whole set: figures, confusions with links to the videos, failures."""

from __future__ import annotations

from typing import Any

from esv_jax.dashboard import figures
from esv_jax.dashboard.overview import Overview
from esv_jax.dashboard.sources import Source
from esv_jax.dashboard.state import State, format_query
from esv_jax.dashboard.views import panel, parts_of_dash

_FAILURES = 50  # that are told one by one


def overview(source: Source, state: State, numbers: Overview) -> Any:
    """Figures and tables of a whole set."""
    html, _ = parts_of_dash()
    if not len(source.browser):
        return html.P("These results hold no videos.", className="note")
    browser = source.browser
    settings = browser.dataset.attrs
    planned = int(settings.get("n_videos", len(browser)))
    facts = [f"{len(browser):,} videos", f"{len(numbers.failures):,} failed"]
    if planned > len(browser):
        facts[0] += f" of {planned:,}: the sweep has not ended"
    if numbers.accuracy is not None:
        facts.append(f"right on {numbers.accuracy:.1%}")
    where = "tenth of the video" if numbers.relative else "position"
    told = f"Positions: ESVs of the predicted class of {numbers.n_sampled:,} videos"
    panels = [
        panel("Evidential score", figures.histogram(numbers.evidence, "score less prior")),
        panel("Length", figures.histogram({"all": numbers.lengths}, "elements")),
        panel(
            "Mean ESV by position",
            figures.positions(numbers.means, numbers.errors, where),
            f"{told}; bars are standard errors.",
        ),
    ]
    if len(numbers.above) > 1:
        text = "How often, in these videos, an element at i has a larger ESV than one at j."
        panels.append(panel("Position against position", figures.pairs(numbers.above, where), text))
    tables = [_confusions(source, state, numbers), _failures(state, numbers)]
    return html.Div(
        [
            html.H2(source.title),
            html.P(" · ".join(facts), className="facts"),
            html.Div([*panels, *tables], className="panels"),
        ]
    )


def _confusions(source: Source, state: State, numbers: Overview) -> Any:
    html, dcc = parts_of_dash()
    if not numbers.confusions:
        text = "No labels, or no video taken for another class."
        return html.Div([html.H3("Most confused classes"), html.P(text)], className="panel")
    rows = []
    for true, predicted, count in numbers.confusions:
        there = State(frames=state.frames, true=true, predicted=predicted)
        link = dcc.Link(f"{count:,}", href=format_query(there))
        names = [html.Td(source.class_name(c)) for c in (true, predicted)]
        rows.append(html.Tr([*names, html.Td(link)]))
    head = html.Thead(html.Tr([html.Th("true"), html.Th("predicted"), html.Th("videos")]))
    table = html.Table([head, html.Tbody(rows)])
    return html.Div([html.H3("Most confused classes"), table], className="panel")


def _failures(state: State, numbers: Overview) -> Any:
    html, dcc = parts_of_dash()
    failures = numbers.failures
    if not failures:
        text = html.P("Every video was explained.")
        return html.Div([html.H3("Failures"), text], className="panel")
    rows = [
        html.Tr([html.Td(dcc.Link(uid, href=format_query(_at(state, uid)))), html.Td(reason)])
        for uid, reason in failures[:_FAILURES]
    ]
    everything = format_query(State(frames=state.frames, outcome="failed"))
    more = dcc.Link(f"List all {len(failures):,}", href=everything)
    table = html.Table(html.Tbody(rows))
    return html.Div([html.H3("Failures"), table, html.P(more)], className="panel")


def _at(state: State, uid: str) -> State:
    return State(frames=state.frames, outcome="failed", uid=uid)
