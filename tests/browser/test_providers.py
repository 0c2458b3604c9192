"""A provider in a real browser and real processes: added by its address, used for four rows, removed; its key is
nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.generation import runs
from core.settings import Settings
from tests.support import browser_page, fault_server, studio_process
from tests.support.browser_page import choose, expect, press, settled, visit
from tests.support.fault_server import FaultServer
from tests.support.studio_process import RunningStudio
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_CANARY = "sk-canary-browser-0123456789"
_RECIPE = Recipe(
    "Four rows",
    (Column("hero", ("唐", "宋")), Column("power", ("隐形", "飞行"))),
    "写{hero}，{power}",
    provider="compatible",
    model="writer",
    seed=1,
)

pytestmark = browser_page.MARKS


@pytest.fixture
def endpoint() -> Iterator[FaultServer]:
    with FaultServer(lambda prompt: fault_server.text(f"从前，{prompt}的故事。")) as running:
        yield running


@pytest.fixture
def studio(home: Path, server: FaultServer) -> Iterator[RunningStudio]:
    with studio_process.running(home, FABULA_ENGINE_URL=server.url.removesuffix("/v1")) as running:
        yield running


def test_a_server_is_added_by_its_address_writes_four_rows_and_is_removed(
    browser: Browser, studio: RunningStudio, endpoint: FaultServer, home: Path
) -> None:
    page = visit(browser, f"{studio.url}/settings?lang=en")
    _add(page, endpoint.url)
    expect(page.get_by_text("Ready: 1 model")).to_be_visible()
    assert _CANARY not in page.content()

    store = Store(Settings.from_env({"FABULA_HOME": str(home)}).database_url)
    dataset_id = datasets.create(store, LOCAL, _RECIPE)
    runs.enqueue(store, LOCAL, dataset_id)  # the worker started before the provider was added
    until(lambda: datasets.summary(store, dataset_id).done == 4, "four rows")
    assert {request.headers["authorization"] for request in endpoint.requests} == {f"Bearer {_CANARY}"}

    other = visit(browser, f"{studio.url}/settings?lang=en")  # another visitor
    expect(other.get_by_text("with a key")).to_be_visible()
    assert _CANARY not in other.content()
    press(other, "settings_remove_compatible")
    press(other, "settings_removal_confirm")
    expect(other.locator(".st-key-settings_provider_compatible")).to_have_count(0)
    assert datasets.summary(store, dataset_id).done == 4
    store.close()
    _assert_nowhere(home)


def _add(page: Page, url: str) -> None:
    press(page, "settings_provider_add")
    choose(page, "settings_provider_preset", "Another OpenAI-compatible address")
    for field, value in (("name", "My server"), ("url", url), ("key", _CANARY)):
        settled(page)
        page.locator(f".st-key-settings_provider_{field} input").fill(value)
        page.keyboard.press("Tab")
    press(page, "settings_provider_save")


def _assert_nowhere(home: Path) -> None:
    """The key is in no file of the studio (database, logs, key file) and in no process's arguments or environment."""
    for path in home.rglob("*"):
        assert not path.is_file() or _CANARY.encode() not in path.read_bytes(), path.name
    for place in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                assert _CANARY.encode() not in (place / name).read_bytes(), place
            except OSError:
                continue
