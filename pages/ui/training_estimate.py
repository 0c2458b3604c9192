"""What training on a file will take, before the button: tokens, money, and minutes where a job has shown how fast."""

from __future__ import annotations

from statistics import median

from core.cost import estimate
from core.cost.tokens import TokenCount
from core.providers import ModelInfo
from pages.ui import cached
from pages.ui.lang import _, about, duration, n_, usd

USUAL_EPOCHS = 3  # what the engine takes when it is left to itself
_JOBS = 5  # the newest ones tell how fast it is now


def facts(model: ModelInfo, tokens: TokenCount | None, epochs: int) -> tuple[str, ...]:
    """Tokens, money, time and last day, as short pieces; `tokens` are those of one epoch, None while unknown."""
    trained = None if tokens is None else tokens.tokens * epochs
    guess = estimate.training(cached.prices(), model.provider, model.id, tokens=trained or 0, epochs=1)
    cost = guess.cost_usd if trained is not None else None
    took = seconds(model, trained)
    return (
        _tokens(tokens, epochs),
        _("free on this machine") if guess.local else _("price: {price}").format(price=usd(cost)),
        _("time: {time}").format(time=duration(took)) if trained is not None else "",
        _("training can be started until {day}").format(day=guess.last_day) if guess.last_day else "",
    )


def seconds(model: ModelInfo, trained_tokens: int | None) -> float | None:
    """How long training on so many tokens takes, from what jobs on this model took, waiting included; None: unknown."""
    rates = [
        job.trained_tokens / took
        for job in cached.job_list()
        if (job.provider, job.base_model, job.status) == (model.provider, model.id, "succeeded")
        and job.trained_tokens
        and job.finished_at is not None
        and (took := (job.finished_at - job.created_at).total_seconds()) > 0
    ]
    return trained_tokens / median(rates[:_JOBS]) if rates and trained_tokens is not None else None


def _tokens(tokens: TokenCount | None, epochs: int) -> str:
    if tokens is None:
        return _("counting tokens")
    whole = tokens.tokens * epochs
    if tokens.exact:
        return n_("{n} token", "{n} tokens", whole)
    return _("about {tokens} tokens").format(tokens=about(whole))
