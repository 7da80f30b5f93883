"""The dashboard and the report of the demo's results, in a real browser.

Played, clicked, typed, shared, on a phone; nothing is complained of, and nobody else is asked.
"""

import contextlib
import re
import time
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import esv_jax as ej
from esv_jax.cli import main
from esv_jax.display import number
from esv_jax.report.cards import element_texts, make_card
from esv_jax.results.browser import Browser
from esv_jax.svg import bar_paths
from experiments.browsing import dashboard, open_browser
from tests.browser_for_tests import Watched, expect_browser

pytestmark = pytest.mark.slow

N_VIDEOS = 4
FPS = 12.0
BARS = "#timeline .barlayer .point"


@pytest.fixture(scope="module")
def browser():
    with open_browser(expect_browser()) as browser:
        yield browser


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder; made only where a browser can look at it."""
    expect_browser()
    folder = tmp_path_factory.mktemp("looked-at") / "demo"
    assert main(["demo", "--out", str(folder), "--n-videos", str(N_VIDEOS)]) == 0
    return folder


@pytest.fixture(scope="module")
def stored(demo):
    """The same results as they lie on the disk, by number of frames."""
    with contextlib.ExitStack() as stack:
        places = {4: demo / "4-frames", 8: demo, 16: demo / "16-frames"}
        opened = {n: stack.enter_context(ej.results.open(place)) for n, place in places.items()}
        yield {n: Browser(dataset) for n, dataset in opened.items()}


@pytest.fixture(scope="module")
def address(demo):
    """A dashboard of the demo, started by its command."""
    with dashboard(str(demo)) as address:
        yield address


@pytest.fixture
def watched(browser, address):
    """A page that must end without complaints, having asked nobody but the dashboard."""
    watched = Watched(browser)
    yield watched
    complaints, foreign = watched.complaints, watched.foreign(address)
    n_asked = len(watched.asked)
    watched.close()
    assert complaints == []
    assert foreign == [] and n_asked > 0


def show(page, address, query=""):
    page.goto(f"{address}/{query}")
    page.wait_for_selector(BARS)
    return page


def until(page, expression, *arg):
    """Wait for a JavaScript expression, or function of one argument, to be true.

    Asked again and again from outside: the page's own policy lets no text be evaluated within it.
    """
    end = time.monotonic() + 30
    while not page.evaluate(expression, *arg):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


def uid_of(page):
    return page.inner_text("#shown-uid")


def state_of(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def bars(page, row=0):
    """Places and heights of the bars of one row, as they are drawn."""
    data = page.evaluate("document.querySelector('#timeline .js-plotly-plot').data")
    trace = [trace for trace in data if trace["type"] == "bar"][row]
    return trace["x"], trace["y"]


def headings(page):
    return page.locator("#timeline .annotation-text").all_text_contents()


def time_of(page):
    return page.evaluate("document.getElementById('player').currentTime")


def cursor_of(page):
    """Where the cursor is, in frames of the video; None where it is not shown."""
    return page.evaluate(
        """() => {
          const cursor = document.getElementById('cursor');
          if (getComputedStyle(cursor).visibility === 'hidden') return null;
          const axis = document.querySelector('#timeline .js-plotly-plot')._fullLayout.xaxis;
          const x = Number(/translateX\\(([-0-9.]+)px\\)/.exec(cursor.style.transform)[1]);
          return axis.p2d(x - axis._offset);
        }"""
    )


def play(page):
    until(page, "document.getElementById('player').readyState >= 2")
    page.evaluate("document.getElementById('player').play()")


def choose(page, control, text):
    """Choose from a menu as a person does."""
    page.click(f"#{control}")
    page.click(f".dash-dropdown-content >> text='{text}'")
    page.keyboard.press("Escape")


def test_the_first_page_shows_a_video_its_scores_and_its_bars(watched, address, stored):
    page = show(watched.page, address)
    browser = stored[8]
    uid = browser.find()[0]
    assert uid_of(page) == uid
    x, y = bars(page)
    row = browser.row(uid)
    np.testing.assert_allclose(y, browser.attribution(uid).for_class(row.label), rtol=1e-6)
    assert x == browser.element_index(uid).tolist()
    assert page.locator(BARS).count() == 8
    assert f"true: {browser.class_names[row.label]}" in page.inner_text("#head")
    assert page.locator(".uids a").count() == N_VIDEOS
    assert page.locator(".uids a.here").inner_text().split("\n")[1] == uid
    assert page.title() == "Element Shapley Values"


def test_a_video_plays_and_the_cursor_runs_over_its_bars(watched, address):
    page = show(watched.page, address)
    play(page)
    until(page, "document.getElementById('player').currentTime > 0.5")
    first_time, first = time_of(page), cursor_of(page)
    until(page, f"document.getElementById('player').currentTime > {first_time} + 0.3")
    page.evaluate("document.getElementById('player').pause()")
    page.wait_for_timeout(100)  # the cursor follows with the next picture
    assert first < cursor_of(page)
    np.testing.assert_allclose(cursor_of(page), time_of(page) * FPS - 0.5, atol=0.2)


def test_a_click_on_a_bar_seeks_the_video(watched, address):
    page = show(watched.page, address)
    until(page, "document.getElementById('player').readyState >= 2")
    x, _ = bars(page)
    for k in (5, 2, 2, 7):
        page.evaluate("document.getElementById('player').currentTime = 0")
        until(page, "document.getElementById('player').currentTime === 0")
        place = page.evaluate(
            """(x) => {
              const graph = document.querySelector('#timeline .js-plotly-plot');
              const { xaxis, yaxis } = graph._fullLayout;
              const box = graph.getBoundingClientRect();
              return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(0)];
            }""",
            x[k],
        )
        page.mouse.move(place[0], place[1] - 2)
        page.wait_for_timeout(200)  # a hand takes longer; the graph looks 20 times a second
        page.mouse.click(place[0], place[1] - 2)
        until(page, "document.getElementById('player').currentTime > 0")
        assert int(time_of(page) * FPS) == x[k]


def test_keys_select_elements_and_videos(watched, address, stored):
    page = show(watched.page, address)
    until(page, "document.getElementById('player').readyState >= 2")
    x, _ = bars(page)
    page.locator("body").press("ArrowRight")
    until(page, "document.getElementById('player').currentTime > 0")
    assert int(time_of(page) * FPS) == x[0]
    page.locator("body").press("ArrowRight")
    until(page, f"document.getElementById('player').currentTime * {FPS} > {x[1]}")
    page.locator("body").press("ArrowLeft")
    until(page, f"document.getElementById('player').currentTime * {FPS} < {x[0]} + 1")

    uids = stored[8].find()
    for key, uid in (("ArrowDown", uids[1]), ("j", uids[2]), ("k", uids[1]), ("ArrowUp", uids[0])):
        page.locator("body").press(key)
        until(page, "uid => document.getElementById('shown-uid').textContent === uid", uid)
    assert page.locator(".uids a.here").inner_text().split("\n")[1] == uids[0]
    page.focus("#search")
    page.keyboard.press("j")  # what is typed is no command
    page.wait_for_selector("text=No video meets these filters.")


def test_another_class_and_a_contrast(watched, address, stored):
    page = show(watched.page, address)
    browser, uid = stored[8], uid_of(watched.page)
    label = browser.row(uid).label
    other = next(c for c in range(len(browser.class_names)) if c != label)
    names = browser.class_names
    choose(page, "classes", names[other])
    until(page, "document.querySelectorAll('#timeline .annotation-text').length === 2")
    assert {int(c) for c in state_of(page)["classes"].split(",")} == {label, other}
    attribution = browser.attribution(uid)
    row = [text.startswith(names[other]) for text in headings(page)].index(True)
    np.testing.assert_allclose(bars(page, row)[1], attribution.for_class(other), rtol=1e-6)

    choose(page, "contrast-a", names[label])
    choose(page, "contrast-b", names[other])
    until(page, "document.querySelectorAll('#timeline .annotation-text').length === 3")
    assert headings(page)[2] == f"{names[label]} minus {names[other]}"
    expected = attribution.contrast(label, other)
    np.testing.assert_allclose(bars(page, 2)[1], expected, rtol=1e-6)
    assert (state_of(page)["a"], state_of(page)["b"]) == (str(label), str(other))
    page.go_back()
    until(page, "document.querySelectorAll('#timeline .annotation-text').length === 2")


def test_another_number_of_frames(watched, address, stored):
    page = show(watched.page, address)
    uid = uid_of(page)
    assert page.locator("#frames").is_visible()
    page.locator("#frames [role=slider]").press("ArrowRight")
    until(page, f"document.querySelectorAll('{BARS}').length === 16")
    assert state_of(page)["frames"] == "16" and uid_of(page) == uid
    row = stored[16].row(uid)
    expected = stored[16].attribution(uid).for_class(row.label)
    np.testing.assert_allclose(bars(page)[1], expected, rtol=1e-6)
    for _ in range(2):
        page.locator("#frames [role=slider]").press("ArrowLeft")
    until(page, f"document.querySelectorAll('{BARS}').length === 4")


def test_other_methods_are_marked_beside_the_bars(watched, address, stored):
    page = show(watched.page, address)
    uid = uid_of(page)
    choose(page, "methods", "integrated gradients")
    page.wait_for_selector("#timeline .scatterlayer .point")
    data = page.evaluate("document.querySelector('#timeline .js-plotly-plot').data")
    marks = next(trace for trace in data if trace["type"] == "scatter")
    label = stored[8].row(uid).label
    expected = stored[8].method_values(uid)["integrated_gradients"][:, label]
    np.testing.assert_allclose(marks["customdata"], expected, rtol=1e-6)
    largest = np.abs(stored[8].attribution(uid).for_class(label)).max()
    np.testing.assert_allclose(np.abs(marks["y"]).max(), largest, rtol=1e-5)
    assert state_of(page)["methods"] == "integrated_gradients"


def test_an_address_restores_the_page(watched, browser, address, stored):
    uid = stored[8].find()[2]
    query = f"?uid={uid}&frames=16&classes=3,5&a=3&b=5&methods=grad_cam&sort=score&order=descending"
    page = show(watched.page, address, query)
    other = Watched(browser)
    try:
        show(other.page, address)
        assert uid_of(other.page) != uid
        show(other.page, address, page.url.removeprefix(f"{address}/"))
        for look in (uid_of, state_of, headings, bars):
            assert look(other.page) == look(page)
        assert len(bars(page)[0]) == 16 and len(headings(page)) == 3
        assert other.complaints == []
        assert other.page.locator(".uids a small").all_inner_texts() == (
            page.locator(".uids a small").all_inner_texts()
        )
    finally:
        other.close()


def test_lists_are_filtered_and_sorted(watched, address, stored):
    page = show(watched.page, address)
    browser = stored[8]
    choose(page, "sort", "score")
    until(page, "new URL(location).searchParams.get('sort') === 'score'")
    page.check("#order input")
    expected = browser.find(sort="score", descending=True)
    until(
        page,
        "uids => JSON.stringify([...document.querySelectorAll('.uids a span:nth-child(2)')]"
        ".map(e => e.textContent)) === JSON.stringify(uids)",
        expected,
    )
    page.fill("#search", expected[1][-5:])
    until(page, "document.querySelectorAll('.uids a').length === 1")
    until(page, "uid => document.getElementById('shown-uid').textContent === uid", expected[1])
    assert state_of(page)["search"] == expected[1][-5:]


def test_the_overview(watched, address):
    page = show(watched.page, address)
    page.click("text=Overview")
    page.wait_for_selector("#overview .barlayer .point")
    assert page.locator("#overview .js-plotly-plot").count() == 4
    assert f"{N_VIDEOS} videos" in page.inner_text("#overview")
    assert page.locator("#video-page").is_hidden()
    page.click("text=Videos")
    page.wait_for_selector(BARS)
    assert page.locator("#overview-page").is_hidden()


@pytest.mark.parametrize("page_name", ["video", "overview"])
def test_pages_fit_the_width_of_a_phone(watched, address, page_name):
    page = watched.page
    page.set_viewport_size({"width": 1280, "height": 844})
    page.goto(f"{address}/?page={page_name}&classes=3,5&a=3&b=5")
    drawn = ".barlayer .point"
    page.wait_for_selector(f"#{'timeline' if page_name == 'video' else 'overview'} {drawn}")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)  # graphs are drawn anew in their new width
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    beyond = page.evaluate(
        """[...document.querySelectorAll('main *, #overview *')].filter(e => {
          const box = e.getBoundingClientRect();
          return box.width > 0 && box.right > 391
            && !e.closest('svg, .uids, .strip, .dash-dropdown-focus-target');
        }).map(e => `${e.tagName} #${e.id} .${e.className.baseVal ?? e.className}`)"""
    )
    assert beyond == []
    if page_name == "video":
        boxes = [page.locator(name).bounding_box() for name in ("#stage-video", "#scores-panel")]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"] + 1
        assert all(box["width"] > 300 for box in boxes)


def test_pages_without_content_have_a_note(watched, address):
    page = watched.page
    page.goto(f"{address}/?uid=%3Cscript%3Ealert(1)%3C/script%3E")
    page.wait_for_selector("#head .note")
    assert "no video called '<script>alert(1)</script>'" in page.inner_text("#head")
    assert page.locator("#timeline-panel").is_hidden() and page.locator("#scores-panel").is_hidden()
    page.goto(f"{address}/?search=nothing+like+this")
    page.wait_for_selector("text=No video meets these filters.")
    page.click("text=Show all videos")
    page.wait_for_selector(BARS)
    assert re.fullmatch(r"synthetic-.*", uid_of(page))


# The report


@pytest.fixture(scope="module")
def written(demo):
    """The demo's report, with pictures, opened as a file."""
    page = demo / "report.html"
    assert main(["report", str(demo), "-o", str(page)]) == 0
    return page.as_uri()


