"""The dashboard in a real browser: how soon a page is seen, and how soon another video is.

    python -m experiments.benchmarks.dashboard --out dashboard.json

Sweeps a set of random features as `experiments.benchmarks.sweep` does (8 frames, 174 classes),
starts the command, and measures in Chromium: `started` from the command to its address (Python's
start included), `first paint` and `bars` from the request to what is seen first and to the bars of
the first video, `switch` from a click on "next" to the picture after the new bars are drawn,
`search` from a name to its video, `overview` from a click to its figures; the last two the first
time they are asked for. Needs Chromium.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

import esv_jax as ej
from experiments.benchmarks.sweep import WIDTH, lengths_of, random_features, random_model
from experiments.benchmarks.sweep import Settings as SetSettings
from experiments.browsing import dashboard, find_browser, open_browser
from experiments.records import write_cases

TARGETS = {"first paint": 2.0, "switch": 0.3}
BARS = "#timeline .barlayer .point"
_SWITCH = """() => new Promise((done) => {
  const name = () => document.getElementById('shown-uid').textContent;
  const before = name(), start = performance.now();
  let drawn = false;
  document.querySelector('#timeline .js-plotly-plot').once('plotly_afterplot', () => {
    drawn = true;
  });
  document.getElementById('next-video').click();
  const look = () => requestAnimationFrame(
    name() !== before && drawn ? () => done((performance.now() - start) / 1000) : look);
  look();
})"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure."""

    videos: int = 24_777
    """Videos of the set."""
    switches: int = 20
    """Videos that are looked at one after the other."""
    folder: Path | None = None
    """Where features and results go; default a temporary folder. Results there are used again."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def make_results(folder: Path, videos: int) -> Path:
    """A sweep's results in a folder, made where they are not there yet."""
    features, results = folder / "features.hdf", folder / "exact"
    if not features.exists():
        lengths = lengths_of(SetSettings(videos=videos))
        ej.data.write_features(features, random_features(lengths), WIDTH)
    ej.sweep(features, random_model(), results, frames=8)
    return results


def measured(page: Any, address: str, switches: int) -> list[dict[str, Any]]:
    """Seconds of what a person does."""
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(BARS)
    bars = time.perf_counter() - start
    paint = page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
    )
    page.wait_for_timeout(1000)
    taken = []
    for _ in range(switches):
        taken.append(page.evaluate(_SWITCH))
        page.wait_for_timeout(100)
    name = page.locator(".uids a span:nth-child(2)").last.text_content()
    start = time.perf_counter()
    page.fill("#search", name)
    page.locator("#shown-uid").get_by_text(name, exact=True).wait_for()
    search = time.perf_counter() - start
    start = time.perf_counter()
    page.click("text=Overview")
    page.wait_for_selector("#overview .heatmaplayer image")
    overview = time.perf_counter() - start
    return [
        {"case": "first paint", "seconds": paint},
        {"case": "bars", "seconds": bars},
        {"case": "switch", "seconds": statistics.median(taken), "slowest": max(taken)},
        {"case": "search", "seconds": search},
        {"case": "overview", "seconds": overview},
    ]


def main(settings: Settings) -> None:
    path = find_browser()
    if path is None:
        raise SystemExit("Chromium is needed, and was not found.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = make_results(folder, settings.videos)
        start = time.perf_counter()
        with dashboard(str(results)) as address, open_browser(path) as browser:
            cases = [{"case": "started", "seconds": time.perf_counter() - start}]
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            cases += measured(page, address, settings.switches)
    for case in cases:
        target = TARGETS.get(case["case"])
        note = f" (target {target:g} s)" if target else ""
        slowest = f", slowest {case['slowest']:.3f} s" if "slowest" in case else ""
        print(f"{case['case']}: {case['seconds']:.3f} s{slowest}{note}")
    if settings.out is not None:
        write_cases(settings.out, cases, videos=settings.videos)


if __name__ == "__main__":
    main(tyro.cli(Settings))
