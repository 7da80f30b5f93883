"""The page of results: what stands on it, what it escapes, what it forbids, and the command."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from importlib import resources
from statistics import NormalDist
from urllib.parse import unquote

import jax
import numpy as np
import PIL.Image
import pytest

import esv_jax as ej
from esv_jax import display, svg
from esv_jax.cli import main
from esv_jax.display import UNKNOWN, element_text, number
from esv_jax.report import write_report
from esv_jax.report.cards import labelled
from esv_jax.report.page import json_block
from esv_jax.results.browser import Browser
from tests.sweeps_for_tests import LENGTHS, run_sweep, write_set

NAMES = ("</script><script>alert(1)</script>", "plain", "quote \" & ' <b>", "two\nlines", "e", "f")
EVIL = "<img src=x onerror=alert(1)>"
LABELS = (1, 0, -1, 3, 2)
UIDS = ("clip-a", EVIL, "clip-c", "</script>", "clip-e")
SIZES = (3, 8, 5, 60, 20)


class Page(HTMLParser):
    """A page as a parser reads it: every tag with its attributes, and the text of each script."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self.text = [], {}, ""
        self._script = None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._script = dict(attrs).get("type", "") if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.text += data
        else:
            self.scripts[self._script] = data

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [had for name, had in self.tags if name == tag and wanted.items() <= had.items()]

    @property
    def videos(self):
        return json.loads(self.scripts["application/json"])["videos"]

    @property
    def uids(self):
        return [video["uid"] for video in self.videos]


