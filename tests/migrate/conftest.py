"""A ledger and an account for tests of the move."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from core.actor import LOCAL
from core.db.store import Store
from core.migrate import account_views, accounts, mover
from core.migrate.account_views import AccountView
from core.migrate.accounts import Goal
from core.migrate.sources import AccountForm
from core.providers import Provider, Registry, RetryPolicy
from core.settings import Settings
from tests.support import stores
from tests.support.openai_account import OpenAIAccount

Move = Callable[..., AccountView]


@pytest.fixture
def store(hermetic: None) -> Iterator[Store]:
    """An empty ledger."""
    ledger = stores.fresh(Settings.from_env())
    yield ledger
    ledger.close()


@pytest.fixture
def account() -> Iterator[OpenAIAccount]:
    """An empty account."""
    with OpenAIAccount() as server:
        yield server


@pytest.fixture
def move(store: Store, account: OpenAIAccount) -> Move:
    """Work on the account as the worker does, and return its view. Waits between retries are short."""

    def work(goal: Goal = "inventory", *, provider: Provider | None = None, admin_key: str = "") -> AccountView:
        form = AccountForm(provider or account.provider(), stored=False, admin_key=admin_key)
        archive_id = accounts.connect(store, LOCAL, form)
        accounts.start(store, LOCAL, archive_id, goal)
        mover.move(
            store,
            Registry([]),
            Settings.from_env(),
            archive_id,
            threading.Event(),
            RetryPolicy(tries=4, base_s=0.001, jitter=False, cap_s=0.01, max_retry_after_s=2.0),
        )
        return account_views.view(store, archive_id)

    return work
