"""A team's ledger, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.actor import Actor
from core.db.store import Store
from core.settings import Settings
from tests.support import stores, team


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, home: object) -> Settings:
    """Settings of a team."""
    team_settings = Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(home)})
    if request.param == "postgresql":
        on_postgres: Settings = request.getfixturevalue("on_postgres")
        return replace(team_settings, database_url=on_postgres.database_url)
    return team_settings


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """An empty ledger for these settings."""
    ledger = stores.fresh(settings)
    yield ledger
    ledger.close()


@pytest.fixture
def admin(store: Store, settings: Settings) -> Actor:
    """The first admin."""
    return team.arrive(store, settings).actor(store)
