"""Compares prices: in one currency, per unit of tokens, and as multiples of a baseline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from core.pricing.prices import MTOK, USD, ExchangeRate, Key, Price, convert

if TYPE_CHECKING:
    from core.pricing.price_book import PriceBook

Side = Literal["input", "output", "training"]


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One line of a comparison. Prices are per `unit` tokens, see `compare`. None means unknown.

    Attributes:
        multiple: price / baseline price; None if either is unknown, the baseline is free, or there is no exchange rate.
        currency: the currency of the comparison, or of the price if it could not be converted.
        stale: not checked for three months; ended: the model can no longer be used; price_expired: the price is no
            longer valid.
    """

    model: str
    provider: str
    input: Decimal | None
    output: Decimal | None
    training: Decimal | None
    multiple: Decimal | None
    price: Price
    is_baseline: bool
    stale: bool
    ended: bool
    cached_input: Decimal | None = None
    hosting_per_hour: Decimal | None = None
    currency: str = USD
    price_expired: bool = False

    @property
    def key(self) -> Key:
        return (self.provider, self.model)


def compare(
    book: PriceBook,
    baseline: Key,
    unit: int = 1_000,
    *,
    prices: Iterable[Price] | None = None,
    side: Side = "output",
    currency: str = USD,
    rate: ExchangeRate | None = None,
) -> list[PriceLine]:
    """Compare prices per `unit` tokens (1,000 or 1,000,000), cheapest first.

    Args:
        baseline: (provider, model) with multiple 1. If it is unknown, all multiples are None.
        prices: the prices to compare, by default `book.shortlist()`. The baseline is added if it is missing.
        side: the price used for the multiple and the order.
        currency: target currency. Prices that `rate` can't convert come last, in their own currency.
        rate: exchange rate between US dollars and another currency; None means no conversion.
    """
    rows = list(book.shortlist() if prices is None else prices)
    base = next((price for price in rows if price.key == baseline), None)
    if base is None and (base := book.find(*baseline)) is not None:
        rows.append(base)
    basis = _ComparisonBasis(book, base, unit, side, currency, rate)
    return sorted((basis.line(price) for price in rows), key=basis.sort_key)


@dataclass(frozen=True, slots=True)
class _ComparisonBasis:
    """Parameters shared by all lines of one comparison."""

    book: PriceBook
    base: Price | None
    unit: int
    side: Side
    currency: str
    rate: ExchangeRate | None

    def line(self, price: Price) -> PriceLine:
        amounts = [_side(price, "input"), _side(price, "output"), price.training_per_mtok, price.cached_input_per_mtok]
        convertible = price.currency == self.currency or convert(Decimal(1), price.currency, self.currency, self.rate)
        currency = self.currency if convertible else price.currency
        per_unit = [self._per(amount, price.currency, currency) for amount in amounts]
        return PriceLine(
            model=price.model,
            provider=price.provider,
            input=per_unit[0],
            output=per_unit[1],
            training=per_unit[2],
            multiple=self._multiple(price),
            price=price,
            is_baseline=self.base is not None and price.key == self.base.key,
            stale=self.book.stale(price),
            ended=self.book.ended(price),
            cached_input=per_unit[3],
            hosting_per_hour=convert(price.hosting_per_hour, price.currency, currency, self.rate),
            currency=currency,
            price_expired=self.book.price_expired(price),
        )

    def sort_key(self, line: PriceLine) -> tuple[bool, bool, Decimal, Key]:
        amount = getattr(line, self.side)
        return (line.currency != self.currency, amount is None, amount or Decimal(0), line.key)

    def _multiple(self, price: Price) -> Decimal | None:
        if self.base is None:
            return None
        price_amount, base_amount = _side(price, self.side), _side(self.base, self.side)
        if price.currency != self.base.currency:  # same currency: compared exactly, without conversion
            price_amount = convert(price_amount, price.currency, self.currency, self.rate)
            base_amount = convert(base_amount, self.base.currency, self.currency, self.rate)
        return price_amount / base_amount if price_amount is not None and base_amount else None

    def _per(self, per_mtok: Decimal | None, currency: str, target_currency: str) -> Decimal | None:
        amount = convert(per_mtok, currency, target_currency, self.rate)
        return None if amount is None else amount * self.unit / MTOK


def _side(price: Price, side: Side) -> Decimal | None:
    return {"input": price.input_per_mtok, "output": price.output_per_mtok, "training": price.training_per_mtok}[side]
