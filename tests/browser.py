"""A real browser, headless, that opens pages of the dashboard and notes what goes wrong in them."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ARGUMENTS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = Path(__file__).parents[1] / "build" / "screenshots"
"""Where pictures of the pages go; not in the repository."""


class Browser:
    """One window."""

    def __init__(self, page):
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(f"{page.url}: {error}"))
        page.on("response", self._note)

    def open(self, url, *expected, name=None):
        """Open a page and wait until all these texts are on it; return what it shows."""
        self.page.goto("about:blank")  # a change of the fragment alone would load nothing
        self.page.goto(url)
        return self.wait(*expected, name=name)

    def wait(self, *expected, name=None, seconds=20):
        """Wait until all these texts are on the page; return what it shows."""
        deadline = time.monotonic() + seconds
        for text in expected:
            # not by elements alone, as the viewer of logs colours words, and so cuts lines into many; nor by text
            # alone, which is not told of our bar
            while text not in (shown := self.page.inner_text("body")) and not self.page.get_by_text(text).count():
                assert time.monotonic() < deadline, f"{self.page.url}: {text!r} is not shown, but:\n{shown}"
                self.page.wait_for_timeout(50)
        if name:
            SHOTS.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=SHOTS / f"{name}.png")
        return self.page.inner_text("body")

    def _note(self, response):
        # what live Ray answers so, too: it has no Prometheus, and no events of a platform
        if response.status >= 400 and not response.url.endswith(("/api/prometheus_health", "/api/v0/platform_events")):
            self.errors.append(f"{response.request.method} {response.url}: {response.status}")


@contextmanager
def browser():
    """Yield a window of Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if not chromium:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium; run `make brokers` as root")
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            yield Browser(window.new_page(viewport={"width": 1500, "height": 900}))
        finally:
            window.close()
