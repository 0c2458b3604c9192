"""Previews a few of a run's texts, to check the prompts and their length, and estimates a run."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import NamedTuple

from core.actor import Actor, requires
from core.datasets import grid
from core.datasets.importers.prompt_list import ListedPrompt
from core.datasets.recipe import Recipe
from core.db.store import Store
from core.errors import FabulaError, StorageFull
from core.generation import concurrency
from core.generation.provider_connection import completion_request
from core.generation.retry_policy import classify
from core.ownership import reads
from core.pricing import budget, stopped_models, tokens
from core.pricing.price_book import PriceBook, cost_of, estimate_generation
from core.pricing.spend import Reservation
from core.providers import Client, Completion, CompletionRequest
from core.providers.schemas import Endpoint

_TYPICAL_TOKENS = 260  # length of a Chinese story of 300 characters in the sample stories
_SHARED_SPEED = 1.3  # four parallel streams together are this much faster than one (measured: 54 against 41 tokens/s)


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One story in a preview. `reason`: why it is unfinished or failed."""

    values: dict[str, str]
    prompt: str
    text: str
    reason: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """Tokens, US dollars and seconds for a whole run; None means unknown. `local`: whether it runs on this machine."""

    tokens: int
    usd: Decimal | None
    seconds: float | None
    local: bool


@requires("editor")
@reads(model="recipe.model")
def preview(
    store: Store,
    actor: Actor,
    client: Client,
    recipe: Recipe,
    n: int = 3,
    seed: int = 0,
    *,
    prompts: Sequence[ListedPrompt] = (),
    book: PriceBook | None = None,
    stop: threading.Event | None = None,
) -> Iterator[PreviewRow]:
    """Generate texts for `n` random cells of the grid in parallel, and yield each as it arrives. Nothing is saved.

    The cost of each request is reserved before it is sent, and recorded as spend. Setting `stop` cancels the requests.

    Args:
        prompts: the prompts of a recipe whose prompts come from a list.

    Raises:
        NotAllowed: the actor is a viewer.
        BadRecipe: the recipe is invalid.
        OverBudget: the preview would exceed a budget.
        ProviderError: the first error of a request, raised after the other requests' stories.
        Cancelled: it was stopped.
    """
    stopping = stop or threading.Event()
    recipe.check()
    size = len(prompts) if recipe.listed else recipe.rows()
    positions = random.Random(seed).sample(range(size), min(n, size))
    endpoint = client.endpoint(recipe.model) if recipe.endpoint == "auto" else recipe.endpoint
    complete = partial(_complete_billed, client, store, actor, book or PriceBook.load(), stopping)
    pool = ThreadPoolExecutor(max(1, len(positions)), "preview")
    failed: BaseException | None = None
    try:
        cells = (_cell(recipe, prompts, position) for position in positions)
        for future in as_completed([pool.submit(_generate, recipe, endpoint, complete, cell) for cell in cells]):
            if (error := future.exception()) is None:
                yield future.result()
            failed = failed or error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if isinstance(failed, FabulaError):
        prices = book or PriceBook.load()
        raise stopped_models.explained(store, prices, client.provider.id, recipe.model, failed, reader=actor)
    if failed is not None:
        raise failed


class _PreviewCell(NamedTuple):
    """What a row to be previewed consists of."""

    values: Mapping[str, str]
    prompt: str
    key: str


def _cell(recipe: Recipe, prompts: Sequence[ListedPrompt], position: int) -> _PreviewCell:
    """The cell at `position` in the grid, or the prompt at `position` in the list."""
    if recipe.listed:
        listed = prompts[position]
        return _PreviewCell(listed.values, listed.prompt, grid.listed_key(recipe, listed.prompt, 0))
    cell = grid.cell(recipe, position)
    prompt = grid.render(recipe.template, cell.values)
    return _PreviewCell(cell.values, prompt, grid.key(recipe, cell.values, cell.repeat))


def _generate(
    recipe: Recipe, endpoint: Endpoint, complete: Callable[[CompletionRequest], Completion], cell: _PreviewCell
) -> PreviewRow:
    """Generate the text for one cell."""
    request = completion_request(recipe, recipe.model, cell.prompt, endpoint, grid.row_seed(recipe, cell.key))
    started_at = time.monotonic()
    result = classify(answer := complete(request), recipe.max_tokens)
    return PreviewRow(
        dict(cell.values),
        request.prompt,
        result.text or "",
        result.reason,
        result.finish_reason,
        answer.prompt_tokens,
        answer.completion_tokens,
        time.monotonic() - started_at,
    )


