"""The choice of a writer in a real browser: a sample that grows and stops, and the warning with its way out.

`SCREENSHOTS=1` also takes pictures, in both languages and themes, on a screen and on a phone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import fault_server, studio_process
from tests.fault_server import FaultServer
from tests.studio_process import Studio
from tests.test_browser import press, settled, visit
from tests.test_browser import pytestmark as pytestmark

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_STORY = "Rosa bakes bread. "
_SCREENS = [
    ("en-US", "light", 1440),
    ("en-US", "dark", 390),
    ("zh-CN", "dark", 1440),
    ("zh-CN", "light", 390),
]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """An engine with both packaged writers and their base."""
    with FaultServer(fault_server.text(*(_STORY for _piece in range(9)))) as server:
        tuned = {"fabula": {"base": "gemma-3-270m", "format": "chat"}}
        server.models[:] = [
            {**server.models[0], "id": "storyteller", **tuned},
            {**server.models[0], "id": "storyteller-en", **tuned},
            {**server.models[0], "id": "gemma-3-270m", "fabula": {"base": "gemma-3-270m", "format": "both"}},
        ]
        yield server


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, server: FaultServer) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("writers") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=server.url.removesuffix("/v1")) as studio:
        yield studio


def _choose(page: Page, key: str, model: str) -> None:
    page.get_by_text("counting tokens").wait_for(state="detached")  # its end draws the page, which closes a list
    settled(page)
    page.locator(f".st-key-{key}").get_by_role("combobox").click()
    page.get_by_role("option", name=model, exact=True).click()
    settled(page)


def test_a_sample_grows_while_the_page_stays_usable_and_stops(
    browser: Browser, studio: Studio, server: FaultServer
) -> None:
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    _choose(page, "story_model", "storyteller-en")
    page.get_by_text("Writes stories of the kind it was trained on (English: hero, gift, mood).").wait_for()
    server.when("a gardener", fault_server.stalled(_STORY), fault_server.text(_STORY))
    press(page, "story_model_sample")
    sample = page.locator(".st-key-story_model_sample_text")
    sample.get_by_text(_STORY.strip()).wait_for()
    page.get_by_text("Free prompt", exact=True).click()  # the page draws itself again while the sample is written
    page.locator(".st-key-story_prompt textarea").wait_for()
    sample.get_by_text(_STORY.strip()).wait_for()
    press(page, "story_model_sample_stop")
    sample.get_by_text("stopped; the text so far is kept").wait_for()
    page.locator(".st-key-story_model_sample").wait_for()
    server.release()
    press(page, "story_model_sample")
    sample.get_by_text("complete").wait_for()
    press(page, "story_model_sample_close")
    sample.wait_for(state="detached")
    page.context.close()


@pytest.mark.skipif(not os.environ.get("SCREENSHOTS"), reason="SCREENSHOTS is not set")
@pytest.mark.parametrize(("locale", "scheme", "width"), _SCREENS)
def test_pictures(browser: Browser, studio: Studio, tmp_path: Path, locale: str, scheme: str, width: int) -> None:
    folder = Path(os.environ["SCREENSHOTS"]) if os.environ["SCREENSHOTS"] != "1" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{locale}-{scheme}-{width}.png"
    page = visit(browser, f"{studio.url}/dataset", locale=locale, color_scheme=scheme, width=width)
    _choose(page, "dataset_model", "storyteller" if locale == "en-US" else "storyteller-en")
    page.locator(".st-key-dataset_model_far").wait_for()
    page.screenshot(path=folder / f"dataset-{name}", full_page=True)
    page.goto(f"{studio.url}/story")
    settled(page)
    press(page, "story_model_sample")
    page.locator(".st-key-story_model_sample_close").wait_for()
    page.screenshot(path=folder / f"story-{name}", full_page=True)
    page.context.close()
