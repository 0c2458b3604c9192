"""Estimates of tokens, money and time: of a grid, where a preview replaces the guess, and of training on its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from core.datasets import grid
from core.datasets.recipe import Recipe
from core.finetuning.job_estimate import JobEstimate
from core.generation import concurrency
from core.generation.runs import PreviewRow
from core.pricing import price_book, tokens
from core.pricing.price_book import cost_of
from core.pricing.tokens import TokenCount
from core.providers import ModelInfo
from pages.ui import cache, state
from pages.ui.components.money import local_price
from pages.ui.i18n import _, about, duration, n_, usd
from pages.ui.training import cached_training

USUAL_EPOCHS = 3  # the engine's automatic value
_TYPICAL_TOKENS = 260  # a Chinese story of 300 characters, in the sample stories
_SHARED_SPEED = 1.3  # four parallel streams are this much faster than one (measured: 54 against 41 tokens/s)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens, US dollars and seconds of a whole run; None is unknown. `measured`: from a preview of this recipe."""

    tokens: int
    usd: Decimal | None
    seconds: float | None
    local: bool
    measured: bool


def estimate(recipe: Recipe, *, batch: bool = False) -> Estimate:
    """The estimate for a runnable recipe; `batch`: at the price of a batch, which takes up to a day."""
    rows = recipe.rows()
    previewed = _previewed(recipe)
    if previewed:
        prompt_each = sum(row.prompt_tokens or 0 for row in previewed) // len(previewed)
        completion_each = sum(row.completion_tokens or 0 for row in previewed) // len(previewed)
    else:
        first = grid.render(recipe.template, grid.cell(recipe, 0).values)
        prompt_each = tokens.count([recipe.system, first], recipe.model).tokens
        completion_each = min(_TYPICAL_TOKENS, recipe.max_tokens)
    guess = price_book.estimate_generation(
        cache.prices(),
        recipe.provider,
        recipe.model,
        requests=rows,
        prompt_tokens_each=prompt_each,
        completion_tokens_each=completion_each,
        max_tokens=recipe.max_tokens,
    )
    expected = guess.expected_usd
    if batch:
        each = cost_of(cache.prices(), recipe.provider, recipe.model, prompt_each, completion_each, batch=True)
        expected = None if each is None else each * rows
    return Estimate(
        tokens=guess.prompt_tokens + guess.completion_tokens,
        usd=expected,
        seconds=None if batch else _seconds(recipe, guess.completion_tokens, previewed, local=guess.local),
        local=guess.local,
        measured=bool(previewed),
    )


def _previewed(recipe: Recipe) -> list[PreviewRow]:
    preview = state.studio().preview
    if preview is None or preview.subject != recipe:
        return []
    return [row for row in preview.gathering.items if row.completion_tokens]


def _seconds(recipe: Recipe, completion_tokens: int, previewed: Sequence[PreviewRow], *, local: bool) -> float | None:
    """Time of the whole run.

    On this machine, from the engine's latest measured speed. Elsewhere, or if there is none, from a preview, whose
    stories are written concurrently, like those of a run. None without either.
    """
    speed = cache.status().engine.tokens_per_s
    if local and speed:
        return completion_tokens / (speed * _SHARED_SPEED)
    if not previewed:
        return None
    each = sum(row.seconds for row in previewed) / len(previewed)
    return each * -(
        -recipe.rows() // concurrency.ceiling(recipe.provider)
    )  # in rounds of the number of requests in flight


def training_facts(model: ModelInfo, tokens: TokenCount | None, epochs: int) -> tuple[str, ...]:
    """Tokens, cost, time and last day, as short texts; `tokens`: per epoch, None while unknown."""
    guess = cached_training.estimate(model, tokens.tokens if tokens is not None else 0, epochs)
    return (
        _training_tokens(tokens, epochs),
        local_price(guess.seconds) if guess.local else _training_price(tokens, guess.cost_usd),
        _training_time(guess) if tokens is not None else "",
        _("training can be started until {day}").format(day=guess.train_until) if guess.train_until else "",
    )


def _training_price(tokens: TokenCount | None, cost: Decimal | None) -> str:
    return _("price: {price}").format(price=usd(None if tokens is None else cost))


def _training_time(guess: JobEstimate) -> str:
    """The duration, and whether it is only a rough estimate."""
    if guess.seconds is None:
        return _("time: known after the first job")
    words = _("time: roughly {time}") if guess.rough else _("time: {time}")
    return words.format(time=duration(guess.seconds))


def _training_tokens(tokens: TokenCount | None, epochs: int) -> str:
    if tokens is None:
        return _("counting tokens")
    total = tokens.tokens * epochs
    if tokens.exact:
        return n_("{n} token", "{n} tokens", total)
    return _("about {tokens} tokens").format(tokens=about(total))
