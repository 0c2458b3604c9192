"""Cached reads of the cost page, shared by all visitors; see `pages.ui.cache`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median

from core.datasets import export
from core.db.tables import utcnow
from core.finetuning.job_cost import measured_speeds
from core.pricing import budget, custom_prices, machine_time, quality, spend_history, tokens
from core.pricing.budget import BudgetView
from core.pricing.bundled_prices import BundledPrices
from core.pricing.machine_time import MachineTime, Speed
from core.pricing.prices import ENGINE
from core.pricing.quality import Quality
from core.pricing.spend_history import DayLine, WorkLine
from core.pricing.tokens import DatasetTokens
from pages.ui import cache
from pages.ui.cache import shared

_FRESH_S = 3  # sums over a month of calls change slowly


def machine() -> MachineTime | None:
    """This machine's hourly cost and its measured speed; None if no price is set."""
    return machine_time.current(cache.store())


def hour() -> tuple[Decimal, str] | None:
    """This machine's hourly cost and its currency; None if no price is set."""
    return custom_prices.machine_hour(cache.store())


def speed() -> Speed | None:
    """The engine's newest measured speed; None if not measured yet."""
    return machine_time.latest_speed(cache.store())


def training_speed(model: str) -> Decimal | None:
    """Training speed on this base, in tokens/s: from the newest steps, else the newest jobs; None if not measured."""
    if steps := cache.status().engine.training_speeds.get(model):
        return Decimal(str(round(steps, 3)))
    rates = measured_speeds(cache.store(), ENGINE, model)
    return Decimal(str(median(rates))) if rates else None


def providers() -> list[str]:
    """Ids of all providers that have prices for untuned models."""
    source = cache.prices().source
    return source.providers() if isinstance(source, BundledPrices) else []


def tomorrow() -> datetime:
    """The end of today (UTC)."""
    return utcnow().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


@shared(ttl=_FRESH_S, max_entries=2)
def months(until: datetime) -> tuple[datetime, ...]:
    """First days of all months from the first ledger entry until before `until` (see `tomorrow`), newest first."""
    return tuple(spend_history.months(cache.store(), until - timedelta(days=1)))


@shared(ttl=_FRESH_S, max_entries=2)
def budgets() -> tuple[BudgetView, ...]:
    """All budgets with their remaining amounts."""
    return tuple(budget.budgets(cache.store()))


def now() -> datetime:
    """The current time (UTC)."""
    return utcnow()


@shared(ttl=_FRESH_S, max_entries=8)
def by_period(starts: tuple[datetime, ...], until: datetime) -> tuple[DayLine, ...]:
    """Spending by day or by month."""
    return tuple(spend_history.by_period(cache.store(), starts, until))


@shared(ttl=_FRESH_S, max_entries=32)
def by_reference(since: datetime, until: datetime, person: str | None) -> tuple[WorkLine, ...]:
    """Runs, jobs and stories with their cost; `person`: only what they paid for."""
    return tuple(spend_history.by_reference(cache.store(), since, until, person=person))


@shared(ttl=_FRESH_S, max_entries=2)
def qualities() -> tuple[Quality, ...]:
    """Votes and evaluations of models."""
    return tuple(quality.qualities(cache.store(), cache.prices(), machine()))


def forget() -> None:
    """Clear the caches after a price or budget has changed."""
    for poll in (months, by_period, by_reference, qualities, budgets):
        poll.clear()


@shared(max_entries=16)
def measured(dataset_id: str, stamp: str, model: str) -> DatasetTokens | None:
    """Tokens of a data set's examples as `model` reads them; None if it has no finished rows.

    Args:
        stamp: fingerprint of the rows (`datasets.fingerprint`); if it changes, they are counted again.
    """
    found = export.examples(cache.store(), dataset_id)
    prompts, completions = [prompt for prompt, _ in found], [completion for _, completion in found]
    return tokens.measure(prompts, completions, model) if found else None
