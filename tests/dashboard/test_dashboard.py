"""The dashboard without a browser: addresses, figures, answers, and what the server refuses."""

import concurrent.futures
import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("dash", reason="needs the dashboard extra")
import plotly.graph_objects as go

import esv_jax as ej
from esv_jax.dashboard import figures, make_app, overview
from esv_jax.dashboard.pages import CONTROLS, VIDEO, Pages
from esv_jax.dashboard.server import Media, host_name
from esv_jax.dashboard.sources import (
    OUTCOMES,
    PAGES,
    SORTS,
    State,
    format_query,
    open_sources,
    parse,
    pick,
)
from esv_jax.dashboard.views import SHOWN
from esv_jax.results.browser import SORTS as STORED_SORTS
from esv_jax.results.browser import Browser
from experiments.attack.server import callback_bodies, malformed
from experiments.browsing import dashboard as run_dashboard
from tests.sweeps_for_tests import LENGTHS, N_CLASSES, run_sweep, write_set

TAG = "<script>alert('x')</script>"
LOCAL = {"Host": "localhost:8050"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sweeps of one set, all elements and three, with failures in the first."""
    folder = tmp_path_factory.mktemp("dashboard")
    write_set(folder)
    run_sweep(folder, min_elements=3)
    run_sweep(folder, "three", frames=3, marginals=False)
    run_sweep(folder, "chosen", classes="gt,pred", estimator=["Constructive", 3, 4])
    return folder


@pytest.fixture(scope="module")
def browser(folder):
    with ej.results.open(folder / "out") as dataset:
        yield Browser(dataset)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    made = ej.data.synthetic_video.write_synthetic_videos(
        folder, ej.data.synthetic_videos(2, seed=0)
    )
    return {"video-0": made[0], "video-3": made[1]}


@pytest.fixture(scope="module")
def pages(folder, clips):
    return Pages(open_sources([folder / "out", folder / "three"]), Media(clips))


@pytest.fixture(scope="module")
def client(folder, clips):
    return make_app([folder / "out", folder / "three"], clips).server.test_client()


def text_of(component):
    """A component as the browser gets it."""
    return json.dumps(component, cls=__import__("plotly").utils.PlotlyJSONEncoder)


def filled(pages, query):
    """What the places of one video are filled with, by place: "timeline.figure" and so on."""
    places = [".".join(place) for place in VIDEO]
    return dict(zip(places, pages.video(query), strict=True))


def graph_of(pages, query):
    """The figure of the bars."""
    return filled(pages, query)["timeline.figure"]


def question(query):
    """What the page asks for to fill in one video."""
    return {
        "output": "..{}..".format("...".join(".".join(place) for place in VIDEO)),
        "outputs": [{"id": name, "property": prop} for name, prop in VIDEO],
        "inputs": [{"id": "url", "property": "search", "value": query}],
        "changedPropIds": ["url.search"],
    }


def ask(client, query):
    """The answer of the server to that."""
    return client.post("/_dash-update-component", json=question(query), headers=LOCAL)


# The address


number = st.integers(0, 10**7 - 1)
word = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
pair = st.tuples(number, number).filter(lambda two: two[0] != two[1])
states = st.builds(
    State,
    page=st.sampled_from(PAGES),
    uid=word,
    frames=word,
    classes=st.lists(number, max_size=8, unique=True).map(tuple),
    contrast=st.none() | pair,
    search=word,
    true=st.none() | number,
    predicted=st.none() | number,
    outcome=st.sampled_from(OUTCOMES),
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
)


@given(states)
def test_query_strings_round_trip(state):
    query = format_query(state)
    assert parse(query) == state
    assert parse(query.removeprefix("?")) == state


@given(st.text(st.characters(), max_size=200) | st.binary(max_size=99).map(lambda b: f"?uid=%{b}"))
def test_any_text_is_a_state(text):
    state = parse(text)
    assert parse(format_query(state)) == state


@pytest.mark.parametrize(
    "query",
    [
        "?classes=1,x,-2,999999999999,²&a=1&b=1&true=-1&page=admin&outcome=maybe&sort=size",
        "?uid=" + "u" * 9000,
        "?uid=" + "u" * 600,
        "?" + "&" * 5000,
        "?uid=%ff%00&classes=,,,",
        "?\ud800",
    ],
)
def test_malformed_parts_become_the_default(query):
    state = parse(query)
    assert (state.page, state.outcome, state.sort, state.contrast) == ("video", "all", "file", None)
    assert len(state.uid) <= 500
    assert all(0 <= c < 10**7 for c in state.classes)


def test_the_default_state_is_an_empty_query():
    assert format_query(State()) == ""
    assert STORED_SORTS == SORTS


# Figures


def test_bars_are_the_stored_values(browser):
    attribution = browser.attribution("video-3")
    frames = browser.element_index("video-3")
    figure = figures.timeline(
        attribution, [2, 0], ["two", "none", "two minus none"], frames, (2, 0)
    )
    go.Figure(figure)  # refuses what Plotly does not know
    bars = figure["data"]
    assert [bar["x"] for bar in bars] == [frames.tolist()] * 3
    own = np.asarray(attribution.values)
    for bar, expected in zip(bars, (own[:, 2], own[:, 0], own[:, 2] - own[:, 0]), strict=True):
        np.testing.assert_array_equal(np.float32(bar["y"]), expected)
        colours = [figures.SUPPORTING if y > 0 else figures.DISTRACTING for y in expected]
        assert bar["marker"]["color"] == colours
        assert "error_y" not in bar


def test_error_bars_are_95_percent_intervals(folder):
    (source,) = open_sources(folder / "chosen")
    uid = next(u for u in source.matches(State()) if source.explained(u).attribution.n == 6)
    explained = source.explained(uid)
    half = np.asarray(explained.attribution.half_width(0.95))
    figure = figures.timeline(explained.attribution, [1], ["predicted"], explained.frames)
    np.testing.assert_array_equal(np.float32(figure["data"][0]["error_y"]["array"]), half[:, 1])
    assert len(explained.scores) == N_CLASSES  # of all, though values are of two


def test_scores_beside_the_prior():
    values, prior = np.array([0.1, 0.6, 0.05, 0.25]), np.array([0.25, 0.25, 0.25, 0.25])
    figure = figures.scores(values, prior, ["a", "<b>", "c", "d"], label=2, top=2)
    go.Figure(figure)
    bars, before = figure["data"]
    assert bars["customdata"] == [2, 3, 1]
    assert bars["x"] == [0.05, 0.25, 0.6]
    assert before["x"] == [0.25] * 3
    ticks = figure["layout"]["yaxis"]["ticktext"]
    assert ticks == ["c ✓  0.050", "d  0.250", "&lt;b&gt;  0.600"]


def test_figures_without_values():
    for figure in (
        figures.histogram({"all": np.zeros(0)}, "x"),
        figures.histogram({"correct": np.array([1.0, np.nan]), "wrong": np.zeros(0)}, "x"),
        figures.positions(np.array([np.nan, 1.0]), np.array([0.0, 0.1]), "position"),
        figures.pairs(np.full((2, 2), np.nan), "position"),
    ):
        json.dumps(figure, allow_nan=False)
        go.Figure(figure)


def test_a_histogram_counts_every_video(rng):
    values = {"correct": rng.normal(size=50), "wrong": rng.normal(size=30)}
    traces = figures.histogram(values, "x")["data"]
    assert [sum(trace["y"]) for trace in traces] == [50, 30]


# The whole set


def test_the_overview_equals_a_plain_loop(folder):
    (source,) = open_sources(folder / "three")
    numbers = overview.summarise(source)
    dataset = source.browser.dataset
    label, prediction = dataset["label"].values, dataset["prediction"].values
    assert numbers.accuracy == (label == prediction).mean()
    assert sum(count for *_, count in numbers.confusions) == (label != prediction).sum()
    sizes = np.sort(dataset["length"].values)
    np.testing.assert_array_equal(np.sort(numbers.lengths), sizes)
    own = overview.sample(source)
    assert numbers.n_sampled == len(own) == len(LENGTHS)
    assert numbers.relative
    places = [(2 * np.arange(len(one)) + 1) * 10 // (2 * len(one)) for one in own]
    for i, j in ((2, 7), (7, 2), (0, 9), (4, 4)):
        shares = [
            np.mean([(a > b) + (a == b) / 2 for a in one[at == i] for b in one[at == j]])
            for one, at in zip(own, places, strict=True)
            if (at == i).any() and (at == j).any()
        ]
        expected = np.mean(shares) if shares else np.nan
        np.testing.assert_allclose(numbers.above[i, j], expected)
    for i in range(10):
        means = [one[at == i].mean() for one, at in zip(own, places, strict=True) if i in at]
        np.testing.assert_allclose(numbers.means[i], np.mean(means) if means else np.nan)
    by_name = dict(zip(source.browser.find(), own, strict=True))
    for uid, values in by_name.items():
        attribution = source.browser.attribution(uid)
        expected = np.asarray(attribution.for_class(source.browser.row(uid).prediction))
        np.testing.assert_array_equal(np.float32(values), expected)


def test_means_by_tenth_of_a_video():
    np.testing.assert_array_equal(overview.relative(np.array([1.0, 2.0, 6.0, 8.0]), 2), [1.5, 7.0])
    few = overview.relative(np.array([3.0]), 2)
    assert few[1] == 3 and np.isnan(few[0])


def test_a_sample_is_bounded(folder, monkeypatch):
    (source,) = open_sources(folder / "three")
    monkeypatch.setattr(overview, "MAX_SAMPLE", 8)
    monkeypatch.setattr(overview, "_BLOCK", 4)
    assert len(overview.sample(source)) == 8


# Answers


def navigate(pages, control, query, **given):
    """What follows when a control is touched: the query, and the values of controls by name."""
    names = [name for name, _ in CONTROLS]
    values = [given.get(name.replace("-", "_")) for name in names]
    query, *rest = pages.navigate(control, query, *values)
    return query, dict(zip(names, rest, strict=False))


def test_controls_follow_the_address(pages):
    query = "?uid=video-3&classes=0,1&a=1&b=2&search=vid&outcome=wrong&sort=score&order=descending"
    same, shown = navigate(pages, "url", query)
    assert same == query
    assert shown["classes"] == [0, 1]
    assert (shown["contrast-a"], shown["contrast-b"]) == (1, 2)
    assert (shown["search"], shown["outcome"], shown["sort"]) == ("vid", "wrong", "score")
    assert shown["order"] == ["descending"]


def test_the_chosen_class_is_written_to_the_address(pages):
    query, shown = navigate(pages, "classes", "?uid=video-3", classes=[2, 0])
    assert parse(query) == State(uid="video-3", classes=(2, 0))
    assert shown["classes"] == [2, 0]
    figure = graph_of(pages, query)
    own = np.asarray(pick(pages.sources, parse(query)).browser.attribution("video-3").values)
    np.testing.assert_array_equal(np.float32(figure["data"][0]["y"]), own[:, 2])


def test_a_contrast_needs_two_classes(pages):
    query, shown = navigate(pages, "contrast-a", "?uid=video-3", contrast_a=1)
    assert query == "?uid=video-3" and shown["contrast-a"] == 1
    query, _ = navigate(pages, "contrast-b", query, contrast_a=1, contrast_b=0)
    assert parse(query).contrast == (1, 0)
    figure = graph_of(pages, query)
    source = pick(pages.sources, parse(query))
    expected = np.asarray(source.browser.attribution("video-3").contrast(1, 0))
    np.testing.assert_array_equal(np.float32(figure["data"][-1]["y"]), expected)
    assert "kind 1 minus kind 0" in figure["layout"]["annotations"][-1]["text"]


def test_the_slider_chooses_among_results(pages):
    assert [source.label for source in pages.sources] == ["3", "6"]
    query, shown = navigate(pages, "frames", "?uid=video-4", frames=0)
    assert parse(query).frames == "3" and shown["frames"] == 0
    for q, n in (("?uid=video-4", 6), (query, 3)):  # those given first are begun with
        assert len(graph_of(pages, q)["data"][0]["x"]) == n
    assert navigate(pages, "frames", query, frames=1)[0] == "?uid=video-4"


def test_filters_change_the_list_and_reset_the_video(pages):
    query, _ = navigate(pages, "true", "?uid=video-3", true=1)
    assert parse(query) == State(true=1)
    listed = text_of(pages.matches(query))
    assert f"{len(LENGTHS[1::4])} of {len(LENGTHS)} videos" in listed
    assert "video-1" in listed and "video-2" not in listed
    assert navigate(pages, "true", query, true=None)[0] == ""


def test_menus_are_sent_when_they_change(pages, folder):
    assert pages.menus("") == pages.menus("?uid=video-3") != pages.menus("?frames=3")
    chosen = Pages(open_sources(folder / "chosen"), Media({}))
    assert chosen.menus("") != chosen.menus("?uid=video-3")


def test_malformed_values_from_the_browser_are_harmless(pages):
    for control, _ in CONTROLS:
        for value in ("x" * 10_000, [1, "x", None], {"a": 1}, -5, 1e300, True, TAG):
            query, _ = navigate(pages, control, "", **{control.replace("-", "_"): value})
            assert parse(query) == parse(format_query(parse(query)))
            pages.video(query), pages.matches(query)


def test_notes_explain_what_is_not_shown(pages, folder):
    unknown = filled(pages, "?uid=nothing")
    assert "no video called 'nothing'" in text_of(unknown["head.children"])
    assert unknown["timeline-panel.hidden"] and unknown["scores-panel.hidden"]
    assert "No video meets these filters" in text_of(pages.matches("?search=nothing"))
    assert "Nothing to show" in text_of(pages.video("?search=nothing"))
    failed = text_of(pages.video("?uid=video-2"))
    assert "at least 3 elements, got 2" in failed
    assert "Every video was explained" in text_of(pages.overview("?page=overview&frames=3"))
    assert "at least 3 elements" in text_of(pages.overview("?page=overview"))
    (chosen,) = open_sources(folder / "chosen")
    alone = Pages([chosen], Media({}))
    row = chosen.browser.row("video-3")
    other = next(c for c in range(N_CLASSES) if c not in (row.label, row.prediction))
    said = text_of(alone.video(f"?uid=video-3&classes={other},{row.prediction}&a={other}&b=0"))
    assert f"No values are kept of kind {other}." in said
    assert "contrast is of a class whose values are not kept" in said


def test_results_without_videos(folder):
    with ej.results.open(folder / "out") as dataset:
        empty = Browser(dataset.isel(video=slice(0)))
        bare = Pages(open_sources(empty), Media({}))
        assert "hold no videos" in text_of(bare.matches(""))
        assert "hold no videos" in text_of(bare.overview("?page=overview"))
        assert "Nothing to show" in text_of(bare.video(""))
        bare.navigate("url", "", *[None] * len(CONTROLS))


def test_other_methods_where_the_results_hold_them(folder):
    with ej.results.open(folder / "three") as dataset:
        doubled = (dataset["esv"] * 2).assign_attrs(other_method="of_gradients")
        other = Browser(dataset.assign(of_gradients=doubled))
        alone = Pages(open_sources(other), Media({}))
        own = np.asarray(other.attribution("video-3").values)
        query = "?uid=video-3&classes=1&methods=of_gradients,nothing&a=1&b=0"
        place = filled(alone, query)
        bars, marks, _, between = place["timeline.figure"]["data"]
        assert marks["name"] == "of gradients"
        np.testing.assert_array_equal(np.float32(marks["customdata"]), 2 * own[:, 1])
        np.testing.assert_allclose(marks["y"], bars["y"], rtol=1e-6)  # scaled to the bars
        contrast = 2 * (own[:, 1] - own[:, 0])
        np.testing.assert_allclose(between["customdata"], contrast, rtol=1e-6)
        notes = text_of(place["notes.children"])
        assert "hold no values by nothing" in notes and " of gradients" in notes
        query, shown = navigate(alone, "methods", "", methods=["of_gradients"])
        assert parse(query).methods == ("of_gradients",) == tuple(shown["methods"])


def zeros(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[:2000] + bytes(len(content) - 2000))


@pytest.mark.parametrize(
    ("harm", "got"), [(zeros, "got damage"), (Path.unlink, "got NaN for 'video-3'")]
)
def test_results_damaged_after_opening_become_a_note(folder, tmp_path, harm, got):
    shutil.copytree(folder / "out", tmp_path / "out")
    pages = Pages(open_sources(tmp_path / "out"), Media({}))
    for shard in (tmp_path / "out" / "shards").glob("*.nc"):
        harm(shard)
    said = text_of(pages.video("?uid=video-3"))
    assert "values cannot be read" in said and f"expected readable values, {got}" in said


def test_a_long_list_is_cut_around_the_video(folder):
    attribution = ej.results.load_attribution(ej.results.open(folder / "three"), "video-3")
    path = folder / "many.nc"
    uids = [f"uid-{k:04}" for k in range(450)]
    ej.results.save(path, [attribution] * 450, uids=uids)
    many = Pages(open_sources(path), Media({}))
    listed = text_of(many.matches("?uid=uid-0310"))
    assert "450 of 450 videos" in listed and "301 to 350" in listed
    assert listed.count('"Li"') == SHOWN == 50
    for first_of_part in (0, 250, 350, 400):
        assert f'"href": "?uid=uid-{first_of_part:04}"' in listed
    assert "uid=uid-0311" in text_of(many.video("?uid=uid-0310"))
    assert many.listed("?uid=uid-0310") == many.listed("?uid=uid-0300")
    assert many.listed("?uid=uid-0310") != many.listed("?uid=uid-0299")
    assert many.listed("?uid=uid-0310") != many.listed("?uid=uid-0310&classes=1")
    for query, dead in (("", "earlier"), ("?uid=uid-0449", "later")):
        step = next(
            part
            for part in many.matches(query)._traverse()
            if getattr(part, "children", None) == dead
        )
        assert not hasattr(step, "href")


def test_results_in_subfolders_are_found(folder):
    within = open_sources(folder)  # holds none of its own
    assert {source.title for source in within} >= {str(folder / "out"), str(folder / "three")}
    assert [source.is_first for source in within].count(True) == 1
    with pytest.raises(ValueError, match="results"):
        open_sources(folder / "out" / "shards")


# The server


def test_headers_on_every_answer(client):
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/assets/dashboard.js", "/nowhere"):
        response = client.get(path, headers=LOCAL)
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe-eval" not in policy
        assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert response.status_code == (404 if path == "/nowhere" else 200)
        response.close()
    assert b"http://" not in client.get("/", headers=LOCAL).data.replace(b"http://www.w3.org", b"")
    assert b"https://" not in client.get("/", headers=LOCAL).data


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost:8050", 200), ("127.0.0.1", 200), ("[::1]:8050", 200), ("LOCALHOST", 200)),
        *(("evil.example", 403), ("localhost.evil.example:8050", 403), ("127.0.0.1.nip.io", 403)),
        *(("", 403), ("localhost@evil", 403), ("[::1", 403)),
    ],
)
def test_foreign_hosts_are_refused(client, host, status):
    response = client.get("/", headers={"Host": host})
    assert response.status_code in ({status, 400} if status == 403 else {status})


def test_configured_hosts_are_allowed(folder):
    named = make_app(folder / "out", hosts=("box",)).server.test_client()
    assert named.get("/", headers={"Host": "box:1"}).status_code == 200
    assert named.get("/", headers={"Host": "other:1"}).status_code == 403
    everyone = make_app(folder / "out", hosts=("0.0.0.0",)).server.test_client()
    assert everyone.get("/", headers={"Host": "other:1"}).status_code == 200
    assert host_name("[::1]:80") == "[::1]"


def test_paths_and_methods_the_page_does_not_need_are_refused(client):
    for method in ("post", "put", "delete", "patch", "options"):
        assert getattr(client, method)("/", headers=LOCAL).status_code == 405
    assert client.get("/_dash-update-component", headers=LOCAL).status_code == 405
    plain = client.post("/_dash-update-component", data="output=x", headers=LOCAL)
    assert plain.status_code == 415
    form = {"output": "x.y", "outputs": {}, "inputs": [], "changedPropIds": []}  # of no callback
    for junk in ({}, [], "x", {"output": 1}, {"output": "x.y", "inputs": {}}, form):
        answer = client.post("/_dash-update-component", json=junk, headers=LOCAL)
        assert answer.status_code == 400
    large = client.post("/_dash-update-component", json="x" * 2**21, headers=LOCAL)
    assert large.status_code in (400, 413)


def questions_of(client):
    return callback_bodies(client.get("/_dash-dependencies", headers=LOCAL).json)


def test_malformed_callbacks_are_refused_or_taken_for_the_default(client, capfd):
    rng = np.random.default_rng(0)
    good = [*questions_of(client), question("?uid=video-3&classes=1")]
    found = set()
    for k in range(300):
        body = malformed(rng, good[k % len(good)])
        answer = client.post("/_dash-update-component", json=body, headers=LOCAL)
        assert answer.status_code in (200, 204, 400), body
        found.add(answer.status_code)
    assert {200, 400} <= found
    clientside = next(
        callback["output"]
        for callback in client.get("/_dash-dependencies", headers=LOCAL).json
        if callback["clientside_function"]
    )
    body = question("") | {"output": clientside}
    assert client.post("/_dash-update-component", json=body, headers=LOCAL).status_code == 400
    for number in (-1, 1.5, True):
        for body in questions_of(client):
            where = {"id": "url", "property": "search"}
            inputs = [x | {"value": number} if x == where else x for x in body["inputs"]]
            sent = body | {"inputs": inputs}
            status = client.post("/_dash-update-component", json=sent, headers=LOCAL).status_code
            assert status == 400 or where not in body["inputs"]
    deep = "[" * 450_000 + "]" * 450_000
    headers = LOCAL | {"Content-Type": "application/json"}
    answer = client.post("/_dash-update-component", data=deep, headers=headers)
    assert answer.status_code == 400
    assert "Traceback" not in capfd.readouterr().err


def test_malformed_addresses_are_not_found(client, capfd):
    odd = ["/%00", "/assets/%00", "/assets/" + "a" * 5000, "/_dash-component-suites/%00/x.js"]
    odd += ["/_dash-component-suites/dash/..%2f..%2fsetup.py", "/_dash-component-suites/dash"]
    odd += ["/_dash-component-suites/nothing/x.js", "/frame/%00/1", "/frame/0/9" + "9" * 400]
    odd += ["/video/" + "9" * 5000, "/_reload-hash/x", "/%ff%fe", "/" + "x" * 9000]
    for path in odd:
        answer = client.get(path, headers=LOCAL)
        assert answer.status_code in (400, 404), path
        answer.close()
    assert "Traceback" not in capfd.readouterr().err


def test_an_internal_error_is_one_line_of_log(folder, caplog, capfd, monkeypatch):
    app = make_app(folder / "out")

    def fails(*_):
        raise RuntimeError("of this\ntest")

    monkeypatch.setattr("esv_jax.dashboard.views.video", fails)
    assert ask(app.server.test_client(), "").status_code == 500
    (line,) = caplog.messages
    assert line == "esv-jax: the dashboard could not answer: RuntimeError: of this test"
    assert capfd.readouterr().err == ""


def test_a_token_sets_a_cookie_and_is_removed_from_the_address(folder):
    client = make_app(folder / "out", token="secret").server.test_client()
    for query in ("", "?token=", "?token=Secret"):
        refused = client.get("/" + query, headers=LOCAL)
        assert refused.status_code == 403 and "it has the token" in refused.text
    assert ask(client, "").status_code == 403
    moved = client.get("/?token=secret&uid=a%26b", headers=LOCAL)
    assert (moved.status_code, moved.headers["Location"]) == (302, "/?uid=a%26b")
    cookie = moved.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert client.get("/", headers=LOCAL).status_code == 200
    assert ask(client, "").status_code == 200


def test_links_out_of_a_folder_of_videos_are_not_followed(folder, clips, tmp_path):
    within, outside = tmp_path / "clips", tmp_path / "outside"
    within.mkdir()
    outside.mkdir()
    shutil.copy(clips["video-0"], outside / "video-0.mp4")
    shutil.copy(clips["video-0"], within / "video-1.mp4")
    (within / "video-0.mp4").symlink_to(outside / "video-0.mp4")
    (within / "video-2.mp4").symlink_to(within / "video-1.mp4")

    def served(videos):
        client = make_app(folder / "out", videos).server.test_client()
        answers = [client.get(f"/video/{k}", headers=LOCAL) for k in range(3)]
        for answer in answers:
            answer.close()
        return [answer.status_code for answer in answers]

    assert served(within) == [200, 200, 404]
    assert served(path for path in [within]) == [200, 200, 404]
    assert served([within / "video-0.mp4"]) == [200, 404, 404]  # the user's own word
    linked = tmp_path / "linked"
    linked.symlink_to(within)
    assert served(linked) == [200, 200, 404]


def test_a_taken_port_is_one_line(folder, capfd):
    from esv_jax.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["dashboard", str(folder / "out"), "--port", port]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "port: expected one that is free at 127.0.0.1" in line


@pytest.mark.parametrize(
    "path",
    [
        *("/video/..%2f..%2fetc/passwd", "/video/../../etc/passwd", "/video//etc/passwd"),
        *("/video/%2fetc%2fpasswd", "/video/2", "/video/-1", "/video/video-0", "/video/", "/video"),
        *("/frame/..%2f..%2fetc/passwd", "/frame/0/99999", "/frame/9/0", "/frame/0/-1"),
        *("/etc/passwd", "/assets/../app.py", "/assets/..%2fapp.py", "/video/0%00"),
    ],
)
def test_no_path_of_an_address_reaches_the_files(client, path):
    response = client.get(path, headers=LOCAL)
    assert response.status_code == 404
    assert b"root:" not in response.data


def test_videos_are_served_whole_and_in_parts(client, clips):
    content = clips["video-0"].read_bytes()
    whole = client.get("/video/0", headers=LOCAL)
    assert (whole.status_code, whole.data, whole.mimetype) == (200, content, "video/mp4")
    part = client.get("/video/0", headers=LOCAL | {"Range": "bytes=5-24"})
    assert (part.status_code, part.data) == (206, content[5:25])
    assert part.headers["Content-Range"] == f"bytes 5-24/{len(content)}"
    beyond = client.get("/video/0", headers=LOCAL | {"Range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416
    frame = client.get("/frame/1/2", headers=LOCAL)
    assert (frame.status_code, frame.mimetype) == (200, "image/jpeg")
    for response in (whole, part, beyond, frame):
        response.close()


def test_presentation_of_each_kind_of_video(clips, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    media = Media({**clips, "broken": broken, "gone": tmp_path / "gone.mp4"})
    clip = media.clip("video-3")
    assert (clip.address, clip.kind, clip.fps) == ("/video/1", "video", 12)
    assert media.clip("broken").note.startswith("The video cannot be read")
    assert media.clip("gone").kind == ""
    assert "No video of this name" in media.clip("else").note
    assert "--videos" in Media({}).clip("else").note


def test_every_callback_of_the_page_responds(client):
    known = {}
    for body in questions_of(client):
        answer = client.post("/_dash-update-component", json=body, headers=LOCAL)
        assert answer.status_code == 200
        known |= answer.json["response"]
    assert {"matches", "timeline", "classes", "menus", "listed"} <= set(known)
    assert len(known["classes"]["options"]) == N_CLASSES


def test_unknown_videos_name_the_nearest_match(client):
    assert client.get("/?uid=nothing", headers=LOCAL).status_code == 200
    answer = ask(client, "?uid=nothing")
    assert answer.status_code == 200
    assert "no video called" in answer.text


def test_tags_in_names_are_escaped(folder):
    attribution = ej.results.load_attribution(ej.results.open(folder / "three"), "video-3")
    path = folder / "tags.nc"
    names = [f"{TAG}{k}" for k in range(N_CLASSES)]
    ej.results.save(path, [attribution], uids=[TAG], class_names=names, labels=[0], overwrite=True)
    client = make_app(path).server.test_client()
    for page in ("/", "/_dash-layout", f"/?uid={TAG}"):
        assert "<script>alert" not in client.get(page, headers=LOCAL).text
    answer = ask(client, "?a=0&b=1")
    assert answer.mimetype == "application/json"
    figure = graph_of(Pages(open_sources(path), Media({})), "?a=0&b=1")
    assert "&lt;script&gt;" in json.dumps(figure) and "<script>" not in json.dumps(figure)
    folder = Path(ej.__file__).parent / "dashboard"
    sources = "".join(path.read_text() for path in folder.glob("*.py"))
    assert "dangerously" not in sources and "Markdown" not in sources


@pytest.mark.slow
def test_a_thousand_concurrent_requests(folder):
    """The command's own server, asked by sixteen at a time: all are answered, each rightly."""
    with run_dashboard(str(folder / "out")) as address:

        def asked(k):
            body = json.dumps(question(f"?uid=video-{k % 20}")).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address}/_dash-update-component", body, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(asked, range(1000)))
        for k, (status, text) in enumerate(answers):
            assert status == 200 and f'"video-{k % 20}"' in text, k
        assert asked(3) == answers[3]


