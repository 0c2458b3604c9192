"""Reads requests: JSON bodies of limited size, parameters with OpenAI's limits and errors, and disconnected clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.engine import number_checks
from core.engine.api.errors import ApiError, bad_value, missing_parameter
from core.engine.chat_messages import is_missing
from core.engine.number_checks import InvalidValue, abbreviated
from core.message import msg

MAX_JSON_BYTES = 16 << 20  # a request with a long conversation is about 100 kB

T = TypeVar("T")


async def read_body(request: Request) -> bytes:
    """Read the body of a request. Raises ApiError 413 if it is larger than MAX_JSON_BYTES."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_JSON_BYTES:
            raise ApiError(
                413,
                msg("The request body is larger than {max_mb} MB.", max_mb=MAX_JSON_BYTES >> 20),
                code="body_too_large",
            )
    return bytes(raw)


async def json_body(request: Request) -> dict[str, Any]:
    """Parse the JSON body of a request.

    Raises:
        ApiError: 400 if it is not a JSON object, 413 if it is larger than MAX_JSON_BYTES.
    """
    raw = await read_body(request)
    try:
        body = json.loads(raw or b"{}")
        json.dumps(body, ensure_ascii=False).encode("utf-8")  # a lone surrogate can be neither stored nor tokenised
    except RecursionError as exc:
        raise ApiError(400, msg("The JSON body of your request is nested too deeply."), code="invalid_json") from exc
    except ValueError as exc:
        raise ApiError(
            400, msg("We could not parse the JSON body of your request: {error}.", error=exc), code="invalid_json"
        ) from exc
    if not isinstance(body, dict):
        raise ApiError(400, msg("The body of the request must be a JSON object."), code="invalid_json")
    return body


async def model_body(request: Request) -> dict[str, Any]:
    """The JSON body of a request to a model. In the API of 2023, the model is the engine in the path
    (`/v1/engines/{engine}/…`). Raises ApiError.
    """
    body, engine = await json_body(request), request.path_params.get("engine")
    if engine is None:
        return body
    if not is_missing(body.get("model")) and body["model"] != engine:
        raise bad_value("model", msg("The path and 'model' name different models. Leave 'model' out."))
    return {**body, "model": engine}


def reject_unknown(body: Mapping[str, Any], names: frozenset[str], prefix: str = "") -> None:
    """Raise for an unknown parameter, usually a typo. Null and empty values are allowed."""
    unknown = sorted(name for name in body.keys() - names if not is_missing(body[name]))
    if unknown:
        param = prefix + unknown[0]
        raise ApiError(400, msg("Unknown parameter: '{param}'.", param=param), param=param, code="unknown_parameter")


def required(body: Mapping[str, Any], name: str) -> str:
    """Return a required text parameter."""
    value = body.get(name)
    if is_missing(value):
        raise missing_parameter(name)
    if not isinstance(value, str):
        raise bad_value(name, msg("'{name}' must be a string.", name=name))
    return value


def integer(body: Mapping[str, Any], name: str, low: int, high: int, default: T, prefix: str = "") -> int | T:
    """Return an integer within bounds; `default` if missing or null. Errors name it `prefix` + `name`."""
    path = prefix + name
    try:
        value = number_checks.whole_number({path: body.get(name)}, path, low, high)
    except InvalidValue as exc:
        raise bad_value(path, exc.message) from exc
    return default if value is None else value


def number(body: Mapping[str, Any], name: str, low: float, high: float, default: T, prefix: str = "") -> float | T:
    """Return a number within bounds; `default` if missing or null. Errors name it `prefix` + `name`."""
    path = prefix + name
    try:
        value = number_checks.real_number({path: body.get(name)}, path, low, high)
    except InvalidValue as exc:
        raise bad_value(path, exc.message) from exc
    return default if value is None else value


def boolean(body: Mapping[str, Any], name: str, prefix: str = "") -> bool:
    """Return a boolean; missing and null count as false. Errors name it `prefix` + `name`."""
    value, path = body.get(name), prefix + name
    if value not in (None, True, False):
        raise bad_value(
            path, msg("'{name}' must be true or false; it is {actual}.", name=path, actual=abbreviated(value))
        )
    return bool(value)


def query_limit(request: Request, default: int, maximum: int) -> int:
    """Return the `limit` parameter of a list request."""
    raw = request.query_params.get("limit")
    if raw is None:
        return default
    if not (raw.isascii() and raw.isdigit() and len(raw) < 9 and 1 <= int(raw) <= maximum):
        raise bad_value("limit", msg("'limit' must be a whole number from 1 to {maximum}.", maximum=maximum))
    return int(raw)


async def until_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; if the client disconnects first, cancel it and raise ClientDisconnect."""
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for pending in (task, disconnect):
            pending.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Wait until the client disconnects. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(Protocol):
    """What a stream sends: an async generator, or an object that is used as one."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Clean up; called once the stream has ended, whether it was begun or not."""


class EventStream(Response):
    """A server-sent events response.

    Starlette's StreamingResponse notices a disconnected client only when it sends, so a generation waiting for a slot
    would stay in the queue after its client left.
    """

    media_type = "text/event-stream"

    def __init__(self, events: Events, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        disconnect = asyncio.create_task(disconnected(Request(scope, receive)))
        try:
            await asyncio.wait({sending, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, disconnect):
                task.cancel()
            await asyncio.gather(sending, disconnect, return_exceptions=True)
            with contextlib.suppress(RuntimeError):  # its cleanup is already running
                await self._events.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
