"""Relays a call for an old model to its provider, byte for byte, and lets the new model answer a share of them too.

The caller gets the old model's answer, or its error. The copy starts once that answer is complete: it delays nothing.
Once the old model has stopped, the new one answers under its name if that is allowed: an alias takes the relay's place.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from core.engine.api.errors import ApiError
from core.engine.api.models import NO_ALIASES_HEADER
from core.engine.api.requests import EventStream, read_body, until_disconnected
from core.engine.shadow import answer_texts, shadow_store, upstream
from core.engine.shadow.copies import Copies, Copy
from core.engine.shadow.shadow_store import Shadow
from core.engine.store import EngineStore
from core.message import msg

MAX_COPIED_BYTES = 1 << 20
"""Calls with a longer body, or a longer answer, are not copied."""
_MAX_ANSWER_BYTES = 32 << 20  # of an answer that is not streamed, which is kept in memory
_MAX_REASON_CHARS = 300
_RETRY_S = 2  # how soon the studio hands over a key after a restart of the engine

_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
_REQUEST_FIELDS = {answer_texts.CHAT: "messages", answer_texts.COMPLETIONS: "prompt", answer_texts.RESPONSES: "input"}


@dataclass(frozen=True, slots=True)
class _Call:
    """A call on its way: its shadow, its row, and the body if a copy is made."""

    shadow: Shadow
    endpoint: str
    call_id: str
    body: Mapping[str, Any] | None
    started: float

    @property
    def took_s(self) -> float:
        return time.monotonic() - self.started


class Relay:
    """Handles calls for models that have a shadow. Keys are kept in memory only, each for one address."""

    def __init__(self, store: EngineStore, copies: Copies, environ: Mapping[str, str]) -> None:
        self._store, self._copies = store, copies
        self._rules = upstream.rules_of(environ)
        self._keys: dict[str, str] = {}  # by the shadow's label
        self._client: httpx2.AsyncClient | None = None

    def set_key(self, label: str, key: str | None) -> None:
        """Keep a key until the engine ends, or forget it."""
        if key is None:
            self._keys.pop(label, None)
        else:
            self._keys[label] = key

    def has_key(self, label: str) -> bool:
        """Whether the key of a shadow is known."""
        return label in self._keys

    async def stop(self) -> None:
        """Close the connections to upstreams."""
        if self._client is not None:
            await self._client.aclose()

    async def handle(self, endpoint: str, handler: Handler, request: Request) -> Response:
        """Relay a call for a model with a shadow; give any other one to `handler`."""
        shadows = {one.id: one for one in self._store.select(Shadow, "state = 'on'")}
        if not shadows or NO_ALIASES_HEADER in request.headers:
            return await handler(request)
        raw = await read_body(request)
        body = _parsed(raw)
        shadow = shadows.get(str(body.get("model")))
        again = _with_body(request, raw)
        if shadow is None:
            return await handler(again)
        return await self._relay(shadow, endpoint, raw, body, request) or await handler(again)

    async def _relay(
        self, shadow: Shadow, endpoint: str, raw: bytes, body: Mapping[str, Any], request: Request
    ) -> Response | None:
        """The old model's answer or error; None if it has stopped and the new model may answer."""
        key = self._keys.get(shadow.label)
        if key is None:
            error = ApiError(
                503,
                msg("The engine was restarted and waits for the old model's key. Try again in a few seconds."),
                type="server_error",
                code="shadow_key_missing",
            )
            return JSONResponse(error.body(), 503, {"retry-after": str(_RETRY_S)})
        copies = random.random() * 100 < shadow.share and len(raw) <= MAX_COPIED_BYTES  # no secret
        call_id = await run_in_threadpool(shadow_store.begin, self._store, shadow, endpoint, copies=copies)
        call = _Call(shadow, endpoint, call_id, body if copies else None, time.monotonic())
        try:
            response = await until_disconnected(request, self._send(shadow, endpoint, raw, key))
            if response.headers.get("content-type", "").startswith("text/event-stream") and response.is_success:
                return EventStream(self._stream(call, response), upstream.headers_of(response))
            content = await until_disconnected(request, _whole(response))
        except (ClientDisconnect, asyncio.CancelledError):
            self._left(call)
            raise
        except (httpx2.HTTPError, OSError, ValueError) as exc:
            return await self._unreached(call, exc)
        return await self._answer(call, response, content)

    async def _send(self, shadow: Shadow, endpoint: str, raw: bytes, key: str) -> httpx2.Response:
        if self._client is None:
            self._client = upstream.client()
        url = shadow.base_url.rstrip("/") + endpoint.removeprefix("/v1")
        await upstream.check_address(url, self._rules)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return await self._client.send(
            self._client.build_request("POST", url, content=raw, headers=headers), stream=True
        )

    async def _answer(self, call: _Call, response: httpx2.Response, content: bytes) -> Response | None:
        status = response.status_code
        if response.is_success:
            found = answer_texts.of_body(call.endpoint, _parsed(content))
            await run_in_threadpool(
                shadow_store.answered, self._store, call.call_id, status=status, **_facts(call, found)
            )
            self._copy(call, found.text is not None)
        else:
            reason = upstream.stopped(status, content)
            said = (reason or content.decode("utf-8", "replace"))[:_MAX_REASON_CHARS]
            await run_in_threadpool(shadow_store.failed, self._store, call.call_id, status=status, error=said)
            if reason is not None and await run_in_threadpool(self._ends, call.shadow, said):
                return None
        return Response(content, status, upstream.headers_of(response))

    async def _stream(self, call: _Call, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        """Pass on a streamed answer, and record it at its end."""
        seen, is_over = bytearray(), False
        try:
            async for chunk in response.aiter_bytes():
                if len(seen) <= MAX_COPIED_BYTES:
                    seen += chunk
                yield chunk
            is_over = True
        except httpx2.HTTPError as exc:
            yield b"data: " + json.dumps(_cannot_reach(call.shadow, _reason(exc)).body()).encode() + b"\n\n"
            is_over = True
        finally:
            self._record_stream(call, bytes(seen), is_over=is_over)
            await response.aclose()

    def _record_stream(self, call: _Call, seen: bytes, *, is_over: bool) -> None:
        """Record a streamed answer. Callers leave as soon as they have its last event, so that counts as complete.

        This must not wait for anything: the task is cancelled when the caller has left.
        """
        is_long = len(seen) > MAX_COPIED_BYTES
        found = answer_texts.of_stream(call.endpoint, seen)
        if found.text is not None or (is_long and is_over):
            self._record(shadow_store.answered, call.call_id, status=200, **_facts(call, found))
            self._copy(call, found.text is not None)
        elif is_over:
            error = "The stream ended before the answer was complete."
            self._record(shadow_store.failed, call.call_id, state="unknown", error=error)
        else:
            self._left(call)

    def _copy(self, call: _Call, has_text: bool) -> None:
        """Ask the new model too, if this call is one of its share. Never raises."""
        if call.body is None:
            return
        copy = Copy(call.call_id, call.endpoint, call.shadow.model, call.body)
        if not has_text or not self._copies.add(copy):
            self._record(shadow_store.copied, call.call_id, "dropped")

    def _left(self, call: _Call) -> None:
        """Record that the caller left. What was written may be billed."""
        error = "The caller left before the answer was complete."
        self._record(shadow_store.failed, call.call_id, state="unknown", error=error)

    async def _unreached(self, call: _Call, exc: Exception) -> Response:
        error = _reason(exc)
        sent = not isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout | OSError)
        state: shadow_store.CallState = "unknown" if sent else "failed"
        await run_in_threadpool(shadow_store.failed, self._store, call.call_id, state=state, error=error)
        failure = _cannot_reach(call.shadow, error)
        return JSONResponse(failure.body(), failure.status)

    def _record(self, act: Callable[..., None], *arguments: object, **values: object) -> None:
        """Store something at once, also while a task is being cancelled; a failure is logged."""
        try:
            act(self._store, *arguments, **values)
        except Exception:
            _log.exception("The end of a relayed call cannot be stored")

    def _ends(self, shadow: Shadow, reason: str) -> bool:
        """Record that the old model has stopped; return whether the new one answers from now on."""
        if shadow.fallback:
            shadow_store.go_dark(self._store, shadow, reason)
            return True
        self._store.update(Shadow, shadow.id, where="reason = ''", reason=reason)
        return False


