"""The price book: what a million tokens cost, from where we know it, and until when it holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from core.cost.bundled_prices import BundledPrices
from core.cost.comparison import PriceLine, Side, compare
from core.cost.currency import USD
from core.cost.price_csv import PriceEntry, check_together, read_prices
from core.cost.price_merge import Key, MergedPrices, merge, with_batch, with_overrides
from core.cost.prices import ENGINE, MTOK, Price, local_price, tuned_base

__all__ = [
    "ENGINE",
    "Key",
    "Price",
    "PriceBook",
    "PriceLine",
    "Side",
    "compare",
    "cost_of",
    "speech_cost",
    "training_cost",
]

OVERLAY = Path(__file__).parents[2] / "data" / "prices.csv"
OWN_PRICES = "prices.csv"  # in FABULA_HOME: same columns; its amounts win over ours
_STALE_DAYS = 90  # providers change prices a few times a year
_SOON_DAYS = 90  # enough to train another model and move to it


class PriceSource(Protocol):
    """Where untuned models' prices come from when the overlay has no row."""

    def find(self, provider: str, model: str) -> Price | None: ...

    def rows(self, providers: Collection[str]) -> list[Price]: ...


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All known prices. Build it with `load`; tests may build one from rows.

    Attributes:
        overlay: prices that stand before the source's.
        source: prices of untuned models.
        today: the day that prices are asked for.
        own: amounts that a person has set; they replace known ones, one by one.
        last_days: last day of models that will be, or have been, shut down.
        batch_factors: (provider, model or `*`) → what a batch costs of the live price.
    """

    overlay: tuple[Price, ...]
    source: PriceSource | None
    today: date
    own: tuple[Price, ...] = ()
    last_days: Mapping[Key, date] = field(default_factory=dict)
    batch_factors: Mapping[Key, Decimal] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path | None = None, now: datetime | None = None, own: Sequence[PriceEntry] = ()) -> PriceBook:
        """The shipped book, with the amounts of `<home>/prices.csv` and then `own` in place of its own.

        Args:
            home: Settings.home, or None to read no file.
            now: the point in time that prices are asked for (UTC); the clock's by default.
            own: amounts set in the studio, `core.cost.custom_prices.entries(store)`; they win over the file's.

        Raises:
            BadFile: a price file has a row that cannot be read; `what` names the line.
        """
        moment = now or datetime.now(UTC)
        today = moment.date()
        shipped = _shipped(today)
        path = home / OWN_PRICES if home is not None else None
        from_file = read_prices(path) if path is not None and path.is_file() else []
        check_together(own)
        mine = _own(from_file, own, today)
        return cls(
            overlay=shipped.prices,
            source=BundledPrices(moment, home),
            today=today,
            own=mine.prices,
            last_days=shipped.last_days | mine.last_days,
            batch_factors=shipped.batch_factors | mine.batch_factors,
        )

    def find(self, provider: str, model: str) -> Price | None:
        """The price of `model` at `provider`, or None when it is unknown.

        A tuned model (`ft:…`, `curie:ft-…`, Azure's `….ft-…`) resolves to a tuned price or to None: never to its
        base's price. What the engine serves runs on the person's own machine: price 0, `local` set.
        """
        if provider == ENGINE:
            return local_price(model, self.today)
        known = _named(self.overlay, provider, model)
        if known is None and self.source is not None:
            known = self.source.find(provider, model)
        mine = _named(self.own, provider, model)
        found = known if mine is None else with_overrides(mine, known)
        return None if found is None else self._complete(found)

    def training_price(self, provider: str, base_model: str) -> Price | None:
        """The row whose `training_per_mtok` applies when training on `base_model` (which may itself be tuned)."""
        if provider == ENGINE:
            return local_price(base_model, self.today)
        root = tuned_base(base_model) or base_model
        for price in (*self.own, *self.overlay):
            named = root in (price.base_model, price.model)
            if price.provider == provider and named and price.training_per_mtok is not None:
                return self.find(provider, price.model) or price
        return None

    def rows(self, providers: Collection[str]) -> list[Price]:
        """Every row of these providers, the overlay's first; the engine's models are not rows (see `find`)."""
        more = self.source.rows(providers) if self.source is not None else []
        found = _first_of_each([*(price for price in self.overlay if price.provider in providers), *more])
        for mine in self.own:
            if mine.provider in providers and mine.provider != ENGINE:
                found[mine.key] = with_overrides(mine, found.get(mine.key))
        return [self._complete(price) for price in found.values()]

    def shortlist(self, engine_models: Iterable[str] = ()) -> list[Price]:
        """The rows worth a first look: tuned models and 2023's table, the bases they are tuned from, and our own."""
        bases = (self.find(price.provider, price.base_model) for price in self.overlay if price.base_model)
        local = (local_price(model, self.today) for model in engine_models)
        known = (self.find(*price.key) or price for price in (*self.overlay, *self.own) if price.provider != ENGINE)
        return list(_first_of_each([*known, *(price for price in bases if price is not None), *local]).values())

    def stale(self, price: Price) -> bool:
        """Whether nobody has looked at this price for three months (a local price is never stale)."""
        return not price.local and (self.today - price.checked).days > _STALE_DAYS

    def ended(self, price: Price) -> bool:
        """Whether the model can no longer be used."""
        return price.valid_until is not None and price.valid_until < self.today

    def past(self, price: Price) -> bool:
        """Whether the price holds no longer, though nobody has written down the one that followed."""
        return price.price_until is not None and price.price_until < self.today

    def ends_soon(self, price: Price) -> bool:
        """Whether the model can be used for less than three months more."""
        left = None if price.valid_until is None else (price.valid_until - self.today).days
        return left is not None and 0 <= left <= _SOON_DAYS

    def _complete(self, price: Price) -> Price:
        last_day = self.last_days.get(price.key)
        if last_day is not None and last_day != price.valid_until:
            price = replace(price, valid_until=last_day)
        return with_batch(price, self.batch_factors)


def cost_of(
    book: PriceBook,
    provider: str,
    model: str,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    *,
    cached_tokens: int = 0,
    batch: bool = False,
) -> Decimal | None:
    """US dollars that one call costs, exact; None when a price that is needed, or a token count, is unknown.

    Ask for each call by itself: long prompts can be dearer for each token than many short ones.

    Args:
        cached_tokens: how many of the prompt's tokens the provider says it had cached.
        batch: the call is part of a batch.
    """
    price = book.find(provider, model)
    if price is None or price.currency != USD:
        return None
    return price.call(prompt_tokens, completion_tokens, cached_tokens=cached_tokens, batch=batch)


def speech_cost(book: PriceBook, provider: str, model: str, text: str) -> Decimal | None:
    """US dollars for reading `text` aloud, exact; None when the model is not paid by the character, or unknown."""
    price = book.find(provider, model)
    if price is None or price.currency != USD or price.speech_per_mchar is None:
        return None
    return len(text) * price.speech_per_mchar / MTOK


def training_cost(book: PriceBook, provider: str, base_model: str, trained_tokens: int | None) -> Decimal | None:
    """US dollars for training on `trained_tokens` (all epochs together), exact; None when unknown.

    2023's curie: 1,229,945 tokens at 3 USD per million = 3.689835 USD.
    """
    price = book.training_price(provider, base_model)
    if price is None or price.currency != USD or price.training_per_mtok is None:
        return None
    if price.training_per_mtok == 0:
        return Decimal(0)
    return None if trained_tokens is None or trained_tokens < 0 else trained_tokens * price.training_per_mtok / MTOK


@lru_cache(maxsize=4)
def _shipped(today: date) -> MergedPrices:
    return merge(read_prices(OVERLAY), today)


def _own(from_file: Sequence[PriceEntry], from_page: Sequence[PriceEntry], today: date) -> MergedPrices:
    """Amounts of the file and of the page together, the page's where both have one."""
    file, page = merge(from_file, today, own=True), merge(from_page, today, own=True)
    merged = _first_of_each(file.prices)
    for mine in page.prices:
        merged[mine.key] = with_overrides(mine, merged.get(mine.key))
    return MergedPrices(
        tuple(merged.values()), file.last_days | page.last_days, file.batch_factors | page.batch_factors
    )


def _named(prices: Sequence[Price], provider: str, model: str) -> Price | None:
    """The row of this very model, or else the row of all models tuned from the same base."""
    base = tuned_base(model)
    tuned = None
    for price in prices:
        if price.provider != provider:
            continue
        if price.model == model:
            return price
        if tuned is None and base is not None and base == price.base_model and _for_all(price):
            tuned = price
    return tuned


def _for_all(price: Price) -> bool:
    """Whether this is the price of every model tuned from its base, and not of one of them."""
    return price.model == f"ft:{price.base_model}"


def _first_of_each(rows: Iterable[Price]) -> dict[Key, Price]:
    kept: dict[Key, Price] = {}
    for price in rows:
        kept.setdefault(price.key, price)
    return kept
