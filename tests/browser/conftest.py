"""A browser, and the app with an engine whose stories a test controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support import studio_process
from tests.support.story_server import StreamingServer
from tests.support.studio_process import CHROMIUM, RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def streaming_server() -> Iterator[StreamingServer]:
    with StreamingServer() as server:
        yield server


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, streaming_server: StreamingServer) -> Iterator[RunningStudio]:
    home = tmp_path_factory.mktemp("stories") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=streaming_server.url.removesuffix("/v1")) as studio:
        yield studio


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real Chromium; skips where playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser without pages; pages that a test opened are closed when it ends or fails."""
    yield chromium
    for context in chromium.contexts:
        context.close()
