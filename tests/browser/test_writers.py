"""Choosing a writer in a real browser: a sample that streams and stops, and the warning with its remedies.

`SCREENSHOTS=1` also takes pictures, in both languages and themes, on a screen and on a phone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page, fault_server, studio_process
from tests.support.browser_page import choose, expect, expect_none, press, settled, shown, visit
from tests.support.fault_server import FaultServer
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = browser_page.MARKS

_STORY = "Rosa bakes bread. "
_BELOW = """([above, below]) => {
  const top = selector => document.querySelector(selector)?.getBoundingClientRect().top ?? NaN;
  return top(above) < top(below) ? [] : [above];
}"""
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
def studio(tmp_path_factory: pytest.TempPathFactory, server: FaultServer) -> Iterator[RunningStudio]:
    home = tmp_path_factory.mktemp("writers") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=server.url.removesuffix("/v1")) as studio:
        yield studio


def test_a_far_template_warns_above_the_button_and_its_own_grid_is_one_click_away(
    browser: Browser, studio: RunningStudio, server: FaultServer
) -> None:
    page = visit(browser, f"{studio.url}/dataset", locale="en-US")
    warning = page.locator(".st-key-dataset_model_far")
    generate = page.locator(".st-key-dataset_generate button")
    generate.wait_for()
    expect(warning).to_have_count(0)  # the preset's own template and its writer
    template = page.locator(".st-key-dataset_template textarea")
    template.fill("Explain how {hero} repairs a bicycle pump using {gift}, {mood}.")
    template.press("Control+Enter")
    warning.get_by_text("This prompt differs from the training prompts of storyteller-en").wait_for()
    settled(page)
    expect_none(page, _BELOW, [".st-key-dataset_model_far", ".st-key-dataset_generate"])
    expect(generate).to_be_enabled()  # a warning, not a ban
    press(page, "dataset_use_preset")
    expect(warning).to_have_count(0)
    expect(template.last).to_have_value(re.compile("^Write a short story"))  # the old copy may stay for a moment


def test_another_writer_is_chosen_in_the_warning(browser: Browser, studio: RunningStudio, server: FaultServer) -> None:
    page = visit(browser, f"{studio.url}/dataset", locale="en-US")
    warning = page.locator(".st-key-dataset_model_far")
    choose(page, "dataset_model", "storyteller")
    warning.get_by_text("storyteller was trained on prompts in another language").wait_for()
    settled(page)
    warning.get_by_role("button", name="Use storyteller-en", exact=True).click()
    expect(warning).to_have_count(0)
    expect(page.locator(".st-key-dataset_model").get_by_role("combobox")).to_have_value("storyteller-en")


def test_a_sample_grows_while_the_page_stays_usable_and_stops(
    browser: Browser, studio: RunningStudio, server: FaultServer
) -> None:
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    choose(page, "story_model", "storyteller-en")
    page.get_by_text("Writes stories of the kind it was trained on (English: hero, gift, mood).").wait_for()
    server.when("a gardener", fault_server.stalled(_STORY), fault_server.text(_STORY))
    press(page, "story_model_sample")
    sample = page.locator(".st-key-story_model_sample_text")
    sample.get_by_text(_STORY.strip()).wait_for()
    settled(page)
    page.get_by_text("Free prompt", exact=True).click()  # the page is redrawn while the sample is written
    shown(page, "story_prompt")
    sample.get_by_text(_STORY.strip()).wait_for()
    press(page, "story_model_sample_stop")
    sample.get_by_text("stopped; the text so far is kept").wait_for()
    shown(page, "story_model_sample")
    server.release()
    press(page, "story_model_sample")
    sample.get_by_text("complete").wait_for()
    press(page, "story_model_sample_close")
    expect(sample).to_have_count(0)


@pytest.mark.skipif(not os.environ.get("SCREENSHOTS"), reason="SCREENSHOTS is not set")
@pytest.mark.parametrize(("locale", "scheme", "width"), _SCREENS)
def test_screenshots_of_the_warning_and_the_sample_are_taken_on_request(
    browser: Browser, studio: RunningStudio, tmp_path: Path, locale: str, scheme: str, width: int
) -> None:
    folder = Path(os.environ["SCREENSHOTS"]) if os.environ["SCREENSHOTS"] != "1" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{locale}-{scheme}-{width}.png"
    page = visit(browser, f"{studio.url}/dataset", locale=locale, color_scheme=scheme, width=width)
    choose(page, "dataset_model", "storyteller" if locale == "en-US" else "storyteller-en")
    shown(page, "dataset_model_far")
    page.screenshot(path=folder / f"dataset-{name}", full_page=True)
    page.goto(f"{studio.url}/story")
    settled(page)
    press(page, "story_model_sample")
    shown(page, "story_model_sample_close")
    page.screenshot(path=folder / f"story-{name}", full_page=True)
