"""Prices side by side: in one currency, for one unit of tokens, as multiples of one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from core.cost.currency import USD, ExchangeRate, convert
from core.cost.price_merge import Key
from core.cost.prices import MTOK, Price

if TYPE_CHECKING:
    from core.cost.price_book import PriceBook

Side = Literal["input", "output", "training"]


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One line of a comparison. Prices are for `compare`'s unit of tokens; None is unknown.

    `multiple` is this line's price over the baseline's; None where either is unknown, the baseline is free, or the
    two are in currencies without a rate between them. `currency` is the comparison's, or the price's own where it
    could not be converted. `ends_soon`: in less than three months; `ended`: it can no longer be used; `past`: the price
    holds no longer.
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
    ends_soon: bool = False
    past: bool = False

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
    """Prices for `unit` tokens (1,000 or 1,000,000), each with its multiple of the baseline, cheapest first.

    Args:
        baseline: (provider, model) of the line that counts as 1; an unknown one leaves every multiple None.
        prices: the rows to compare, by default `book.shortlist()`. The baseline is added when it is not among them.
        side: which price the multiple and the order are about; 2023's prices were the same on both sides.
        currency: what amounts are given in, as far as `rate` goes; prices in other currencies come last, as they are.
        rate: between US dollars and another currency; None: nothing is converted.
    """
    rows = list(book.shortlist() if prices is None else prices)
    base = next((p for p in rows if p.key == baseline), None)
    if base is None and (base := book.find(*baseline)) is not None:
        rows.append(base)
    by = _ComparisonBasis(book, base, unit, side, currency, rate)
    return sorted((by.line(price) for price in rows), key=by.place)


@dataclass(frozen=True, slots=True)
class _ComparisonBasis:
    """What all lines of one comparison have in common."""

    book: PriceBook
    base: Price | None
    unit: int
    side: Side
    currency: str
    rate: ExchangeRate | None

    def line(self, price: Price) -> PriceLine:
        known = [_side(price, "input"), _side(price, "output"), price.training_per_mtok, price.cached_input_per_mtok]
        there = price.currency == self.currency or convert(Decimal(1), price.currency, self.currency, self.rate)
        shown = self.currency if there else price.currency
        per_unit = [self._per(amount, price.currency, shown) for amount in known]
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
            hosting_per_hour=convert(price.hosting_per_hour, price.currency, shown, self.rate),
            currency=shown,
            ends_soon=self.book.ends_soon(price),
            past=self.book.past(price),
        )

    def place(self, line: PriceLine) -> tuple[bool, bool, Decimal, Key]:
        amount = getattr(line, self.side)
        return (line.currency != self.currency, amount is None, amount or Decimal(0), line.key)

    def _multiple(self, price: Price) -> Decimal | None:
        if self.base is None:
            return None
        mine, theirs = _side(price, self.side), _side(self.base, self.side)
        if price.currency != self.base.currency:  # prices in one currency are compared exactly, without a rate
            mine = convert(mine, price.currency, self.currency, self.rate)
            theirs = convert(theirs, self.base.currency, self.currency, self.rate)
        return mine / theirs if mine is not None and theirs else None

    def _per(self, per_mtok: Decimal | None, currency: str, shown: str) -> Decimal | None:
        amount = convert(per_mtok, currency, shown, self.rate)
        return None if amount is None else amount * self.unit / MTOK


def _side(price: Price, side: Side) -> Decimal | None:
    return {"input": price.input_per_mtok, "output": price.output_per_mtok, "training": price.training_per_mtok}[side]
