"""A few stories of a grid before anything is kept: does the template work, and how long is a story."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass

from core.actor import Actor
from core.cost import budget, tokens
from core.cost.price_book import PriceBook, cost_of
from core.cost.reservation import Reservation
from core.dataset import grid
from core.dataset.generation.response_classification import classify
from core.dataset.recipe import Recipe
from core.db.store import Store
from core.errors import StorageFull
from core.providers import Client, Completion, CompletionRequest


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One story of a preview. `reason` says why it is not a finished one."""

    values: dict[str, str]
    prompt: str
    text: str
    reason: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


def preview(
    client: Client,
    recipe: Recipe,
    n: int = 3,
    seed: int = 0,
    *,
    store: Store | None = None,
    actor: Actor | None = None,
    book: PriceBook | None = None,
    stop: threading.Event | None = None,
) -> Iterator[PreviewRow]:
    """Stories of `n` cells drawn from the grid, all at once, each as it comes. Nothing is kept.

    With `store` and `actor`, each is reserved before it is sent, and what it cost is recorded as spend. `stop` ends the
    requests, in every state, as soon as it is set.

    Raises:
        BadRecipe: the recipe cannot be run.
        OverBudget: it would go over a budget.
        ProviderError: the first error of a request, after the stories of the others.
        Cancelled: it was stopped.
    """
    halt = stop or threading.Event()
    recipe.check()
    positions = random.Random(seed).sample(range(recipe.rows()), min(n, recipe.rows()))
    endpoint = client.endpoint(recipe.model) if recipe.endpoint == "auto" else recipe.endpoint

    def write(position: int) -> PreviewRow:
        cell = grid.cell(recipe, position)
        request = CompletionRequest(
            model=recipe.model,
            prompt=grid.render(recipe.template, cell.values),
            system=recipe.system,
            endpoint=endpoint,
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            max_tokens=recipe.max_tokens,
            seed=grid.row_seed(recipe, grid.key(recipe, cell.values, cell.repeat)),
        )
        began = time.monotonic()
        if store is not None and actor is not None:
            answer = _bought(client, request, store, actor, book or PriceBook.load(), halt)
        else:
            answer = client.complete(request, stop=halt)
        used = (answer.prompt_tokens, answer.completion_tokens, time.monotonic() - began)
        said = classify(answer, recipe.max_tokens)
        return PreviewRow(dict(cell.values), request.prompt, said.text or "", said.reason, said.finish_reason, *used)

    pool = ThreadPoolExecutor(max_workers=max(1, len(positions)), thread_name_prefix="preview")
    failed: BaseException | None = None
    try:
        for future in as_completed([pool.submit(write, position) for position in positions]):
            if (error := future.exception()) is None:
                yield future.result()
            failed = failed or error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failed is not None:
        raise failed


def _bought(
    client: Client, request: CompletionRequest, store: Store, actor: Actor, book: PriceBook, stop: threading.Event
) -> Completion:
    """The answer, on the bill whether or not anybody still looks: its worst case is reserved before it is sent."""
    provider, model = client.provider.id, request.model
    read = tokens.count([request.system + request.prompt], model).tokens
    worst = cost_of(book, provider, model, read, request.max_tokens)
    bought = Reservation(
        store, actor, "dataset", provider=provider, model=model, reference=budget.PREVIEW, worst_usd=worst
    )
    answer = bought.call(lambda: client.complete(request, stop=stop))
    used = (answer.prompt_tokens, answer.completion_tokens)
    with suppress(StorageFull):  # its cost is in a rescue file; the text is paid for, and shown
        bought.settle(*used, cost_of(book, provider, model, *used, cached_tokens=answer.cached_tokens))
    return answer
