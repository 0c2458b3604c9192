"""Newer price data: fetched when somebody asks, used at once, and the packaged prices wherever that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from core.actor import LOCAL, Actor
from core.cost import edition
from core.cost.book import PriceBook
from core.errors import FabulaError
from tests.price_address import PriceAddress, price_server

_NEWER = [
    {
        "id": "openai",
        "name": "OpenAI",
        "api_pattern": "https://api\\.openai\\.com",
        "models": [
            {"id": "gpt-4o-mini", "match": {"equals": "gpt-4o-mini"}, "prices": {"input_mtok": 1, "output_mtok": 9}}
        ],
    }
]


@pytest.fixture
def price_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[PriceAddress]:
    with price_server(json.dumps(_NEWER).encode()) as address:
        monkeypatch.setattr(edition, "URL", address.url)
        yield address
    edition.forget()


def test_a_newer_edition_is_used_by_books_that_are_open_and_says_when_it_came(price_address: PriceAddress) -> None:
    book = PriceBook.load()
    before = book.find("openai", "gpt-4o-mini")
    assert before is not None and before.output_per_mtok == Decimal("0.6") and before.checked == edition.PACKAGED
    found = edition.fetch(LOCAL, datetime(2026, 12, 1, tzinfo=UTC))
    after = book.find("openai", "gpt-4o-mini")
    assert after is not None and (after.output_per_mtok, after.checked) == (9, date(2026, 12, 1))
    assert [price.model for price in book.rows(["openai"]) if price.source == found.source] == ["gpt-4o-mini"]
    tuned = book.find("openai", "ft:gpt-4o-mini-2024-07-18:x::y")
    assert tuned is not None and tuned.output_per_mtok == Decimal("1.2")  # the studio's own file stays before it
    edition.forget()
    again = book.find("openai", "gpt-4o-mini")
    assert again is not None and again.output_per_mtok == Decimal("0.6")


@pytest.mark.parametrize(
    "answer", [b"", b"not json", b"{}", b"[]", b'[{"id": 7}]', b'[{"id": "openai"}]', b"\xff\xfe", None]
)
def test_what_is_no_price_data_changes_nothing(price_address: PriceAddress, answer: bytes | None) -> None:
    price_address.body = answer
    with pytest.raises(FabulaError, match=r"Newer prices cannot be fetched: .+") as failure:
        edition.fetch(LOCAL, datetime.now(UTC))
    assert "2026-11-10" in failure.value.next_step and edition.current().fetched is None


def test_without_a_network_the_packaged_prices_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edition, "URL", "http://127.0.0.1:9/none")  # nobody listens there
    with pytest.raises(FabulaError, match="cannot be fetched"):
        edition.fetch(LOCAL, datetime.now(UTC))
    assert PriceBook.load().find("openai", "gpt-4o-mini") is not None


def test_a_visitor_does_not_fetch(price_address: PriceAddress) -> None:
    with pytest.raises(FabulaError, match="Visitors"):
        edition.fetch(Actor("v", "V", "viewer"), datetime.now(UTC))
    assert price_address.asked == 0
