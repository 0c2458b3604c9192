"""The Run tab in a real browser: a run outlives the browser tab that started it, and every browser tab shows the same
run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.settings import Settings
from tests.support import browser_page, fault_server, studio_process
from tests.support.browser_page import box_of, expect, press, repeat, settled, shown, visit
from tests.support.fault_server import Answer, FaultServer
from tests.support.studio_process import RunningStudio
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Position

_HELD_S = 600  # longer than a test: a request that continues by itself would write an extra row
_RECIPE = Recipe(
    "heroes",
    (
        Column("hero", ("唐", "宋", "元", "明", "清")),
        Column("power", ("隐形", "飞行", "读心术", "喷火")),
        Column("mood", ("轻松", "努力", "艰难")),
    ),
    "写{hero}朝英雄，{power}，{mood}的故事",
    repeats=2,
    model="writer",
    seed=1,  # a separate seed for each row, so one request per row
)

pytestmark = browser_page.MARKS


class Gates:
    """Answers the allowed number of requests; the others wait."""

    def __init__(self) -> None:
        self._open = 0
        self._asked = 0
        self._news = threading.Condition()

    def __call__(self, prompt: str) -> Answer:
        with self._news:
            self._asked += 1
            mine = self._asked
            self._news.wait_for(lambda: mine <= self._open, _HELD_S)
        return fault_server.text(f"从前，{prompt[1:]}。")

    def open(self, requests: int) -> None:
        """Allow this many answers in total."""
        with self._news:
            self._open = requests
            self._news.notify_all()


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def studio(tmp_path: Path, gates: Gates) -> Iterator[RunningStudio]:
    """A studio with a fake engine that answers when the test allows it."""
    with FaultServer(gates) as server:
        environ = {"FABULA_ENGINE_URL": server.url.removesuffix("/v1")}
        with studio_process.running(tmp_path / "home", **environ) as studio:
            yield studio
        gates.open(1_000_000)


@pytest.fixture
def store(tmp_path: Path, studio: RunningStudio) -> Iterator[Store]:
    """The studio's ledger, opened by the test."""
    store = Store(Settings.from_env({"FABULA_HOME": str(tmp_path / "home")}).database_url)
    yield store
    store.close()


def _run_part(browser: Browser, studio: RunningStudio, **context: Any) -> Page:
    page = visit(browser, f"{studio.url}/dataset", locale="en-US", **context)
    page.get_by_role("radio", name="Run", exact=True).click()
    page.get_by_role("radio", name="Run", exact=True, checked=True).wait_for()
    settled(page)
    return page


def test_a_run_goes_on_when_its_tab_is_closed(
    browser: Browser, studio: RunningStudio, store: Store, gates: Gates
) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)

    def done() -> int:
        return datasets.summary(store, dataset_id).done

    page = _run_part(browser, studio)
    gates.open(20)
    press(page, "dataset_continue")
    page.get_by_text("20 of 120").wait_for()
    page.context.close()

    gates.open(60)  # no page is open
    until(lambda: done() == 60, "the run without a tab")

    first, second = _run_part(browser, studio), _run_part(browser, studio, color_scheme="dark")
    for tab in (first, second):
        tab.get_by_text("60 of 120").wait_for()
        shown(tab, "dataset_stop")
    gates.open(1_000)
    for tab in (first, second):  # nothing is clicked: they only watch
        tab.get_by_text("120 of 120").wait_for()
        tab.get_by_text("Finished").wait_for()
    second.context.close()
    assert done() == 120

    settled(first)
    _click_a_square(first, until_there=first.get_by_role("button", name="2 rows in the table"))
    settled(first)
    first.get_by_role("button", name="Leave out").first.click()
    first.get_by_role("button", name="Undo: 1 row left out").wait_for()
    assert datasets.summary(store, dataset_id).excluded == 1
    settled(first)
    first.get_by_role("button", name="Undo: 1 row left out").click()
    until(lambda: done() == 120, "the row is back")


def test_a_run_is_paused_in_one_tab_and_gone_on_with_in_another(
    browser: Browser, studio: RunningStudio, store: Store, gates: Gates
) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    page = _run_part(browser, studio)
    gates.open(10)
    press(page, "dataset_continue")
    page.get_by_text("10 of 120").wait_for()
    press(page, "dataset_pause")
    page.get_by_text("Paused").wait_for()
    page.context.close()
    gates.open(1_000)
    other = _run_part(browser, studio)
    press(other, "dataset_resume")
    other.get_by_text("Finished").wait_for()
    assert datasets.summary(store, dataset_id).done == 120


def _click_a_square(page: Page, *, until_there: Locator) -> None:
    """The first square of the map: its position is measured, because a canvas has no elements."""
    chart = page.locator('[data-testid="stVegaLiteChart"]').first
    chart.locator("canvas, svg").first.wait_for()
    size = box_of(chart)
    place: Position = {"x": size["width"] * 0.5, "y": min(size["height"] * 0.6, 200)}
    repeat(page, lambda: chart.click(position=place), until_there)


def test_a_preset_changes_the_settings_under_more_also_after_they_were_shown(
    browser: Browser, studio: RunningStudio
) -> None:
    page = visit(browser, f"{studio.url}/dataset", locale="en-US")
    name, more = page.locator(".st-key-dataset_name input"), page.get_by_role("button", name="More", exact=True)
    more.click()
    name.wait_for()
    expect(name).not_to_have_value("")
    page.keyboard.press("Escape")
    settled(page)
    page.get_by_text("Empty grid").click()
    settled(page)
    press(page, "dataset_dice")  # a run to which the browser sends what it has
    settled(page)
    more.click()
    name.wait_for()
    expect(name).to_have_value("")
