"""One intent classifier is moved in a real browser, with a real engine: from its account's key to the new model, which
answers calls for the old one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from core.providers import engine_endpoint
from core.settings import Settings
from tests.support import browser_page, intents, studio_process
from tests.support.browser_page import TRAINED_MS, expect, press, settled, shown, visit
from tests.support.film import FRAMES, Film
from tests.support.openai_account import KEY, OpenAIAccount
from tests.support.tiny_gemma import write_tiny_gemma

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = browser_page.MARKS

_BASE = "gemma-3-270m"
_VALIDATION_ROWS = 40
_HOLD_MS = 1_500  # how long frames with text to read are shown
_FILM_WIDTH, _FILM_MOST = 1440, 1_000_000  # px, bytes


@pytest.fixture
def account() -> Iterator[OpenAIAccount]:
    """An account with one tuned model, which answers."""
    with OpenAIAccount() as server:
        training, validation = intents.files()
        server.add_file("file-training", training, name="intents.jsonl")
        server.add_file("file-validation", validation, name="intents-validation.jsonl")
        job = server.add_tune(1, training_file="file-training", validation_file="file-validation")
        server.serve(job["fine_tuned_model"], intents.old_answer)
        yield server


def test_a_classifier_is_moved_from_its_account_to_the_engine(
    browser: Browser, account: OpenAIAccount, tmp_path: Path
) -> None:
    """With a tiny base of random weights, which learns most of the four labels in seconds. If SCREENSHOTS is set, the
    packaged base is trained, and the film and the images in docs/screenshots are regenerated.
    """
    pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    home, filmed = tmp_path / "home", "SCREENSHOTS" in os.environ
    tiny = write_tiny_gemma(tmp_path / "tiny.gguf", context=4096)
    models = {} if filmed else {"FABULA_ENGINE_MODELS": f"{_BASE}={tiny}"}
    with studio_process.running(home, **models) as studio:
        page = visit(browser, f"{studio.url}/move", locale="en-US", color_scheme="light", height=1000)
        film = Film(page, every_s=5.0, faster=20, width=_FILM_WIDTH) if filmed else None
        _walk(_Visitor(page, film), account, home)
        if film is not None:
            film.save(FRAMES / "move.webp")
            assert (FRAMES / "move.webp").stat().st_size < _FILM_MOST


@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
def test_picture_of_an_archived_account(browser: Browser, tmp_path: Path) -> None:
    """Twelve tuned models; three of their files are gone."""
    with OpenAIAccount() as server, studio_process.running(tmp_path / "home") as studio:
        for number in range(12):
            server.add_tune(number, rows=20)
        for gone in ("file-train1", "file-results2", "file-results0"):
            server.delete_file(gone, listed=True)
        page = visit(browser, f"{studio.url}/move", locale="en-US", color_scheme="light", height=1240)
        _archive(_Visitor(page), server, safe="21 / 24")
        Film(page).take("move")


@dataclass(frozen=True)
class _Visitor:
    """What a visitor does; with a film, every step is captured."""

    page: Page
    film: Film | None = None

    def press(self, key: str) -> None:
        """Press a button once the page is drawn."""
        shown(self.page, key)
        settled(self.page)
        button = self.page.locator(f".st-key-{key} button")
        if self.film is not None:
            button.hover()
            self.film.take(ms=_HOLD_MS)
        press(self.page, key)

    def type(self, key: str, text: str) -> None:
        field = self.page.locator(f".st-key-{key} input")
        field.fill(text)
        field.press("Enter")  # with Tab, Streamlit ignores a password until its "show" button loses the focus too
        settled(self.page)

    def wait_for(self, key: str) -> None:
        """Wait until an element is there, for as long as a training takes."""
        settled(self.page)  # another job's page may have the same element
        seen = self.page.locator(f".st-key-{key}:visible")
        if self.film is not None:
            self.film.roll_until_there(seen)
        seen.first.wait_for(timeout=TRAINED_MS)
        settled(self.page)

    def show(self, seen: Locator, name: str | None = None) -> None:
        """Look at something for a while; `name`: also keep the picture."""
        seen.first.wait_for()
        if self.film is not None:
            settled(self.page)
            seen.first.evaluate("e => e.scrollIntoView({block: 'center'})")
            self.film.take(name, ms=2 * _HOLD_MS)


def _walk(visitor: _Visitor, account: OpenAIAccount, home: Path) -> None:
    """From the key to a program that gets the new model."""
    old_model = account.jobs[0]["fine_tuned_model"]
    _archive(visitor, account)
    _train(visitor)
    _compare(visitor)
    rows = Counter(message for message, _intent in intents.labelled()[-_VALIDATION_ROWS:])
    assert Counter(account.prompts) == rows  # each is asked once
    _switch(visitor)
    engine = engine_endpoint.current_endpoint(Settings.from_env({"FABULA_HOME": str(home)}))
    program = openai.OpenAI(base_url=f"{engine.url}/v1", api_key=engine.token, max_retries=0)
    messages: Any = [{"role": "system", "content": intents.SYSTEM}, {"role": "user", "content": "Where is my tent?"}]
    answer = program.chat.completions.create(model=old_model, messages=messages, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    assert Counter(account.prompts) == rows  # the old model was not asked


def _archive(visitor: _Visitor, account: OpenAIAccount, *, safe: str = "3 / 3") -> None:
    page = visitor.page
    visitor.type("move_key", KEY)
    page.locator(".st-key-move_keep label").first.click()
    settled(page)
    page.locator(".st-key-move_more summary").click()
    visitor.type("move_url", account.url)
    visitor.press("move_list")
    visitor.wait_for("move_archive")
    visitor.press("move_archive")
    visitor.wait_for("move_retrain")
    expect(page.locator(".st-key-move_figures")).to_contain_text(safe)


def _train(visitor: _Visitor) -> None:
    page = visitor.page
    for key in ("move_retrain", "training_next", "training_next", "training_submit"):
        visitor.press(key)
    visitor.wait_for("training_try")
    visitor.show(page.locator('[data-testid="stVegaLiteChart"]'))


def _compare(visitor: _Visitor) -> None:
    page = visitor.page
    page.get_by_test_id("stTopNav").get_by_role("link", name="Move").click()
    visitor.press("move_compare")
    visitor.press("training_parity_start")
    visitor.wait_for("training_parity_json")
    visitor.show(page.locator(".st-key-training_parity strong"), "move-verdict")
    if visitor.film is None:
        _vote(page)


def _vote(page: Page) -> None:
    """The arrow keys vote on the page that the card's link opens."""
    press(page, "training_vote_link")
    address = page.wait_for_function("""() => document.querySelector('a[href*="vote="]')?.href""").json_value()
    assert page.context.browser is not None
    ballot = visit(page.context.browser, address, locale="en-US")
    for voted, key in enumerate(("ArrowLeft", "ArrowDown", "ArrowRight")):
        expect(ballot.get_by_test_id("stProgress")).to_contain_text(f"{voted} of")
        ballot.keyboard.press(key)
    expect(ballot.get_by_test_id("stProgress")).to_contain_text("3 of")
    ballot.context.close()


def _switch(visitor: _Visitor) -> None:
    page = visitor.page
    page.get_by_test_id("stTopNav").get_by_role("link", name="Move").click()
    visitor.press("move_switch_on")
    visitor.wait_for("move_switch_back")
    visitor.show(page.locator(".st-key-move_switch"), "move-switch")
    expect(page.locator(".st-key-move_figures")).to_contain_text("1 / 1")