def make_records(sampled=False):
    rng = np.random.default_rng(5)
    records = []
    for n in SIZES:
        values = (rng.normal(size=(n, len(NAMES))) / 7).astype(np.float32)
        prior = np.full(len(NAMES), 1 / len(NAMES), np.float32)
        error = abs(rng.normal(size=values.shape) / 50).astype(np.float32) if sampled else None
        scores = prior + values.sum(0)
        records.append(
            ej.Attribution(values, scores, prior, None, error, None, 12, exact=not sampled)
        )
    return records


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "few.nc"
    index = [3 * np.arange(n) + 1 for n in SIZES]
    settings = {"estimator": "Exact()", "seed": 4, "note": EVIL}
    records = make_records()
    given = {"class_names": NAMES, "labels": LABELS, "element_index": index, "settings": settings}
    ej.results.save(path, records, uids=UIDS, **given)
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep in which the shortest sequences failed."""
    folder = tmp_path_factory.mktemp("swept")
    write_set(folder)
    run_sweep(folder, min_elements=3)
    return folder / "out"


def write(results, folder, **options):
    path = folder / "page.html"
    report = write_report(results, path, overwrite=True, **options)
    return report, Page(path)


def error_of(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("esv-jax:")]
    assert len(lines) == 1
    return lines[0]


# Values


@pytest.mark.parametrize("sampled", [False, True])
def test_values_on_the_page_are_those_of_the_results_bit_for_bit(tmp_path, sampled):
    records = make_records(sampled)
    ej.results.save(tmp_path / "r.nc", records, uids=UIDS, labels=LABELS, class_names=NAMES)
    report, page = write(tmp_path / "r.nc", tmp_path)
    assert (report.n_shown, report.n_matching, report.n_failed) == (5, 5, 0)
    assert page.uids == list(UIDS)
    for video, record, label in zip(page.videos, records, LABELS, strict=True):
        order = np.argsort(-np.asarray(record.scores), kind="stable").tolist()
        kept = [c for c in order if c in {*order[:5], label}]
        assert [c["class"] for c in video["classes"]] == kept
        assert video["elements"] == list(range(record.n))
        assert video["shown"] == 0  # the predicted class has the highest score
        true = None if label < 0 else kept.index(label)
        assert video["place"] == {"predicted": 0, "true": true}
        for given in video["classes"]:
            c = given["class"]
            assert given["name"] == NAMES[c]
            for name, array in (("esv", record.values), ("std_error", record.std_error)):
                if array is None:
                    assert given[name] is None
                else:
                    np.testing.assert_array_equal(np.float32(given[name]), array[:, c], strict=True)
            assert np.float32(given["score"]) == record.scores[c]
            assert np.float32(given["prior"]) == record.prior[c]


def test_the_table_and_the_labels_of_bars_agree(saved, tmp_path):
    _, page = write(saved, tmp_path, uids=["clip-a"])
    values = page.videos[0]["classes"][0]["esv"]
    labels = [had["aria-label"] for had in page.all("rect", class_="hit")]
    kinds = ["supporting" if value > 0 else "distracting" for value in values]
    assert labels == [
        f"frame {3 * i + 1}: ESV {value:+.3f}, {kind}"
        for i, (value, kind) in enumerate(zip(values, kinds, strict=True))
    ]
    for value in values:
        assert f"<td>{value:+.3f}</td>" in page.source
    assert [had["tabindex"] for had in page.all("rect", class_="hit")] == ["0", "-1", "-1"]


@pytest.mark.parametrize(
    ("shown", "first"),
    [("gt", [1, 0, None, 3, 2]), ("plain", [1] * 5), ("pred", None)],
)
def test_the_class_shown_first(saved, tmp_path, shown, first):
    report, page = write(saved, tmp_path, shown=shown)
    for video, c in zip(page.videos, first or [None] * 5, strict=True):
        at = video["classes"][video["shown"]]
        assert at["class"] == c if c is not None else at["name"] == video["predicted"]
    noted = {"clip-c": ("The true class is not known. Another is shown.",)} if shown == "gt" else {}
    assert report.notes == noted
    assert ("The true class is not known." in page.text) == bool(noted)


def test_chosen_classes_of_a_sweep(swept, tmp_path):
    write_set(tmp_path)
    run_sweep(tmp_path, classes="gt", limit=4)
    report, page = write(tmp_path / "out", tmp_path)
    with ej.results.open(tmp_path / "out") as dataset:
        for video in page.videos:
            (only,) = video["classes"]
            assert only["name"] == video["true"]
            assert video["place"] == {"predicted": 0 if video["correct"] else None, "true": 0}
            expected = ej.results.load_attribution(dataset, video["uid"]).values[:, 0]
            np.testing.assert_array_equal(np.float32(only["esv"]), expected, strict=True)
    wrong = {video["uid"] for video in page.videos if not video["correct"]}
    assert report.notes.keys() == wrong
    assert wrong and "No values of the predicted class are stored." in page.text


# Charts


def paths_of(esv, std_error=None):
    half = None
    if std_error is not None:
        half = np.float32(NormalDist().inv_cdf(0.975)) * np.float32(std_error)
    return svg.bar_paths(np.float32(esv), half)


def test_bars_start_at_zero_and_end_at_their_values():
    drawn = paths_of([0.5, -0.25, 0.0])
    assert (drawn.zero_height, drawn.zero) == ("66.67", "M0 66.67H3")
    assert drawn.supporting == "M0.12 66.67V0H0.88V66.67Z"
    assert drawn.distracting == "M1.12 66.67V100H1.88V66.67ZM2.12 66.67V66.67H2.88V66.67Z"
    assert (drawn.whiskers, drawn.band, drawn.step) == ("", "", "")
    assert (drawn.top, drawn.bottom) == ("0.500", "-0.250")
    assert element_text(6, 0.0) == "frame 6: ESV +0.000, distracting"


def test_whiskers_are_95_percent_intervals_within_the_axis():
    drawn = paths_of([1.0, -1.0], [0.5, 0.0])
    half = 0.5 * NormalDist().inv_cdf(0.975)
    y = [100 * (1 + half - v) / (2 + half) for v in (1 - half, 1 + half)]
    first = f"M0.35 {y[0]:.2f}H0.65M0.5 {y[0]:.2f}V0M0.35 0H0.65"
    assert drawn.whiskers.startswith(first)
    assert element_text(0, 1.0, half) == "frame 0: ESV +1.000 ± 0.980, supporting"


def test_many_elements_are_a_line_of_steps_with_a_band():
    n = display.MOST_BARS + 1
    drawn = paths_of([0.5] * n, [0.1] * n)
    assert drawn.whiskers == ""
    assert drawn.step.startswith("M0 28.16V28.16H1") and drawn.step.endswith(f"H{n}")
    assert drawn.band.startswith("M0 0V0H1") and drawn.band.endswith("H0Z")
    assert paths_of([0.5] * n).band == ""


def test_zeros_and_nan_are_flat_bars():
    drawn = paths_of([0.0, np.nan])
    assert (drawn.zero_height, drawn.bottom) == ("100", "")
    assert element_text(1, np.nan) == "frame 1: ESV not known"
    assert element_text(1, 0.5, np.nan) == "frame 1: ESV +0.500, supporting"


def test_nan_is_a_dash_and_zero_has_no_minus(tmp_path):
    assert [number(v, sign=True) for v in (-0.0, np.nan, -2e-4)] == ["+0.000", UNKNOWN, "-2.0e-4"]
    assert [number(v) for v in (np.nan, 0.1, 0.0)] == [UNKNOWN, "0.100", "0.000"]
    values, error = np.float32([[-0.0], [0.5], [-2e-4]]), np.float32([[np.nan], [0.1], [0.0]])
    record = ej.Attribution(values, np.ones(1), np.zeros(1), std_error=error, exact=False)
    ej.results.save(tmp_path / "r.nc", [record], uids=["one"])
    source = write(tmp_path / "r.nc", tmp_path)[1].source
    for value, width in (("+0.000", UNKNOWN), ("+0.500", "0.100"), ("-2.0e-4", "0.000")):
        assert f"<td>{value}</td><td>{width}</td>" in source
    assert 'aria-label="frame 0: ESV +0.000, distracting"' in source


def test_intervals_are_those_of_the_record(tmp_path):
    records = make_records(sampled=True)
    ej.results.save(tmp_path / "r.nc", records, uids=UIDS)
    _, page = write(tmp_path / "r.nc", tmp_path)
    labels = iter(had["aria-label"] for had in page.all("rect", class_="hit"))
    for record in records:
        c = int(np.argmax(record.scores))
        half = np.asarray(record.half_width(0.95))[:, c]
        for width, value in zip(half, record.values[:, c], strict=True):
            kind = "supporting" if value > 0 else "distracting"
            said = f"{number(value, sign=True)} ± {number(width)}, {kind}"
            assert next(labels).endswith(f": ESV {said}")
    constant = re.search(r"NORMAL_95 = ([\d.]+)", page.scripts[""])[1]
    one = ej.Attribution(*np.ones((3, 1, 1), np.float32), std_error=np.ones((1, 1), np.float32))
    assert np.float32(float(constant)) == one.half_width(0.95)[0, 0]


def test_labels_and_pictures_below_the_bars():
    assert labelled(np.arange(5), pictures=False).tolist() == [0, 1, 2, 3, 4]
    for n, pictures, k in ((32, False, 16), (32, True, 32), (300, True, 16)):
        found = labelled(np.arange(n), pictures)
        np.testing.assert_array_equal(found * k // n, np.arange(k))  # each within its own slot
    assert len(labelled(np.arange(32) + 9000, pictures=False)) == 8
    for n in (1, 16, 17, 41, 300):
        labels = labelled(np.arange(n), pictures=False)
        steps = np.diff(labels)
        assert labels[0] * 2 + 1 <= n and len(labels) <= 16 and len(set(steps.tolist())) <= 1
        assert n == 1 or (labels[0] <= steps[0] / 2 and n - 1 - labels[-1] < steps[0])


def test_labels_are_below_their_bars(saved, tmp_path):
    _, page = write(saved, tmp_path, uids=["</script>"])
    found = [
        (int(had["data-element"]), had["style"]) for had in page.all("li") if "data-element" in had
    ]
    assert [i for i, _ in found] == labelled(3 * np.arange(60) + 1, False).tolist()
    for i, style in found:
        assert float(re.fullmatch(r"left:([\d.]+)%", style)[1]) == pytest.approx(
            100 * (i + 0.5) / 60, abs=0.01
        )


def test_the_script_draws_with_the_same_constants(saved, tmp_path):
    script = write(saved, tmp_path)[1].scripts[""]
    for name in ("MOST_BARS", "GAP", "CAP", "NEAR"):
        assert re.search(rf"\b{name} = ([\d.]+)", script)[1] == str(getattr(svg, name))


def test_colours_are_the_shared_ones_and_have_enough_contrast():
    style = resources.files("esv_jax.report").joinpath("style.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#[0-9a-fA-F]+);", style))
    assert colours["supporting"].upper() == display.SUPPORTING
    assert colours["distracting"].upper() == display.DISTRACTING

    def luminance(name):
        digits = colours[name][1:]
        digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
        light = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        red, green, blue = (v / 12.92 if v <= 0.04 else ((v + 0.055) / 1.055) ** 2.4 for v in light)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for text, ground in (("ink", "mark"), ("quiet", "paper"), ("quiet", "ground")):
        assert (luminance(ground) + 0.05) / (luminance(text) + 0.05) > 4.5  # of WCAG 2, level AA
    for bar in ("supporting", "distracting"):
        assert (luminance("paper") + 0.05) / (luminance(bar) + 0.05) > 3


# Nothing gets out, nothing gets in


def test_the_page_makes_no_network_requests(saved, tmp_path):
    _, page = write(saved, tmp_path)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", page.source.replace("</", ""))
    for tag, had in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in had)
        assert had.get("src", "data:").startswith("data:")
        assert had.get("href", "data:").startswith(("data:", "#"))


def test_the_policy_allows_one_script_only(saved, tmp_path):
    _, page = write(saved, tmp_path)
    (policy,) = [
        had["content"] for had in page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    ]
    script = page.scripts[""]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ")[:4] == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]
    assert len(page.all("script")) == 2
    assert not re.search(r"innerHTML|insertAdjacent|eval\(|document\.write", script)


def test_hostile_names_are_escaped(saved, tmp_path):
    _, page = write(saved, tmp_path, title=EVIL)
    assert "<img" not in page.source.replace("&lt;img", "")
    assert page.source.count("<script") == page.source.count("</script") == 2
    assert page.uids == list(UIDS)  # unharmed
    assert {c["name"] for video in page.videos for c in video["classes"]} == set(NAMES)
    for text in (EVIL, NAMES[0], NAMES[2], "</script>"):
        assert text in page.text
    assert html.escape(EVIL) in page.source


def test_every_video_has_its_own_anchor(tmp_path):
    uids = ["two\nlines", "a b", "a%20b", "search", "</script>", "\u2028:", "q\"'&<", "ä" * 300]
    record = make_records()[0]
    ej.results.save(tmp_path / "r.nc", [record] * len(uids), uids=uids)
    _, page = write(tmp_path / "r.nc", tmp_path)
    anchors = [had["id"] for had in page.all("article")]
    assert [unquote(anchor.removeprefix("video=")) for anchor in anchors] == uids == page.uids
    assert all(re.fullmatch(r"video=[\w.~%-]+", anchor, re.ASCII) for anchor in anchors)
    links = [had["href"] for had in page.all("a") if "title" in had]
    assert links == [f"#{anchor}" for anchor in anchors]
    ids = [had["id"] for _, had in page.tags if "id" in had]
    assert len(ids) == len(set(ids))


def test_the_json_block_holds_no_letter_of_a_tag():
    content = {"<!--<script>": "</script>&\u2028é"}
    block = json_block(content)
    assert block.isascii() and not set("<>&") & set(block)
    assert json.loads(block) == content


def test_uids_of_other_alphabets_and_directions(tmp_path):
    record = make_records()[0]
    ej.results.save(tmp_path / "r.nc", [record], uids=["\u202eabc é"])
    _, page = write(tmp_path / "r.nc", tmp_path)
    assert page.uids == ["\u202eabc é"]


# What is on the page


def test_limits_filters_and_order(saved, tmp_path):
    def uids(**options):
        return write(saved, tmp_path, **options)[1].uids

    assert uids(limit=2) == list(UIDS[:2])
    assert uids(sort="length", descending=True, limit=2) == ["</script>", "clip-e"]
    assert uids(uids=["clip-e", "clip-a"], sort="uid") == ["clip-a", "clip-e"]
    with ej.results.open(saved) as dataset:
        browser = Browser(dataset)
        for sort in ("file", "uid", "evidence", "score", "gap", "length"):
            assert uids(sort=sort) == browser.find(sort=sort)
        for correct in (True, False):
            assert uids(correct=correct) == browser.find(correct=correct)
        rows = {uid: browser.row(uid) for uid in UIDS}
    report, page = write(saved, tmp_path, limit=1)
    assert (report.n_shown, report.n_matching) == (1, 5)
    assert "1 of 5 matching, of 5 in all; in the order of the file." in page.text
    for video in page.videos:
        row = rows[video["uid"]]
        assert (video["correct"], video["evidence"]) == (row.correct, row.evidence)
        assert (video["score"], video["gap"]) == (row.score, row.gap)
    assert "All 5; in the order of the file." in write(saved, tmp_path)[1].text


def test_the_head_says_how_the_results_were_made(saved, tmp_path):
    _, page = write(saved, tmp_path)
    with ej.results.open(saved) as dataset:
        attributes = dict(dataset.attrs)
    for name in ("esv_jax_version", "jax_version", "created", "device", "format"):
        assert str(attributes[name]) in page.text
    assert json.dumps(json.loads(attributes["settings"]), indent=2) in page.text
    assert "% of 4 labelled videos" in page.text
    assert page.all("html", lang="en") and page.all("main") and page.all("header")
    assert "Element Shapley Values: few" in page.text
    ids = [had["id"] for _, had in page.tags if "id" in had]
    assert len(ids) == len(set(ids))


def test_sampled_values_have_whiskers_or_a_band(tmp_path):
    records = make_records(sampled=True)
    ej.results.save(tmp_path / "r.nc", records, uids=UIDS)
    _, page = write(tmp_path / "r.nc", tmp_path)
    whiskers = [had["d"] for had in page.all("path", class_="whiskers")]
    bands = [had["d"] for had in page.all("path", class_="band")]
    assert [bool(d) for d in whiskers] == [n <= 40 for n in SIZES]
    assert [bool(d) for d in bands] == [n > 40 for n in SIZES]
    assert "sampled, 12 evaluations" in page.text and "standard error" in page.text


def test_failures_are_listed_with_their_reasons(swept, tmp_path):
    report, page = write(swept, tmp_path)
    n = LENGTHS.count(2)
    assert report.n_failed == n and report.n_shown == len(LENGTHS) - n
    assert f"{n} failed" in page.text
    assert "length: expected at least 3 elements, got 2." in page.text
    assert "video-2" in page.text and "video-2" not in page.uids


def test_pages_without_matches_and_with_failures_only(saved, tmp_path):
    _, page = write(saved, tmp_path, limit=0)
    assert page.videos == [] and "No video meets these conditions." in page.text
    write_set(tmp_path)
    run_sweep(tmp_path, min_elements=100)
    report, page = write(tmp_path / "out", tmp_path)
    assert report.n_failed == len(LENGTHS) and page.videos == []
    assert f"None of the {len(LENGTHS)} videos could be explained." in page.text
    assert page.all("details", class_="failures", open=None)


# Thumbnails


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """Three videos explained with the shipped model: one file is then broken, one missing."""
    folder = tmp_path_factory.mktemp("filmed")
    made = ej.data.synthetic_videos(3, key=jax.random.key(3), n_frames=24, size=64)
    paths = ej.data.synthetic_video.write_synthetic_videos(folder / "videos", made)
    arguments = [str(folder / "videos"), "--frames", "4", "--out", str(folder / "out")]
    assert main(["sweep", *arguments]) == 0
    paths[1].write_bytes(b"no video")
    paths[2].unlink()
    return folder, made.uids


def test_thumbnails_are_those_of_the_frames_explained(filmed, tmp_path):
    folder, uids = filmed
    report, page = write(folder / "out", tmp_path, videos=folder / "videos")
    images = page.all("img")
    frames = page.videos[0]["elements"]
    assert [had["alt"] for had in images] == [f"frame {i}" for i in frames]
    expected = ej.data.decode_frames(folder / "videos" / f"{uids[0]}.mp4", indices=frames, size=96)
    for had, frame in zip(images, expected, strict=True):
        head, content = had["src"].split(",")
        assert head == "data:image/jpeg;base64"
        picture = PIL.Image.open(io.BytesIO(base64.b64decode(content)))
        assert picture.height <= 96
        assert abs(np.asarray(picture, float) - frame).mean() < 6
    assert set(report.notes) == set(uids[1:])
    assert report.notes[uids[2]] == ("No thumbnails: no video of this name was found.",)
    assert report.notes[uids[1]][0].startswith("No thumbnails: ")
    assert page.text.count("No thumbnails: ") == 2


def test_results_without_frame_numbers_have_no_thumbnails(filmed, tmp_path):
    folder, uids = filmed
    ej.results.save(tmp_path / "r.nc", make_records()[:1], uids=uids[:1])
    report, page = write(tmp_path / "r.nc", tmp_path, videos=folder / "videos")
    assert not page.all("img")
    assert "do not say which frames" in report.notes[uids[0]][0]


# The command


def test_the_command_writes_what_the_function_writes(saved, tmp_path, capsys):
    out = tmp_path / "page.html"
    options = ["--wrong", "--sort", "evidence", "--descending", "--class", "plain", "--limit", "3"]
    assert main(["report", str(saved), "-o", str(out), *options]) == 0
    assert f"in {out}" in capsys.readouterr().out
    same = tmp_path / "same.html"
    given = {"correct": False, "sort": "evidence", "descending": True, "shown": "plain", "limit": 3}
    write_report(saved, same, **given)
    assert out.read_bytes() == same.read_bytes()
    assert main(["report", str(saved), "--out", str(out)]) == 2
    assert "overwrite" in error_of(capsys)
    assert out.read_bytes() == same.read_bytes()
    assert main(["report", str(saved), "--out", str(out), "--overwrite", "--uids", "clip-a"]) == 0
    assert Page(out).uids == ["clip-a"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--class", "plian"], "class: expected pred, gt or the name of a class, got 'plian'."),
        (["--uids", "clip-x"], "uids: expected names of the 5 videos, got 'clip-x'."),
        (["--correct", "--wrong"], "expected --correct or --wrong, got both"),
        (["--limit", "-1"], "limit: expected an integer >= 0, got -1."),
        (["--videos", "nowhere"], "nowhere: expected a video, a folder of videos or a list"),
    ],
)
def test_the_command_refuses_bad_options(saved, tmp_path, capsys, options, said):
    out = tmp_path / "page.html"
    assert main(["report", str(saved), "-o", str(out), *options]) == 2
    assert said in error_of(capsys)
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_results_are_refused(tmp_path, capsys):
    out = str(tmp_path / "page.html")
    for name, content in (("absent", None), ("empty.nc", b""), ("text.nc", b"no results")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert main(["report", str(tmp_path / name), "-o", out]) == 2
        assert name in error_of(capsys)


def test_damaged_results_are_reported(swept, tmp_path, capsys, monkeypatch):
    shutil.copytree(swept, tmp_path / "out")
    shard = tmp_path / "out" / "shards" / "00000.nc"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000] + bytes(len(whole) - 2000))
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "page.html")]) == 2
    assert "a sweep's results, got damage in shards/00000.nc. The sweep's" in error_of(capsys)
    monkeypatch.setattr(ej.results.store, "_CHECKED_BYTES", 0)  # as of a large sweep
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "page.html")]) == 2
    assert "expected readable values, got damage. Of a sweep" in error_of(capsys)
