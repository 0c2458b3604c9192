"""An engine's shadows: calls for an old model, relayed to its provider. Only our engine has this API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from core.providers.client import Client
from core.providers.engine_aliases import Expected, changed_meanwhile
from core.providers.schemas import Provider

_PATH, _CALLS = "/fabula/v1/shadows", "/fabula/v1/shadow_calls"
_PAGE = 200  # calls that are collected at once


@dataclass(frozen=True, slots=True)
class EngineShadow:
    """A relay of the engine, see `core.engine.shadow.shadow_store.Shadow`. `has_key`: whether it knows the key."""

    id: str
    label_sha256: str
    model: str
    share: int
    fallback: bool
    state: str
    reason: str
    lost: int
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


def find(client: Client, label: str) -> EngineShadow | None:
    """The shadow with this label; None if it has ended. Raises ProviderError if the engine does not respond."""
    label_sha256 = sha256(label.encode()).hexdigest()
    return next((one for one in listed(client) if one.label_sha256 == label_sha256), None)


def save(
    client: Client, provider: Provider, *, alias: str, model: str, label: str, share: int, fallback: bool,
    expected: Expected | None = None,
) -> EngineShadow:  # fmt: skip
    """Start a relay to a provider, or change the one with this label and send its key again.

    Raises:
        ChangedMeanwhile: the alias is not as `expected`, or the relay with this label has ended.
    """
    form = {"id": alias, "model": model, "label": label, "share": share, "fallback": fallback}
    address = {"base_url": provider.base_url, "api_key": provider.api_key}
    condition = {} if expected is None else {"if_model": expected.model}
    with changed_meanwhile(alias):
        return _shadow(client.engine_call("POST", _PATH, {**form, **address, **condition}))


def close(client: Client, alias: str, label: str) -> None:
    """End a relay for good, whether it has started or not. Its calls can still be collected."""
    client.engine_call("DELETE", f"{_PATH}/{quote(alias, safe='')}?label={quote(label)}")


def calls(client: Client, label: str, after: int) -> tuple[tuple[RelayedCall, ...], int]:
    """Calls that have ended, in the order of their ends, after the one with this number; empty after the last one. And
    how many are in progress.
    """
    found = client.engine_call("GET", f"{_CALLS}?label={quote(label)}&after={after}&limit={_PAGE}")
    names = [field.name for field in fields(RelayedCall)]
    rows = tuple(RelayedCall(**{name: row[name] for name in names}) for row in found["data"])
    return rows, int(found["in_progress"])


def forget(client: Client, label: str, until: int) -> None:
    """Delete the calls that were collected."""
    client.engine_call("DELETE", f"{_CALLS}?label={quote(label)}&until={until}")


def forget_texts(client: Client, label: str) -> None:
    """Delete the texts of all calls of a shadow. Calls that were not collected stay."""
    client.engine_call("DELETE", f"{_CALLS}?label={quote(label)}")


def _shadow(row: Mapping[str, Any]) -> EngineShadow:
    return EngineShadow(**{field.name: row[field.name] for field in fields(EngineShadow)})
