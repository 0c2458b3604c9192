"""The training estimate of a file in one line: tokens, money, time."""

from __future__ import annotations

from decimal import Decimal

from core.finetuning.job_estimate import JobEstimate
from core.pricing.tokens import TokenCount
from core.providers import ModelInfo
from pages.ui.lang import _, about, duration, n_, usd
from pages.ui.money import local_price
from pages.ui.training import cached_form

USUAL_EPOCHS = 3  # the engine's automatic value


def facts(model: ModelInfo, tokens: TokenCount | None, epochs: int) -> tuple[str, ...]:
    """Tokens, cost, time and last day, as short texts; `tokens`: per epoch, None while unknown."""
    guess = cached_form.estimate(model, tokens.tokens if tokens is not None else 0, epochs)
    return (
        _tokens(tokens, epochs),
        local_price(guess.seconds) if guess.local else _("price: {price}").format(price=_price(tokens, guess.cost_usd)),
        _time(guess) if tokens is not None else "",
        _("training can be started until {day}").format(day=guess.train_until) if guess.train_until else "",
    )


def _price(tokens: TokenCount | None, cost: Decimal | None) -> str:
    return usd(None if tokens is None else cost)


def _time(guess: JobEstimate) -> str:
    """The duration, and whether it is only a rough estimate."""
    if guess.seconds is None:
        return _("time: known after the first job")
    words = _("time: roughly {time}") if guess.rough else _("time: {time}")
    return words.format(time=duration(guess.seconds))


def _tokens(tokens: TokenCount | None, epochs: int) -> str:
    if tokens is None:
        return _("counting tokens")
    total = tokens.tokens * epochs
    if tokens.exact:
        return n_("{n} token", "{n} tokens", total)
    return _("about {tokens} tokens").format(tokens=about(total))
