"""vLLM's HTTP interface: its health, models and adapters, and its errors in OpenAI's format.

Written after vLLM's documentation and source, and tried with vLLM 0.32 on processors.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from core.engine.api.errors import ApiError, unavailable
from core.engine.serve_settings import KEY_FILE, SERVE
from core.engine.serving.llama_http import ConnectionBroken, ServerAddress, ServerRefused, read
from core.message import msg

_TOO_LONG = re.compile(r"maximum (context|model) length|max_model_len|maximum input length")
_GRAMMAR = re.compile(r"grammar|structur(ed|al)", re.IGNORECASE)
_HEALTH_S = 10.0  # other requests wait meanwhile
_UNAUTHORIZED, _NOT_FOUND, _TOO_MANY, _ITS_OWN_FAULT = 401, 404, 429, 500


@dataclass(frozen=True, slots=True)
class ServedBase:
    """The base model of a server: its name there, its path, and the longest request in tokens."""

    id: str
    root: str
    context: int


def address(url: str, key: str) -> ServerAddress:
    """The address of a server; `url` has a scheme, a host and perhaps a port."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return ServerAddress(parts.hostname or "127.0.0.1", parts.port or (443 if secure else 80), key, secure)


async def is_healthy(server: ServerAddress) -> bool:
    """Whether the server answers GET /health, whose body is empty, within ten seconds."""
    try:
        async with asyncio.timeout(_HEALTH_S):
            await read(server, "/health")
    except (ConnectionBroken, ServerRefused, TimeoutError):
        return False
    return True


async def bases(server: ServerAddress) -> list[ServedBase]:
    """The base models that the server has loaded, without adapters. Raises ApiError 503."""
    try:
        body = _json(await read(server, "/v1/models"))
    except (ConnectionBroken, ServerRefused) as exc:
        raise as_api_error(exc) from exc
    found = [one for one in body.get("data") or () if isinstance(one, dict) and not one.get("parent")]
    return [
        ServedBase(str(one.get("id")), str(one.get("root") or ""), int(one.get("max_model_len") or 0)) for one in found
    ]


async def load_adapter(server: ServerAddress, name: str, path: str) -> None:
    """Load an adapter under this name, unless it is loaded. Raises ApiError 503."""
    try:
        await read(server, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
    except ServerRefused as exc:
        message = _message(exc.body)
        if "already been loaded" in message:
            return
        if exc.status == _NOT_FOUND and _error(exc.body) is None:  # the endpoint itself is missing
            raise unavailable(
                msg(
                    "The vLLM server does not load adapters. Start it with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment."
                )
            ) from exc
        if exc.status == _UNAUTHORIZED:
            raise as_api_error(exc) from exc
        raise unavailable(msg("vLLM could not load the adapter: {message}.", message=message.rstrip("."))) from exc
    except ConnectionBroken as exc:
        raise as_api_error(exc) from exc


async def unload_adapter(server: ServerAddress, name: str) -> None:
    """Unload an adapter; one that is not loaded is no error. Raises ApiError 503."""
    try:
        await read(server, "/v1/unload_lora_adapter", {"lora_name": name})
    except ServerRefused as exc:
        if exc.status != _NOT_FOUND:
            raise as_api_error(exc) from exc
    except ConnectionBroken as exc:
        raise as_api_error(exc) from exc


def is_unknown_model(exc: ServerRefused) -> bool:
    """Whether the server does not know the model that was asked for, for example because it was restarted."""
    return exc.status == _NOT_FOUND and _error(exc.body) is not None


def is_its_own_fault(exc: ServerRefused) -> bool:
    """Whether the server failed rather than refused; it may be about to end, as after a crash of its engine."""
    return exc.status >= _ITS_OWN_FAULT


def as_api_error(exc: ConnectionBroken | ServerRefused) -> ApiError:
    """Convert a failed request to an API error."""
    if isinstance(exc, ConnectionBroken):
        return unavailable(
            msg("The vLLM server cannot be reached: {message}. Check that it is running.", message=str(exc))
        )
    return error_of(exc.status, _message(exc.body))


def error_of(status: int, message: str) -> ApiError:
    """An API error for one of vLLM's. What another request may get right is 400, the rest is 503."""
    if status == _UNAUTHORIZED:
        return unavailable(
            msg("The vLLM server refused the key. Set {setting} to a file with its key.", setting=KEY_FILE)
        )
    if status == _NOT_FOUND:
        return unavailable(msg("The vLLM server does not have this model: {message}", message=message))
    if status == _TOO_MANY:
        return unavailable(msg("The vLLM server is overloaded: {message}", message=message))
    if not 400 <= status < 500:
        return unavailable(msg("The model stopped working: {message}.", message=message.rstrip(".")))
    if _TOO_LONG.search(message):
        return ApiError(400, message, code="context_length_exceeded")
    if _GRAMMAR.search(message):
        return ApiError(
            400,
            msg(
                "vLLM cannot use this schema as a grammar: {message}. Simplify its patterns and references, or use "
                "{setting}=llama.",
                message=message.rstrip("."),
                setting=SERVE,
            ),
        )
    return ApiError(400, message)


def _message(body: bytes) -> str:
    error = _error(body) or {}
    return str(error.get("message") or body.decode("utf-8", "replace")[:500] or "vLLM refused the request")


def _error(body: bytes) -> dict[str, Any] | None:
    """The error in a response; older versions put it at the top."""
    found = _json(body)
    inner = found.get("error", found if found.get("object") == "error" else None)
    return inner if isinstance(inner, dict) else None


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
