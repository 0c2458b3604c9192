"""Manages llama.cpp servers as child processes: one per model in use, a base model with or without an adapter.

llama.cpp batches only requests with the same adapter and makes all others wait. A base model and each of its tuned
models therefore get their own process, so that they can generate in parallel. The weights are memory-mapped from one
file, so they are in memory only once.
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
from core.engine.api.errors import unavailable
from core.engine.formats import vocabulary
from core.engine.formats.gguf_file import ModelCard
from core.engine.formats.vocabulary import Vocabulary
from core.engine.job_rules import CONTEXT, PARALLEL
from core.engine.serving.llama_http import ServerAddress
from core.engine.serving.priority import Priority, Slots
from core.message import msg

_log = logging.getLogger(__name__)

_MAX_LOADED = 5  # models kept loaded (LRU): four in parallel, plus the next one
_CACHE_MIB = 256  # prompt cache; llama.cpp's default is 8 GiB
# spins of a waiting thread before it sleeps; with more, two models starve each other (docs/benchmarks.md)
_SPIN_COUNT = "1000"
_TOKENS_CONTEXT = 256  # of a backend that only counts tokens; llama.cpp's smallest
_START_S = 120.0  # takes 2 s from a warm disk cache, longer from a cold, busy disk
_STOP_S = 5.0
_TOKENIZE_S = 60.0  # timeout for one text, which may take seconds on a busy machine


_Key = tuple[str, Path | None, bool]  # (name of the base model, adapter, whether for embeddings)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model: its name, the file served, its metadata, and the folder with its original weights.

    Attributes:
        limit: maximum tokens of a request or example, if the model's own context is at least that large.
    """

    name: str
    gguf: Path
    card: ModelCard
    folder: Path | None = None
    limit: int = CONTEXT

    @property
    def context(self) -> int:
        """Maximum length of a request and of a training example, in tokens."""
        return min(self.limit, self.card.context_length)

    @property
    def is_limited(self) -> bool:
        """Whether the model's own context is larger than the setting allows."""
        return self.limit < self.card.context_length


@dataclass(eq=False)
class Backend:
    """One running llama.cpp server.

    Attributes:
        adapter: the LoRA adapter; None for the plain base model.
        slots: limits how many requests are decoded together.
        leases: number of users; a retired backend is stopped when the last one releases it.
    """

    base: BaseModel
    process: asyncio.subprocess.Process
    address: ServerAddress
    adapter: Path | None
    slots: Slots = field(default_factory=Slots)
    leases: int = 0
    retired: bool = False

    _vocabulary: Vocabulary | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process.returncode is None

    async def vocabulary(self) -> Vocabulary:
        """The base's tokens; read when they are first needed. Raises ValueError if the file is damaged."""
        if self._vocabulary is None:
            self._vocabulary = await asyncio.to_thread(vocabulary.read, self.base.gguf)
        return self._vocabulary


