"""Relays a call for an old model to its provider, byte for byte, and lets the new model answer a share of them too.

The caller gets the old model's answer, or its error. The copy starts once that answer is complete: it delays nothing.
Once the old model has stopped, the new one answers under its name if that is allowed: an alias takes the relay's place.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
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
from core.engine.shadow.answer_texts import AnswerText
from core.engine.shadow.copies import Copies, Copy
from core.engine.shadow.recorder import Recorder
from core.engine.shadow.shadow_store import Shadow
from core.engine.store import EngineStore
from core.message import msg

MAX_COPIED_BYTES = 1 << 20
"""Calls with a longer body are not copied."""
_MAX_KEPT_BYTES = 32 << 20  # of an answer that is not streamed; a longer one is passed on unread, of an error this much
_MAX_REASON_CHARS = 300
_CALLER_LEFT = "The caller left before the answer was complete."
_RETRY_S = 2  # how soon the studio hands over a key after a restart of the engine

_log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
_REQUEST_FIELDS = {answer_texts.CHAT: "messages", answer_texts.COMPLETIONS: "prompt", answer_texts.RESPONSES: "input"}


@dataclass(slots=True)
class _Call:
    """A call on its way.

    Attributes:
        call_id: of its row.
        body: None unless a copy is made.
        response: the old model's answer, once its first bytes have arrived.
    """

    shadow: Shadow
    endpoint: str
    call_id: str
    body: Mapping[str, Any] | None = field(repr=False)
    key: str = field(repr=False)
    started: float = field(default_factory=time.monotonic)
    response: httpx2.Response | None = None

    async def close(self) -> None:
        """Close the connection to the provider, or return it to the pool if the answer was read."""
        if self.response is not None:
            await self.response.aclose()


class Relay:
    """Handles calls for models that have a shadow. Keys are kept in memory only, each for one address."""

    def __init__(self, store: EngineStore, copies: Copies, recorder: Recorder, environ: Mapping[str, str]) -> None:
        self._store, self._copies, self._recorder = store, copies, recorder
        self._upstreams = upstream.Upstreams(upstream.rules_of(environ))
        self._keys: dict[str, str] = {}  # by the shadow's label
        self._writing: set[asyncio.Task[None]] = set()

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
        """Record what has ended, and close the connections to upstreams."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._upstreams.aclose()

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
        in_share = random.random() * 100 < shadow.share  # no secret
        copies = in_share and len(raw) <= MAX_COPIED_BYTES and _is_storable(body)
        call_id = await run_in_threadpool(shadow_store.begin, self._store, shadow, endpoint, copies=copies)
        call = _Call(shadow, endpoint, call_id, body if copies else None, key)
        try:
            return await self._answer(call, raw, request)
        except (ClientDisconnect, asyncio.CancelledError):
            self._end(call, "unknown", error=_CALLER_LEFT)
            await call.close()
            raise
        except Exception as exc:
            if not isinstance(exc, httpx2.HTTPError | OSError | ValueError):
                _log.exception("A call cannot be relayed")
            sent = not isinstance(
                exc, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.LocalProtocolError | OSError
            )
            reason = _reason(call, exc)
            self._end(call, "unknown" if sent else "failed", error=reason)
            await call.close()
            failure = _cannot_reach(shadow, reason)
            return JSONResponse(failure.body(), failure.status)

    async def _answer(self, call: _Call, raw: bytes, request: Request) -> Response | None:
        response = await until_disconnected(request, self._send(call, raw))
        chunks, headers = response.aiter_bytes(), upstream.headers_of(response)
        if response.is_success and headers.get("content-type", "").startswith("text/event-stream"):
            return EventStream(PassedOn(self, call, chunks, answer_texts.StreamReader(call.endpoint)), headers)
        content, is_whole = await until_disconnected(request, _beginning(chunks))
        if response.is_success and not is_whole:
            passed_on = PassedOn(self, call, chunks, answer_texts.Unread(is_complete=False), content)
            return EventStream(passed_on, {"content-type": "application/json", **headers})
        if response.is_success:
            try:
                self._answered(call, answer_texts.of_body(call.endpoint, json.loads(content)))
            except Exception as exc:  # the caller has paid for this answer and must get it
                _log.warning("The answer to a relayed call cannot be read: %s", type(exc).__name__)
                self._answered(call, AnswerText(None))
            return Response(content, response.status_code, headers)
        content = content.replace(call.key.encode(), b"[key]")
        if not is_whole:  # of such a long error, its beginning is passed on; it may end with a part of the key
            content = content[: -len(call.key)]
            await call.close()
        reason = upstream.stopped(response.status_code, content)
        said = (reason or content.decode("utf-8", "replace"))[:_MAX_REASON_CHARS]
        self._end(call, "failed", status=response.status_code, error=said)
        if reason is not None and await run_in_threadpool(self._ends, call.shadow, said):
            return None  # the new model answers
        return Response(content, response.status_code, headers)

    async def _send(self, call: _Call, raw: bytes) -> httpx2.Response:
        url = call.shadow.base_url.rstrip("/") + call.endpoint.removeprefix("/v1")
        headers = {"authorization": f"Bearer {call.key}", "content-type": "application/json"}
        call.response = await self._upstreams.send(url, raw, headers)
        return call.response

    def streamed(self, call: _Call, reader: answer_texts.Reader, *, is_over: bool) -> None:
        """Record an answer that was passed on. Callers leave as soon as they have its last part: it is complete then.

        Args:
            is_over: whether the provider's answer has ended; otherwise the caller has left.
        """
        found = reader.answer()
        if reader.is_complete:
            self._answered(call, found)
        else:
            error = "The stream ended before the answer was complete." if is_over else _CALLER_LEFT
            self._end(call, "unknown", error=error, **_tokens(found))

    def _answered(self, call: _Call, found: AnswerText) -> None:
        """Record an answer; then ask the new model too, if this call is one of its share."""
        assert call.response is not None
        copy: Copy | None = None
        values: dict[str, object] = {
            "status": call.response.status_code, "old_s": time.monotonic() - call.started, **_tokens(found),
        }  # fmt: skip
        if call.body is not None and found.text is not None:
            copy = Copy(call.call_id, call.endpoint, call.shadow.model, call.body)
            asked = call.body.get(_REQUEST_FIELDS[call.endpoint])
            values |= {"old": found.text, "request": json.dumps(asked, ensure_ascii=False)}
        values["copies"] = copy is not None
        self._in_background(self._write(shadow_store.answered, call, copy, values))

    def _end(self, call: _Call, state: shadow_store.CallState, **values: object) -> None:
        """Record a call without a complete answer. What was written may be billed."""
        self._in_background(self._write(shadow_store.failed, call, None, {"state": state, **values}))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """The caller does not wait for it, and its task may be cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, act: Callable[..., None], call: _Call, copy: Copy | None, values: dict[str, object]) -> None:
        await run_in_threadpool(self._recorder.save, act, call.call_id, **values)
        if copy is not None and not self._copies.add(copy):
            await run_in_threadpool(self._recorder.save, shadow_store.copied, call.call_id, copy="dropped")

    def _ends(self, shadow: Shadow, reason: str) -> bool:
        """Record that the old model has stopped; return whether the new one answers from now on."""
        try:
            if shadow.fallback:
                shadow_store.go_dark(self._store, shadow, reason)
                return True
            self._store.update(Shadow, shadow.id, where="reason = ''", reason=reason)
        except sqlite3.Error as exc:  # the next call finds out again
            _log.error("The end of an old model cannot be stored: %s", exc)
        return False


class PassedOn:
    """An answer that is passed on while it arrives, and recorded when it ends, also if the caller leaves.

    Not a generator: one that was never started, because its caller left first, would not run its cleanup.
    """

    def __init__(
        self,
        relay: Relay,
        call: _Call,
        chunks: AsyncIterator[bytes],
        reader: answer_texts.Reader,
        beginning: bytes = b"",
    ) -> None:
        self._relay, self._call, self._chunks, self._beginning = relay, call, chunks, beginning
        self._reader: answer_texts.Reader | None = reader
        self._is_stream = not beginning

    def __aiter__(self) -> PassedOn:
        return self

    async def __anext__(self) -> bytes:
        if self._beginning:
            chunk, self._beginning = self._beginning, b""
            return chunk
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            if self._reader is not None:
                self._reader.end()
            await self._finish(is_over=True)
            raise
        except httpx2.HTTPError as exc:
            if self._reader is None or self._reader.is_complete:
                raise StopAsyncIteration from exc
            await self._finish(is_over=True)
            if not self._is_stream:
                raise  # the connection to the caller is cut too
            failure = _cannot_reach(self._call.shadow, _reason(self._call, exc))
            return b"data: " + json.dumps(failure.body()).encode() + b"\n\n"
        if self._reader is not None:
            try:
                self._reader.feed(chunk)
            except Exception as exc:  # the caller has paid for this answer and must get it
                _log.warning("The answer to a relayed call cannot be read: %s", type(exc).__name__)
                self._reader = answer_texts.Unread(is_complete=True)
        return chunk

    async def aclose(self) -> None:
        """End it: the caller has the whole answer, or has left."""
        await self._finish(is_over=False)

    async def _finish(self, *, is_over: bool) -> None:
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                self._relay.streamed(self._call, reader, is_over=is_over)
        finally:
            await self._call.close()


async def _beginning(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Read an answer; return it and whether it is whole, or its beginning if it is very long."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > _MAX_KEPT_BYTES:
            return bytes(content), False
    return bytes(content), True


def _tokens(found: AnswerText) -> dict[str, object]:
    return {"prompt_tokens": found.prompt_tokens, "completion_tokens": found.completion_tokens}


def _with_body(request: Request, raw: bytes) -> Request:
    """The same request, with a body that was read already."""
    unread: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        return unread.pop() if unread else await request.receive()

    return Request(request.scope, receive)


def _parsed(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _is_storable(body: Mapping[str, Any]) -> bool:
    """Whether a call has no lone surrogate, which can be neither stored nor tokenised."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _reason(call: _Call, exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}".replace(call.key, "[key]")[:_MAX_REASON_CHARS]


def _cannot_reach(shadow: Shadow, reason: str) -> ApiError:
    message = msg(
        "The provider of '{model}' did not answer: {reason}. The engine only relays this model; its replacement was "
        "not asked.",
        model=shadow.id,
        reason=reason,
    )
    return ApiError(502, message, type="server_error", code="upstream_unavailable")
