"""A preview of a few stories of a grid: does the template work, and how long are the stories?"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass

from core.actor import Actor
from core.datasets import grid
from core.datasets.recipe import Recipe
from core.db.store import Store
from core.errors import StorageFull
from core.generation.provider_connection import completion_request
from core.generation.response_classification import classify
from core.pricing import budget, tokens
from core.pricing.price_book import PriceBook, cost_of
from core.pricing.spend import Reservation
from core.providers import Client, Completion, CompletionRequest


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One story of a preview. `reason`: why it is unfinished or failed."""

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
    """Generate stories for `n` random cells of the grid in parallel, and yield each when it arrives. Nothing is saved.

    With `store` and `actor`, the cost of each request is reserved before it is sent, and recorded as spend. Setting
    `stop` cancels the requests.

    Raises:
        BadRecipe: the recipe is invalid.
        OverBudget: it would exceed a budget.
        ProviderError: the first error of a request, after the stories of the others.
        Cancelled: it was stopped.
    """
    stopping = stop or threading.Event()
    recipe.check()
    positions = random.Random(seed).sample(range(recipe.rows()), min(n, recipe.rows()))
    endpoint = client.endpoint(recipe.model) if recipe.endpoint == "auto" else recipe.endpoint

    def generate(position: int) -> PreviewRow:
        cell = grid.cell(recipe, position)
        prompt = grid.render(recipe.template, cell.values)
        seed = grid.row_seed(recipe, grid.key(recipe, cell.values, cell.repeat))
        request = completion_request(recipe, recipe.model, prompt, endpoint, seed)
        started_at = time.monotonic()
        if store is not None and actor is not None:
            answer = _complete_billed(client, request, store, actor, book or PriceBook.load(), stopping)
        else:
            answer = client.complete(request, stop=stopping)
        usage = (answer.prompt_tokens, answer.completion_tokens, time.monotonic() - started_at)
        verdict = classify(answer, recipe.max_tokens)
        return PreviewRow(
            dict(cell.values), request.prompt, verdict.text or "", verdict.reason, verdict.finish_reason, *usage
        )

    pool = ThreadPoolExecutor(max_workers=max(1, len(positions)), thread_name_prefix="preview")
    failed: BaseException | None = None
    try:
        for future in as_completed([pool.submit(generate, position) for position in positions]):
            if (error := future.exception()) is None:
                yield future.result()
            failed = failed or error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failed is not None:
        raise failed


def _complete_billed(
    client: Client, request: CompletionRequest, store: Store, actor: Actor, book: PriceBook, stop: threading.Event
) -> Completion:
    """Complete a request and record its cost, even if the page is closed.

    Its worst case is reserved before it is sent.
    """
    provider, model = client.provider.id, request.model
    prompt_tokens = tokens.count([request.system + request.prompt], model).tokens
    worst_usd = cost_of(book, provider, model, prompt_tokens, request.max_tokens)
    reservation = Reservation(
        store, actor, "dataset", provider=provider, model=model, reference=budget.PREVIEW, worst_usd=worst_usd
    )
    answer = reservation.call(lambda: client.complete(request, stop=stop))
    usage = (answer.prompt_tokens, answer.completion_tokens)
    with suppress(StorageFull):  # the cost is in a rescue file; the text is paid for, so show it
        reservation.settle(*usage, cost_of(book, provider, model, *usage, cached_tokens=answer.cached_tokens))
    return answer