@pytest.fixture
def read(browser, written):
    """The page of the report, which must end without complaints, having asked for itself alone."""
    watched = Watched(browser)
    watched.page.goto(written)
    yield watched.page
    complaints, asked = watched.complaints, {url.split("#")[0] for url in watched.asked}
    watched.close()
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {written}


def drawn(card):
    """What a card of the report shows: paths by name, words of the bars, cells of the table."""
    paths = ("supporting", "distracting", "whiskers", "band", "step")
    found = {name: card.locator(f"path.{name}").get_attribute("d") for name in paths}
    words = card.locator(".hit").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    return found, words, card.locator("tbody td:nth-child(3)").all_text_contents()


def test_the_report_draws_every_class_as_the_library_does(read, stored):
    browser = stored[8]
    cards = read.locator("#gallery > article.card")
    assert cards.count() == N_VIDEOS
    assert read.locator(".frames img").count() == 8 * N_VIDEOS
    for k, uid in enumerate(browser.find()):
        card, expected = cards.nth(k), make_card(browser, uid)
        assert card.locator("h3").text_content() == uid
        menu = card.locator("select.class")
        assert menu.locator("option").count() == len(expected.classes)
        for j in [*range(len(expected.classes)), expected.shown]:
            menu.select_option(str(j))
            values = expected.classes[j]
            chart = bar_paths(values.esv, values.half)
            paths, words, cells = drawn(card)
            assert paths == {name: getattr(chart, name) for name in paths}
            assert words == element_texts(expected.elements, values)
            assert cells == [number(value, sign=True) for value in values.esv]
            assert card.locator(".shown").first.text_content() == values.name


