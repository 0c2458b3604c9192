"""The studio itself: where its things are, its ledger, its providers and its prices."""

from __future__ import annotations

import hashlib
import os
from dataclasses import astuple
from pathlib import Path

import streamlit as st

from core.cost import custom_prices
from core.cost.price_book import PriceBook
from core.cost.price_csv import PriceEntry
from core.db.store import Store
from core.db.tables import utcnow
from core.providers import Client, Registry
from core.settings import Settings

POLL_S = 1.0  # rows and steps come about once a second; a second's delay still feels live
FRESH_S = 0.8  # below a poll, so that each poll looks anew, but all viewers' polls of that moment look once


def settings() -> Settings:
    """Where things are, from the environment."""
    return Settings.from_env()


def where() -> str:
    """Tells caches of one studio from those of another (tests have many)."""
    return _digest(settings())


def _digest(settings: Settings) -> str:
    """A key of all fields that shows none of them."""
    return hashlib.sha256(repr(astuple(settings)).encode()).hexdigest()


def store() -> Store:
    """The ledger."""
    return _store(settings())


@st.cache_resource(hash_funcs={Settings: _digest}, max_entries=4)
def _store(settings: Settings) -> Store:
    return Store.open(settings)


def registry() -> Registry:
    """The providers that this studio can reach, with the worker's patience."""
    return _registry(settings(), os.environ.get("OPENAI_BASE_URL", ""), bool(os.environ.get("OPENAI_API_KEY")))


@st.cache_resource(hash_funcs={Settings: _digest}, max_entries=4)
def _registry(settings: Settings, base_url: str, has_key: bool) -> Registry:
    return Registry.from_settings(settings, os.environ)


def client(provider: str) -> Client:
    """The client of one provider."""
    return registry().get(provider)


@st.cache_resource(max_entries=2)
def _book(mine: str, day: str, home: str, _entries: tuple[PriceEntry, ...]) -> PriceBook:
    return PriceBook.load(Path(home), own=_entries)


def prices() -> PriceBook:
    """The price book, with the prices that people of this studio have set."""
    entries = tuple(custom_prices.entries(store()))
    return _book(repr(entries), utcnow().date().isoformat(), str(settings().home), entries)
