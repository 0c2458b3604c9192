"""An engine's shadows: calls for an old model, relayed to its provider. Only our engine has this API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

from core.providers.client import Client
from core.providers.schemas import Provider

_PATH, _CALLS = "/fabula/v1/shadows", "/fabula/v1/shadow_calls"
PAGE = 200
"""Calls that are collected at once."""


@dataclass(frozen=True, slots=True)
class EngineShadow:
    """A relay of the engine, see `core.engine.shadow.shadow_store.Shadow`. `has_key`: whether it knows the key."""

    id: str
    label: str
    model: str
    share: int
    fallback: bool
    state: str
    reason: str
    relayed: int
    failed: int
    dropped: int
    has_key: bool


@dataclass(frozen=True, slots=True)
class RelayedCall:
    """A call that has ended, see `core.engine.shadow.shadow_store.ShadowCall`."""

    id: str
    created_at: int
    ended: int
    state: str
    copy: str
    request: str
    old: str | None
    new: str | None
    old_s: float | None
    new_s: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    copy_error: str


def listed(client: Client) -> tuple[EngineShadow, ...]:
    """The engine's shadows. Raises ProviderError if it does not respond."""
    return tuple(_shadow(row) for row in client.engine_call("GET", _PATH)["data"])


def save(
    client: Client, provider: Provider, *, alias: str, model: str, label: str, share: int, fallback: bool
) -> EngineShadow:
    """Start a relay to a provider, or change the one with this label and send its key again."""
    form = {"id": alias, "model": model, "label": label, "share": share, "fallback": fallback}
    address = {"base_url": provider.base_url, "api_key": provider.api_key}
    return _shadow(client.engine_call("POST", _PATH, {**form, **address}))


def remove(client: Client, alias: str) -> None:
    """Stop a relay."""
    client.engine_call("DELETE", f"{_PATH}/{quote(alias, safe='')}")


def calls(client: Client, label: str, after: int) -> tuple[RelayedCall, ...]:
    """Calls that have ended, in the order of their ends, after the one with this number."""
    found = client.engine_call("GET", f"{_CALLS}?label={quote(label)}&after={after}&limit={PAGE}")
    names = [field.name for field in fields(RelayedCall)]
    return tuple(RelayedCall(**{name: row[name] for name in names}) for row in found["data"])


def forget(client: Client, label: str, until: int | None = None) -> None:
    """Delete the calls that were collected, or all of a shadow."""
    end = "" if until is None else f"&until={until}"
    client.engine_call("DELETE", f"{_CALLS}?label={quote(label)}{end}")


def _shadow(row: Mapping[str, Any]) -> EngineShadow:
    return EngineShadow(**{field.name: row[field.name] for field in fields(EngineShadow)})
