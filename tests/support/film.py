"""Frames of a page, for the images and animations in docs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tests.support.studio_process import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FRAMES = ROOT / "docs" / "screenshots"
_EVERY_S = 0.8
_FASTER = 4  # speed-up factor, so that three minutes on a busy machine become watchable


class Film:
    """Frames of a page with their durations; saved as one animated WebP, and some also as separate images.

    Args:
        every_s: how often `roll` captures a frame; it is shown `faster` times as fast.
        width: of the animation, in pixels.
    """

    def __init__(self, page: Page, every_s: float = _EVERY_S, faster: int = _FASTER, width: int = 640) -> None:
        self._page, self._every_s, self._faster, self._width = page, every_s, faster, width
        self._frames: list[tuple[Image.Image, int]] = []

    def take(self, name: str | None = None, *, ms: int | None = None) -> None:
        """Capture the current page; `name`: also save it in docs/screenshots, with 64 colours."""
        picture = Image.open(io.BytesIO(self._page.screenshot(animations="disabled"))).convert("RGB")
        if name is not None:
            picture.quantize(64).save(FRAMES / f"{name}.png", optimize=True)
        height = round(picture.height * self._width / picture.width)
        small = picture.resize((self._width, height), Image.Resampling.LANCZOS)
        self._frames.append((small, ms or round(self._every_s * 1000 / self._faster)))

    def roll(self, over: Callable[[], bool]) -> None:
        """Capture a frame at intervals until the condition holds."""
        while not over():
            began = time.monotonic()
            self.take()
            self._page.wait_for_timeout(max(0.0, self._every_s - (time.monotonic() - began)) * 1000)

    def roll_until_there(self, seen: Locator) -> None:
        """Capture a frame at intervals until an element is on the page."""
        self.roll(lambda: seen.count() > 0)

    def save(self, path: Path) -> None:
        """Write the animation."""
        pictures, stands = zip(*self._frames, strict=True)
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=list(stands), loop=0, quality=45, method=4
        )
