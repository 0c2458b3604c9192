"""The price book: what a million tokens cost, from where we know it, and until when it holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, Protocol

from core.cost.overlay import read_prices
from core.cost.prices import ENGINE, MTOK, Price, local_price, tuned_base
from core.cost.snapshot import Snapshot

__all__ = ["ENGINE", "Key", "Price", "PriceBook", "PriceLine", "Side", "compare", "cost_of", "training_cost"]

OVERLAY = Path(__file__).parents[2] / "data" / "prices.csv"
OWN_PRICES = "prices.csv"  # in FABULA_HOME: same columns; its rows win over ours
_STALE_DAYS = 90  # providers change prices a few times a year

Side = Literal["input", "output", "training"]
Key = tuple[str, str]
"""(provider, model): how a row of the book is named."""


class PriceSource(Protocol):
    """Where untuned models' prices come from when the overlay has no row."""

    def find(self, provider: str, model: str) -> Price | None: ...

    def rows(self, providers: Collection[str]) -> list[Price]: ...


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One line of a comparison. Prices are for `compare`'s unit of tokens; None is unknown.

    `multiple` is this line's price over the baseline's; None where either is unknown, or the baseline is free.
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

    @property
    def key(self) -> Key:
        return (self.provider, self.model)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All known prices. Build it with `load`; tests may build one from rows."""

    overlay: tuple[Price, ...]
    source: PriceSource | None
    today: date

    @classmethod
    def load(cls, home: Path | None = None, now: datetime | None = None) -> PriceBook:
        """The shipped book, with the user's own rows (`<home>/prices.csv`) before it where that file exists.

        Args:
            home: Settings.home, or None to read no own prices.
            now: the point in time that prices are asked for (UTC); the clock's by default.

        Raises:
            BadFile: a price file has a row that cannot be read; `what` names the line.
        """
        moment = now or datetime.now(UTC)
        own = home / OWN_PRICES if home is not None else None
        rows = [*(read_prices(own) if own is not None and own.is_file() else ()), *read_prices(OVERLAY)]
        return cls(overlay=_first_of_each(rows), source=Snapshot(moment), today=moment.date())

    def find(self, provider: str, model: str) -> Price | None:
        """The price of `model` at `provider`, or None when it is unknown.

        A tuned model (`ft:…`, `curie:ft-…`, Azure's `….ft-…`) resolves to a tuned price or to None: never to its
        base's price. What the engine serves runs on the person's own machine: price 0, `local` set.
        """
        if provider == ENGINE:
            return local_price(model, self.today)
        base = tuned_base(model)
        for price in self.overlay:
            if price.provider == provider and model == price.model:
                return price
            if price.provider == provider and base is not None and base == price.base_model:
                return price
        return self.source.find(provider, model) if self.source is not None else None

    def training_price(self, provider: str, base_model: str) -> Price | None:
        """The row whose `training_per_mtok` applies when training on `base_model` (which may itself be tuned)."""
        if provider == ENGINE:
            return local_price(base_model, self.today)
        root = tuned_base(base_model) or base_model
        rows = (p for p in self.overlay if p.provider == provider and p.base_model == root)
        return next((price for price in rows if price.training_per_mtok is not None), None)

    def rows(self, providers: Collection[str]) -> list[Price]:
        """Every row of these providers, the overlay's first; the engine's models are not rows (see `find`)."""
        own = [price for price in self.overlay if price.provider in providers]
        known = {(price.provider, price.model) for price in own}
        more = self.source.rows(providers) if self.source is not None else []
        return own + [price for price in more if (price.provider, price.model) not in known]

    def shortlist(self, engine_models: Iterable[str] = ()) -> list[Price]:
        """The rows worth a first look: tuned models and 2023's table, the bases they are tuned from, and our own."""
        bases = (self.find(price.provider, price.base_model) for price in self.overlay if price.base_model)
        local = (local_price(model, self.today) for model in engine_models)
        return list(_first_of_each([*self.overlay, *(price for price in bases if price is not None), *local]))

    def stale(self, price: Price) -> bool:
        """Whether nobody has looked at this price for three months (a local price is never stale)."""
        return not price.local and (self.today - price.checked).days > _STALE_DAYS

    def ended(self, price: Price) -> bool:
        """Whether the model can no longer be used at this price."""
        return price.valid_until is not None and price.valid_until < self.today


def compare(
    book: PriceBook,
    baseline: Key,
    unit: int = 1_000,
    *,
    prices: Iterable[Price] | None = None,
    side: Side = "output",
) -> list[PriceLine]:
    """Prices for `unit` tokens (1,000 or 1,000,000), each with its multiple of the baseline, cheapest first.

    Args:
        baseline: (provider, model) of the line that counts as 1; an unknown one leaves every multiple None.
        prices: the rows to compare, by default `book.shortlist()`. The baseline is added when it is not among them.
        side: which price the multiple and the order are about; 2023's prices were the same on both sides.
    """
    rows = list(book.shortlist() if prices is None else prices)
    base = next((p for p in rows if (p.provider, p.model) == baseline), None)
    if base is None and (base := book.find(*baseline)) is not None:
        rows.append(base)
    lines = [_line(book, price, base, unit, side) for price in rows]
    return sorted(lines, key=lambda line: (_side(line.price, side) is None, _side(line.price, side) or 0, line.key))


def cost_of(
    book: PriceBook, provider: str, model: str, prompt_tokens: int | None, completion_tokens: int | None
) -> Decimal | None:
    """US dollars that a call costs, exact; None when a price that is needed, or a token count, is unknown."""
    price = book.find(provider, model)
    if price is None or price.currency != "USD":
        return None
    total = Decimal(0)
    for tokens, per_mtok in ((prompt_tokens, price.input_per_mtok), (completion_tokens, price.output_per_mtok)):
        if per_mtok == 0 or tokens == 0:
            continue
        if tokens is None or per_mtok is None:
            return None
        total += tokens * per_mtok / MTOK
    return total


def training_cost(book: PriceBook, provider: str, base_model: str, trained_tokens: int | None) -> Decimal | None:
    """US dollars for training on `trained_tokens` (all epochs together), exact; None when unknown.

    2023's curie: 1,229,945 tokens at 3 USD per million = 3.689835 USD.
    """
    price = book.training_price(provider, base_model)
    if price is None or price.currency != "USD" or price.training_per_mtok is None:
        return None
    if price.training_per_mtok == 0:
        return Decimal(0)
    return None if trained_tokens is None else trained_tokens * price.training_per_mtok / MTOK


def _first_of_each(rows: Iterable[Price]) -> tuple[Price, ...]:
    kept: dict[Key, Price] = {}
    for price in rows:
        kept.setdefault((price.provider, price.model), price)
    return tuple(kept.values())


def _side(price: Price, side: Side) -> Decimal | None:
    return {"input": price.input_per_mtok, "output": price.output_per_mtok, "training": price.training_per_mtok}[side]


def _line(book: PriceBook, price: Price, base: Price | None, unit: int, side: Side) -> PriceLine:
    mine, theirs = _side(price, side), _side(base, side) if base is not None else None
    comparable = base is not None and base.currency == price.currency
    multiple = mine / theirs if comparable and mine is not None and theirs else None
    return PriceLine(
        model=price.model,
        provider=price.provider,
        input=_per(price.input_per_mtok, unit),
        output=_per(price.output_per_mtok, unit),
        training=_per(price.training_per_mtok, unit),
        multiple=multiple,
        price=price,
        is_baseline=base is not None and (price.provider, price.model) == (base.provider, base.model),
        stale=book.stale(price),
        ended=book.ended(price),
    )


def _per(per_mtok: Decimal | None, unit: int) -> Decimal | None:
    return None if per_mtok is None else per_mtok * unit / MTOK
