"""Cached models of the providers, and the state of engine and worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from core.errors import FabulaError, StorageFull
from core.jobs.system_status import Status, collect
from core.providers import Client, ModelInfo, RetryPolicy
from core.providers.registry import ENGINE
from core.providers.schemas import Endpoint
from pages.ui import unexpected_errors
from pages.ui.cached.studio import POLL_S, prices, registry, settings, store, where

_MODELS_S = 5  # a model appears at most this long after its job ends
_QUICK = RetryPolicy(total_s=3.0, tries=1)  # a page does not wait for an unreachable endpoint; it shows an error
_QUICK_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class OfferedModels:
    """The models that every provider offers now, and errors by provider."""

    found: tuple[ModelInfo, ...]
    problems: Mapping[str, FabulaError]


def models() -> OfferedModels:
    """Models of all providers, the engine's first."""
    return _models(tuple(registry().ids()), where())


@st.cache_resource(ttl=_MODELS_S, max_entries=4, refresh_mode="background")
def _models(providers: tuple[str, ...], studio: str) -> OfferedModels:
    found: list[ModelInfo] = []
    problems: dict[str, FabulaError] = {}
    for provider in providers:
        try:
            found += quick(provider).models()
        except Exception as problem:
            problems[provider] = unexpected_errors.as_fabula_error(problem, f"asking {provider} for its models")
    return OfferedModels(tuple(found), problems)


def forget_models() -> None:
    """Clear the cached models, so that the next run requests them again."""
    _models.clear()
    _endpoint.clear()


def ask_models(provider: str) -> list[ModelInfo]:
    """The models of one provider, without the cache.

    Raises:
        FabulaError: why it does not answer.
    """
    return quick(provider).models()


def quick(provider: str) -> Client:
    """A client for pages: one attempt with a short timeout."""
    return registry().client(provider, retry_policy=_QUICK, timeout=_QUICK_TIMEOUT_S)


def status() -> Status:
    """The current state of engine, worker and providers."""
    return _status(where(), bool(os.environ.get("OPENAI_API_KEY")))


@st.cache_resource(ttl=POLL_S, max_entries=4)
def _status(where: str, has_key: bool) -> Status:
    try:
        ledger = store()
    except StorageFull:
        ledger = None
    return collect(settings(), ledger)


def forget_status() -> None:
    """Clear the cached state of engine and worker."""
    _status.clear()


def endpoint_of(info: ModelInfo) -> Endpoint:
    """The endpoint that a model supports."""
    if info.format is not None:
        return "completion" if info.format == "completion" else "chat"
    return _endpoint(info.provider, info.id, where())


@st.cache_resource(ttl=_MODELS_S, max_entries=256)
def _endpoint(provider: str, model: str, studio: str) -> Endpoint:
    return quick(provider).endpoint(model)


def trainable() -> list[ModelInfo]:
    """Models that a job can start from: the engine's models, and those that OpenAI still fine-tunes."""
    book = prices()
    return [m for m in models().found if m.provider == ENGINE or book.training_price(m.provider, m.id) is not None]
