"""Currencies: one stated rate, with the day it is of. Without a rate nothing is converted, and nothing is compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

USD = "USD"


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """What one US dollar is worth in another currency, on whose word, and of which day.

    Raises:
        ValueError: the amount is not above 0.
    """

    currency: str
    per_usd: Decimal
    source: str
    day: date

    def __post_init__(self) -> None:
        if not self.per_usd.is_finite() or self.per_usd <= 0:
            raise ValueError(f"a rate is above 0, not {self.per_usd}")


YUAN = ExchangeRate(
    currency="CNY",
    # 7.9989 yuan and 1.1761 dollars for one euro on that day
    per_usd=(Decimal("7.9989") / Decimal("1.1761")).quantize(Decimal("0.0001")),
    source="https://www.ecb.europa.eu/stats/eurofxref/eurofxref-daily.xml",
    day=date(2026, 5, 8),
)
"""Reference rate of the European Central Bank; a person may state another."""


def convert(amount: Decimal | None, currency: str, to: str, rate: ExchangeRate | None) -> Decimal | None:
    """`amount` in another currency; None when it is unknown, or when no rate between the two is stated."""
    if amount is None or currency == to:
        return amount
    if rate is None:
        return None
    if currency == USD and to == rate.currency:
        return amount * rate.per_usd
    if currency == rate.currency and to == USD:
        return amount / rate.per_usd
    return None
