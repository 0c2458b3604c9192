"""The real app in a real browser: cold addresses, both languages, both themes, a phone, and the tour to its end."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import fault_server, studio_process
from tests.fault_server import FaultServer
from tests.studio_process import CHROMIUM, RunningStudio
from tests.tiny_gemma import write_tiny_gemma

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_ROOT = Path(__file__).parents[1]
_PAGES = ("", "dataset", "training", "cost", "story", "settings")
_TITLES = {
    "en-US": ("Fabula", "Data set", "Training", "Cost", "Story", "Settings"),
    "zh-CN": ("Fabula", "数据集", "训练", "成本", "故事", "设置"),
}
_PARTS = (  # further pictures for the documents: address, part of the page, file, words that come last
    ("dataset", "Run", "dataset-run", "all done"),
    ("dataset", "Quality", "dataset-quality", "(Good|Worth a look|Needs work):"),
    ("dataset", "Use", "dataset-use", "JSONL, chat"),
    ("cost", "My workload", "cost-workload", "pays back"),
)
_SOON_MS = 90_000
_TOUR_MS = 600_000  # a tiny model learns in seconds, but torch has to be loaded first, maybe on a busy machine
_LONG_TOUR_MS = 1_200_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Debian's chromium is not installed"),
]


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
    """An engine in the test's hand."""
    with FaultServer(fault_server.text("从前，", "有一位英雄。")) as server:
        yield server


@pytest.fixture(scope="module")
def light_studio(tmp_path_factory: pytest.TempPathFactory, writer: FaultServer) -> Iterator[RunningStudio]:
    """A studio whose engine is the test's."""
    home = tmp_path_factory.mktemp("light") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL=writer.url.removesuffix("/v1")) as studio:
        yield studio


def visit(browser: Browser, url: str, *, width: int = 1440, **context: Any) -> Page:
    """A fresh visitor; what the browser complains about fails the test at the end (`complaints`)."""
    page = browser.new_context(viewport={"width": width, "height": 1100}, **context).new_page()
    page.set_default_timeout(_SOON_MS)
    page.goto(url)
    settled(page)
    return page


def settled(page: Page) -> None:
    """Until the page is drawn: a title is there and no script runs."""
    page.wait_for_selector("h1")
    page.wait_for_selector('[data-testid="stStatusWidget"]', state="detached")
    page.wait_for_function('!document.querySelector(\'[data-stale="true"], [data-testid="stSkeleton"]\')')


def press(page: Page, key: str) -> None:
    page.locator(f".st-key-{key} button").click()


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
    assert field.input_value() == typed  # the browser drops nothing
    page.context.close()


@pytest.mark.parametrize("locale", _TITLES)
@pytest.mark.parametrize("index", range(len(_PAGES)), ids=[name or "home" for name in _PAGES])
def test_a_cold_address_opens_its_page_in_the_browsers_language(
    browser: Browser, light_studio: RunningStudio, index: int, locale: str
) -> None:
    scheme = "dark" if locale == "zh-CN" else "light"
    page = visit(browser, f"{light_studio.url}/{_PAGES[index]}", locale=locale, color_scheme=scheme)
    assert page.locator("h1").inner_text() == _TITLES[locale][index]
    assert page.get_by_role("alert").count() == 0
    page.context.close()


