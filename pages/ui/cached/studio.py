"""Cached studio objects: settings, ledger, providers and prices."""

from __future__ import annotations

import hashlib
import os
from dataclasses import astuple
from pathlib import Path

import streamlit as st

from core.db.store import Store
from core.db.tables import utcnow
from core.pricing import custom_prices
from core.pricing.price_book import PriceBook
from core.pricing.price_csv import PriceEntry
from core.providers import Client, Registry
from core.settings import Settings

POLL_S = 1.0  # rows and steps arrive about once a second; a second's delay still feels live
FRESH_S = 0.8  # shorter than a poll: each poll reads again, and simultaneous polls of all viewers read once


def settings() -> Settings:
    """The settings from the environment."""
    return Settings.from_env()


def where() -> str:
    """A cache key that differs between studios (tests have many)."""
    return _digest(settings())


def _digest(settings: Settings) -> str:
    """A hash of all fields, so that no secret is in a cache key."""
    return hashlib.sha256(repr(astuple(settings)).encode()).hexdigest()


def store() -> Store:
    """The ledger."""
    return _store(settings())


@st.cache_resource(hash_funcs={Settings: _digest}, max_entries=4)
def _store(settings: Settings) -> Store:
    return Store.open(settings)


def registry() -> Registry:
    """The providers of this studio, with the worker's retry limits."""
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
    """The price book, including custom prices."""
    entries = tuple(custom_prices.entries(store()))
    return _book(repr(entries), utcnow().date().isoformat(), str(settings().home), entries)
