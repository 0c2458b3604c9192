"""Creates fresh ledgers for tests: one of each kind is migrated and then copied, which takes a fraction of the time."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from sqlalchemy import make_url

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.settings import Settings
from tests.support import postgres_server


def fresh(settings: Settings) -> Store:
    """Create an empty ledger with the newest schema, as `Store.open` would."""
    if not settings.database_url.startswith("sqlite"):
        return Store.open(settings)
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_migrated())
    return Store(settings.database_url)


@lru_cache(maxsize=1)
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env({"FABULA_HOME": folder})
        Store.open(settings).close()  # closing the last connection writes everything to the one file
        return Path(settings.database_url.removeprefix("sqlite:///")).read_bytes()


def postgres_database(server: str) -> str:
    """Create a database with the newest schema on the PostgreSQL server at this URL; return the database's URL."""
    return postgres_server.new_database(server, _migrated_on(server))


@lru_cache(maxsize=1)
def _migrated_on(server: str) -> str:
    url = postgres_server.new_database(server)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env({"DATABASE_URL": url, "FABULA_HOME": folder})
        Store.open(settings).close()
    return make_url(url).database or ""


def create_dataset(store: Store, name: str) -> None:
    recipe = Recipe(name, (Column("n", ("a",)),), "{n}", provider="engine", model="writer")
    datasets.create(store, LOCAL, recipe)
