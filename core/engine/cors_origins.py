"""Web pages that may call the engine from a browser (CORS), as set in FABULA_ENGINE_CORS_ORIGINS. Pure, without
dependencies, because the studio checks the setting too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

SETTING: Final = "FABULA_ENGINE_CORS_ORIGINS"
"""Environment variable: origins of web pages, separated by commas, or `*` for all."""
ANY: Final = "*"


def read(environ: Mapping[str, str]) -> frozenset[str]:
    """The origins that are allowed, in the form that browsers send; empty if there are none.

    Raises:
        ValueError: an entry is not an origin such as `http://localhost:5173`.
    """
    listed = [one.strip().rstrip("/") for one in environ.get(SETTING, "").split(",")]
    return frozenset(_origin(one) for one in listed if one)


def _origin(text: str) -> str:
    if text == ANY:
        return text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ValueError(_wrong(text)) from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ValueError(_wrong(text))
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    is_default = port in (None, {"http": 80, "https": 443}[parts.scheme])
    return f"{parts.scheme}://{host}" if is_default else f"{parts.scheme}://{host}:{port}"


def _wrong(text: str) -> str:
    return f"{SETTING}: {text!r} is not an origin such as http://localhost:5173 (scheme, host and port), or *"
