"""The real app in a real browser: direct URLs, both languages, both themes, a phone, and a complete tour."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page, fault_server, studio_process
from tests.support.browser_page import TRAINED_MS, expect, expect_none, picture, press, settled, shown, visit
from tests.support.fault_server import FaultServer
from tests.support.studio_process import RunningStudio
from tests.support.tiny_gemma import write_tiny_gemma

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_ROOT = Path(__file__).parents[2]
_PAGES = ("", "dataset", "training", "cost", "story", "move", "settings")
_TITLES = {
    "en-US": ("Fabula", "Data set", "Training", "Cost", "Story", "Move", "Settings"),
    "zh-CN": ("Fabula", "数据集", "训练", "成本", "故事", "迁移", "设置"),
}
_PARTS = (  # further screenshots for the docs: URL, part of the page, file, text that appears last
    ("dataset", "Run", "dataset-run", "all done"),
    ("dataset", "Quality", "dataset-quality", "(Good|Worth a look|Needs work):"),
    ("dataset", "Use", "dataset-use", "JSONL, chat"),
    ("cost", "My workload", "cost-workload", "pays back"),
)
_TOUR_MS = 2_400_000  # training takes minutes on two quiet cores, and only gets the CPU time that other tests leave
# Elements that end to the right of a screen of this width.
_TOO_WIDE = """width => [...document.querySelectorAll('[data-testid=stMain] :is(button, p, input)')]
  .filter(e => e.getBoundingClientRect().right > width).map(e => e.outerHTML.slice(0, 160))"""
# Metric values that are truncated with an ellipsis.
_CUT_OFF = """() => [...document.querySelectorAll('[data-testid=stMetric] *')]
  .filter(e => e.offsetParent && getComputedStyle(e).textOverflow === 'ellipsis' && e.scrollWidth > e.clientWidth)
  .map(e => e.innerText)"""

pytestmark = browser_page.MARKS


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio with its own engine, which has a tiny random model under the name of the real one."""
    pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    folder = tmp_path_factory.mktemp("studio")
    write_tiny_gemma(folder / "tiny.gguf", context=4096)
    models = f"gemma-3-270m={folder / 'tiny.gguf'}"
    with studio_process.running(folder / "home", FABULA_ENGINE_MODELS=models) as studio:
        yield studio


@pytest.fixture(scope="module")
def writer() -> Iterator[FaultServer]:
    """A fake engine controlled by the test."""
    with FaultServer(fault_server.text("从前，", "有一位英雄。")) as server:
        yield server


@pytest.fixture(scope="module")
def light_studio(tmp_path_factory: pytest.TempPathFactory, writer: FaultServer) -> Iterator[RunningStudio]:
    """A studio with the fake engine."""
    home = tmp_path_factory.mktemp("light") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=writer.url.removesuffix("/v1")) as studio:
        yield studio


@pytest.mark.parametrize(("typed", "says"), [("0,15", "is ambiguous"), ("0.15", "Measured on|Speed of this machine")])
def test_a_cost_per_hour_arrives_as_it_was_typed(
    browser: Browser, light_studio: RunningStudio, typed: str, says: str
) -> None:
    page = visit(browser, f"{light_studio.url}/cost", locale="en-US")
    page.get_by_text("My workload", exact=True).click()
    field = page.get_by_role("textbox", name="Cost per hour")
    field.fill(typed)
    field.press("Enter")
    page.get_by_text(re.compile(says)).first.wait_for()
    settled(page)
    expect(field).to_have_value(typed)  # the browser drops nothing


@pytest.mark.parametrize("locale", _TITLES)
@pytest.mark.parametrize("index", range(len(_PAGES)), ids=[name or "home" for name in _PAGES])
def test_a_cold_address_opens_its_page_in_the_browsers_language(
    browser: Browser, light_studio: RunningStudio, index: int, locale: str
) -> None:
    scheme = "dark" if locale == "zh-CN" else "light"
    page = visit(browser, f"{light_studio.url}/{_PAGES[index]}", locale=locale, color_scheme=scheme)
    expect(page.locator("h1")).to_have_text(_TITLES[locale][index])
    settled(page)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("name", _PAGES)
def test_nothing_is_wider_than_a_phone(browser: Browser, light_studio: RunningStudio, name: str) -> None:
    page = visit(browser, f"{light_studio.url}/{name}", width=390, locale="zh-CN")
    expect_none(page, _TOO_WIDE, 390)
    expect_none(page, _CUT_OFF)


