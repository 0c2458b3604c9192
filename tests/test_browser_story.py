"""The story page in a real browser: words that grow, four panes, a vote, a voice, and no request to anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import studio_process
from tests.story_server import MODELS, Teller
from tests.studio_process import Studio
from tests.test_browser import press, settled, visit
from tests.test_browser import pytestmark as pytestmark

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NASTY = (
    "![x](http://example.com/x.png) <img src=http://example.com/y.png> <script>fetch('http://example.com/z')</script> "
    "[link](http://example.com) http://example.com/plain"
)
_BUSY_MS = 90_000  # a machine may be busy
# A voice that only remembers: each sentence ends as soon as it has begun.
_VOICE = """
window.spoken = [];
const voice = {name: "Test", lang: "zh-CN", voiceURI: "test", localService: true, default: true};
Object.defineProperty(window, "speechSynthesis", {value: {
  getVoices: () => [voice], addEventListener() {}, removeEventListener() {}, pause() {}, resume() {}, cancel() {},
  speak(said) { window.spoken.push([said.text, said.rate]); setTimeout(() => said.onend && said.onend(), 0); },
}});
window.SpeechSynthesisUtterance = function (text) { this.text = text; };
"""


@pytest.fixture(scope="module")
def teller() -> Iterator[Teller]:
    with Teller() as server:
        yield server


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, teller: Teller) -> Iterator[Studio]:
    home = tmp_path_factory.mktemp("stories") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=teller.url.removesuffix("/v1")) as studio:
        yield studio


def _words(page: Page, number: int = 0) -> str:
    return page.locator(f".st-key-story_words_{number}").inner_text()


def _until_words(page: Page, text: str, number: int = 0) -> None:
    page.locator(f".st-key-story_words_{number}").get_by_text(text).wait_for()


def test_words_grow_while_they_come_and_stopping_keeps_them(browser: Browser, studio: Studio, teller: Teller) -> None:
    teller.begin(("从前，", "有一"), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    _until_words(page, "从前，有一")
    first = len(_words(page))
    page.wait_for_function(f"document.querySelector('.st-key-story_words_0').innerText.length > {first + 20}")
    page.get_by_role("button", name="Stop", exact=True).last.click()
    page.get_by_text("stopped; the text so far is kept").wait_for()
    assert teller.hung_up.wait(90) and len(_words(page)) > first + 20
    assert page.get_by_role("button", name="Continue").count() == 1
    page.context.close()


@pytest.mark.parametrize("gated", [0, 1], ids=["before the first word", "in the middle"])
@pytest.mark.parametrize("stop", ["the page's", "Streamlit's"])
@pytest.mark.parametrize("compare", [False, True], ids=["alone", "side by side"])
def test_stop_ends_a_story_whose_engine_does_not_answer(
    browser: Browser, studio: Studio, teller: Teller, gated: int, stop: str, compare: bool
) -> None:
    """Streamlit's toolbar has a Stop of its own while a script runs: it ends the script, and must end the story."""
    teller.begin(("从前，", "有一"), gated=gated)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    if compare:
        page.get_by_text("Compare", exact=True).first.click()
        page.get_by_test_id("stMultiSelect").wait_for()
        settled(page)
    press(page, "story_button")
    _until_words(page, "从前，" if gated else "Waiting for the first word")
    if stop == "Streamlit's":
        page.get_by_test_id("stStatusWidget").get_by_role("button", name="Stop").click()
    else:
        press(page, "story_stop")
    for number in range(1 + compare):
        _until_words(page, "从前，" if gated else "No word has come.", number)
    page.get_by_text("stopped; the text so far is kept").nth(int(compare)).wait_for()
    page.locator(".st-key-story_button").wait_for()
    assert page.get_by_text("you left the page").count() == 0 and not teller.go_on.is_set()
    page.context.close()


def test_nothing_of_before_stays_while_a_story_is_written(browser: Browser, studio: Studio, teller: Teller) -> None:
    teller.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    invitation = page.get_by_text("Try values that aren't in the training data")
    write = page.locator(".st-key-story_button")
    assert invitation.count() == write.count() == 1
    press(page, "story_button")
    _until_words(page, "从前，")
    invitation.wait_for(state="detached")
    write.wait_for(state="detached")
    page.locator(".st-key-story_stop").wait_for()
    assert not teller.go_on.is_set()  # and the story goes on
    teller.go_on.set()
    page.get_by_text("complete").wait_for()
    page.context.close()


