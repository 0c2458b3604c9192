"""Serves models with vLLM: a base model and its adapters in one process. Tried on processors, not on a GPU.

llama.cpp splits prompts into tokens, as in training, and computes embeddings. A server has one base model; a server
that the engine starts is replaced when another base is asked for and no request is running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.engine.api.errors import ApiError, unavailable, unknown_model
from core.engine.serve_settings import VllmSettings
from core.engine.serving import vllm_http, vllm_server, vllm_text
from core.engine.serving.generate import GeneratedChunk
from core.engine.serving.llama import Backend, BaseModel, Pool
from core.engine.serving.llama_http import ConnectionBroken, ServerRefused
from core.engine.serving.model_serving import LoadedModel
from core.engine.serving.priority import Slots
from core.engine.serving.prompts import Prompt
from core.engine.serving.vllm_folders import VllmFolders
from core.engine.serving.vllm_server import VllmServer
from core.engine.serving.vllm_text import Target
from core.message import msg

_log = logging.getLogger(__name__)
_PARALLEL = 64  # requests that are sent to vLLM at the same time; it decodes as many of them as its memory allows


@dataclass(eq=False)
class _Connection:
    """A server in use.

    Attributes:
        base: name of its base model.
        leases: number of users; a retired connection is closed when the last one releases it.
        suspect: whether a request failed, so that the server is looked at before the next one.
        loaded: names of the adapters that the server is known to have.
    """

    base: str
    server: VllmServer
    leases: int = 0
    retired: bool = False
    suspect: bool = False
    loaded: set[str] = field(default_factory=set)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)


class VllmServing:
    """See `model_serving.Serving`."""

    parallel = _PARALLEL

    def __init__(self, settings: VllmSettings, pool: Pool, folders: VllmFolders) -> None:
        self._settings, self._pool, self._folders = settings, pool, folders
        self._lock = asyncio.Lock()
        self._connection: _Connection | None = None
        self._connecting: tuple[str, asyncio.Task[VllmServer]] | None = None
        self._slots = Slots(_PARALLEL)

    @asynccontextmanager
    async def lease(self, base: BaseModel, adapter: Path | None = None) -> AsyncIterator[LoadedModel]:
        """See `Serving`."""
        with self._pool.priority.request():  # also while the model is being loaded
            async with self._pool.lease_any(base) as tokenizer, AsyncExitStack() as stack:
                model = VllmModel(self, stack, tokenizer, base, adapter, self._slots)
                await model.connect()
                yield model

    async def load(self, base: BaseModel, adapter: Path | None) -> None:
        """See `Serving`."""
        async with self.lease(base, adapter):
            pass

    async def forget(self, base_name: str) -> None:
        """See `Serving`."""
        await self._pool.forget(base_name)
        if self._connecting is not None and self._connecting[0] == base_name:
            self._connecting[1].cancel()
        if self._connection is not None and self._connection.base == base_name:
            await self._retire(self._connection)

    async def forget_adapter(self, adapter: Path) -> None:
        """See `Serving`."""
        for folder in await asyncio.to_thread(self._folders.adapters, adapter):
            if (connection := self._connection) is not None:
                connection.loaded.discard(folder.name)
                try:
                    await vllm_http.unload_adapter(connection.server.address, folder.name)
                except ApiError as exc:  # it cannot be asked for any more
                    _log.warning("vLLM did not unload %s: %s", folder.name, exc)
            await asyncio.to_thread(self._folders.delete_adapter, folder)

    async def close(self) -> None:
        """See `Serving`."""
        if self._connecting is not None:
            self._connecting[1].cancel()
            await asyncio.gather(self._connecting[1], return_exceptions=True)
        if (connection := self._connection) is not None:
            self._connection = None
            await connection.server.stop()
        await self._pool.close()

    @asynccontextmanager
    async def connected(self, base: BaseModel) -> AsyncIterator[_Connection]:
        """Use a server of `base` for the duration of the block. Raises ApiError 503 if there is none."""
        async with self._lock:
            connection = await self._current_or_new(base)
            connection.leases += 1
        try:
            yield connection
        finally:
            connection.leases -= 1
            if connection.retired and not connection.leases:
                await connection.server.stop()

    async def _current_or_new(self, base: BaseModel) -> _Connection:
        """The connection to a healthy server of `base`; opens one if necessary, while the lock is held."""
        current = self._connection
        if current is not None and current.base == base.name:
            if not (current.suspect or current.server.has_ended) or await current.server.is_alive():
                current.suspect = False
                return current
        elif current is not None and current.leases and self._settings.url is None:
            raise _busy(current.base)
        if self._connecting is not None and self._connecting[0] != base.name:
            if not self._connecting[1].done():
                raise _busy(self._connecting[0])
            await self._drop_connecting()
        if current is not None:
            await self._retire(current)
        self._connection = _Connection(base.name, await self._connect(base))
        return self._connection

    async def _connect(self, base: BaseModel) -> VllmServer:
        """Join or start a server. A start goes on if the request that caused it is cancelled."""
        if self._settings.url is not None:
            return await vllm_server.join(self._settings.url, self._settings.key, base)
        if self._connecting is None:
            starting = vllm_server.start(self._settings, self._folders, base)
            self._connecting = (base.name, asyncio.create_task(starting))
        task = self._connecting[1]
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `forget`, and not this request
                raise unknown_model(base.name) from None
            raise
        finally:
            if task.done():
                self._connecting = None

    async def _drop_connecting(self) -> None:
        """Stop a server that was started for a request that has been cancelled."""
        assert self._connecting is not None
        task, self._connecting = self._connecting[1], None
        with contextlib.suppress(ApiError):
            await (await task).stop()

    async def _retire(self, connection: _Connection) -> None:
        """Stop using a server; it is stopped after its last request, one that has failed at once."""
        connection.retired = True
        if self._connection is connection:
            self._connection = None
        if not connection.leases or connection.suspect:
            await connection.server.stop()

    async def load_adapter(self, connection: _Connection, base: BaseModel, adapter: Path) -> str:
        """Load an adapter unless the server has it, and return its name there. Raises ApiError."""
        async with connection.loading:
            folder = await asyncio.to_thread(self._folders.of_adapter, base, adapter)
            if folder.name not in connection.loaded:
                await vllm_http.load_adapter(connection.server.address, folder.name, str(folder))
                connection.loaded.add(folder.name)
        return folder.name


class VllmModel:
    """A model that a vLLM server has loaded: see `model_serving.LoadedModel`."""

    def __init__(
        self,
        serving: VllmServing,
        stack: AsyncExitStack,
        tokenizer: Backend,
        base: BaseModel,
        adapter: Path | None,
        slots: Slots,
    ) -> None:
        self.tokenizer = tokenizer
        self._serving, self._stack, self._base, self._adapter = serving, stack, base, adapter
        self._slots = slots
        self._connection: _Connection
        self._name: str

    async def connect(self) -> None:
        """Use a server of the base until the stack is closed, with the adapter, if there is one. Raises ApiError."""
        connection = await self._stack.enter_async_context(self._serving.connected(self._base))
        name = await self._loaded(connection)
        self._connection, self._name = connection, name  # both at once: other streams of the request read them

    async def _loaded(self, connection: _Connection) -> str:
        """The model's name on a server, where its adapter is loaded, if there is one. Raises ApiError."""
        if self._adapter is None:
            return connection.server.served.id
        try:
            return await self._serving.load_adapter(connection, self._base, self._adapter)
        except ApiError:
            connection.suspect = True
            raise

    async def stream(self, options: Mapping[str, Any]) -> AsyncGenerator[GeneratedChunk, None]:
        """See `LoadedModel`."""
        async with self._slots.one():
            used = self._connection
            try:
                try:
                    async with aclosing(vllm_text.stream(self._target(), options)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                except (ConnectionBroken, ServerRefused) as exc:
                    await self._recover(used, exc)
                    async with aclosing(vllm_text.stream(self._target(), options)) as chunks:
                        async for chunk in chunks:
                            yield chunk
            except (ConnectionBroken, ServerRefused, ApiError) as exc:
                raise self._failed(exc) from exc

    async def beginning(self, prompt: Prompt, logprobs: int | None) -> GeneratedChunk:
        """See `LoadedModel`."""
        used = self._connection
        try:
            try:
                return await vllm_text.beginning(self._target(), prompt, logprobs)
            except (ConnectionBroken, ServerRefused) as exc:
                await self._recover(used, exc)
                return await vllm_text.beginning(self._target(), prompt, logprobs)
        except (ConnectionBroken, ServerRefused, ApiError) as exc:
            raise self._failed(exc) from exc

    def _target(self) -> Target:
        server = self._connection.server
        context = min(self._base.context, server.served.context or self._base.context)
        return Target(server.address, self._name, context, self.tokenizer)

    async def _recover(self, used: _Connection, exc: ConnectionBroken | ServerRefused) -> None:
        """Make a request possible that failed before its first token: start or join a server that is gone, or load the
        adapter, which a server that was restarted does not have. Raises a refusal about something else, or ApiError.
        """
        if isinstance(exc, ConnectionBroken) or (vllm_http.is_its_own_fault(exc) and not await used.server.is_alive()):
            used.suspect = True
            used.loaded.clear()  # it may have been restarted
            await self.connect()
            return
        if self._adapter is None or not vllm_http.is_unknown_model(exc):
            raise exc
        used.loaded.discard(self._name)
        await self._loaded(used)

    def _failed(self, exc: ConnectionBroken | ServerRefused | ApiError) -> ApiError:
        error = exc if isinstance(exc, ApiError) else vllm_http.as_api_error(exc)
        self._connection.suspect |= error.status >= 500
        return error


def _busy(base: str) -> ApiError:
    return unavailable(
        msg(
            "vLLM serves {base} at the moment, and one base model at a time. Try again when its requests have ended.",
            base=base,
        )
    )
