"""Response times of the dashboard in a browser.

    python -m experiments.benchmarks.dashboard --out dashboard.json

Sweeps random features as `experiments.benchmarks.sweep` does (8 frames, 174 classes), starts the
command, and measures in Chromium: `started` from the command to its address, `first paint` and
`bars` from the request to the first paint and to the bars of the first video, `switch` from a click
on "next" to the new bars, `search` from a name to its video, `overview` from a click to figures;
the last two on first use. Needs Chromium.
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
from experiments.benchmarks.common import Table
from experiments.benchmarks.sweep import WIDTH, lengths_of, random_features, random_model
from experiments.benchmarks.sweep import Settings as SetSettings
from experiments.browsing import dashboard, find_browser, open_browser

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
    """Sizes."""

    videos: int = 24_777
    """Videos of the set."""
    switches: int = 20
    """Videos shown one after the other."""
    folder: Path | None = None
    """Folder of features and results, which are reused; default a temporary folder."""
    out: Path | None = None
    """JSON file for the numbers; default none."""


def make_results(folder: Path, videos: int) -> Path:
    """Results of a sweep in a folder, written where they are absent."""
    features, results = folder / "features.hdf", folder / "exact"
    if not features.exists():
        lengths = lengths_of(SetSettings(videos=videos))
        ej.data.write_features(features, random_features(lengths), WIDTH)
    ej.sweep(features, random_model(), results, frames=8)
    return results


def measured(page: Any, address: str, switches: int) -> list[dict[str, Any]]:
    """Seconds of each action."""
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
    table = Table(
        {
            "case": "{case}",
            "median": "{seconds:.3f} s",
            "slowest": "{slowest:.3f} s",
            "target": "{target:g} s",
        }
    )
    for case in cases:
        table.add(case | {"target": TARGETS.get(case["case"])})
    table.store(settings.out, videos=settings.videos)


if __name__ == "__main__":
    main(tyro.cli(Settings))
