"""The story page in a real browser: growing text, four panes, a vote, a voice, and no external requests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page
from tests.support.browser_page import choose, expect, press, settled, shown, until_longer, visit
from tests.support.story_server import MODELS, StreamingServer
from tests.support.studio_process import RunningStudio
from tests.support.waiting import WAIT_LIMIT_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = browser_page.MARKS

_STORY = ".st-key-story_words_0 [data-testid=stText]"
_NASTY = (
    "![x](http://example.com/x.png) <img src=http://example.com/y.png> <script>fetch('http://example.com/z')</script> "
    "[link](http://example.com) http://example.com/plain"
)
# A fake voice that records sentences; each ends as soon as it starts.
_VOICE = """
window.spoken = [];
const voice = {name: "Test", lang: "zh-CN", voiceURI: "test", localService: true, default: true};
Object.defineProperty(window, "speechSynthesis", {value: {
  getVoices: () => [voice], addEventListener() {}, removeEventListener() {}, pause() {}, resume() {}, cancel() {},
  speak(said) { window.spoken.push([said.text, said.rate]); setTimeout(() => said.onend && said.onend(), 0); },
}});
window.SpeechSynthesisUtterance = function (text) { this.text = text; };
"""


def _words(page: Page, number: int = 0) -> Locator:
    return page.locator(f".st-key-story_words_{number}")


def test_words_grow_while_they_come_and_stopping_keeps_them(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，", "有一"), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    expect(_words(page)).to_contain_text("从前，有一")
    until_longer(page, _STORY, 20)
    press(page, "story_stop", running=True)
    page.get_by_text("stopped; the text so far is kept").wait_for()
    assert streaming_server.hung_up.wait(WAIT_LIMIT_S)
    expect(_words(page)).to_have_text(re.compile("从前，有一字{20,}"))
    expect(page.get_by_role("button", name="Continue")).to_have_count(1)


@pytest.mark.parametrize("gated", [0, 1], ids=["before the first word", "in the middle"])
@pytest.mark.parametrize("stop", ["the page's", "Streamlit's"])
@pytest.mark.parametrize("compare", [False, True], ids=["alone", "side by side"])
def test_stop_ends_a_story_whose_engine_does_not_answer(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, gated: int, stop: str, compare: bool
) -> None:
    """Streamlit's toolbar has its own Stop while a script runs: it ends the script, and must also end the story."""
    streaming_server.begin(("从前，", "有一"), gated=gated)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    if compare:
        page.get_by_text("Compare", exact=True).first.click()
        page.get_by_test_id("stMultiSelect").wait_for()
    press(page, "story_button")
    expect(_words(page)).to_contain_text("从前，" if gated else "Waiting for the first word")
    if stop == "Streamlit's":
        page.get_by_test_id("stStatusWidget").get_by_role("button", name="Stop").click()
    else:
        press(page, "story_stop", running=True)
    ended = "stopped; the text so far is kept" if gated else "stopped before the first word"
    expect(page.get_by_text(ended)).to_have_count(1 + compare)
    shown(page, "story_button")
    for number in range(1 + compare):
        expect(_words(page, number)).to_contain_text("从前，" if gated else "No text was written.")
    settled(page)
    expect(page.get_by_text("you left the page")).to_have_count(0)
    assert not streaming_server.go_on.is_set()