class Pool:
    """The pool of backends. All methods except `tokenizer` must be called on the event loop.

    Attributes:
        priority: counts the requests that use the backends.
    """

    def __init__(self, threads: int, *, tokens_only: bool = False) -> None:
        """With `tokens_only`, backends only count tokens, with little memory, except those for embeddings."""
        self._threads, self._tokens_only = threads, tokens_only
        self.priority = Priority()
        self._current: dict[_Key, Backend] = {}  # in LRU order
        self._all: set[Backend] = set()
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._loop = asyncio.get_running_loop()
        self._stopping_tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lease(
        self, base: BaseModel, adapter: Path | None = None, *, embedding: bool = False
    ) -> AsyncIterator[Backend]:
        """Lease a backend of `base` with `adapter`; it keeps running until the block ends.

        Args:
            embedding: whether for embeddings instead of texts.

        Raises:
            ApiError: 503 if the model could not be loaded.
        """
        with self.priority.request():  # also while the model is being loaded
            async with self._leased(await self._get_or_start(base, adapter, embedding)) as backend:
                yield backend

    @asynccontextmanager
    async def lease_any(self, base: BaseModel) -> AsyncIterator[Backend]:
        """Lease any backend of `base`, for counting tokens, where the adapter does not matter. Raises the same errors
        as `lease`.
        """
        running = (backend for backend in self._current.values() if backend.base.name == base.name and backend.alive)
        async with self._leased(next(running, None) or await self._get_or_start(base, None)) as backend:
            yield backend

    @asynccontextmanager
    async def _leased(self, backend: Backend) -> AsyncIterator[Backend]:
        backend.leases += 1
        try:
            yield backend
        finally:
            backend.leases -= 1
            self._stop_if_unused(backend)

    @contextmanager
    def tokenizer(self, base: BaseModel) -> Iterator[Tokenizer]:
        """The tokenizer of `base`; call it from a thread other than the event loop's."""
        stack = AsyncExitStack()
        backend = asyncio.run_coroutine_threadsafe(stack.enter_async_context(self.lease_any(base)), self._loop).result()
        try:
            address = backend.address
            headers = {"authorization": f"Bearer {address.key}"}
            url = f"http://{address.host}:{address.port}"
            with httpx2.Client(base_url=url, headers=headers, timeout=_TOKENIZE_S, trust_env=False) as client:
                yield Tokenizer(client)
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), self._loop).result()

    async def load(self, base: BaseModel, adapter: Path | None) -> None:
        """Load a model before its first request. Raises the same errors as `lease`."""
        await self._get_or_start(base, adapter)

    @property
    def leases(self) -> int:
        """Number of requests that are running or waiting."""
        return sum(backend.leases for backend in tuple(self._all))

    async def close(self) -> None:
        """Stop all backends."""
        for backend in list(self._all):
            backend.retired, backend.leases = True, 0
            self._stop_if_unused(backend)
        await asyncio.gather(*self._stopping_tasks, return_exceptions=True)

    async def _get_or_start(self, base: BaseModel, adapter: Path | None, embedding: bool = False) -> Backend:
        key = (base.name, adapter, embedding)
        async with self._locks.setdefault(key, asyncio.Lock()):
            current = self._current.pop(key, None)
            if current is None or not current.alive:
                if current is not None:
                    self._retire(current)
                # never serve the base model under a tuned model's name
                if adapter is not None and not adapter.exists():
                    raise unavailable(
                        msg("The adapter {name} is no longer in the engine's home directory.", name=adapter.name)
                    )
                current = await _start(base, adapter, self._threads, embedding, self._tokens_only)
                self._all.add(current)
            self._current[key] = current
            for old in list(self._current)[:-_MAX_LOADED]:
                self._retire(self._current.pop(old))
            return current

    async def forget(self, base_name: str) -> None:
        """Stop a removed base's backends once their requests have ended."""
        for key in [key for key in self._current if key[0] == base_name]:
            self._retire(self._current.pop(key))

    def _retire(self, backend: Backend) -> None:
        backend.retired = True
        self._stop_if_unused(backend)

    def _stop_if_unused(self, backend: Backend) -> None:
        if backend.retired and backend.leases == 0 and backend in self._all:
            self._all.discard(backend)
            task = asyncio.create_task(_stop(backend))
            self._stopping_tasks.add(task)
            task.add_done_callback(self._stopping_tasks.discard)


class Tokenizer:
    """Converts text to token ids, using the same tokenizer as serving."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def __call__(self, text: str) -> list[int]:
        response = self._client.post("/tokenize", json={"content": text, "add_special": False, "parse_special": True})
        response.raise_for_status()
        return [int(token) for token in response.json()["tokens"]]


async def _start(base: BaseModel, adapter: Path | None, threads: int, embedding: bool, tokens_only: bool) -> Backend:
    key = secrets.token_urlsafe(24)
    context = _TOKENS_CONTEXT if tokens_only else PARALLEL * base.context
    options = {
        "model": str(base.gguf),
        "adapter": None if adapter is None else str(adapter),
        "key": key,
        "parallel": 1 if embedding or tokens_only else PARALLEL,
        "context": base.context if embedding else context,
        "pooling": base.card.pooling if embedding else 0,
        "cache_mib": _CACHE_MIB,
        "threads": threads,
    }
    process = await asyncio.create_subprocess_exec(
        *child_processes.command("core.engine.serving.llama_child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**child_processes.environment(), "GOMP_SPINCOUNT": _SPIN_COUNT},
        process_group=0,  # Ctrl-C in a terminal goes to the engine, which stops its children in order
    )
    try:
        response = await asyncio.wait_for(_handshake(process, options), _START_S)
    except TimeoutError as exc:
        process.kill()
        raise unavailable(
            msg("The model {name} was not loaded within {start_s} seconds.", name=base.name, start_s=f"{_START_S:.0f}")
        ) from exc
    except BaseException:
        process.kill()
        raise
    if "url" not in response:
        _log.error("llama.cpp could not load %s: %s", base.gguf, response.get("error"))
        raise unavailable(
            msg(
                "The model {name} could not be loaded: {error}.",
                name=base.name,
                error=response.get("error", "llama.cpp ended"),
            )
        )
    url = urlsplit(response["url"])
    address = ServerAddress(url.hostname or "127.0.0.1", url.port or 80, key)
    return Backend(base, process, address, adapter)


async def _handshake(process: asyncio.subprocess.Process, options: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(options).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    response: dict[str, Any] = json.loads(line) if line else {}
    return response


async def _stop(backend: Backend) -> None:
    if backend.process.stdin is not None:
        backend.process.stdin.close()
    try:
        await asyncio.wait_for(backend.process.wait(), _STOP_S)
    except TimeoutError:
        backend.process.kill()
        await backend.process.wait()
