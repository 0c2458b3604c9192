"""Installations with each kind of database."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import Settings


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, home: Path) -> Settings:
    """An installation, once with each kind of database."""
    if request.param == "postgresql":
        on_postgres: Settings = request.getfixturevalue("on_postgres")
        return on_postgres
    return Settings.from_env({"FABULA_HOME": str(home)})