def test_a_page_that_is_left_hangs_up(browser: Browser, studio: Studio, teller: Teller) -> None:
    teller.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    _until_words(page, "从前，")
    page.context.close()
    assert teller.hung_up.wait(90)


def test_another_page_of_the_studio_is_leaving_too(browser: Browser, studio: Studio, teller: Teller) -> None:
    teller.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    _until_words(page, "从前，")
    page.get_by_role("link", name="Settings").first.click()
    assert teller.hung_up.wait(90)
    page.context.close()


def test_a_click_on_the_page_is_not_leaving(browser: Browser, studio: Studio, teller: Teller) -> None:
    teller.begin(("从前，",), endless=True)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    _until_words(page, "从前，")
    for _ in range(3):
        page.locator(".st-key-story_aloud label").click()
        first = len(_words(page))
        page.wait_for_function(f"document.querySelector('.st-key-story_words_0').innerText.length > {first + 30}")
    assert not teller.hung_up.is_set()
    teller.go_on.set()
    page.get_by_text("complete").wait_for()
    page.context.close()


def test_four_panes_fill_at_once_and_a_blind_vote_reveals_them(
    browser: Browser, studio: Studio, teller: Teller
) -> None:
    teller.begin(("我是 {model}。", "完。"), gated=1)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    page.locator(".st-key-story_compare label").click()
    settled(page)
    page.locator(".st-key-story_blind label").click()
    settled(page)
    box = page.locator(".st-key-story_others input")
    for name in MODELS[2:]:
        box.fill(name)
        page.keyboard.press("Enter")
        page.locator(".st-key-story_others").get_by_text(name).first.wait_for()
        settled(page)
    page.keyboard.press("Escape")
    press(page, "story_button")
    for number in range(4):
        _until_words(page, "我是", number)  # all of them before any has ended
    teller.go_on.set()
    page.locator(".st-key-story_vote_3").wait_for()
    shown = {_words(page, number).split()[1].split("。")[0] for number in range(4)}
    assert shown == set(MODELS)
    settled(page)
    press(page, "story_vote_1")
    page.get_by_text("You chose").wait_for()
    page.context.close()


def test_a_voice_reads_sentence_by_sentence_while_more_is_written(
    browser: Browser, studio: Studio, teller: Teller
) -> None:
    teller.begin(("第一句。第二", "句！后", "来呢"), gated=2)
    page = browser.new_context(locale="en-US").new_page()
    page.set_default_timeout(_BUSY_MS)
    page.add_init_script(_VOICE)
    page.goto(f"{studio.url}/story")
    settled(page)
    press(page, "story_button")
    _until_words(page, "第二句！")
    page.locator(".st-key-story_aloud label").click()
    page.wait_for_function("window.spoken.length === 2")  # the third sentence has no end yet
    teller.go_on.set()
    page.wait_for_function("window.spoken.length === 3")
    assert [said for said, _rate in page.evaluate("window.spoken")] == ["第一句。", "第二句！", "后来呢"]
    assert page.get_by_role("button", name="Pause").count() == 1
    page.context.close()


def test_no_word_of_a_model_makes_the_browser_ask_anybody(browser: Browser, studio: Studio, teller: Teller) -> None:
    teller.begin((_NASTY,))
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    press(page, "story_button")
    page.get_by_text("complete").wait_for()
    assert _words(page).strip() == _NASTY
    page.get_by_role("radio", name="Earlier stories").click()
    page.get_by_text("plain").first.wait_for()
    settled(page)
    page.goto(f"{studio.url}/story?stage=1")
    press(page, "presenter_write")
    page.get_by_text("complete").wait_for()
    assert page.locator("img[src*='example']").count() == 0
    assert asked and not [url for url in asked if not url.startswith((studio.url, "data:", "blob:"))]
    page.context.close()


def test_an_edit_that_is_kept_closes_its_dialog_and_shows(browser: Browser, studio: Studio, teller: Teller) -> None:
    teller.begin(("从前，",))
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    page.get_by_text("complete").wait_for()
    page.get_by_role("radio", name="Earlier stories").click()
    settled(page)
    page.get_by_role("button", name="Edit").first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator("textarea").fill("mine")
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="detached")
    page.get_by_text("mine", exact=True).wait_for()
    page.context.close()
