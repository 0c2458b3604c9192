"""A run's connection to its provider: the client, the model's API format, and single requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable

from core.datasets import conversation_prompts, grid
from core.datasets.recipe import Recipe
from core.generation.row_store import Claim
from core.generation.run_store import RunContext
from core.providers import Client, Completion, CompletionRequest, Registry, parameters
from core.providers.async_client import AsyncTextClient
from core.providers.schemas import Endpoint, ServedModel


def completion_request(
    recipe: Recipe, model: str, prompt: str, endpoint: Endpoint, seed: int | None, n: int = 1
) -> CompletionRequest:
    """Create the request for `n` answers to a row's prompt, with the settings of its recipe.

    A conversation's own system text replaces the recipe's.
    """
    asked = conversation_prompts.loads(prompt) if recipe.conversations else None
    return CompletionRequest(
        model=model,
        prompt=prompt if asked is None else asked.text,
        system=(asked and asked.system) or recipe.system,
        messages=() if asked is None else asked.messages,
        tools=json.dumps(asked.tools, ensure_ascii=False) if asked is not None and asked.tools else "",
        parallel_tool_calls=None if asked is None else asked.parallel_tool_calls,
        endpoint=endpoint,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        max_tokens=recipe.max_tokens,
        stop=recipe.stop,
        seed=seed,
        n=n,
        response_format=recipe.response_format,
    )


class ProviderConnection:
    """The connection of one run, on one event loop.

    Args:
        pause_s: seconds before an endpoint that did not respond is tried again.
        notify: called on the event loop when it is known how the provider serves the model.
    """

    def __init__(self, registry: Registry, context: RunContext, pause_s: float, notify: Callable[[], None]) -> None:
        self._registry, self._context, self._pause_s, self._notify = registry, context, pause_s, notify
        self._client: Client | None = None
        self._text_client: AsyncTextClient | None = None
        self._previous_clients: list[AsyncTextClient] = []
        self._request: CompletionRequest | None = None
        self._served: ServedModel | None = None
        self._connecting: asyncio.Task[ServedModel] | None = None
        self._connect_at = 0.0

    @property
    def open(self) -> bool:
        """Whether it is known how the provider serves the model."""
        return self._served is not None

    @property
    def parallel(self) -> int | None:
        """The number of requests that the provider processes in parallel; None if unreported, or not known yet."""
        return None if self._served is None else self._served.parallel

    def connect(self) -> None:
        """Find out how the provider serves the model. Call again until the connection is `open`.

        Raises:
            FabulaError: the endpoint returned an error or did not respond.
        """
        if self._served is not None:
            return
        if self._connecting is None and time.monotonic() >= self._connect_at:
            self._connect_at = time.monotonic() + self._pause_s
            self._client = self._registry.get(self._context.provider)
            self._connecting = asyncio.create_task(self._client.served(self._context.model))
            self._connecting.add_done_callback(lambda task: self._notify())
        elif self._connecting is not None and self._connecting.done():
            task, self._connecting = self._connecting, None
            self._served = task.result()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: parameters that the model does not support."""
        if self._text_client is None or self._request is None:
            return ()
        return parameters.notes(self._text_client.provider, self._request)

    async def ask(self, claim: Claim, n: int) -> Completion:
        """Request `n` texts for a claimed row.

        Raises:
            FabulaError: see `AsyncTextClient.complete` and `Registry.provider`.
        """
        recipe = self._context.recipe
        found: Endpoint = "chat" if self._served is None else self._served.endpoint
        endpoint = found if recipe.endpoint == "auto" else recipe.endpoint
        seed = grid.row_seed(recipe, claim.key)
        request = self._request = completion_request(recipe, self._context.model, claim.prompt, endpoint, seed, n)
        return await self._current_client().complete(request)

    async def close(self) -> None:
        """Close the clients. No request may be in flight."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        for client in (self._client, self._text_client, *self._previous_clients):
            if client is not None:
                with contextlib.suppress(Exception):  # the run has ended, so an error while closing does not matter
                    await client.aclose()

    def _current_client(self) -> AsyncTextClient:
        """Look up the client for each request, because a restarted engine may have a different address."""
        provider = self._registry.provider(self._context.provider)
        if self._text_client is None or self._text_client.provider != provider:
            if self._text_client is not None:
                self._previous_clients.append(self._text_client)  # it may still have requests in flight
            self._text_client = AsyncTextClient(provider)
        return self._text_client
