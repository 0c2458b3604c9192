"""Answers one line of a batch through the endpoint that it names, exactly as a request of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from core.engine.api.errors import DISK_FULL, ApiError, disk_full, is_disk_full
from core.engine.serving.inference import CLAMP_HEADER
from core.engine.store import random_code
from core.message import msg

_log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]
_TRIES = 3  # a model's process that has ended is started again by the next request


async def answer(endpoint: Endpoint, path: str, body: Mapping[str, Any], *, clamps: bool) -> dict[str, Any]:
    """Return the `response` of a result line: status, id and body, also of an error.

    Args:
        endpoint: handles requests for `path`.
        clamps: whether a token limit that does not fit into the context is lowered, not refused.
    """
    for _ in range(_TRIES):
        status, answered = await _answered(endpoint, path, body, clamps)
        if status < 500 or status == DISK_FULL:
            break
    return {"status_code": status, "request_id": f"req_{random_code(24)}", "body": answered}


async def _answered(endpoint: Endpoint, path: str, body: Mapping[str, Any], clamps: bool) -> tuple[int, Any]:
    try:
        response = await endpoint(_request(path, body, clamps))
        return response.status_code, json.loads(bytes(response.body))
    except ApiError as exc:
        return exc.status, exc.body()
    except (OSError, sqlite3.Error) as exc:
        if is_disk_full(exc):
            return disk_full().status, disk_full().body()
        return _failed(path, exc)
    except Exception as exc:
        return _failed(path, exc)


def _failed(path: str, exc: Exception) -> tuple[int, Any]:
    _log.error("A line of a batch for %s failed", path, exc_info=exc)
    message = msg("The engine had an error while processing your request. Its log has the details.")
    return 500, ApiError(500, message, type="server_error", code="server_error").body()


def _request(path: str, body: Mapping[str, Any], clamps: bool) -> Request:
    """A request whose client never disconnects."""
    messages: list[Message] = [
        {"type": "http.request", "body": json.dumps(body, ensure_ascii=False).encode(), "more_body": False}
    ]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.get_running_loop().create_future()  # until the request is answered
        raise AssertionError("unreachable")

    headers = [(CLAMP_HEADER.encode(), b"1")] if clamps else []
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, "path_params": {}}
    return Request(scope, receive)
