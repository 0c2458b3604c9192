"""Asks the new model what the old one was asked, in the background: behind people's requests, and never in their way.

Calls wait in memory only. Those above the limit are dropped and counted; so are those that wait when the engine ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from core.engine.batches import line_answers
from core.engine.batches.line_answers import Endpoint
from core.engine.serving.priority import Priority
from core.engine.shadow import answer_texts, shadow_store
from core.engine.shadow.recorder import Recorder

MAX_WAITING = 64
"""Copies that wait for the new model; further calls are not copied."""
_LEFT_OUT = frozenset({"stream", "stream_options", "store", "metadata"})
_MAX_ERROR_CHARS = 300

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Copy:
    """A call that the new model shall answer too."""

    call_id: str
    endpoint: str
    model: str
    body: Mapping[str, Any] = field(repr=False)


class Copies:
    """The copies that wait, and the tasks that ask the new model. Call its methods on the event loop."""

    def __init__(self, recorder: Recorder, endpoints: Mapping[str, Endpoint], priority: Priority) -> None:
        self._recorder, self._endpoints, self._priority = recorder, endpoints, priority
        self._waiting: asyncio.Queue[Copy] = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to answer."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._priority.lines)]

    async def stop(self) -> None:
        """Stop; what waits is dropped at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, copy: Copy) -> bool:
        """Let a copy wait for its turn; return False if too many wait."""
        try:
            self._waiting.put_nowait(copy)
        except asyncio.QueueFull:
            return False
        return True

    async def _work(self) -> None:
        while True:
            copy = await self._waiting.get()
            try:
                async with self._priority.turn():
                    values = await self._answer(copy)
            except Exception as exc:
                _log.exception("The copy of a call failed")
                values = {"copy": "failed", "copy_error": type(exc).__name__}
            await run_in_threadpool(self._recorder.save, shadow_store.copied, copy.call_id, **values)

    async def _answer(self, copy: Copy) -> dict[str, object]:
        """Ask the new model; return what is stored."""
        body = {name: value for name, value in copy.body.items() if name not in _LEFT_OUT} | {"model": copy.model}
        if copy.endpoint == answer_texts.RESPONSES:
            body["store"] = False
        started = time.monotonic()
        response = await line_answers.answer(self._endpoints[copy.endpoint], copy.endpoint, body, clamps=True)
        took_s = time.monotonic() - started
        if response["status_code"] < 300:
            text = answer_texts.of_body(copy.endpoint, response["body"]).text
            return {"copy": "answered", "new": text or "", "new_s": took_s}
        message = str(response["body"].get("error", {}).get("message") or response["status_code"])
        return {"copy": "failed", "copy_error": message[:_MAX_ERROR_CHARS]}