def test_importing_loads_neither_dash_nor_models(folder):
    code = (
        "import sys, esv_jax.dashboard\n"
        "heavy = {'dash', 'plotly', 'flask'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
        f"esv_jax.dashboard.make_app({str(folder / 'three')!r})\n"
        "models = [m for m in sys.modules if m.startswith('esv_jax.models')]\n"
        "assert not models and 'flax' not in sys.modules, models\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_without_results_runs_the_demo(folder, clips, tmp_path, monkeypatch):
    from esv_jax.cli import dashboard, main

    made, served = [], []

    def make(paths, videos, hosts, token):
        made.append((paths, videos))

    monkeypatch.setattr(dashboard, "make_app", make)
    monkeypatch.setattr(dashboard, "serve", lambda app, **where: served.append(where))

    def run(demo):
        made.append("demo")
        (demo.out / "videos").mkdir(parents=True)
        shutil.copy(folder / "three" / "results.nc", demo.out)
        return 0

    monkeypatch.setattr(dashboard.Demo, "run", run)
    monkeypatch.chdir(tmp_path)
    demo = Path("esv-jax-demo")
    for _ in range(2):  # made once
        assert main(["dashboard"]) == 0
    assert made == ["demo", *[((demo,), demo / "videos")] * 2]
    assert main(["dashboard", str(demo), "--videos", str(clips["video-0"])]) == 0
    assert made[-1] == ((demo,), (clips["video-0"],))
    assert main(["dashboard", str(folder / "out")]) == 0
    assert made[-1] == ((folder / "out",), None)


def test_the_command(folder, capsys, monkeypatch):
    from esv_jax.cli import dashboard, main

    served = []

    def serve(app, *, on_ready, **where):
        on_ready()
        served.append((app, where))

    monkeypatch.setattr(dashboard, "serve", serve)
    paths = [str(folder / "out"), str(folder / "three")]
    assert main(["dashboard", *paths, "--port", "8051"]) == 0
    app, where = served[0]
    assert where == {"host": "127.0.0.1", "port": 8051}
    address = capsys.readouterr().out.split()[2]
    assert address.startswith("http://127.0.0.1:8051/?token=")
    client = app.server.test_client()
    assert client.get("/", headers=LOCAL).status_code == 403
    assert client.get(address, headers=LOCAL, follow_redirects=True).status_code == 200
    assert main(["dashboard", *paths, "--token", ""]) == 0
    assert "http://127.0.0.1:8050/ " in capsys.readouterr().out
    assert served[1][0].server.test_client().get("/", headers=LOCAL).status_code == 200
    assert main(["dashboard", str(folder / "out"), "--host", "0.0.0.0"]) == 0
    assert "can read these results" in capsys.readouterr().out
    assert main(["dashboard", str(folder / "missing")]) == 2
    assert main(["dashboard", str(folder / "out"), "--port", "0"]) == 2
