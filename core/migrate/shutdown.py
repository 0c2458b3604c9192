"""When a tuned model goes dark: the date that the account's API names, otherwise the one in the bundled price list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from core.pricing.price_book import PriceBook
from core.pricing.prices import tuned_base

OPENAI = "openai"  # whose price list has the dates


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A shutdown date and where it is from: the account's API, or the list that comes with Fabula."""

    day: date
    source: Literal["api", "list"]


def of(model: str | None, base_model: str, announced: Mapping[str, date], book: PriceBook) -> Shutdown | None:
    """When a tuned model goes dark; None if no date is known.

    Args:
        model: the tuned model, if the job made one.
        base_model: the model it was tuned from, which can be a tuned model.
        announced: `shutdown_date` by model.
        book: the prices, with the last days of models.
    """
    names = [name for name in (model, base_model, tuned_base(model or ""), tuned_base(base_model)) if name]
    for name in names:
        if day := announced.get(name):
            return Shutdown(day, "api")
    for name in names:
        for listed in (f"ft:{name}", name):
            if day := book.last_days.get((OPENAI, listed)):
                return Shutdown(day, "list")
    return None
