"""What it will cost, before the button is pressed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from core.cost.price_book import PriceBook, cost_of, training_cost


@dataclass(frozen=True, slots=True)
class GenerationEstimate:
    """Tokens and US dollars of a run. `worst_usd` is what must be reserved: every answer as long as it may get."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    local: bool


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """Tokens and US dollars of a job. `last_day` is the last one on which the provider starts training."""

    trained_tokens: int
    cost_usd: Decimal | None
    local: bool
    last_day: date | None


def generation(
    book: PriceBook,
    provider: str,
    model: str,
    *,
    requests: int,
    prompt_tokens_each: int,
    completion_tokens_each: int,
    max_tokens: int,
) -> GenerationEstimate:
    """An estimate for `requests` calls, from what one of them (a preview's, say) took."""
    price = book.find(provider, model)
    prompt, completion = requests * prompt_tokens_each, requests * completion_tokens_each
    return GenerationEstimate(
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        expected_usd=_times(requests, cost_of(book, provider, model, prompt_tokens_each, completion_tokens_each)),
        worst_usd=_times(requests, cost_of(book, provider, model, prompt_tokens_each, max_tokens)),
        local=price is not None and price.local,
    )


def training(book: PriceBook, provider: str, base_model: str, *, tokens: int, epochs: int) -> TrainingEstimate:
    """An estimate for a file of `tokens`, read `epochs` times. OpenAI bills every token of the file, each epoch."""
    price = book.training_price(provider, base_model)
    return TrainingEstimate(
        trained_tokens=tokens * epochs,
        cost_usd=training_cost(book, provider, base_model, tokens * epochs),
        local=price is not None and price.local,
        last_day=price.training_until if price is not None else None,
    )


def _times(requests: int, each: Decimal | None) -> Decimal | None:
    """Call by call: what a long prompt costs for each token is not what many short ones cost."""
    return None if each is None else requests * each
