"""A real browser for tests, and pages that remember what they complained of and whom they asked."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDED = "ESV_JAX_NEEDS_BROWSER"  # set where a missing browser should be a failure
# Nothing asked for by the browser itself, no sandbox for root, no shared memory that is too small.
FLAGS = (
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--disable-quic", "--disable-gpu", "--disable-dev-shm-usage"),
)


def find_browser() -> str:
    """The path of a Chromium; without one the tests that need it are skipped, or fail in CI."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        reason = f"no browser is installed (one of {', '.join(PROGRAMS)})"
        if os.environ.get(NEEDED):
            pytest.fail(f"{reason}, and {NEEDED} is set")
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def open_browser() -> Iterator:
    """A headless Chromium of the system, driven by Playwright."""
    path = find_browser()
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


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


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@contextlib.contextmanager
def command(*words: str, ready: str) -> Iterator[list[str]]:
    """`esv-jax` with some words as a process of its own, until the end; what it said so far."""
    run = "from esv_jax.cli import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", run, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    is_ready = threading.Event()

    def listen():
        for line in process.stdout:
            said.append(line)
            if ready in line:
                is_ready.set()
        is_ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        assert is_ready.wait(120) and process.poll() is None, "".join(said)
        yield said
    finally:
        process.terminate()
        process.wait(30)
        listener.join(30)
        process.stdout.close()