def test_the_report_contrasts_two_classes(read, stored):
    browser = stored[8]
    uid = browser.find()[0]
    expected, card = make_card(browser, uid), read.locator("article.card").first
    card.locator("select.class").select_option("0")
    card.locator("select.minus").select_option("1")
    a, b = (values.number for values in expected.classes[:2])
    contrast = np.asarray(browser.attribution(uid).contrast(a, b))
    _, words, _ = drawn(card)
    said = [float(text.split("ESV ")[1].split(",")[0]) for text in words]
    np.testing.assert_allclose(said, contrast, atol=5.1e-4)
    assert card.locator(".other").first.text_content() == expected.classes[1].name


def test_bars_frames_and_table_of_the_report_follow_each_other(read):
    card = read.locator("article.card").first
    card.locator("summary").click()
    for i in (5, 0, 7):
        card.locator(".hit").nth(i).hover(force=True)
        assert card.locator(".hit.on").count() == card.locator("tr.on").count() == 1
        assert card.locator(".frames li.on").get_attribute("data-element") == str(i)
        assert card.locator("tr.on th").text_content() == str(i)
        said = card.locator(".hit").nth(i).get_attribute("aria-label")
        assert card.locator(".readout").text_content() == said
    card.locator(".hit").nth(0).focus()
    read.keyboard.press("End")
    assert card.locator("tr.on th").text_content() == "7"
    read.keyboard.press("ArrowLeft")
    assert card.locator("tr.on th").text_content() == "6"


def test_the_report_is_searched_and_sorted(read, stored):
    uids = stored[8].find()

    def listed():
        return [e.text_content() for e in read.locator("article.card:not([hidden]) h3").all()]

    read.select_option("#sort", "evidence")
    read.check("#reverse")
    assert listed() == stored[8].find(sort="evidence", descending=True)
    read.fill("#search", uids[1])
    assert listed() == [uids[1]]
    read.fill("#search", "nothing like this")
    assert listed() == [] and read.locator("#none").is_visible()


def test_the_report_links_to_videos_and_fits_a_phone(read, stored, written):
    uid = stored[8].find()[3]
    read.goto(f"{written}#video={uid}")
    assert read.locator(".card:target h3").text_content() == uid
    read.set_viewport_size({"width": 390, "height": 844})
    assert read.evaluate("document.documentElement.scrollWidth") <= 390
