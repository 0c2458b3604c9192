"""Reading requests: JSON bodies within bounds, and parameters with OpenAI's own limits and error bodies."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from core.engine.errors import ApiError, bad_value
from core.engine.training_line import is_missing
from core.message import msg

MAX_JSON_BYTES = 16 << 20  # a request with a long conversation is about 100 kB

T = TypeVar("T")


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        ApiError: 400 when it is not one, 413 when it is larger than MAX_JSON_BYTES.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_JSON_BYTES:
            raise ApiError(
                413,
                msg("The request body is larger than {value} MB.", value=MAX_JSON_BYTES >> 20),
                code="body_too_large",
            )
    try:
        body = json.loads(bytes(raw) or b"{}")
        json.dumps(body, ensure_ascii=False).encode("utf-8")  # half a surrogate pair cannot be stored or tokenised
    except (ValueError, RecursionError) as exc:
        raise ApiError(
            400, msg("We could not parse the JSON body of your request: {exc}.", exc=exc), code="invalid_json"
        ) from exc
    if not isinstance(body, dict):
        raise ApiError(400, msg("The body of the request must be a JSON object."), code="invalid_json")
    return body


def reject_unknown(body: Mapping[str, Any], names: frozenset[str], where: str = "") -> None:
    """Refuse a parameter that would be silently ignored: usually a slip of the pen. One without a value is none."""
    unknown = sorted(name for name in body.keys() - names if not is_missing(body[name]))
    if unknown:
        param = where + unknown[0]
        raise ApiError(400, msg("Unknown parameter: '{param}'.", param=param), param=param, code="unknown_parameter")


def required(body: Mapping[str, Any], name: str) -> str:
    """A text parameter that must be there."""
    value = body.get(name)
    if is_missing(value):
        message = msg("Missing required parameter: '{name}'.", name=name)
        raise ApiError(400, message, param=name, code="missing_required_parameter")
    if not isinstance(value, str):
        raise bad_value(name, msg("'{name}' must be text.", name=name))
    return value


def integer(body: Mapping[str, Any], name: str, low: int, high: int, default: T) -> int | T:
    """A whole number within bounds, or `default` where it is missing or null."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad_value(
            name,
            msg(
                "'{name}' must be a whole number from {low} to {high}; it is {value}.",
                name=name,
                low=low,
                high=high,
                value=_shown(value),
            ),
        )
    return value


def number(body: Mapping[str, Any], name: str, low: float, high: float, default: T) -> float | T:
    """A number within bounds, or `default` where it is missing or null."""
    value = body.get(name)
    if value is None:
        return default
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or not low <= value <= high:
        raise bad_value(
            name,
            msg(
                "'{name}' must be a number from {low} to {high}; it is {value}.",
                name=name,
                low=f"{low:g}",
                high=f"{high:g}",
                value=_shown(value),
            ),
        )
    return float(value)


def boolean(body: Mapping[str, Any], name: str) -> bool:
    """true or false; missing and null are false."""
    value = body.get(name)
    if value not in (None, True, False):
        raise bad_value(name, msg("'{name}' must be true or false; it is {value}.", name=name, value=_shown(value)))
    return bool(value)


def query_limit(request: Request, default: int, most: int) -> int:
    """`limit` of a list request."""
    raw = request.query_params.get("limit")
    if raw is None:
        return default
    if not (raw.isascii() and raw.isdigit() and len(raw) < 9 and 1 <= int(raw) <= most):
        raise bad_value("limit", msg("'limit' must be a whole number from 1 to {most}.", most=most))
    return int(raw)


async def until_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do `work` unless the client goes away first; then stop it, and all that it does upstream."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:40] + "…"
