"""Newer price data: fetched on request, used by all processes of a home, with the packaged prices as fallback when
fetching fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from core.actor import LOCAL, Actor
from core.errors import FabulaError, NotAllowed
from core.file_storage import FolderStorage
from core.pricing import bundled_prices
from core.pricing.price_book import PriceBook
from core.shared_files import FETCHED_PRICES
from tests.support.price_address import PriceAddress, price_server

_ROOT = Path(__file__).parents[2]
_WHEN = datetime(2026, 12, 1, tzinfo=UTC)
_NEWER = [
    {
        "id": "openai",
        "name": "OpenAI",
        "api_pattern": "https://api\\.openai\\.com",
        "models": [
            {"id": "gpt-4o-mini", "match": {"equals": "gpt-4o-mini"}, "prices": {"input_mtok": 1, "output_mtok": 9}},
            {"id": "tts-1", "match": {"equals": "tts-1"}, "prices": {"input_mchars": 7}},
        ],
    }
]
_BAD = [b"", b"not json", b"{}", b"[]", b'[{"id": 7}]', b'[{"id": "openai"}]', b"\xff\xfe"]


@pytest.fixture
def price_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[PriceAddress]:
    with price_server(json.dumps(_NEWER).encode()) as address:
        monkeypatch.setattr(bundled_prices, "URL", address.url)
        yield address


def _output(book: PriceBook) -> Decimal | None:
    price = book.find("openai", "gpt-4o-mini")
    return None if price is None else price.output_per_mtok


def test_open_price_books_use_newer_data(price_address: PriceAddress, home: Path) -> None:
    book = PriceBook.load(FolderStorage(home))
    assert _output(book) == Decimal("0.6")
    found = bundled_prices.fetch(LOCAL, _WHEN, FolderStorage(home))
    after = book.find("openai", "gpt-4o-mini")
    assert after is not None and (after.output_per_mtok, after.checked) == (9, date(2026, 12, 1))
    assert found.fetched == _WHEN
    assert [price.model for price in book.rows(["openai"]) if price.source == found.source] == ["gpt-4o-mini"]
    spoken = book.find("openai", "tts-1")
    assert spoken is not None and spoken.speech_per_mchar == 7
    tuned = book.find("openai", "ft:gpt-4o-mini-2024-07-18:x::y")
    assert tuned is not None and tuned.output_per_mtok == Decimal("1.2")  # data/prices.csv overrides it
    bundled_prices.use_packaged(LOCAL, FolderStorage(home))
    assert _output(book) == Decimal("0.6")


def test_all_processes_use_fetched_prices(price_address: PriceAddress, home: Path) -> None:
    bundled_prices.fetch(LOCAL, _WHEN, FolderStorage(home))
    code = (
        "import sys; from pathlib import Path; from core.file_storage import FolderStorage;"
        "from core.pricing.price_book import PriceBook, cost_of;"
        "print(cost_of(PriceBook.load(FolderStorage(Path(sys.argv[1]))), 'openai', 'gpt-4o-mini', 0, 1_000_000))"
    )
    worker = subprocess.run([sys.executable, "-c", code, str(home)], cwd=_ROOT, capture_output=True, text=True)
    assert worker.stdout.strip() == "9", worker.stderr
    assert price_address.asked == 1
    assert _output(PriceBook.load()) == Decimal("0.6")  # without a home, only packaged prices are used


@pytest.mark.parametrize("answer", [*_BAD, None])
def test_invalid_price_data_is_ignored(price_address: PriceAddress, home: Path, answer: bytes | None) -> None:
    price_address.body = answer
    with pytest.raises(FabulaError, match=r"Couldn't fetch newer prices: .+") as failure:
        bundled_prices.fetch(LOCAL, datetime.now(UTC), FolderStorage(home))
    assert "2026-11-10" in failure.value.next_step and bundled_prices.current(FolderStorage(home)).fetched is None
    assert not list(home.glob(f"{FETCHED_PRICES}*"))


@pytest.mark.parametrize("data", _BAD)
def test_unreadable_fetched_data_falls_back_to_packaged_prices(home: Path, data: bytes) -> None:
    home.mkdir(exist_ok=True)
    (home / FETCHED_PRICES).write_bytes(data)
    assert _output(PriceBook.load(FolderStorage(home))) == Decimal("0.6")


def test_one_that_is_older_than_the_package_is_not_used(price_address: PriceAddress, home: Path) -> None:
    bundled_prices.fetch(LOCAL, datetime(2026, 11, 9, tzinfo=UTC), FolderStorage(home))
    assert _output(PriceBook.load(FolderStorage(home))) == Decimal("0.6")


def test_without_a_network_the_packaged_prices_serve(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(bundled_prices, "URL", "http://127.0.0.1:9/none")  # closed port
    with pytest.raises(FabulaError, match="Couldn't fetch"):
        bundled_prices.fetch(LOCAL, datetime.now(UTC), FolderStorage(home))
    assert _output(PriceBook.load(FolderStorage(home))) == Decimal("0.6")


def test_a_visitor_does_not_fetch(price_address: PriceAddress, home: Path) -> None:
    visitor = Actor("v", "V", "viewer")
    with pytest.raises(NotAllowed):
        bundled_prices.fetch(visitor, datetime.now(UTC), FolderStorage(home))
    with pytest.raises(NotAllowed):
        bundled_prices.use_packaged(visitor, FolderStorage(home))
    assert price_address.asked == 0
