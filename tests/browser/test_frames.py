"""Screenshots and animations with the real engine: the packaged storyteller writes on the story page, next to its base
with hidden names, and in presenter mode; and a tour trains a model. Only made on request, because they use both cores
for minutes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import browser_page, studio_process
from tests.support.browser_page import TRAINED_MS, press, settled, shown, visit
from tests.support.film import FRAMES, Film

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browser_page.MARKS

_SIZE: dict[str, Any] = {"width": 1100, "height": 1040}
_FILM_MOST = 2_000_000  # maximum bytes for an image in the docs
_HOLD_MS = 2_500  # how long frames with text to read are shown
_TOKENS = 260
_SEED = 3
_VOTED_TOKENS, _ROUNDS = 80, 4

_LONGER = (
    "([n, letters]) => "
    "document.querySelector(`.st-key-story_words_${n} [data-testid='stText']`)?.innerText.length > letters"
)
_PRESENTED = (
    "letters => document.querySelector(`.st-key-presenter_words_0 [data-testid='stText']`)?.innerText.length > letters"
)
_PROJECTOR: dict[str, Any] = {"width": 1024, "height": 768}
_TOUR_EVERY_S = 3.0
_TOUR_FASTER = 12  # speed-up factor: four minutes in twenty seconds
_TOUR_MS = 1_800_000  # a busy machine takes several times as long
_STEPS_OF_A_CURVE = 20  # enough to see that the loss falls
_AT_STEP = (
    "least => [...document.querySelectorAll('[data-testid=stCaptionContainer]')]"
    ".some(e => Number(/^(?:Training step|训练第) ([\\d,]+)/.exec(e.innerText)?.[1] ?? 0) >= least "
    "&& document.querySelector('[data-testid=stVegaLiteChart] :is(canvas, svg)'))"
)
_BOTH_WRITE = (
    "letters => { const texts = document.querySelectorAll('[data-testid=stText]'); "
    "return texts.length > 1 && [...texts].every(e => e.innerText.length > letters); }"
)


@pytest.mark.slow
@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
def test_frames_for_the_documents(browser: Browser, tmp_path: Path) -> None:
    with studio_process.running(tmp_path / "home") as studio:
        page = visit(browser, f"{studio.url}/story", locale="en-US", **_SIZE)
        film = Film(page)
        _prepare(page)
        film.take("story-1", ms=_HOLD_MS)
        press(page, "story_button")
        page.wait_for_function(_LONGER, arg=[0, 4])
        film.take("story-2")
        film.roll(lambda: _longer(page, 0, 100))
        film.take("story-3")
        film.roll(lambda: _told(page))
        settled(page)
        film.take("story-4", ms=_HOLD_MS)
        page.locator(".st-key-story_compare label").click()
        settled(page)
        page.locator(".st-key-story_blind label").click()
        settled(page)
        press(page, "story_button")
        for pane in range(2):
            page.wait_for_function(_LONGER, arg=[pane, 20])
        film.take("story-5", ms=_HOLD_MS)
        page.locator(".st-key-story_words_0").evaluate("e => e.closest('[data-testid=stColumn]').scrollIntoView()")
        film.roll(lambda: _told(page))
        settled(page)
        press(page, f"story_vote_{int(_repeats(page))}")
        chosen = page.get_by_text("You chose")
        chosen.wait_for()
        settled(page)
        chosen.evaluate("e => e.scrollIntoView({block: 'center'})")
        film.take("story-6", ms=_HOLD_MS)
        film.save(FRAMES / "story.webp")
    assert (FRAMES / "story.webp").stat().st_size < _FILM_MOST


@pytest.mark.slow
@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
def test_frames_of_presenter_mode(browser: Browser, tmp_path: Path, locale: str, scheme: str) -> None:
    """From opening to leaving, by keyboard: one model, then the storyteller next to its base."""
    name = f"presenter-{locale[:2]}"
    with studio_process.running(tmp_path / "home") as studio:
        page = visit(browser, f"{studio.url}/story", locale=locale, color_scheme=scheme, **_PROJECTOR)
        film = Film(page)
        film.take(ms=_HOLD_MS)
        press(page, "story_present")
        shown(page, "presenter_write")
        settled(page)
        film.take(f"{name}-1", ms=_HOLD_MS)
        _present(page, film, f"{name}-2")
        page.keyboard.press("ArrowRight")
        page.locator(".st-key-presenter_controls").get_by_text("2 / ").wait_for()
        settled(page)
        film.take(ms=_HOLD_MS)
        page.keyboard.press("2")
        page.get_by_role("radio", name="2", checked=True).wait_for()
        settled(page)
        _present(page, film, f"{name}-3")
        page.keyboard.press("Escape")
        shown(page, "story_present")
        settled(page)
        film.take(ms=_HOLD_MS)
        film.save(FRAMES / f"{name}.webp")
    assert (FRAMES / f"{name}.webp").stat().st_size < _FILM_MOST


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
def test_frames_of_the_tour(browser: Browser, tmp_path: Path, locale: str, scheme: str) -> None:
    """From the start button to both texts: the curve grows, then the base and the new model write side by side."""
    name = f"tour-{locale[:2]}"
    with studio_process.running(tmp_path / "home") as studio:
        page = visit(browser, studio.url, locale=locale, color_scheme=scheme, **_SIZE)
        page.set_default_timeout(_TOUR_MS)
        film = Film(page, _TOUR_EVERY_S, _TOUR_FASTER)
        film.take(f"{name}-1", ms=_HOLD_MS)
        press(page, "home_tour")
        stop = page.locator(".st-key-home_tour_stop")
        stop.wait_for()
        film.roll(lambda: stop.count() == 0 or page.evaluate(_AT_STEP, _STEPS_OF_A_CURVE))
        film.take(f"{name}-2", ms=_HOLD_MS)
        film.roll(lambda: stop.count() == 0 or page.evaluate(_BOTH_WRITE, 60))
        film.take(f"{name}-3", ms=_HOLD_MS)
        film.roll(lambda: stop.count() == 0)
        shown(page, "home_tour_story")  # the tour has ended with a model
        settled(page)
        film.take(f"{name}-4", ms=_HOLD_MS)
        film.save(FRAMES / f"{name}.webp")
    assert (FRAMES / f"{name}.webp").stat().st_size < _FILM_MOST


@pytest.mark.slow
@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
def test_pictures_of_the_dialogs_for_votes_and_for_model_files(browser: Browser, tmp_path: Path) -> None:
    """The packaged storyteller beside its base, a job that learns from the votes, and the export of its model."""
    with studio_process.running(tmp_path / "home") as studio:
        page = visit(browser, f"{studio.url}/story", locale="en-US", **_SIZE)
        film = Film(page)
        _prepare(page, _VOTED_TOKENS, seed="")
        for switch in ("story_compare", "story_blind"):
            page.locator(f".st-key-{switch} label").click()
            settled(page)
        for _round in range(_ROUNDS):
            press(page, "story_button")
            page.locator(".st-key-story_button").get_by_text("Write", exact=True).wait_for()
            settled(page)
            press(page, f"story_vote_{int(_repeats(page))}")
            page.get_by_text("You chose").wait_for()
            settled(page)
        page.locator(".st-key-story_part").get_by_text("Votes", exact=True).click()
        settled(page)
        page.get_by_role("button", name="Train on these votes").click()
        shown(page, "training_next")
        settled(page)
        page.get_by_test_id("stToast").wait_for(state="detached")
        film.take("training-dpo")
        for key in ("training_next", "training_next", "training_submit"):
            shown(page, key)
            press(page, key)
        page.locator(".st-key-training_export_open button:visible").first.click(timeout=TRAINED_MS)
        shown(page, "training_export_start")
        form = page.locator(".st-key-training_export_form").get_by_role("combobox")
        form.fill("GGUF adapter")  # a small file: for large ones the dialog shows a folder of this machine
        form.press("Enter")
        page.get_by_text("Only the training, for llama.cpp and Ollama.").wait_for()
        page.locator(".st-key-training_export_start button:visible").click()
        page.get_by_role("dialog").get_by_text("Compared with the trained model").wait_for(timeout=TRAINED_MS)
        page.mouse.move(0, 0)
        film.take("training-export")


def _present(page: Page, film: Film, name: str) -> None:
    """Write a story to its end; `name`: screenshot of the finished story."""
    page.keyboard.press("Space")
    page.wait_for_function(_PRESENTED, arg=4)
    film.roll(lambda: page.locator(".st-key-presenter_write").count() == 1)
    settled(page)
    film.take(name, ms=_HOLD_MS)


def _repeats(page: Page) -> bool:
    """Whether the first story repeats its prompt, like the untuned base."""
    return "Write a short story" in page.locator(".st-key-story_words_0").inner_text()


def _prepare(page: Page, tokens: int = _TOKENS, seed: str = str(_SEED)) -> None:
    """Values that are not in the training data, a length that keeps the animation short, and a fixed seed."""
    press(page, "story_outside_0")
    settled(page)
    page.get_by_role("button", name="More").click()
    for key, number in (("story_max_tokens", str(tokens)), ("story_seed", seed)):
        field = page.locator(f".st-key-{key} input")
        field.fill(number)
        field.press("Enter")
        settled(page)
    page.keyboard.press("Escape")
    settled(page)
    page.mouse.move(0, 0)


def _longer(page: Page, pane: int, letters: int) -> bool:
    return bool(page.evaluate(_LONGER, [pane, letters])) or _told(page)


def _told(page: Page) -> bool:
    """Whether the story is finished: its button is Write again."""
    return page.locator(".st-key-story_button").get_by_text("Write", exact=True).count() == 1
