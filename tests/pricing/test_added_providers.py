"""Prices of providers that were added on the settings page."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from core.actor import LOCAL
from core.db.store import Store
from core.pricing import custom_prices
from core.pricing.price_book import PriceBook, cost_of
from core.pricing.prices import price_list

_NOW = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("provider", "expected"),
    [("openai", "openai"), ("openai-2", "openai"), ("openai-12", "openai"), ("openai-123", "openai"),
     ("openai-2023", "openai-2023"),
     ("dashscope-intl", "dashscope-intl"), ("dashscope-intl-2", "dashscope-intl")],
)  # fmt: skip
def test_a_second_account_has_the_prices_of_the_first(provider: str, expected: str) -> None:
    assert price_list(provider) == expected
    book = PriceBook.load(now=_NOW)
    first, second = book.find("openai", "gpt-4o-mini"), book.find("openai-2", "gpt-4o-mini")
    assert first is not None and second is not None and second.provider == "openai-2"
    assert (second.input_per_mtok, second.output_per_mtok) == (first.input_per_mtok, first.output_per_mtok)
    trained = book.training_price("openai-2", "gpt-4o-mini-2024-07-18")
    assert trained is not None and trained.training_per_mtok == Decimal(3)


@pytest.mark.parametrize("provider", ["ollama", "lmstudio", "llamacpp", "vllm", "sglang", "own-server", "ollama-2"])
def test_a_server_of_your_own_costs_nothing_per_token_unless_you_say_so(store: Store, provider: str) -> None:
    book = PriceBook.load(now=_NOW)
    assert cost_of(book, provider, "qwen3:4b", 100, 100) == 0
    for kind in ("input", "output"):
        custom_prices.set_price(store, LOCAL, provider=provider, model="qwen3:4b", kind=kind, amount="2")
    own = PriceBook.load(now=_NOW, own=custom_prices.entries(store))
    assert cost_of(own, provider, "qwen3:4b", 1_000_000, 1_000_000) == 4


def test_an_unknown_price_stays_unknown() -> None:
    book = PriceBook.load(now=_NOW)
    assert book.find("compatible", "writer") is None and cost_of(book, "compatible", "writer", 1, 1) is None
