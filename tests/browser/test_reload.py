"""A page that is reloaded while a story is written, in a real browser: it continues reading, and the text never
disappears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import browser_page
from tests.support.browser_page import press, settled, shown, visit
from tests.support.story_server import StreamingServer
from tests.support.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browser_page.MARKS

# Counts how often the story's text is empty after the first words have arrived.
_BLANKS = """
window.blanks = 0;
let begun = false;
const look = () => {
  const words = document.querySelector('.st-key-story_words_0');
  if (words && words.innerText.includes('从前')) begun = true;
  else if (begun) window.blanks += 1;
};
new MutationObserver(look).observe(document, {childList: true, characterData: true, subtree: true});
"""


def _until_longer(page: Page, place: str) -> None:
    """Wait until there is text, and more has arrived."""
    page.locator(f".st-key-{place}").get_by_text("从前，有一").wait_for()
    page.wait_for_function(
        """place => {
          const length = document.querySelector(`.st-key-${place}`)?.innerText.length ?? 0;
          window.lengths ??= {};
          window.lengths[place] ??= length;
          return length > window.lengths[place] + 20;
        }""",
        arg=place,
    )


def test_a_reload_reads_on_and_shows_the_story_when_it_has_ended(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，", "有一"), endless=True)
    sent = len(streaming_server.prompts())
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    press(page, "story_button")
    _until_longer(page, "story_words_0")
    page.reload()
    _until_longer(page, "story_words_0")
    assert not streaming_server.hung_up.is_set()
    shown(page, "story_stop")
    streaming_server.go_on.set()
    page.get_by_text("complete").wait_for()
    page.reload()
    page.get_by_text("complete").wait_for()
    page.locator(".st-key-story_words_0").get_by_text("从前，有一").wait_for()
    assert len(streaming_server.prompts()) == sent + 1
    page.context.close()


@pytest.mark.parametrize("panes", [1, 2])
def test_presenter_mode_reads_on_after_a_reload(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer, panes: int
) -> None:
    streaming_server.begin(("从前，", "有一"), endless=True)
    page = visit(browser, f"{studio.url}/story?stage=1", locale="en-US")
    page.locator("html.fabula-presenter").wait_for(state="attached")
    page.keyboard.press("ArrowRight")
    page.locator(".st-key-presenter_controls").get_by_text("2 / ").wait_for()
    settled(page)
    page.keyboard.press(str(panes))
    page.get_by_role("radio", name=str(panes), checked=True).wait_for()
    settled(page)
    page.keyboard.press("Space")
    for at in range(panes):
        _until_longer(page, f"presenter_words_{at}")
    page.reload()
    for at in range(panes):
        _until_longer(page, f"presenter_words_{at}")
    page.locator(".st-key-presenter_controls").get_by_text("2 / ").wait_for()
    assert not streaming_server.hung_up.is_set()
    streaming_server.go_on.set()
    page.get_by_text("complete").nth(panes - 1).wait_for()
    page.reload()
    page.get_by_text("complete").nth(panes - 1).wait_for()
    page.locator(".st-key-presenter_controls").get_by_text("2 / ").wait_for()
    page.context.close()


def test_the_words_are_never_blank_once_they_have_begun(
    browser: Browser, studio: RunningStudio, streaming_server: StreamingServer
) -> None:
    streaming_server.begin(("从前，", *("字" for _ in range(40))), pace_s=0.02)
    page = visit(browser, f"{studio.url}/story", locale="en-US")
    page.evaluate(_BLANKS)
    press(page, "story_button")
    page.get_by_text("complete").wait_for()
    shown(page, "story_again")
    settled(page)
    page.locator(".st-key-story_aloud label").click()  # a click redraws the page
    settled(page)
    page.wait_for_function("window.blanks === 0")
    page.context.close()
