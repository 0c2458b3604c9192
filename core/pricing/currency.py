"""Currency conversion with one dated exchange rate. Without a rate, amounts are not converted or compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

USD = "USD"


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """Units of another currency per US dollar, with source and day.

    Raises:
        ValueError: the rate is not positive.
    """

    currency: str
    per_usd: Decimal
    source: str
    day: date

    def __post_init__(self) -> None:
        if not self.per_usd.is_finite() or self.per_usd <= 0:
            raise ValueError(f"the exchange rate must be above 0, not {self.per_usd}")


YUAN = ExchangeRate(
    currency="CNY",
    # 1 euro = 7.9989 yuan = 1.1761 US dollars on that day
    per_usd=(Decimal("7.9989") / Decimal("1.1761")).quantize(Decimal("0.0001")),
    source="https://www.ecb.europa.eu/stats/eurofxref/eurofxref-daily.xml",
    day=date(2026, 5, 8),
)
"""Reference rate of the European Central Bank. Users can set another one."""


def convert(amount: Decimal | None, currency: str, to: str, rate: ExchangeRate | None) -> Decimal | None:
    """Convert `amount`; None if it is unknown, or if there is no rate between the currencies."""
    if amount is None or currency == to:
        return amount
    if rate is None:
        return None
    if currency == USD and to == rate.currency:
        return amount * rate.per_usd
    if currency == rate.currency and to == USD:
        return amount / rate.per_usd
    return None
