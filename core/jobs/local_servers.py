"""Finds model servers on this machine: Ollama, LM Studio, llama.cpp and vLLM, each at its usual port on 127.0.0.1.

No other addresses are checked. `FABULA_FIND_LOCAL_SERVERS=0` turns the search off; a hosted studio (`FABULA_MODE=team`)
never searches.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from core.providers import presets
from core.providers.presets import ProviderPreset
from core.settings import Settings

_TIMEOUT_S = 0.7  # a server on this machine responds in milliseconds, unless it is loading a model
_MAX_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server that responded with a list of models."""

    preset: ProviderPreset
    base_url: str
    models: tuple[str, ...]


def find(
    settings: Settings, used: Iterable[str] = (), candidates: Iterable[ProviderPreset] | None = None
) -> list[LocalServer]:
    """Find servers that are running and not in use yet. Takes less than a second; never raises.

    Args:
        used: addresses of existing providers.
        candidates: presets with a local port; default: all of them.
    """
    if not settings.finds_local_servers:
        return []
    taken = {_place(url) for url in used}
    asked = [
        preset
        for preset in (presets.all_presets() if candidates is None else candidates)
        if preset.local_port is not None and _place(_address(preset.local_port)) not in taken
    ]
    if not asked:
        return []
    with ThreadPoolExecutor(len(asked), thread_name_prefix="local-servers") as pool:
        return [server for server in pool.map(_ask, asked) if server is not None]


def _ask(preset: ProviderPreset) -> LocalServer | None:
    """Check a preset's port; return its server, or None if nothing responds there or something else does."""
    port = preset.local_port or 0
    models = _models(port)
    return None if models is None else LocalServer(preset, _address(port), models)


def _models(port: int) -> tuple[str, ...] | None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/v1/models", headers={"Accept": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                return None
            listed = json.loads(response.read(_MAX_BYTES))["data"]
            return tuple(str(item["id"]) for item in listed or ())
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError):
            return None


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def _place(url: str) -> tuple[str, int | None]:
    """Host and port, with all names for this machine treated as the same host."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    try:
        port = parts.port
    except ValueError:
        port = None
    return ("127.0.0.1" if host in ("localhost", "::1", "127.0.0.1") else host), port
