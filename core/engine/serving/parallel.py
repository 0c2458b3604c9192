"""Runs the generations of one request: all at the same time, or one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from core.engine.serving.generate import GeneratedChunk


async def gather(coroutines: Sequence[Coroutine[Any, Any, GeneratedChunk]], concurrently: bool) -> list[GeneratedChunk]:
    """Run all completions and return their results; the first error cancels the others."""
    if not concurrently:
        return await _one_by_one(coroutines)
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _one_by_one(coroutines: Sequence[Coroutine[Any, Any, GeneratedChunk]]) -> list[GeneratedChunk]:
    """Run all completions one after another."""
    try:
        return [await coroutine for coroutine in coroutines]
    finally:
        for coroutine in coroutines:
            coroutine.close()  # close those that were never started


async def sequential(
    streams: Sequence[AsyncGenerator[GeneratedChunk, None]],
) -> AsyncGenerator[tuple[int, GeneratedChunk], None]:
    """Yield (index, chunk) for the first generation, then for the second, …"""
    for index, stream in enumerate(streams):
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield index, chunk


async def merge(
    streams: Sequence[AsyncGenerator[GeneratedChunk, None]],
) -> AsyncGenerator[tuple[int, GeneratedChunk], None]:
    """Yield (index, chunk) from several parallel generations as the chunks arrive. Closing it closes all of them."""
    queue: asyncio.Queue[tuple[int, GeneratedChunk] | Exception | None] = asyncio.Queue(maxsize=64)

    async def pump(index: int, stream: AsyncGenerator[GeneratedChunk, None]) -> None:
        try:
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    await queue.put((index, chunk))
            await queue.put(None)
        except Exception as exc:  # pass every error to the reader, which would otherwise wait indefinitely
            await queue.put(exc)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        n_running = len(tasks)
        while n_running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                n_running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
