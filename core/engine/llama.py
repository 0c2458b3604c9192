"""llama.cpp servers as child processes: one per base model in use, with its adapters; swapped, never cut."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from core.engine import children
from core.engine.errors import ApiError, unavailable
from core.engine.gguf_file import ModelCard
from core.engine.wire import Address

_log = logging.getLogger(__name__)

PARALLEL = 4  # requests decoded together; more share the same two cores and only add memory
CONTEXT = 4096  # tokens of one request, prompt and answer; a story needs about 600
_ADAPTERS_LOADED = 8  # most recently used ones per base, about 8 MB each
_CACHE_MIB = 256  # prompts kept for reuse; llama.cpp's own default is 8 GiB
_START_S = 120.0  # 2 s on a warm disk; a cold, busy one is slower
_STOP_S = 5.0
_TOKENIZE_S = 60.0  # one text; a loaded machine may take seconds


@dataclass(frozen=True, slots=True)
class Base:
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
        adapters: adapter file → its number in llama.cpp's `lora` field.
        slots: as many requests as are decoded together; the others wait here, in order.
        leases: users; a retired backend ends when the last one leaves.
    """

    base: Base
    process: asyncio.subprocess.Process
    address: Address
    adapters: dict[Path, int]
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))
    leases: int = 0
    retired: bool = False

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def lora(self, adapter: Path | None) -> list[dict[str, float]]:
        """The `lora` field of a request: this adapter on, all others off (an empty list would mean "as before")."""
        return [{"id": number, "scale": float(path == adapter)} for path, number in self.adapters.items()]


class Pool:
    """The backends. All methods but `borrow` belong to the event loop."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._current: dict[str, Backend] = {}
        self._all: set[Backend] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._recent: dict[str, list[Path]] = {}
        self._loop = asyncio.get_running_loop()
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lease(self, base: Base, adapter: Path | None = None) -> AsyncIterator[Backend]:
        """A backend of `base` with `adapter` loaded. It stays up until the block ends.

        Raises:
            ApiError: 503, the model could not be loaded.
        """
        backend = await self._with(base, adapter)
        backend.leases += 1
        try:
            yield backend
        finally:
            backend.leases -= 1
            self._end_if_unused(backend)

    @contextmanager
    def borrow(self, base: Base) -> Iterator[Tokenizer]:
        """From another thread: the tokenizer of `base`."""
        stack = AsyncExitStack()
        backend = asyncio.run_coroutine_threadsafe(stack.enter_async_context(self.lease(base)), self._loop).result()
        try:
            address = backend.address
            headers = {"authorization": f"Bearer {address.key}"}
            url = f"http://{address.host}:{address.port}"
            with httpx2.Client(base_url=url, headers=headers, timeout=_TOKENIZE_S, trust_env=False) as client:
                yield Tokenizer(client)
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), self._loop).result()

    async def load(self, base: Base, adapters: Sequence[Path]) -> None:
        """Have these adapters (of least importance first) ready before anyone asks."""
        for adapter in adapters:
            self._touch(base, adapter)
        await self._with(base, adapters[-1] if adapters else None)

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

    async def _with(self, base: Base, adapter: Path | None) -> Backend:
        async with self._locks.setdefault(base.name, asyncio.Lock()):
            if adapter is not None:
                self._touch(base, adapter)
            current = self._current.get(base.name)
            if current and current.alive and (adapter is None or adapter in current.adapters):
                return current
            adapters = [path for path in self._recent.get(base.name, []) if path.exists()]
            if adapter is not None and adapter not in adapters:  # never answer as the base under a tuned name
                raise unavailable(f"The adapter {adapter.name} is not in the engine's home any more.")
            try:
                fresh = await _start(base, adapters, self._threads)
            except ApiError:
                if adapter is not None:  # it may be the one that does not load: do not take others down with it
                    self._recent[base.name].remove(adapter)
                    raise
                self._recent[base.name] = []
                fresh = await _start(base, [], self._threads)
            self._all.add(fresh)
            self._current[base.name] = fresh
            if current:
                current.retired = True
                self._end_if_unused(current)
            return fresh

    def _touch(self, base: Base, adapter: Path) -> None:
        recent = self._recent.setdefault(base.name, [])
        if adapter in recent:
            recent.remove(adapter)
        recent.append(adapter)
        del recent[:-_ADAPTERS_LOADED]

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


async def _start(base: Base, adapters: Sequence[Path], threads: int) -> Backend:
    key = secrets.token_urlsafe(24)
    orders = {
        "model": str(base.gguf),
        "adapters": [str(path) for path in adapters],
        "key": key,
        "parallel": PARALLEL,
        "context": PARALLEL * base.context,
        "cache_mib": _CACHE_MIB,
        "threads": threads,
    }
    process = await asyncio.create_subprocess_exec(
        *children.command("llama_child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=children.environment(),
        process_group=0,  # Ctrl-C in a terminal is for the engine, which ends its children in order
    )
    try:
        answer = await asyncio.wait_for(_introduce(process, orders), _START_S)
    except BaseException:
        process.kill()
        raise
    if "url" not in answer:
        _log.error("llama.cpp could not load %s: %s", base.gguf, answer.get("error"))
        raise unavailable(f"The model {base.name} could not be loaded: {answer.get('error', 'llama.cpp ended')}.")
    url = urlsplit(answer["url"])
    address = Address(url.hostname or "127.0.0.1", url.port or 80, key)
    return Backend(base, process, address, {path: number for number, path in enumerate(adapters)})


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


def refused(status: int, body: dict[str, Any]) -> ApiError:
    """llama.cpp's error as OpenAI would word it."""
    error = body.get("error") if isinstance(body.get("error"), dict) else {}
    assert isinstance(error, dict)
    if error.get("type") == "exceed_context_size_error":
        return ApiError(
            400,
            f"This model's maximum context length is {error.get('n_ctx')} tokens. "
            f"However, your prompt has {error.get('n_prompt_tokens')} tokens. Please shorten it.",
            param="prompt",
            code="context_length_exceeded",
        )
    message = str(error.get("message") or "llama.cpp refused the request")
    return ApiError(400, message) if 400 <= status < 500 else unavailable(f"The model stopped working: {message}.")
