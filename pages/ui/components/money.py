"""Money in the chosen currency; `i18n.usd` is for amounts that are always in dollars."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from core.pricing import custom_prices, spend_history
from core.pricing.prices import ENGINE, USD
from core.pricing.spend_history import DayLine
from pages.ui import cache
from pages.ui.i18n import _, usd

_SIGNS = {"CNY": "¥"}


def local_price(seconds: float | None = None) -> str:
    """The cost of work on this machine in words: hours × price, or a note that no price is set.

    Args:
        seconds: duration of the work, if known.
    """
    hour = _hour()
    if hour is None:
        return _("machine time, not priced")
    if hour[0] == 0:
        return _("free on this machine")
    if seconds is None:
        return _("no bill, machine time only")
    return _("machine time: {amount}").format(amount=local_amount(seconds))


def run_price(run_id: str) -> str:
    """`local_price` for a run. Its time is summed in the ledger, so this applies only if a cost per hour is set."""
    if not (hour := _hour()) or not hour[0]:
        return local_price()
    return local_price(cache.run_seconds(run_id))


def local_amount(seconds: float | None) -> str:
    """Like `local_price`, but as a plain amount, for a labelled figure."""
    hour = _hour()
    if hour is None:
        return _("not priced")
    if hour[0] == 0:
        return _("free")
    return money(None if seconds is None else hour[0] * Decimal(str(seconds)) / 3_600, hour[1])


def work_cost(provider: str, billed_usd: Decimal | None, seconds: float | None) -> str:
    """Cost of a job or story: its bill, or its machine time."""
    return local_amount(seconds) if provider == ENGINE else usd(billed_usd)


def cost_fact(provider: str, billed_usd: Decimal | None, seconds: float | None) -> str:
    """`work_cost` in a line of facts, where no label identifies it as a cost."""
    unknown = provider != ENGINE and billed_usd is None
    return _("cost unknown") if unknown else work_cost(provider, billed_usd, seconds)


def total_spent(lines: Sequence[DayLine]) -> str:
    """The total cost of calls: the known amounts; "not priced" if all are machine time without a price."""
    known_usd = spend_history.known_usd(lines) if lines else Decimal(0)
    if known_usd is None and all(line.provider == ENGINE for line in lines):
        return local_amount(None)
    return usd(known_usd)


def _hour() -> tuple[Decimal, str] | None:
    """This machine's hourly cost; None if not set."""
    return custom_prices.machine_hour(cache.store())


def money(amount: Decimal | None, currency: str = USD) -> str:
    """An amount for Markdown, with as many digits as it needs; None becomes "unknown", never 0."""
    if currency == USD or amount is None:
        return usd(amount)
    sign = _SIGNS.get(currency, f"{currency} ")
    if amount == 0:
        return f"{sign}0"
    if abs(amount) < Decimal("0.0001"):
        return _("under {amount}").format(amount=f"{sign}0.0001")
    return f"{sign}{amount:,.{2 if abs(amount) >= 1 else 4}f}"


def as_float(amount: Decimal | None) -> float | None:
    """An amount for a table, whose column formats it; None stays unknown."""
    return None if amount is None else float(amount)
