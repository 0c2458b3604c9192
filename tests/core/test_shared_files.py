"""Files that all hosts share: what one process saves, every other one uses, with only the address in common."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from core import shared_files
from core.actor import LOCAL
from core.errors import StorageFull
from core.file_storage import FolderStorage
from core.pricing.price_book import PriceBook
from core.settings import Settings
from core.shared_files import FETCHED_PRICES, NAMES, PRICES, storage
from core.stories import prompt_suggestions

_ROOT = Path(__file__).parents[2]
_PRICE = (
    b"model,provider,base_model,kind,amount,currency,unit,valid_from,valid_until,source,checked,note\n"
    b"gpt-4o-mini,openai,,output,7,USD,mtok,,,contract,2026-11-20,\n"
)
_OTHER_HOST = """
from core.pricing.price_book import PriceBook, cost_of
from core.settings import Settings
from core.shared_files import storage
from core.stories.prompt_suggestions import load_presenter_prompts
files = storage(Settings.from_env())
print(cost_of(PriceBook.load(files), "openai", "gpt-4o-mini", 0, 1_000_000), load_presenter_prompts(files))
"""


@pytest.fixture(params=["folder", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place that all hosts can reach."""
    if request.param == "bucket":
        return f"s3://{request.getfixturevalue('bucket')}/team"
    (tmp_path / "mount").mkdir()
    return str(tmp_path / "mount")


def _host(tmp_path: Path, name: str, url: str | None) -> Settings:
    return Settings.from_env({"FABULA_HOME": str(tmp_path / name), "FABULA_FILES_URL": url or ""})


def test_a_worker_on_another_host_uses_the_prices_and_prompts_of_this_one(url: str, tmp_path: Path) -> None:
    files = storage(_host(tmp_path, "web", url))
    files.write_bytes(PRICES, _PRICE)
    prompt_suggestions.save_presenter_prompts(files, LOCAL, ["Tell me more."])
    environ = os.environ | {"FABULA_HOME": str(tmp_path / "worker"), "FABULA_FILES_URL": url}
    there = subprocess.run([sys.executable, "-c", _OTHER_HOST], cwd=_ROOT, env=environ, capture_output=True, text=True)
    assert there.stdout.split(maxsplit=1) == ["7", "['Tell me more.']\n"], there.stderr


def test_without_the_setting_the_files_are_in_the_home_folder(tmp_path: Path) -> None:
    settings = _host(tmp_path, "home", None)
    storage(settings).write_bytes(PRICES, _PRICE)
    assert (settings.home / PRICES).read_bytes() == _PRICE
    assert shared_files.in_home(_host(tmp_path, "home", str(settings.home)))


def test_unknown_prices_stop_work_instead_of_counting_as_list_prices(tmp_path: Path) -> None:
    files = storage(_host(tmp_path, "web", str(tmp_path / "not-mounted")))
    with pytest.raises(StorageFull, match="does not exist"):
        PriceBook.load(files)


def test_files_are_moved_once_and_keep_their_times(url: str, tmp_path: Path) -> None:
    settings, when = _host(tmp_path, "web", url), datetime(2026, 11, 20, tzinfo=UTC)
    for name in NAMES:
        FolderStorage(settings.home).write_bytes(name, name.encode(), when)
    storage(settings).write_bytes(FETCHED_PRICES, b"newer")
    assert shared_files.unused(settings) == list(NAMES)
    moved = shared_files.move(settings.home, storage(settings))
    assert FETCHED_PRICES not in moved and len(moved) == len(NAMES) - 1
    assert shared_files.unused(settings) == [FETCHED_PRICES]
    for name in moved:
        found = storage(settings).find(name)
        assert found is not None and (found.load(), found.modified) == (name.encode(), when)
    kept = storage(settings).find(FETCHED_PRICES)
    assert kept is not None and kept.load() == b"newer"


def test_a_place_is_tested_without_leaving_anything(url: str, tmp_path: Path) -> None:
    shared_files.verify(storage(_host(tmp_path, "web", url)))
    if not url.startswith("s3://"):
        assert list(Path(url).iterdir()) == []


def test_local_mode_loads_no_package_for_buckets(tmp_path: Path) -> None:
    code = f"{_OTHER_HOST}\nimport sys\nprint([name for name in ('s3fs', 'fsspec', 'botocore') if name in sys.modules])"
    environ = os.environ | {"FABULA_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, env=environ, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert Decimal(done.stdout.split()[0]) == Decimal("0.6")


def test_a_price_book_in_use_keeps_its_prices_while_a_folder_is_away(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    files = storage(_host(tmp_path, "web", str(tmp_path / "mount")))
    book = PriceBook.load(files)
    before = book.find("openai", "gpt-4o-mini")
    (tmp_path / "mount").rmdir()
    assert before is not None and book.find("openai", "gpt-4o-mini") == before
    with pytest.raises(StorageFull):
        PriceBook.load(files)
