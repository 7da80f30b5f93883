"""Headless Chromium, and the dashboard as a child process."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No requests by the browser itself, and no use of shared memory, which may be too small.
_FLAGS = (
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--disable-quic", "--disable-gpu", "--disable-dev-shm-usage"),
)


def find_browser() -> str | None:
    """Path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.contextmanager
def open_browser(path: str) -> Iterator[Any]:
    """Headless Chromium driven by Playwright; for root without its sandbox, which refuses root."""
    from playwright.sync_api import sync_playwright

    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    """An unused port of this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextlib.contextmanager
def dashboard(*words: str, said: list[str] | None = None) -> Iterator[str]:
    """Runs `esv-jax dashboard` with arguments as a child process; yields its address.

    Args:
      said: receives the lines that it prints.
    """
    said = [] if said is None else said
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", "from esv_jax.cli import run; run()"]
        + ["dashboard", *words, "--port", str(port), "--token", ""],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    is_ready = threading.Event()

    def listen() -> None:
        for line in process.stdout or ():
            said.append(line)
            if line.startswith("Results at"):
                is_ready.set()
        is_ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        if not (is_ready.wait(120) and process.poll() is None):
            raise RuntimeError(f"the dashboard did not start: {''.join(said)}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        listener.join(30)
        if process.stdout:
            process.stdout.close()