@pytest.mark.parametrize("name", _PAGES)
def test_nothing_is_wider_than_a_phone(browser: Browser, light_studio: RunningStudio, name: str) -> None:
    page = visit(browser, f"{light_studio.url}/{name}", width=390, locale="zh-CN")
    widest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('[data-testid=stMain] button, [data-testid=stMain] p, "
        "[data-testid=stMain] input')].map(e => e.getBoundingClientRect().right))"
    )
    assert widest <= 390
    cut = page.evaluate(
        "[...document.querySelectorAll('[data-testid=stMetric] *')].filter(e => e.offsetParent && "
        "getComputedStyle(e).textOverflow === 'ellipsis' && e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    )
    assert cut == []
    page.context.close()


def test_a_link_carries_the_language_and_pages_keep_it(browser: Browser, light_studio: RunningStudio) -> None:
    page = visit(browser, f"{light_studio.url}/cost?lang=zh_CN", locale="en-US")
    assert page.locator("h1").inner_text() == "成本"
    page.get_by_role("link", name="故事").first.click()
    page.wait_for_function("document.querySelector('h1').innerText === '故事'")
    page.get_by_role("radio", name="English").click()
    page.wait_for_function("document.querySelector('h1').innerText === 'Story'")
    page.context.close()


def test_rows_come_while_one_watches(browser: Browser, light_studio: RunningStudio, writer: FaultServer) -> None:
    page = visit(browser, f"{light_studio.url}/dataset", locale="en-US")
    page.get_by_role("button", name="Generate 400 rows").click()
    page.get_by_text("Finished").wait_for(timeout=_TOUR_MS)
    settled(page)
    assert "400 of 400" in page.locator('[data-testid="stProgress"]').inner_text()
    with page.expect_download() as download:
        press(page, "dataset_csv")
    lines = Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == ",hero,gift,mood,story" and len(lines) == 401
    page.context.close()


def test_a_story_streams_and_stopping_keeps_its_words(
    browser: Browser, light_studio: RunningStudio, writer: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(writer._http.RequestHandlerClass, "_stream", _slowly(go_on))
    page = visit(browser, f"{light_studio.url}/story", locale="en-US")
    press(page, "story_button")
    page.get_by_text("从前，有一位").wait_for()
    page.get_by_role("button", name="Stop", exact=True).last.click()
    page.get_by_text("stopped; the text so far is kept").wait_for()
    go_on.set()
    settled(page)
    assert page.get_by_text("从前，有一位").count() == 1
    page.get_by_role("radio", name="Earlier stories").click()
    page.get_by_text("从前，有一位").wait_for()
    page.context.close()


def _slowly(go_on: threading.Event) -> Any:
    """A stream that says three pieces and then waits."""

    def stream(handler: Any, answer: fault_server.Answer, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        for piece in ("从前，", "有一", "位"):
            chunk = fault_server._chunk(answer, body, piece, None)
            handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            handler.wfile.flush()
        go_on.wait(fault_server.GIVE_UP_S)

    return stream


@pytest.mark.slow
def test_the_tour_goes_to_its_end_for_real(browser: Browser, studio: RunningStudio) -> None:
    page = visit(browser, studio.url, locale="en-US")
    press(page, "home_tour")
    page.get_by_text("A small model is being trained on the stories").wait_for(timeout=_TOUR_MS)
    page.get_by_text("The tour is complete").or_(page.get_by_text("could not continue")).first.wait_for(
        timeout=_LONG_TOUR_MS
    )
    settled(page)
    assert page.get_by_text("The tour is complete").count() == 1, page.inner_text("body")
    for said in ("Before", "After"):
        assert page.get_by_text(said, exact=True).count() == 1
    assert page.get_by_role("button", name="Write another story with this model").count() == 1
    press(page, "home_tour_job")
    page.wait_for_function("document.querySelector('h1').innerText === 'Training'")
    charts = page.locator('[data-testid="stVegaLiteChart"]')
    charts.nth(1).wait_for(timeout=_TOUR_MS)
    settled(page)
    assert charts.count() == 2
    ready = "document.body.innerText.split('The model is ready').length === 2"
    page.wait_for_function(ready)  # once; while both models write the page is drawn many times
    page.context.close()


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
def test_screenshots_for_the_documents(browser: Browser, tmp_path: Path) -> None:
    """With the real weights. SCREENSHOTS may also name a home that has seen the tour; else it is taken first."""
    folder, seen = _ROOT / "docs" / "screenshots", Path(os.environ["SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    with studio_process.running(seen if seen.is_dir() else tmp_path / "home") as studio:
        if not seen.is_dir():
            page = visit(browser, studio.url, locale="en-US")
            press(page, "home_tour")
            page.get_by_text("The tour is complete").wait_for(timeout=_LONG_TOUR_MS)
            page.context.close()
        for name in _PAGES[:-1]:  # settings would show this machine's folders
            page = visit(browser, f"{studio.url}/{name}", locale="en-US")
            if name == "story":
                press(page, "story_outside_0")
                settled(page)
                press(page, "story_button")
                page.get_by_text("complete").or_(page.get_by_text("stopped at the token limit")).first.wait_for(
                    timeout=_TOUR_MS
                )
            _picture(page, folder / f"{name or 'home'}.png")
        for address, part, name, last in _PARTS:
            page = visit(browser, f"{studio.url}/{address}", locale="en-US")
            page.get_by_role("radio", name=part, exact=True).click()
            page.get_by_role("radio", name=part, exact=True, checked=True).wait_for()
            page.get_by_text(re.compile(last)).first.wait_for(timeout=_SOON_MS)
            _picture(page, folder / f"{name}.png")
        page = visit(browser, studio.url, locale="zh-CN", color_scheme="dark")
        _picture(page, folder / "home-zh-dark.png")


def _picture(page: Page, path: Path) -> None:
    """The page as it is when all of it is there and no button is hovered over."""
    page.mouse.move(0, 0)
    page.get_by_text("counting tokens").wait_for(state="detached")
    settled(page)
    for chart in page.locator('[data-testid="stVegaLiteChart"]').all():
        chart.locator("canvas, svg").first.wait_for()
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path, animations="disabled")
    page.context.close()
