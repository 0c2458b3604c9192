"""Lets people go first: the lines of batches start, and take slots of a model, only as far as requests leave room.

A request is a person's unless it runs inside `Priority.turn`. The mark is a context variable, which tasks inherit, so
that the endpoints need no parameter for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from core.engine.job_rules import PARALLEL


def lines_of(parallel: int) -> int:
    """Lines of batches that run at the same time while no other request is in progress, if a model decodes `parallel`
    requests together: a quarter of these stays free for people.
    """
    return parallel - max(1, parallel // 4)


LINES = lines_of(PARALLEL)
"""The lines that llama.cpp answers."""
_PER_LINE_BESIDE_PEOPLE = 8
"""While people's requests are in progress, one line runs for so many of the lines that run without them, and at least
one, so that a batch goes on, if slowly, on an engine that is always in use.
"""

_in_background: ContextVar[bool] = ContextVar("in_background", default=False)


def in_background() -> bool:
    """Whether the current task works on a batch."""
    return _in_background.get()


class Priority:
    """Counts the requests of people and the running lines of batches. Call its methods on the event loop.

    Attributes:
        lines: see `lines_of`.
    """

    def __init__(self) -> None:
        self.lines = LINES
        self._people = self._lines = 0
        self._changed = asyncio.Event()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request for the duration of the block, unless it is a batch's."""
        if in_background():
            yield
            return
        self._people += 1
        try:
            yield
        finally:
            self._people -= 1
            self._changed.set()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until another line of a batch may run; it runs inside the block."""
        while self._lines >= (max(1, self.lines // _PER_LINE_BESIDE_PEOPLE) if self._people else self.lines):
            self._changed.clear()
            await self._changed.wait()
        self._lines += 1
        mark = _in_background.set(True)
        try:
            yield
        finally:
            _in_background.reset(mark)
            self._lines -= 1
            self._changed.set()


class Slots:
    """The slots of one model: how many requests are decoded together. The others wait in order of arrival, and lines of
    batches take at most `lines_of` the slots.
    """

    def __init__(self, parallel: int = PARALLEL) -> None:
        self._all = asyncio.Semaphore(parallel)
        self._for_batches = asyncio.Semaphore(lines_of(parallel))

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the duration of the block."""
        if not in_background():
            async with self._all:
                yield
            return
        async with self._for_batches, self._all:
            yield
