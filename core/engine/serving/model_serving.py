"""What generates texts: the interface that llama.cpp (here) and vLLM (`vllm.py`) fulfil.

Prompts are rendered by the engine and split into tokens by llama.cpp in both cases, as in training.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.engine.job_rules import PARALLEL
from core.engine.serving import echo
from core.engine.serving.generate import GeneratedChunk, stream_chunks
from core.engine.serving.llama import Backend, BaseModel, Pool
from core.engine.serving.prompts import Prompt
from core.engine.serving.tool_choice import AFTER_TRIGGER


class LoadedModel(Protocol):
    """A model that is loaded."""

    @property
    def tokenizer(self) -> Backend:
        """A llama.cpp server of its base, which counts tokens."""

    def stream(self, options: Mapping[str, Any]) -> AsyncGenerator[GeneratedChunk, None]:
        """Generate a text with llama.cpp's parameters, up to the first stop string.

        Raises:
            ApiError: with the first chunk or later.
        """

    async def beginning(self, prompt: Prompt, logprobs: int | None) -> GeneratedChunk:
        """The prompt as a chunk, with the log-probabilities of so many other tokens (None: none at all). Raises
        ApiError.
        """


class Serving(Protocol):
    """Serves base and tuned models. Call its methods on the event loop.

    Attributes:
        parallel: requests to a model that are decoded at the same time.
    """

    parallel: int

    def lease(self, base: BaseModel, adapter: Path | None = None) -> AbstractAsyncContextManager[LoadedModel]:
        """Lease a model for the duration of the block. Raises ApiError 503 if it cannot be loaded."""

    async def load(self, base: BaseModel, adapter: Path | None) -> None:
        """Load a model before its first request. Raises the same errors as `lease`."""

    async def forget(self, base_name: str) -> None:
        """Stop serving a removed base once its requests have ended."""

    async def forget_adapter(self, adapter: Path) -> None:
        """Stop serving a deleted model."""

    async def close(self) -> None:
        """Stop everything that was started."""


@dataclass(frozen=True, slots=True)
class LlamaModel:
    """A model that a llama.cpp server has loaded."""

    tokenizer: Backend

    def stream(self, options: Mapping[str, Any]) -> AsyncGenerator[GeneratedChunk, None]:
        """See `LoadedModel`."""
        known = {name: value for name, value in options.items() if name != AFTER_TRIGGER}
        return stream_chunks(self.tokenizer, known)

    async def beginning(self, prompt: Prompt, logprobs: int | None) -> GeneratedChunk:
        """See `LoadedModel`."""
        return await echo.beginning(self.tokenizer, prompt, logprobs)


class LlamaServing:
    """Serves models with llama.cpp. The pool keeps a deleted model's process until others need its place."""

    parallel = PARALLEL

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def lease(self, base: BaseModel, adapter: Path | None = None) -> AsyncIterator[LoadedModel]:
        """See `Serving`."""
        async with self._pool.lease(base, adapter) as backend:
            yield LlamaModel(backend)

    async def load(self, base: BaseModel, adapter: Path | None) -> None:
        """See `Serving`."""
        await self._pool.load(base, adapter)

    async def forget(self, base_name: str) -> None:
        """See `Serving`."""
        await self._pool.forget(base_name)

    async def forget_adapter(self, adapter: Path) -> None:
        """See `Serving`."""

    async def close(self) -> None:
        """See `Serving`."""
        await self._pool.close()
