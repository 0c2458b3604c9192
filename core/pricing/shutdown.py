"""When a model stops answering, and the notice that follows from it.

One source of dates for every page, alert and error: the date that the provider's API names for the model (its list of
models, an account archived on the page Move), then that of its base, then the price list. A day is a day in UTC. On the
day itself the model may still answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from core.pricing.price_book import PriceBook
from core.pricing.prices import ENGINE, price_list, tuned_base

SOON_DAYS = 60
"""A model that stops within this time carries the date wherever it is shown: time to train and switch to another."""
OPENAI = "openai"  # whose price list has the dates
_CHECKPOINT = ":ckpt-step-"  # OpenAI appends this and the step to the model's name


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A shutdown date and where it is from: the provider's API, or the price list."""

    day: date
    source: Literal["api", "list"]


@dataclass(frozen=True, slots=True)
class Notice:
    """What to say about a model's last day.

    Attributes:
        kind: `soon`: it stops within `SOON_DAYS`. `dark`: it has stopped.
        days_left: 0 on the day itself, negative afterwards.
    """

    kind: Literal["soon", "dark"]
    day: date
    days_left: int


def of(
    model: str | None, base_model: str | None, announced: Mapping[str, date], book: PriceBook, provider: str = OPENAI
) -> Shutdown | None:
    """When a model stops; None if no date is known.

    Args:
        model: the model; None for a job that made none.
        base_model: the model it was tuned from, which can be a tuned model; None if it is not known to be tuned.
        announced: dates by model that the provider named.
        provider: id of the provider; the engine's models never stop.
    """
    if provider == ENGINE:
        return None
    name, parent = without_checkpoint(model or ""), base_model if base_model != model else None
    bases = (parent, tuned_base(name), tuned_base(parent or ""))
    names = list(dict.fromkeys(one for one in (name, *bases) if one))
    for one in names:
        if day := announced.get(one):
            return Shutdown(day, "api")
    is_tuned = model is None or any(bases)
    for one in names:
        for listed in (f"ft:{one}", one) if is_tuned else (one,):
            for prices in (provider, price_list(provider)):
                if day := book.last_days.get((prices, listed)):
                    return Shutdown(day, "list")
    return None


def without_checkpoint(model: str) -> str:
    """A tuned model's id; the argument can be one of its checkpoints."""
    return model.partition(_CHECKPOINT)[0]


def notice(day: date | None, today: date) -> Notice | None:
    """The notice for a model that stops on `day`; None while that is unknown or more than `SOON_DAYS` away."""
    if day is None or (left := (day - today).days) > SOON_DAYS:
        return None
    return Notice("dark" if left < 0 else "soon", day, left)
