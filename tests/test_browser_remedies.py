"""A run whose texts are cut off, in a real browser: one click on the remedy, and every row is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.actor import LOCAL
from core.dataset import datasets
from core.dataset.recipe import Column, Recipe
from core.db.store import Store
from core.settings import Settings
from tests import browser_page, fault_server, studio_process
from tests.browser_page import expect, press, settled, visit
from tests.fault_server import Answer, FaultServer
from tests.studio_process import RunningStudio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NEEDED = 150  # tokens of a long story
_RECIPE = Recipe(
    "heroes",
    (Column("hero", ("唐", "宋", "元", "明", "清")), Column("mood", ("轻松", "艰难"))),
    "写{hero}朝英雄，{mood}的故事",
    model="writer",
    max_tokens=100,
)

pytestmark = browser_page.MARKS


def _writes(body: Any) -> Answer:
    """Stories of hard times are longer, and cut off below the tokens that they need; one prompt is refused."""
    prompt = fault_server.prompt_of(body)
    if "清朝英雄，轻松" in prompt:
        return fault_server.error(400, "no stories about the Qing")
    cut = "艰难" in prompt and body["max_tokens"] < _NEEDED
    return fault_server.text(f"从前，{prompt[1:]}。", finish_reason="length" if cut else "stop")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        running.judge = _writes
        running.models.append({**running.models[0], "id": "second"})
        yield running


@pytest.fixture
def studio(tmp_path: Path, server: FaultServer) -> Iterator[RunningStudio]:
    """A studio whose engine is the test's."""
    environ = {"FABULA_ENGINE_URL": server.url.removesuffix("/v1")}
    with studio_process.running(tmp_path / "home", **environ) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, studio: RunningStudio) -> Iterator[Store]:
    """The studio's own ledger, seen from outside."""
    ledger = Store(Settings.from_env({"FABULA_HOME": str(tmp_path / "home")}).database_url)
    yield ledger
    ledger.close()


def _picture(page: Page, name: str) -> None:
    """Kept where CI, or whoever looks, asks for pictures."""
    if folder := os.environ.get("PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_a_run_that_is_cut_off_is_completed_by_one_click(
    browser: Browser, studio: RunningStudio, store: Store, server: FaultServer
) -> None:
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    address = f"{studio.url}/dataset?part=rows&set={dataset_id}"
    page = visit(browser, address, locale="en-US")
    page.get_by_role("button", name="Write 10 rows").click()
    page.get_by_text("5 rows failed").wait_for()
    page.get_by_text("no stories about the Qing").wait_for()
    page.get_by_role("button", name="Raise the limit to 256 tokens and retry").wait_for()
    settled(page)
    _picture(page, "remedies-en")
    for width, scheme in ((1440, "dark"), (390, "light")):
        other = visit(browser, address, locale="zh-CN", width=width, color_scheme=scheme)
        other.locator(".st-key-dataset_fix_token_limit_raise_limit button").wait_for()
        settled(other)
        _picture(other, f"remedies-zh-{width}-{scheme}")
        other.context.close()

    press(page, "dataset_fix_token_limit_raise_limit")
    page.get_by_text("9 of 10").wait_for()
    page.get_by_text("Finished").wait_for()
    settled(page)
    expect(page.get_by_text("Cut off at the token limit")).to_have_count(0)
    assert datasets.summary(store, dataset_id).done == 9
    asked = [prompt for prompt in server.prompts() if "艰难" in prompt]
    assert len(asked) == 2 * len(set(asked)) == 10  # each of them twice; nothing else was bought again
    assert len(server.prompts()) == 15

    press(page, "dataset_fix_bad_request_recipe")
    page.get_by_role("radio", name="Design", exact=True, checked=True).wait_for()
    expect(page.locator(".st-key-dataset_template textarea")).to_have_value(_RECIPE.template)
