"""After the story, in a real browser: by keyboard, on a phone, without outdated elements, and without an installed
voice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page
from tests.support.browser_page import expect, expect_none, press, settled, shown, visit
from tests.support.story_server import StreamingServer
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browser_page.MARKS

_MOST_TABS = 60  # a page has fewer tab stops
_OLD, _NEW = "从前有一位旧英雄。", "后来有一位新英雄。"
# The browser's fake speech API: `window.voices`, and a speech engine that may fail.
_VOICES = """
window.spoken = []; window.voices = [];
Object.defineProperty(window, "speechSynthesis", {value: {
  getVoices: () => window.voices, addEventListener(_kind, act) { window.changed = act; }, removeEventListener() {},
  pause() {}, resume() {}, cancel() {},
  speak(said) {
    window.spoken.push(said.text);
    setTimeout(() => (window.broken ? said.onerror?.({error: "synthesis-failed"}) : said.onend?.()), 0);
  },
}});
window.SpeechSynthesisUtterance = function (text) { this.text = text; };
window.voice = (lang) => ({name: lang, lang, voiceURI: lang, localService: true, default: true});
"""
_COPIED_STAYS = """
const timer = window.setTimeout;
window.setTimeout = (act, ms, ...rest) => (ms === 2500 ? 0 : timer(act, ms, ...rest));
"""
# The parts of the bar below a story (six in total) that are missing, off a phone's screen, or above the text.
_MISPLACED = """() => {
  const keys = ["story_again", "story_next", "story_thumb_", "story_stars_", "story_copy_", "story_example_"];
  const words = document.querySelector(".st-key-story_words_0").getBoundingClientRect();
  return keys.filter(key => {
    const found = document.querySelectorAll(`[class*=st-key-${key}]`);
    if (found.length !== 1) return true;
    const box = found[0].getBoundingClientRect();
    return box.left < 0 || box.right > innerWidth || box.width <= 20 || box.top <= words.top;
  }).concat(document.documentElement.scrollWidth > innerWidth ? ["the page"] : []);
}"""
# The vote buttons that are not aligned with their pane: narrower, not below, or not centred.
_VOTES = """() => [0, 1].filter(number => {
  const place = selector => document.querySelector(selector)?.getBoundingClientRect();
  const vote = place(`.st-key-story_vote_${number} button`), words = place(`.st-key-story_words_${number}`);
  return !vote || !words || vote.width < words.width || vote.top <= words.bottom
    || Math.abs(vote.left + vote.width / 2 - words.left - words.width / 2) >= 2;
})"""
_NO_API = "delete window.speechSynthesis; delete Window.prototype.speechSynthesis;"


def _written(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, *, width: int = 1440, script: str = ""
) -> Page:
    """A page with a finished story."""
    streaming_server.begin((_OLD,))
    page = visit(browser, f"{studio.url}/story", locale="en-US", width=width, script=script)
    press(page, "story_button")
    shown(page, "story_again")
    settled(page)
    return page


def _compare(page: Page, *, blind: bool) -> None:
    """Switch to two models side by side."""
    page.locator(".st-key-story_compare label").click()
    shown(page, "story_others")
    settled(page)
    if blind:
        page.locator(".st-key-story_blind label").click()
        expect(page.locator(".st-key-story_blind").get_by_role("switch")).to_be_checked()
        settled(page)


def _tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is within `selector`, also in the shadow tree of a component."""
    for _ in range(_MOST_TABS):
        page.keyboard.press("Tab")
        if page.evaluate("s => Boolean(document.activeElement.closest(s))", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def _gone(page: Page, text: str) -> None:
    """Wait until `text` is nowhere on the page, not even greyed out."""
    page.wait_for_function("text => !document.querySelector('[data-testid=stMain]').innerText.includes(text)", arg=text)


def test_everything_after_the_story_is_reached_by_keyboard(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    page = _written(browser, studio, streaming_server, script=_COPIED_STAYS)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".st-key-story_words_0").click()
    _tab_to(page, "[class*=st-key-story_thumb_]")
    page.keyboard.press("Space")  # the first one is thumbs up
    expect(page.get_by_role("button", name="Keep as training example")).to_have_count(0)
    settled(page)
    _tab_to(page, "[class*=st-key-story_copy_]")
    page.keyboard.press("Enter")
    page.get_by_text("Copied").wait_for()
    page.wait_for_function("async text => (await navigator.clipboard.readText()) === text", arg=_OLD)
    streaming_server.begin((_NEW,))
    _tab_to(page, ".st-key-story_again")
    page.keyboard.press("Enter")
    page.locator(".st-key-story_words_0").get_by_text(_NEW).wait_for()
    _gone(page, _OLD)
    shown(page, "story_next")
    settled(page)
    _tab_to(page, ".st-key-story_next")
    page.keyboard.press("Enter")
    page.get_by_text("The story appears here").wait_for()
    _gone(page, _NEW)


def test_on_a_phone_everything_after_the_story_fits(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    page = _written(browser, studio, streaming_server, width=390)
    expect_none(page, _MISPLACED)


@pytest.mark.parametrize("begin", ["Write", "Write again"])
def test_the_old_story_is_gone_before_the_first_word_of_the_new_one(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, begin: str
) -> None:
    page = _written(browser, studio, streaming_server)
    streaming_server.begin((_NEW,), gated=0)
    page.get_by_role("button", name=begin, exact=True).click()
    page.locator(".st-key-story_words_0").get_by_text("Waiting for the first word").wait_for()
    _gone(page, _OLD)
    for key in ("story_again", "story_next"):
        expect(page.locator(f".st-key-{key}")).to_have_count(0)
    assert not streaming_server.go_on.is_set()
    streaming_server.go_on.set()
    shown(page, "story_again")


def test_nothing_of_a_chain_stays_while_the_next_one_is_written(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin((_OLD,))
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    page.get_by_role("button", name="More").click()
    page.locator(".st-key-story_chain label").click()
    expect(page.locator(".st-key-story_chain").get_by_role("switch")).to_be_checked()
    page.keyboard.press("Escape")
    press(page, "story_button")
    shown(page, "story_again")
    settled(page)
    streaming_server.begin((_NEW,), gated=0)
    page.get_by_role("button", name="Write again").click()
    page.locator(".st-key-story_words_0").get_by_text("Waiting for the first word").wait_for()
    _gone(page, _OLD)
    expect(page.locator("[class*=st-key-story_thumb_]")).to_have_count(0)
    assert not streaming_server.go_on.is_set()
    streaming_server.go_on.set()
    shown(page, "story_again")


def test_the_shelf_is_gone_while_one_of_its_stories_goes_on(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("半个故事", "。"), gated=1)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    page.locator(".st-key-story_words_0").get_by_text("半个故事").wait_for()
    press(page, "story_stop", running=True)
    page.get_by_text("stopped; the text so far is kept").wait_for()
    settled(page)
    page.get_by_role("radio", name="Earlier stories").click()
    page.get_by_role("button", name="Continue").first.wait_for()
    settled(page)
    streaming_server.begin((_NEW,), gated=0)
    page.get_by_role("button", name="Continue").first.click()
    shown(page, "story_words_0")
    expect(page.locator(".st-key-story_search")).to_have_count(0)
    expect(page.locator("[class*=st-key-story_delete_]")).to_have_count(0)
    assert not streaming_server.go_on.is_set()
    streaming_server.go_on.set()
    shown(page, "story_again")


def test_votes_are_as_wide_as_their_panes_and_the_winner_is_marked(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("我是 {model}。",))
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    _compare(page, blind=True)
    press(page, "story_button")
    shown(page, "story_vote_1")
    settled(page)
    expect_none(page, _VOTES)
    page.locator(".st-key-story_vote_1 button").focus()
    page.keyboard.press("Enter")
    page.get_by_text("You chose").wait_for()
    settled(page)
    column = page.locator("[data-testid=stColumn]", has=page.locator(".st-key-story_words_1"))
    expect(column.get_by_text("Your choice")).to_have_count(1)
    expect(page.get_by_text("Your choice")).to_have_count(1)
    expect(page.locator("[class*=st-key-story_vote_]")).to_have_count(0)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (_VOICES, "no voice to read with"),
        (_NO_API, "no voice to read with"),
        (_VOICES + "window.voices = [voice('en-US')];", "no Chinese voice"),
        (_VOICES + "window.voices = [voice('zh-CN')]; window.broken = true;", "The browser stopped reading"),
    ],
    ids=["no voices", "no speech at all", "no voice for the language", "a voice that fails"],
)
def test_a_browser_that_cannot_read_aloud_says_so_with_a_next_step(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, script: str, said: str
) -> None:
    page = _listening(browser, studio, streaming_server, script)
    message = page.get_by_role("status").filter(has_text=said)
    expect(message).to_contain_text("Download audio")


def test_voices_that_come_late_read_from_the_start_and_the_message_goes(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    page = _listening(browser, studio, streaming_server, _VOICES)
    page.get_by_text("no voice to read with").wait_for()
    page.wait_for_function("window.spoken.length === 0")
    page.evaluate("window.voices = [voice('zh-CN')]; window.changed()")
    expect(page.get_by_text("no voice to read with")).to_have_count(0)
    page.wait_for_function("window.spoken.length === 1")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_voice_that_failed_tries_the_same_sentence_again(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    page = _listening(
        browser, studio, streaming_server, _VOICES + "window.voices = [voice('zh-CN')]; window.broken = true;"
    )
    page.get_by_text("The browser stopped reading").wait_for()
    page.evaluate("window.broken = false")
    page.get_by_role("button", name="Resume").click()
    page.wait_for_function("text => JSON.stringify(window.spoken) === JSON.stringify([text, text])", arg=_OLD)
    expect(page.get_by_text("The browser stopped reading")).to_have_count(0)


def _listening(browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, script: str) -> Page:
    """A page with a story and Read aloud turned on, in a browser with these voices."""
    page = _written(browser, studio, streaming_server, script=script)
    page.locator(".st-key-story_aloud label").click()
    return page
