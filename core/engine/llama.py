"""llama.cpp servers as child processes: one for each model in use, be it a base as it is or with an adapter.

llama.cpp decodes requests together only where they use the same adapter, and has all others wait until those are done.
So a base and what was tuned from it get a process each, or they could not write side by side. The weights are mapped
from one file and are in memory once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from core.engine import child_processes
from core.engine.errors import ApiError, unavailable
from core.engine.gguf_file import ModelCard
from core.engine.llama_http import ServerAddress
from core.message import msg

_log = logging.getLogger(__name__)

PARALLEL = 4  # requests decoded together; more share the same two cores and only add memory
CONTEXT = 4096  # tokens of one request, prompt and answer; a story needs about 600
_AT_ONCE = 5  # models kept loaded, the most recently used: four side by side, and the one that is wanted next
_CACHE_MIB = 256  # prompts kept for reuse; llama.cpp's own default is 8 GiB
_SPINS = "1000"  # looks of a waiting thread before it sleeps; with more, two models starve each other (benchmarks.md)
_START_S = 120.0  # 2 s on a warm disk; a cold, busy one is slower
_STOP_S = 5.0
_TOKENIZE_S = 60.0  # one text; a loaded machine may take seconds


_Key = tuple[str, Path | None]  # a base's name, what is laid over it


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model that is ready to serve: its name, its file and what the file says about itself."""

    name: str
    gguf: Path
    card: ModelCard

    @property
    def context(self) -> int:
        """Longest request and longest training example, in tokens."""
        return min(CONTEXT, self.card.context_length)


@dataclass(eq=False)
class Backend:
    """One running llama.cpp server.

    Attributes:
        adapter: what is laid over the base; None: nothing.
        slots: as many requests as are decoded together; the others wait here, in order.
        leases: users; a retired backend ends when the last one leaves.
    """

    base: BaseModel
    process: asyncio.subprocess.Process
    address: ServerAddress
    adapter: Path | None
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))
    leases: int = 0
    retired: bool = False

    @property
    def alive(self) -> bool:
        return self.process.returncode is None


class Pool:
    """The backends. All methods but `borrow` belong to the event loop."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._current: dict[_Key, Backend] = {}  # the most recently used last
        self._all: set[Backend] = set()
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._loop = asyncio.get_running_loop()
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lease(self, base: BaseModel, adapter: Path | None = None) -> AsyncIterator[Backend]:
        """A backend of `base` with `adapter` loaded. It stays up until the block ends.

        Raises:
            ApiError: 503, the model could not be loaded.
        """
        async with self._using(await self._with(base, adapter)) as backend:
            yield backend

    @asynccontextmanager
    async def counting(self, base: BaseModel) -> AsyncIterator[Backend]:
        """Some backend of `base`, whatever lies over it: they all count tokens alike. Raises as `lease` does."""
        running = (one for one in self._current.values() if one.base.name == base.name and one.alive)
        async with self._using(next(running, None) or await self._with(base, None)) as backend:
            yield backend

    @asynccontextmanager
    async def _using(self, backend: Backend) -> AsyncIterator[Backend]:
        backend.leases += 1
        try:
            yield backend
        finally:
            backend.leases -= 1
            self._end_if_unused(backend)

    @contextmanager
    def borrow(self, base: BaseModel) -> Iterator[Tokenizer]:
        """From another thread: the tokenizer of `base`."""
        stack = AsyncExitStack()
        backend = asyncio.run_coroutine_threadsafe(stack.enter_async_context(self.counting(base)), self._loop).result()
        try:
            address = backend.address
            headers = {"authorization": f"Bearer {address.key}"}
            url = f"http://{address.host}:{address.port}"
            with httpx2.Client(base_url=url, headers=headers, timeout=_TOKENIZE_S, trust_env=False) as client:
                yield Tokenizer(client)
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), self._loop).result()

    async def load(self, base: BaseModel, adapter: Path | None) -> None:
        """Have this model ready before anyone asks. Raises as `lease` does."""
        await self._with(base, adapter)

    @property
    def leases(self) -> int:
        """Requests that are being answered or wait for their turn."""
        return sum(backend.leases for backend in tuple(self._all))

    async def close(self) -> None:
        """End every backend at once."""
        for backend in list(self._all):
            backend.retired, backend.leases = True, 0
            self._end_if_unused(backend)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _with(self, base: BaseModel, adapter: Path | None) -> Backend:
        key = (base.name, adapter)
        async with self._locks.setdefault(key, asyncio.Lock()):
            current = self._current.pop(key, None)
            if current is None or not current.alive:
                if current is not None:
                    self._retire(current)
                if adapter is not None and not adapter.exists():  # never answer as the base under a tuned name
                    raise unavailable(
                        msg("The adapter {name} is not in the engine's home any more.", name=adapter.name)
                    )
                current = await _start(base, adapter, self._threads)
                self._all.add(current)
            self._current[key] = current
            for old in list(self._current)[:-_AT_ONCE]:
                self._retire(self._current.pop(old))
            return current

    def _retire(self, backend: Backend) -> None:
        backend.retired = True
        self._end_if_unused(backend)

    def _end_if_unused(self, backend: Backend) -> None:
        if backend.retired and backend.leases == 0 and backend in self._all:
            self._all.discard(backend)
            task = asyncio.create_task(_end(backend))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class Tokenizer:
    """Text → token ids, by the very tokenizer that serves."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def __call__(self, text: str) -> list[int]:
        answer = self._client.post("/tokenize", json={"content": text, "add_special": False, "parse_special": True})
        answer.raise_for_status()
        return [int(token) for token in answer.json()["tokens"]]