def _complete_billed(
    client: Client, store: Store, actor: Actor, book: PriceBook, stop: threading.Event, request: CompletionRequest
) -> Completion:
    """Complete a request and record its cost, even if the page is closed.

    Its worst-case cost is reserved before it is sent.
    """
    provider, model = client.provider.id, request.model
    prompt_tokens = tokens.count([request.system + request.prompt + request.response_format], model).tokens
    worst_usd = cost_of(book, provider, model, prompt_tokens, request.max_tokens)
    reservation = Reservation(
        store, actor, "dataset", provider=provider, model=model, reference=budget.PREVIEW, worst_usd=worst_usd
    )
    answer = reservation.call(lambda: client.complete(request, stop=stop))
    usage = (answer.prompt_tokens, answer.completion_tokens)
    with suppress(StorageFull):  # the cost is in a rescue file; the text is paid for, so it is still shown
        reservation.settle(*usage, cost_of(book, provider, model, *usage, cached_tokens=answer.cached_tokens))
    return answer


def estimate_run(
    recipe: Recipe,
    book: PriceBook,
    previewed: Sequence[PreviewRow],
    engine_tokens_per_s: float | None,
    *,
    parallel: int | None = None,
    batch: bool = False,
) -> RunEstimate:
    """Estimate a run of a runnable recipe.

    Args:
        book: the prices.
        previewed: previewed texts of this recipe, whose lengths and times replace the default guess; may be empty.
        engine_tokens_per_s: the engine's latest measured speed; None if not measured.
        parallel: `ModelInfo.parallel` of the writing model.
        batch: whether to use batch prices; a batch takes up to a day.
    """
    rows = recipe.rows()
    prompt_each, completion_each = _tokens_each(recipe, previewed)
    guess = estimate_generation(
        book,
        recipe.provider,
        recipe.model,
        requests=rows,
        prompt_tokens_each=prompt_each,
        completion_tokens_each=completion_each,
        max_tokens=recipe.max_tokens,
    )
    total, local = guess.prompt_tokens + guess.completion_tokens, guess.local
    if batch:
        each = cost_of(book, recipe.provider, recipe.model, prompt_each, completion_each, batch=True)
        return RunEstimate(total, None if each is None else each * rows, None, local)
    if local and engine_tokens_per_s:
        seconds: float | None = guess.completion_tokens / (engine_tokens_per_s * _SHARED_SPEED)
    else:
        seconds = _seconds(recipe, previewed, parallel or concurrency.DEFAULT_LIMIT)
    return RunEstimate(total, guess.expected_usd, seconds, local)


def _tokens_each(recipe: Recipe, previewed: Sequence[PreviewRow]) -> tuple[int, int]:
    """Tokens of one prompt and one text: as in the preview, or a guess without one.

    The tokens of a list's prompts are known, even if the preview's few are longer.
    """
    if previewed:
        n_rows = len(previewed)
        prompt, completion = (
            (row.prompt_tokens or 0 for row in previewed),
            (row.completion_tokens or 0 for row in previewed),
        )
        if not recipe.listed:
            return sum(prompt) // n_rows, sum(completion) // n_rows
        return _listed_tokens_each(recipe), sum(completion) // n_rows
    if recipe.listed:
        return _listed_tokens_each(recipe), min(_TYPICAL_TOKENS, recipe.max_tokens)
    first = grid.render(recipe.template, grid.cell(recipe, 0).values)
    return tokens.count([recipe.system, first], recipe.model).tokens, min(_TYPICAL_TOKENS, recipe.max_tokens)


def _listed_tokens_each(recipe: Recipe) -> int:
    shared = tokens.count([recipe.system, recipe.response_format], recipe.model).tokens
    return round(recipe.listed_tokens / recipe.listed) + shared


def request_range(recipe: Recipe, *, batch: bool) -> tuple[int, int]:
    """Minimum and maximum number of requests in a run: repeats of a cell can share one, unless each row has its own
    seed.
    """
    rows = recipe.rows()
    if batch or recipe.seed is not None:
        return rows, rows
    shared = -(-recipe.repeats // concurrency.MAX_SHARED)  # rounded up
    return rows // recipe.repeats * shared, rows


def _seconds(recipe: Recipe, previewed: Sequence[PreviewRow], in_flight: int) -> float | None:
    """Duration of the whole run, based on a preview, whose texts are generated concurrently as in a run."""
    if not previewed:
        return None
    rounds = -(-recipe.rows() // in_flight)
    return sum(row.seconds for row in previewed) / len(previewed) * rounds
