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
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import esv_jax as ej
from experiments.benchmarks.common import Common, command, spread
from experiments.benchmarks.sweep import lengths_of, random_model, write_random
from experiments.browsing import dashboard, find_browser, open_browser

TARGETS = {"first paint": 2.0, "switch": 0.3}
BARS = "#timeline .barlayer .point"
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
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
class Settings(Common):
    """Sizes."""

    switches: int = 20
    """Videos shown one after the other."""
    videos: int = 24_777
    """Videos of the set."""
    folder: Path | None = None
    """Folder of features and results, which are reused; default a temporary folder."""


def actions(page: Any, address: str, switches: int) -> Iterator[tuple[str, list[float]]]:
    """Seconds of each action."""
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(BARS)
    bars = time.perf_counter() - start
    yield "first paint", [page.evaluate(_PAINT)]
    yield "bars", [bars]
    page.wait_for_timeout(1000)
    taken = []
    for _ in range(switches):
        taken.append(page.evaluate(_SWITCH))
        page.wait_for_timeout(100)
    yield "switch", taken
    name = page.locator(".uids a span:nth-child(2)").last.text_content()
    start = time.perf_counter()
    page.fill("#search", name)
    page.locator("#shown-uid").get_by_text(name, exact=True).wait_for()
    yield "search", [time.perf_counter() - start]
    start = time.perf_counter()
    page.click("text=Overview")
    page.wait_for_selector("#overview .heatmaplayer image")
    yield "overview", [time.perf_counter() - start]


def measured(settings: Settings) -> Iterator[dict[str, Any]]:
    """Times of all actions."""
    path = find_browser()
    if path is None:
        raise SystemExit("Chromium is needed, and was not found.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        features = write_random(folder / "features.hdf", lengths_of(None, settings.videos))
        ej.sweep(features, random_model(), folder / "exact", frames=8)
        start = time.perf_counter()
        with dashboard(str(folder / "exact")) as address, open_browser(path) as browser:
            found = [("started", [time.perf_counter() - start])]
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            found += actions(page, address, settings.switches)
    for case, times in found:
        slowest = {"slowest_s": max(times), "target_s": TARGETS.get(case)}
        yield {"case": case, **spread(times), **slowest}


if __name__ == "__main__":
    command(Settings, __doc__, measured)