def test_a_link_carries_the_language_and_pages_keep_it(browser: Browser, light_studio: RunningStudio) -> None:
    page = visit(browser, f"{light_studio.url}/cost?lang=zh_CN", locale="en-US")
    title = page.locator("h1")
    expect(title).to_have_text("成本")
    page.get_by_role("link", name="故事").first.click()
    expect(title).to_have_text("故事")
    settled(page)
    page.get_by_role("radio", name="English").click()
    expect(title).to_have_text("Story")


def test_rows_come_while_one_watches(browser: Browser, light_studio: RunningStudio, writer: FaultServer) -> None:
    page = visit(browser, f"{light_studio.url}/dataset", locale="en-US")
    page.get_by_role("button", name="Generate 400 rows").click()
    page.get_by_text("Finished").wait_for(timeout=TRAINED_MS)
    expect(page.locator('[data-testid="stProgress"]')).to_contain_text("400 of 400")
    with page.expect_download() as download:
        press(page, "dataset_csv")
    lines = Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == ",hero,gift,mood,story" and len(lines) == 401


def test_a_story_streams_and_stopping_keeps_its_words(
    browser: Browser, light_studio: RunningStudio, writer: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "default", fault_server.stalled("从前，", "有一", "位"))
    page = visit(browser, f"{light_studio.url}/story", locale="en-US")
    press(page, "story_button")
    page.get_by_text("从前，有一位").wait_for()
    page.get_by_role("button", name="Stop", exact=True).last.click()
    page.get_by_text("stopped; the text so far is kept").wait_for()
    settled(page)
    expect(page.get_by_text("从前，有一位")).to_have_count(1)
    page.get_by_role("radio", name="Earlier stories").click()
    shown(page, "story_search")
    expect(page.get_by_text("从前，有一位")).to_have_count(1)


@pytest.mark.slow
def test_the_tour_goes_to_its_end_for_real(browser: Browser, studio: RunningStudio) -> None:
    page = visit(browser, studio.url, locale="en-US")
    press(page, "home_tour")
    page.get_by_text("A small model is being trained on the stories").wait_for(timeout=TRAINED_MS)
    page.get_by_text("The tour is complete").or_(page.get_by_text("could not continue")).first.wait_for(
        timeout=_TOUR_MS
    )
    settled(page)
    expect(page.locator("body")).to_contain_text("The tour is complete", use_inner_text=True)  # else: what it says
    expect(page.get_by_text("The tour is complete")).to_have_count(1)
    for title in ("Before", "After"):
        expect(page.get_by_text(title, exact=True)).to_have_count(1)
    expect(page.get_by_role("button", name="Write another story with this model")).to_have_count(1)
    press(page, "home_tour_job")
    expect(page.locator("h1")).to_have_text("Training")
    expect(page.locator('[data-testid="stVegaLiteChart"]')).to_have_count(2, timeout=TRAINED_MS)
    page.wait_for_function("document.body.innerText.split('The model is ready').length === 2")  # says it once


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
def test_screenshots_for_the_documents(browser: Browser, tmp_path: Path) -> None:
    """With the real weights.

    SCREENSHOTS may also name a home folder with a finished tour; otherwise the tour is run first.
    """
    folder, seen = _ROOT / "docs" / "screenshots", Path(os.environ["SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    with studio_process.running(seen if seen.is_dir() else tmp_path / "home") as studio:
        if not seen.is_dir():
            page = visit(browser, studio.url, locale="en-US")
            press(page, "home_tour")
            page.get_by_text("The tour is complete").wait_for(timeout=_TOUR_MS)
            page.context.close()
        for name in _PAGES[:-2]:  # not Move without an account; settings would show this machine's folders
            page = visit(browser, f"{studio.url}/{name}", locale="en-US")
            if name == "story":
                press(page, "story_outside_0")
                press(page, "story_button")
                page.get_by_text("complete").or_(page.get_by_text("stopped at the token limit")).first.wait_for(
                    timeout=TRAINED_MS
                )
            picture(page, folder / f"{name or 'home'}.png")
        for address, part, name, last in _PARTS:
            page = visit(browser, f"{studio.url}/{address}", locale="en-US")
            page.get_by_role("radio", name=part, exact=True).click()
            page.get_by_role("radio", name=part, exact=True, checked=True).wait_for()
            page.get_by_text(re.compile(last)).first.wait_for()
            picture(page, folder / f"{name}.png")
        page = visit(browser, studio.url, locale="zh-CN", color_scheme="dark")
        picture(page, folder / "home-zh-dark.png")
