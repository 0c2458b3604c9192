"""Cost estimates for runs and training jobs before they start."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from core.pricing.price_book import PriceBook, cost_of, training_cost


@dataclass(frozen=True, slots=True)
class GenerationEstimate:
    """Tokens and US dollars of a run. `worst_usd`: the amount to reserve, with all answers at their maximum length."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    local: bool


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """Tokens and US dollars of a job. `last_day`: the last day on which the provider starts training."""

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
    """Estimate `requests` calls from the tokens of one call, such as a preview."""
    price = book.find(provider, model)
    prompt_tokens, completion_tokens = requests * prompt_tokens_each, requests * completion_tokens_each
    return GenerationEstimate(
        requests=requests,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        expected_usd=_times(requests, cost_of(book, provider, model, prompt_tokens_each, completion_tokens_each)),
        worst_usd=_times(requests, cost_of(book, provider, model, prompt_tokens_each, max_tokens)),
        local=price is not None and price.local,
    )


def training(book: PriceBook, provider: str, base_model: str, *, tokens: int, epochs: int) -> TrainingEstimate:
    """Estimate a job for a file of `tokens`. OpenAI bills every token in every epoch."""
    price = book.training_price(provider, base_model)
    return TrainingEstimate(
        trained_tokens=tokens * epochs,
        cost_usd=training_cost(book, provider, base_model, tokens * epochs),
        local=price is not None and price.local,
        last_day=price.training_until if price is not None else None,
    )


def _times(requests: int, usd_per_request: Decimal | None) -> Decimal | None:
    """Multiplies the cost per call, because the price per token can depend on the prompt length."""
    return None if usd_per_request is None else requests * usd_per_request