def test_nothing_of_before_stays_while_a_story_is_written(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    invitation = page.get_by_text("Try values that aren't in the training data")
    write = page.locator(".st-key-story_button")
    expect(invitation).to_have_count(1)
    expect(write).to_have_count(1)
    press(page, "story_button")
    expect(_words(page)).to_contain_text("从前，")
    expect(invitation).to_have_count(0)
    expect(write).to_have_count(0)
    shown(page, "story_stop")
    assert not streaming_server.go_on.is_set()  # and the story continues
    streaming_server.go_on.set()
    page.get_by_text("complete").wait_for()


def test_a_page_that_is_left_hangs_up(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    expect(_words(page)).to_contain_text("从前，")
    page.context.close()
    assert streaming_server.hung_up.wait(WAIT_LIMIT_S)


def test_another_page_of_the_studio_is_leaving_too(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    expect(_words(page)).to_contain_text("从前，")
    page.get_by_role("link", name="Settings").first.click()
    assert streaming_server.hung_up.wait(WAIT_LIMIT_S)


def test_a_click_on_the_page_is_not_leaving(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    expect(_words(page)).to_contain_text("从前，")
    aloud = page.locator(".st-key-story_aloud")
    for checked in (True, False, True):
        aloud.locator("label").click()
        expect(aloud.get_by_role("switch")).to_be_checked(checked=checked)
        until_longer(page, _STORY, 30)
    assert not streaming_server.hung_up.is_set()
    streaming_server.go_on.set()
    page.get_by_text("complete").wait_for()


def test_four_panes_fill_at_once_and_a_blind_vote_reveals_them(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("我是 {model}。", "完。"), gated=1)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    page.locator(".st-key-story_compare label").click()
    shown(page, "story_others")
    settled(page)
    page.locator(".st-key-story_blind label").click()
    for name in MODELS[2:]:
        choose(page, "story_others", name)
    press(page, "story_button")
    for number in range(4):
        expect(_words(page, number)).to_contain_text("我是")  # all of them before any of them has ended
    streaming_server.go_on.set()
    shown(page, "story_vote_3")
    stories = page.locator("[class*=st-key-story_words_]")
    expect(stories).to_have_count(len(MODELS))
    for name in MODELS:  # in an unknown order
        expect(stories.filter(has_text=f"我是 {name}。完。")).to_have_count(1)
    press(page, "story_vote_1")
    page.get_by_text("You chose").wait_for()


@pytest.mark.parametrize("key", ["story_model", "story_others"], ids=["select", "multiselect"])
def test_an_option_that_does_not_exist_is_not_chosen(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, key: str
) -> None:
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    page.locator(".st-key-story_compare label").click()
    shown(page, "story_others")
    with pytest.raises(AssertionError, match="no such model was not chosen"):
        choose(page, key, "no such model")


def test_a_voice_reads_sentence_by_sentence_while_more_is_written(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("第一句。第二", "句！后", "来呢"), gated=2)
    page = visit(browser, f"{studio.url}/story", script=_VOICE, locale="en-US")
    press(page, "story_button")
    expect(_words(page)).to_contain_text("第二句！")
    page.locator(".st-key-story_aloud label").click()
    page.wait_for_function("window.spoken.length === 2")  # the third sentence is incomplete
    streaming_server.go_on.set()
    page.wait_for_function("window.spoken.length === 3")
    spoken = "said => JSON.stringify(window.spoken.map(([text, _rate]) => text)) === JSON.stringify(said)"
    page.wait_for_function(spoken, arg=["第一句。", "第二句！", "后来呢"])
    expect(page.get_by_role("button", name="Pause")).to_have_count(1)


def test_no_word_of_a_model_makes_the_browser_ask_anybody(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin((_NASTY,))
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    press(page, "story_button")
    page.get_by_text("complete").wait_for()
    expect(_words(page)).to_have_text(_NASTY, use_inner_text=True)
    settled(page)
    page.get_by_role("radio", name="Earlier stories").click()
    page.get_by_text("plain").first.wait_for()
    settled(page)
    page.goto(f"{studio.url}/story?stage=1")
    press(page, "presenter_write")
    page.get_by_text("complete").wait_for()
    settled(page)
    expect(page.locator("img[src*='example']")).to_have_count(0)
    assert asked and not [url for url in asked if not url.startswith((studio.url, "data:", "blob:"))]


def test_an_edit_that_is_kept_closes_its_dialog_and_shows(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，",))
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    page.get_by_text("complete").wait_for()
    settled(page)
    page.get_by_role("radio", name="Earlier stories").click()
    edit = page.get_by_role("button", name="Edit").first
    edit.wait_for()
    settled(page)
    edit.click()
    dialog = page.get_by_role("dialog")
    dialog.locator("textarea").wait_for()
    settled(page)
    dialog.locator("textarea").fill("mine")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    page.get_by_text("mine", exact=True).wait_for()