async def _start(base: BaseModel, adapter: Path | None, threads: int) -> Backend:
    key = secrets.token_urlsafe(24)
    orders = {
        "model": str(base.gguf),
        "adapter": None if adapter is None else str(adapter),
        "key": key,
        "parallel": PARALLEL,
        "context": PARALLEL * base.context,
        "cache_mib": _CACHE_MIB,
        "threads": threads,
    }
    process = await asyncio.create_subprocess_exec(
        *child_processes.command("llama_child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**child_processes.environment(), "GOMP_SPINCOUNT": _SPINS},
        process_group=0,  # Ctrl-C in a terminal is for the engine, which ends its children in order
    )
    try:
        answer = await asyncio.wait_for(_introduce(process, orders), _START_S)
    except TimeoutError as exc:
        process.kill()
        raise unavailable(
            msg("The model {name} was not loaded within {start_s} seconds.", name=base.name, start_s=f"{_START_S:.0f}")
        ) from exc
    except BaseException:
        process.kill()
        raise
    if "url" not in answer:
        _log.error("llama.cpp could not load %s: %s", base.gguf, answer.get("error"))
        raise unavailable(
            msg(
                "The model {name} could not be loaded: {value}.",
                name=base.name,
                value=answer.get("error", "llama.cpp ended"),
            )
        )
    url = urlsplit(answer["url"])
    address = ServerAddress(url.hostname or "127.0.0.1", url.port or 80, key)
    return Backend(base, process, address, adapter)


async def _introduce(process: asyncio.subprocess.Process, orders: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(orders).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {}
    return answer


async def _end(backend: Backend) -> None:
    if backend.process.stdin is not None:
        backend.process.stdin.close()
    try:
        await asyncio.wait_for(backend.process.wait(), _STOP_S)
    except TimeoutError:
        backend.process.kill()
        await backend.process.wait()


def too_long(context: object, tokens: object) -> ApiError:
    """400: a prompt of so many tokens leaves no room in a context of so many."""
    return ApiError(
        400,
        msg(
            "This model's maximum context length is {context} tokens. However, your prompt has {tokens} tokens. "
            "Please shorten it.",
            context=context,
            tokens=tokens,
        ),
        param="prompt",
        code="context_length_exceeded",
    )


def as_api_error(status: int, body: dict[str, Any]) -> ApiError:
    """llama.cpp's error as OpenAI would word it."""
    error = body.get("error") if isinstance(body.get("error"), dict) else {}
    assert isinstance(error, dict)
    if error.get("type") == "exceed_context_size_error":
        return too_long(error.get("n_ctx"), error.get("n_prompt_tokens"))
    message = str(error.get("message") or "llama.cpp refused the request")
    return (
        ApiError(400, message)
        if 400 <= status < 500
        else unavailable(msg("The model stopped working: {message}.", message=message))
    )
