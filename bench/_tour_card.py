"""Watches the tour as a visitor sees it: its card in headless Chromium, and how long the card shows no change."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

_READY_MS = 60_000


class TourCard:
    """The home page in a browser. `look` is called repeatedly while a tour is running.

    Attributes:
        first_change_s: seconds from the click to the first change of text on the page; None if there was none yet.
        longest_still_s: the longest time in seconds without any change of text.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._text = ""
        self._clicked = self._changed = 0.0
        self.first_change_s: float | None = None
        self.longest_still_s = 0.0

    def start(self) -> None:
        """Click on "Take the tour", or on "Repeat the tour"."""
        button = self._page.locator(".st-key-home_tour button")
        button.wait_for(timeout=_READY_MS)
        self._text = self._words()
        button.click()
        self._clicked = self._changed = time.monotonic()
        self.first_change_s, self.longest_still_s = None, 0.0

    def look(self) -> None:
        """Compare the text on the page with the previous one."""
        text, now = self._words(), time.monotonic()
        self.longest_still_s = max(self.longest_still_s, now - self._changed)
        if text == self._text:
            return
        self._text, self._changed = text, now
        if self.first_change_s is None:
            self.first_change_s = now - self._clicked

    def _words(self) -> str:
        return self._page.locator("[data-testid=stMain]").inner_text()


@contextmanager
def opened(url: str, language: str) -> Iterator[TourCard]:
    """Open the home page in the language `en` or `zh_CN` until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(f"{url}/?lang={language}")
        yield TourCard(page)
        browser.close()
