"""Pages when the shared files are elsewhere, and when they are away."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.db.store import Store
from core.settings import Settings
from core.shared_files import PRICES, storage
from pages.ui import cache
from tests.support.app_pages import again, trouble, visit, visit_presenter, words
from tests.support.fault_server import FaultServer

_HEADER = "model,provider,base_model,kind,amount,currency,unit,valid_from,valid_until,source,checked,note"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that FABULA_FILES_URL names; it does not exist yet."""
    monkeypatch.setenv("FABULA_FILES_URL", str(tmp_path / "mount"))
    return tmp_path / "mount"


def test_the_settings_page_shows_their_place(store: Store, mount: Path) -> None:
    mount.mkdir()
    at = visit("settings")
    assert any(str(mount) in str(table.value.values) for table in at.table)


def test_pages_use_a_price_file_that_was_replaced_on_another_host(store: Store, mount: Path) -> None:
    mount.mkdir()

    def replace_with(amount: int) -> None:
        row = f"mine,house,,output,{amount},USD,mtok,,,contract,2026-11-20,"
        storage(Settings.from_env()).write_bytes(PRICES, f"{_HEADER}\n{row}\n".encode())

    for amount in (7, 12):
        replace_with(amount)
        price = cache.prices().find("house", "mine")
        assert price is not None and price.output_per_mtok == amount


def test_the_cost_page_says_that_they_are_away_and_its_other_parts_work(store: Store, mount: Path) -> None:
    at = visit("cost")
    assert "does not exist" in trouble(at) and "FABULA_FILES_URL" in trouble(at) + words(at)
    assert not visit("cost", cost_part="spent").error
    mount.mkdir()
    assert not again(at).error


def test_without_them_no_empty_field_can_replace_the_saved_prompts(
    tuned_server: FaultServer, store: Store, mount: Path
) -> None:
    at = visit_presenter()
    assert "does not exist" in trouble(at)
    assert "presenter_keep" not in {button.key for button in at.button}
    mount.mkdir()
    assert "presenter_keep" in {button.key for button in again(at).button}
