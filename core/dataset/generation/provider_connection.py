"""The way from a run to its provider: which client, how the model wants to be asked, one request."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from core.dataset import grid
from core.dataset.generation.row_store import Claim
from core.dataset.generation.run_store import RunContext
from core.providers import Client, Completion, CompletionRequest, Registry, parameters
from core.providers.async_client import AsyncTextClient
from core.providers.schemas import Endpoint


class ProviderConnection:
    """One run's connection, on one event loop.

    Args:
        pause_s: seconds before an endpoint that did not answer is asked again.
        notify: called on the event loop when an answer about the model has come.
    """

    def __init__(self, registry: Registry, context: RunContext, pause_s: float, notify: Callable[[], None]) -> None:
        self._registry, self._context, self._pause_s, self._notify = registry, context, pause_s, notify
        self._client: Client | None = None
        self._bulk: AsyncTextClient | None = None
        self._old: list[AsyncTextClient] = []
        self._request: CompletionRequest | None = None
        self._endpoint: Endpoint | None = None if context.recipe.endpoint == "auto" else context.recipe.endpoint
        self._connecting: asyncio.Task[Endpoint] | None = None
        self._connect_at = 0.0

    @property
    def open(self) -> bool:
        """It is known how the model wants to be asked."""
        return self._endpoint is not None

    def connect(self) -> None:
        """Find out how the model wants to be asked; call it again until the line is `open`.

        Raises:
            FabulaError: the endpoint said something else, or nothing.
        """
        if self._endpoint is not None:
            return
        if self._connecting is None and time.monotonic() >= self._connect_at:
            self._connect_at = time.monotonic() + self._pause_s
            self._client = self._registry.get(self._context.provider)
            self._connecting = asyncio.create_task(self._client.aendpoint(self._context.model))
            self._connecting.add_done_callback(lambda task: self._notify())
        elif self._connecting is not None and self._connecting.done():
            task, self._connecting = self._connecting, None
            self._endpoint = task.result()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how the model is asked: parameters that it does not take."""
        if self._bulk is None or self._request is None:
            return ()
        return parameters.notes(self._bulk.provider, self._request)

    async def ask(self, claim: Claim, n: int) -> Completion:
        """`n` texts for a claimed row.

        Raises:
            FabulaError: see `AsyncTextClient.ask` and `Registry.provider`.
        """
        recipe = self._context.recipe
        request = self._request = CompletionRequest(
            model=self._context.model,
            prompt=claim.prompt,
            system=recipe.system,
            endpoint=self._endpoint or "chat",
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            max_tokens=recipe.max_tokens,
            seed=grid.row_seed(recipe, claim.key),
            n=n,
        )
        return await self._sender().ask(request)

    async def close(self) -> None:
        """Hang up. No request may be under way."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        for client in (self._client, self._bulk, *self._old):
            if client is not None:
                with contextlib.suppress(Exception):  # it is over; a connection that cannot be closed is no news
                    await client.aclose()

    def _sender(self) -> AsyncTextClient:
        """Asked for anew each time: an engine that was started again has another address."""
        provider = self._registry.provider(self._context.provider)
        if self._bulk is None or self._bulk.provider != provider:
            if self._bulk is not None:
                self._old.append(self._bulk)  # requests may still be under way there
            self._bulk = AsyncTextClient(provider)
        return self._bulk
