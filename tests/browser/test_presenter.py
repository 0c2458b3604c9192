"""Presenter mode in a real browser: every key, every state of a story, full screen, and everything visible."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page
from tests.support.browser_page import expect, expect_none, press, settled, shown, until_longer, visit
from tests.support.story_server import StreamingServer
from tests.support.studio_process import RunningStudio
from tests.support.waiting import WAIT_LIMIT_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = browser_page.MARKS

_SCREENS = ((1920, 1080), (1024, 768))
# A fake full screen API, which also requires a recent click; Playwright would always allow it.
_FULL_SCREEN = """
let full = null;
const set = (element) => { full = element; document.dispatchEvent(new Event("fullscreenchange")); };
Object.defineProperty(Document.prototype, "fullscreenElement", {get: () => full});
Object.defineProperty(Document.prototype, "fullscreenEnabled", {get: () => true});
Element.prototype.requestFullscreen = async function () { set(this); };
Document.prototype.exitFullscreen = async () => set(null);
let clicked = false;
addEventListener("click", () => { clicked = true; }, true);
Object.defineProperty(Navigator.prototype, "userActivation", {get: () => ({isActive: clicked})});
"""
# The parts of bar, title, numbers and controls that are off screen or make the page scroll.
# Of two panes on a phone: which words or numbers begin before the element above them has ended.
_OVERLAPPING = """() => {
  const parts = [0, 1].flatMap(n => [`.st-key-presenter_words_${n}`, `[class*=st-key-presenter_facts_${n}]`]);
  const boxes = parts.map(part => document.querySelector(part).getBoundingClientRect());
  return parts.filter((_, n) => n && boxes[n].top < boxes[n - 1].bottom - 1);
}"""
_OUTSIDE = """() => {
  const places = ['bar', 'controls', 'title', 'facts_0', 'facts_1', 'list', 'prompt'];
  const inside = place => document.querySelectorAll(`.st-key-presenter_${place} :is(button, p, h1, h2)`);
  const out = places.flatMap(place => [...inside(place)]).filter(e => {
    const box = e.getBoundingClientRect();
    return box.right > innerWidth || box.bottom > innerHeight || box.left < 0 || box.top < 0;
  });
  const scrolls = document.scrollingElement.scrollHeight > innerHeight;
  return [...out.map(e => e.innerText), ...(scrolls ? ["the page scrolls"] : [])];
}"""
_LONG = tuple(f"从前有一位英雄，第{n}次。" for n in range(60))


def _open(
    browser: Browser, studio: RunningStudio, address: str = "/story?stage=1", *, width: int = 1024, height: int = 768,
    locale: str = "en-US", script: str = "",
) -> Page:  # fmt: skip
    page = visit(browser, f"{studio.url}{address}", width=width, height=height, locale=locale, script=script)
    if "stage=1" in address:
        _until_keys(page)
    return page


def _until_keys(page: Page) -> None:
    """The keyboard component is loaded."""
    page.locator("html.fabula-presenter").wait_for(state="attached")


def _words(page: Page, at: int = 0) -> Locator:
    return page.locator(f".st-key-presenter_words_{at}")


def _until_prompt(page: Page, number: int) -> None:
    page.locator(".st-key-presenter_controls").get_by_text(f"{number} / ").wait_for()
    settled(page)


def test_from_the_button_to_the_way_back_by_keyboard(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，", "有一"), endless=True)
    page = _open(browser, studio, "/story")
    press(page, "story_present")
    shown(page, "presenter_write")
    settled(page)
    _until_keys(page)
    page.keyboard.press("Space")
    expect(_words(page)).to_contain_text("从前，有一")
    until_longer(page, ".st-key-presenter_words_0 [data-testid=stText]", 20)
    page.keyboard.press("Escape")
    page.get_by_text("stopped; the text so far is kept").wait_for()
    assert streaming_server.hung_up.wait(WAIT_LIMIT_S)
    shown(page, "presenter_write")
    settled(page)
    page.keyboard.press("ArrowRight")
    _until_prompt(page, 2)
    expect(_words(page)).to_have_count(0)  # the old story is gone
    page.keyboard.press("ArrowLeft")
    _until_prompt(page, 1)
    expect(_words(page)).to_contain_text("从前，有一")
    page.wait_for_function(f"Date.now() - {page.evaluate('Date.now()')} > 600")  # a single Escape may be reported twice
    page.keyboard.press("Escape")
    shown(page, "story_button")
    expect(page.locator("html.fabula-presenter")).to_have_count(0)
    expect(page).not_to_have_url(re.compile("stage"))
    settled(page)
    page.get_by_role("radio", name="Earlier stories").click()
    page.get_by_text("从前，有一").first.wait_for()


@pytest.mark.parametrize("gated", [0, 1], ids=["before the first word", "in the middle"])
@pytest.mark.parametrize("panes", ["1", "2"])
def test_escape_stops_a_model_that_does_not_answer(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, gated: int, panes: str
) -> None:
    streaming_server.begin(("从前，", "有一"), gated=gated)
    page = _open(browser, studio)
    page.keyboard.press(panes)
    page.get_by_role("radio", name=panes, checked=True).wait_for()
    settled(page)
    page.keyboard.press("Enter")
    for at in range(int(panes)):
        expect(_words(page, at)).to_contain_text("从前，" if gated else "Waiting for the first word")
    page.keyboard.press("Escape")
    for at in range(int(panes)):
        expect(_words(page, at)).to_contain_text("从前，" if gated else "No text was written.")
    shown(page, "presenter_write")
    settled(page)
    expect(page.locator(".st-key-presenter")).to_have_count(1)  # stopped, but still in presenter mode
    assert not streaming_server.go_on.is_set()


def test_two_models_write_at_once_and_their_numbers_are_there_while_they_do(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("我是 {model}。", "完。"), gated=1)
    page = _open(browser, studio, "/story?stage=1&models=engine/writer,engine/second")
    page.keyboard.press("Space")
    for at, name in enumerate(("writer", "second")):
        expect(_words(page, at)).to_contain_text(f"我是 {name}。")
        for part in ("for the same tokens", name, "list price of 20"):
            expect(page.locator(f".st-key-presenter_facts_{at}")).to_contain_text(part)
    streaming_server.go_on.set()
    expect(page.get_by_text("complete")).to_have_count(2)


def test_a_key_in_a_field_is_a_letter_and_a_question_mark_shows_the_keys(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，",))
    sent = len(streaming_server.prompts())
    page = _open(browser, studio)
    page.keyboard.press("?")
    page.get_by_text("Previous prompt, next prompt").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Previous prompt, next prompt").wait_for(state="hidden")
    press(page, "presenter_settings")
    field = page.locator(".st-key-presenter_prompts textarea")
    field.fill("A")
    field.press("Space")
    field.press("2")
    expect(field).to_have_value("A 2")
    settled(page)
    expect(_words(page)).to_have_count(0)
    assert len(streaming_server.prompts()) == sent
    page.keyboard.press("Escape")  # the focus goes back to the button that opened the settings
    field.wait_for(state="hidden")
    settled(page)
    page.keyboard.press("Space")
    expect(_words(page)).to_contain_text("从前，")


def test_full_screen_begins_with_the_click_and_ends_with_presenter_mode(
    browser: Browser, studio: RunningStudio
) -> None:
    page = _open(browser, studio, "/story", script=_FULL_SCREEN)
    press(page, "story_present")
    page.wait_for_function("document.fullscreenElement !== null")
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement === null")
    settled(page)
    expect(page.locator(".st-key-presenter")).to_have_count(1)
    press(page, "presenter_full")
    page.wait_for_function("document.fullscreenElement !== null")
    press(page, "presenter_leave")
    shown(page, "story_button")
    page.wait_for_function("document.fullscreenElement === null")


def test_the_browsers_own_escape_stops_first_and_then_leaves(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    """Browsers that do not report Escape in full screen report the end of full screen instead."""
    streaming_server.begin(("从前，",), endless=True)
    page = _open(browser, studio, script=_FULL_SCREEN)
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement !== null")
    page.keyboard.press("Space")
    expect(_words(page)).to_contain_text("从前，")
    page.evaluate("document.exitFullscreen()")
    page.get_by_text("stopped; the text so far is kept").wait_for()
    shown(page, "presenter_write")
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement !== null")
    page.wait_for_function(f"Date.now() - {page.evaluate('Date.now()')} > 600")  # a single Escape may be reported twice
    page.evaluate("document.exitFullscreen()")
    shown(page, "story_button")


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize(("width", "height"), _SCREENS)
@pytest.mark.parametrize("panes", ["1", "2"])
def test_everything_but_the_words_stays_in_sight(
    browser: Browser,
    studio: RunningStudio,
    streaming_server: StreamingServer,
    width: int,
    height: int,
    panes: str,
    locale: str,
) -> None:
    streaming_server.begin(_LONG)
    page = _open(browser, studio, locale=locale, width=width, height=height)
    expect_none(page, _OUTSIDE)
    page.keyboard.press(panes)
    page.get_by_role("radio", name=panes, checked=True).wait_for()
    settled(page)
    page.keyboard.press("Space")
    for at in range(int(panes)):
        expect(_words(page, at)).to_contain_text("第59次。")
    shown(page, "presenter_write")
    settled(page)
    expect_none(page, _OUTSIDE)
    page.wait_for_function(  # the newest text is visible
        """() => {
          const words = document.querySelector('.st-key-presenter_words_0');
          return words.scrollTop + words.clientHeight - words.scrollHeight >= -2;
        }"""
    )


def test_on_a_phone_the_panes_are_one_below_the_other(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(_LONG)
    page = _open(browser, studio, locale="zh-CN", width=390, height=844)
    page.keyboard.press("2")
    page.get_by_role("radio", name="2", checked=True).wait_for()
    settled(page)
    page.keyboard.press("Space")
    for at in range(2):
        expect(_words(page, at)).to_contain_text("第59次。")
    shown(page, "presenter_write")
    settled(page)
    expect_none(page, _OVERLAPPING)
