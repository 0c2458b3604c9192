"""Installations with each kind of database."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import Settings
from tests.support import postgres_server


@pytest.fixture
def settings(on_each_database: Settings) -> Settings:
    """An installation, once with each kind of database."""
    return on_each_database


@pytest.fixture
def elsewhere(settings: Settings, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An empty installation of the same kind, in another folder."""
    environ = {"FABULA_HOME": str(tmp_path / "elsewhere")}
    if settings.database_url.startswith("postgresql"):
        environ["DATABASE_URL"] = postgres_server.new_database(request.getfixturevalue("postgres_url"))
    return Settings.from_env(environ)
