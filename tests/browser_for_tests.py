"""Pages of a real browser that remember what they complained of and whom they asked."""

import os
from urllib.parse import urlsplit

import pytest

from experiments.browsing import PROGRAMS, find_browser

NEEDED = "ESV_JAX_NEEDS_BROWSER"  # set where a missing browser should be a failure


def expect_browser() -> str:
    """The path of a Chromium; without one the tests that need it are skipped, or fail in CI."""
    found = find_browser()
    if found is None:
        reason = f"no browser is installed (one of {', '.join(PROGRAMS)})"
        if os.environ.get(NEEDED):
            pytest.fail(f"{reason}, and {NEEDED} is set")
        pytest.skip(reason)
    return found


class Watched:
    """A page, with all that went wrong on it and all addresses it asked for."""

    def __init__(self, browser, width=1280, height=900):
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", self._see)
        self.context.on("request", lambda request: self.asked.append(request.url))

    def _hear(self, said):
        if said.type in ("error", "warning"):
            self.complaints.append(f"{said.type}: {said.text} ({said.location})")

    def _see(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")

    def foreign(self, *origins: str) -> list[str]:
        """Addresses asked for beyond some origins; what a page holds in itself is its own."""
        return [
            url
            for url in self.asked
            if not url.startswith(("data:", "blob:", "about:"))
            and f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" not in origins
        ]

    def close(self):
        self.context.close()