async def _whole(response: httpx2.Response) -> bytes:
    """Read an answer. Raises ValueError if it is too large."""
    try:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > _MAX_ANSWER_BYTES:
                raise ValueError("the answer is too large")
        return bytes(content)
    finally:
        await response.aclose()


def _facts(call: _Call, found: answer_texts.AnswerText) -> dict[str, Any]:
    """What is stored of an answer; its text and the request only if it is copied."""
    kept: dict[str, Any] = {}
    if call.body is not None:
        asked = call.body.get(_REQUEST_FIELDS[call.endpoint])
        kept = {"old": found.text, "request": json.dumps(asked, ensure_ascii=False)}
    return {
        **kept,
        "old_s": call.took_s,
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
    }


def _with_body(request: Request, raw: bytes) -> Request:
    """The same request, with a body that was read already."""
    unread: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        return unread.pop() if unread else await request.receive()

    return Request(request.scope, receive)


def _parsed(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"[:_MAX_REASON_CHARS]


def _cannot_reach(shadow: Shadow, reason: str) -> ApiError:
    message = msg(
        "The provider of '{model}' did not answer: {reason}. The engine only relays this model; its replacement was "
        "not asked.",
        model=shadow.id,
        reason=reason,
    )
    return ApiError(502, message, type="server_error", code="upstream_unavailable")
