"""Works on batches: checks their files, answers their lines behind people's requests, and writes their result files.

The database always has the current state, so a batch goes on where it was after kill -9. A line that was being answered
then is answered again; only one answer is ever stored.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from core.engine.api.errors import DISK_FULL
from core.engine.api.files import Files
from core.engine.batches import batch_store, input_file, line_answers, result_files
from core.engine.batches.batch_store import Line, StoredBatch
from core.engine.batches.input_file import CheckedInput, Fault
from core.engine.batches.line_answers import Endpoint
from core.engine.serving.priority import Priority
from core.engine.store import EngineStore
from core.message import msg

_log = logging.getLogger(__name__)
_Step = Callable[[], Awaitable[bool]]
_LOOK_S = 5.0  # between two looks at the batches without a wake-up: for those that expire, and after a full disk


class BatchRunner:
    """Works on the open batches, oldest first. Call its methods on the event loop.

    Args:
        folder: the folder for copies of input files.
        endpoints: the handlers of `batch_request.ENDPOINTS`, by path.
    """

    def __init__(
        self, store: EngineStore, files: Files, folder: Path, endpoints: Mapping[str, Endpoint], priority: Priority
    ) -> None:
        self._store, self._files, self._folder = store, files, folder
        self._endpoints, self._priority = endpoints, priority
        self._news = [asyncio.Event() for _ in range(priority.lines + 1)]  # one for each loop
        self._begun: dict[str, int] = {}  # batch → the last of its lines that was begun
        self._choosing = asyncio.Lock()
        self._running: dict[asyncio.Task[None], str] = {}  # a line's task → its batch
        self._loops: list[asyncio.Task[None]] = []
        self._stopped: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Go on with the open batches."""
        self._remove_leftovers()
        steps = (self._check_and_close, *[self._answer_next] * self._priority.lines)
        self._loops = [
            asyncio.create_task(self._loop(step, news)) for step, news in zip(steps, self._news, strict=True)
        ]

    def _remove_leftovers(self) -> None:
        """Delete copies that no batch needs: kill -9 came before their batch was stored, or after it was closed."""
        self._folder.mkdir(exist_ok=True)
        needed = {self.copy_of(batch.id) for batch in batch_store.open_batches(self._store)}
        for path in self._folder.iterdir():
            if path not in needed:
                path.unlink()

    def begin_stop(self) -> None:
        """Answer no more lines; returns at once. Those that are being answered are answered again at the next start."""
        self._stopped += [*self._loops, *self._running]
        for task in self._stopped:
            task.cancel()

    async def stop(self) -> None:
        """Stop, and wait until results that are being stored are stored."""
        self.begin_stop()
        await asyncio.gather(*self._stopped, return_exceptions=True)

    def wake(self) -> None:
        """Look at the batches now."""
        for news in self._news:
            news.set()

    def copy_of(self, batch_id: str) -> Path:
        """Path of a batch's copy of its input file."""
        return self._folder / f"{batch_id}.jsonl"

    def keep_input(self, batch_id: str, file_id: str) -> None:
        """Copy an input file (as a link, which takes no space), so that the batch does not need it any more.

        Raises:
            FileNotFoundError: the file was deleted.
        """
        self._folder.mkdir(exist_ok=True)
        source, target = self._files.path(file_id), self.copy_of(batch_id)
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, target)

    async def _loop(self, step: _Step, news: asyncio.Event) -> None:
        """Call `step` as long as it finds work, then wait for news."""
        while True:
            news.clear()
            try:
                if await step():
                    continue
            except (OSError, sqlite3.Error) as exc:
                _log.error("The engine cannot work on batches for now: %s", exc)
            except Exception:
                _log.exception("Unexpected error; retrying")
            try:
                # not `wait_for`, which loses a `cancel` that comes together with news
                async with asyncio.timeout(_LOOK_S):
                    await news.wait()
            except TimeoutError:
                continue

    # --- files -------------------------------------------------------------------------------------------------------

    async def _check_and_close(self) -> bool:
        """Check new batches, and close those that are answered, cancelled or expired."""
        for batch in await run_in_threadpool(batch_store.open_batches, self._store):
            if batch.status == "cancelling":
                await self._close(batch, "cancelled")
            elif batch.status == "finalizing":
                is_answered = 0 < batch.total == batch.completed + batch.failed
                await self._close(batch, "completed" if is_answered else "expired")
            elif batch.expires_at <= time.time():
                await run_in_threadpool(batch_store.expire, self._store, batch.id)
                return True
            elif batch.status == "validating":
                await run_in_threadpool(self._check, batch)
                self.wake()
        return False

    def _check(self, batch: StoredBatch) -> None:
        try:
            checked = input_file.check(self.copy_of(batch.id), batch.endpoint)
        except FileNotFoundError:  # a backup that was made while the batch was created
            message = msg("The input file is missing. Upload it again and create a new batch.")
            checked = CheckedInput((), (Fault(None, "file_not_found", message),))
        batch_store.start(self._store, batch, checked)
        if checked.refusal:
            self.copy_of(batch.id).unlink(missing_ok=True)

    async def _close(self, batch: StoredBatch, end: result_files.End) -> None:
        """Stop what is being answered, and write the result files."""
        lines = [task for task, batch_id in self._running.items() if batch_id == batch.id]
        for task in lines:
            task.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
        await run_in_threadpool(result_files.close, self._store, self._files, batch, end, self.copy_of(batch.id))
        self._begun.pop(batch.id, None)

    # --- lines -------------------------------------------------------------------------------------------------------

    async def _answer_next(self) -> bool:
        """Answer the next line; return whether there was one."""
        async with self._priority.turn():
            async with self._choosing:  # otherwise all loops would look for the same line
                found = await self._begin_next()
            if found is None:
                return False
            batch, line = found
            task = asyncio.create_task(self._answer(batch, line))
            self._running[task] = batch.id
            try:
                await asyncio.wait({task})
            finally:
                task.cancel()
                del self._running[task]
            if not task.cancelled() and task.exception() is not None:
                self._begun.pop(batch.id, None)  # so that this line is begun again
                task.result()
        return True

    async def _begin_next(self) -> tuple[StoredBatch, Line] | None:
        """The next line that no loop has begun, of the oldest batch that has one."""
        for batch in await run_in_threadpool(batch_store.open_batches, self._store):
            while batch.status == "in_progress":
                begun = self._begun.get(batch.id, 0)
                line = await run_in_threadpool(batch_store.next_line, self._store, batch.id, begun)
                if line is None:
                    break
                if self._begun.get(batch.id, 0) == begun:  # otherwise an earlier line has to be begun again
                    self._begun[batch.id] = line.line
                    return batch, line
        return None

    async def _answer(self, batch: StoredBatch, line: Line) -> None:
        copy, clamps = self.copy_of(batch.id), bool(batch.clamps)
        try:
            body = await run_in_threadpool(input_file.read_body, copy, line.start, line.size)
        except (OSError, ValueError, KeyError) as exc:
            _log.error("Line %s of %s cannot be read: %s", line.line, batch.id, exc)
            fault = {"code": "server_error", "message": msg("The engine can no longer read this line.")}
            await self._record(line, "failed", batch_store.result_line(line.custom_id, None, fault))
            return
        endpoint = self._endpoints[batch.endpoint]
        while True:
            response = await line_answers.answer(endpoint, batch.endpoint, body, clamps=clamps)
            if response["status_code"] != DISK_FULL:
                break
            _log.error("A line of %s waits: the disk is full", batch.id)
            await asyncio.sleep(_LOOK_S)
        state: batch_store.LineState = "answered" if response["status_code"] < 300 else "failed"
        await self._record(line, state, batch_store.result_line(line.custom_id, response, None))

    async def _record(self, line: Line, state: batch_store.LineState, result: str) -> None:
        """Store a result; wait for space if the disk is full."""
        while True:
            try:
                is_last = await run_in_threadpool(batch_store.record, self._store, line, state, result)
            except sqlite3.Error as exc:
                _log.error("An answer of %s cannot be stored for now: %s", line.batch_id, exc)
                await asyncio.sleep(_LOOK_S)
            else:
                if is_last:
                    self.wake()
                return
