"""Installations with each kind of database."""

from __future__ import annotations

import pytest

from core.settings import Settings


@pytest.fixture
def settings(on_each_database: Settings) -> Settings:
    """An installation, once with each kind of database."""
    return on_each_database
