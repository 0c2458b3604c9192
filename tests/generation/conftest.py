"""A provider whose requests cost money."""

from __future__ import annotations

import pytest

from core.actor import LOCAL
from core.db.store import Store
from core.pricing import custom_prices
from tests.support.live_runs import MODEL


@pytest.fixture
def priced(store: Store) -> Store:
    """A ledger whose model costs a dollar per 1,000 tokens, and per 1,000 characters of speech."""
    for kind in ("input", "output"):
        custom_prices.set_price(store, LOCAL, provider="fault", model=MODEL, kind=kind, amount="1000")
    custom_prices.set_price(store, LOCAL, provider="fault", model=MODEL, kind="speech", amount="1000", unit="mchar")
    return store
