"""The price book: prices per million tokens with their sources and validity, and the costs that follow from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from core.file_storage import FileStorage
from core.pricing.bundled_prices import BundledPrices
from core.pricing.price_csv import (
    MergedPrices,
    PriceEntry,
    check_consistency,
    merge,
    parse_prices,
    read_prices,
    with_batch,
    with_overrides,
)
from core.pricing.prices import (
    ENGINE,
    MTOK,
    SELF_HOSTED,
    USD,
    Key,
    Price,
    local_price,
    price_list,
    tuned_base,
)
from core.shared_files import PRICES

OVERLAY = Path(__file__).parents[2] / "data" / "prices.csv"
_STALE_DAYS = 90  # providers change prices a few times a year


class PriceSource(Protocol):
    """Where the price of a base model comes from if `PriceBook.overlay` has none."""

    def find(self, provider: str, model: str) -> Price | None: ...

    def rows(self, providers: Collection[str]) -> list[Price]: ...


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All known prices. Use `load` to create one.

    Attributes:
        overlay: the prices of `data/prices.csv`; they override the source.
        source: prices of base models.
        today: the day for which prices are looked up.
        own: custom amounts; each overrides the corresponding known amount.
        last_days: last day of models that are or will be shut down.
        batch_factors: (provider, model or `*`) → batch price / live price.
    """

    overlay: tuple[Price, ...]
    source: PriceSource | None
    today: date
    own: tuple[Price, ...] = ()
    last_days: Mapping[Key, date] = field(default_factory=dict)
    batch_factors: Mapping[Key, Decimal] = field(default_factory=dict)

    @classmethod
    def load(
        cls, files: FileStorage | None = None, now: datetime | None = None, own: Sequence[PriceEntry] = ()
    ) -> PriceBook:
        """Load the bundled prices, overridden by the shared file `prices.csv` and then by `own`.

        Args:
            files: the shared files; None to read none.
            now: the time for which prices are looked up (UTC); default: the current time.
            own: custom amounts (`core.pricing.custom_prices.entries(store)`), which override the file.

        Raises:
            BadFile: a row of a price file is invalid; `what` names the line.
            StorageFull: the shared files cannot be read, so no price is certain.
        """
        moment = now or datetime.now(UTC)
        today = moment.date()
        shipped = _shipped(today)
        stored = files.find(PRICES) if files is not None else None
        from_file = parse_prices(PRICES, stored.load()) if stored is not None else []
        check_consistency(own)
        custom = _merge_custom(from_file, own, today)
        return cls(
            overlay=shipped.prices,
            source=BundledPrices(moment, files),
            today=today,
            own=custom.prices,
            last_days=shipped.last_days | custom.last_days,
            batch_factors=shipped.batch_factors | custom.batch_factors,
        )

    def find(self, provider: str, model: str) -> Price | None:
        """The price of `model` at `provider`, or None when it is unknown.

        A tuned model (`ft:…`, `curie:ft-…`, Azure's `….ft-…`) only resolves to a price for tuned models, never to the
        price of its base model. Engine models run on this machine: price 0, `local` set.
        """
        if provider == ENGINE:
            return local_price(model, self.today)
        name = price_list(provider)
        if name in SELF_HOSTED:
            listed: Price | None = local_price(model, self.today, provider)
        else:
            listed = _find_row(self.overlay, name, model)
            if listed is None and self.source is not None:
                listed = self.source.find(name, model)
            if listed is not None and name != provider:
                listed = replace(listed, provider=provider)
        custom = _find_row(self.own, provider, model)
        price = listed if custom is None else with_overrides(custom, listed)
        return None if price is None else self._complete(price)

    def training_price(self, provider: str, base_model: str) -> Price | None:
        """The price whose `training_per_mtok` applies to training on `base_model` (which can be a tuned model)."""
        if provider == ENGINE:
            return local_price(base_model, self.today)
        base = tuned_base(base_model) or base_model
        for price in (*self.own, *self.overlay):
            matches = base in (price.base_model, price.model)
            if price.provider in (provider, price_list(provider)) and matches and price.training_per_mtok is not None:
                return self.find(provider, price.model) or price
        return None

    def rows(self, providers: Collection[str]) -> list[Price]:
        """All prices of these providers, overlay first. Engine models are not included (see `find`)."""
        source_rows = self.source.rows(providers) if self.source is not None else []
        by_key = _by_key([*(price for price in self.overlay if price.provider in providers), *source_rows])
        for custom in self.own:
            if custom.provider in providers and custom.provider != ENGINE:
                by_key[custom.key] = with_overrides(custom, by_key.get(custom.key))
        return [self._complete(price) for price in by_key.values()]

    def shortlist(self, engine_models: Iterable[str] = ()) -> list[Price]:
        """A selection to show first: the overlay (tuned models, 2023), their base models, custom and local prices."""
        bases = (self.find(price.provider, price.base_model) for price in self.overlay if price.base_model)
        local = (local_price(model, self.today) for model in engine_models)
        known = (self.find(*price.key) or price for price in (*self.overlay, *self.own) if price.provider != ENGINE)
        return list(_by_key([*known, *(price for price in bases if price is not None), *local]).values())

    def stale(self, price: Price) -> bool:
        """Whether the price was last checked more than three months ago. Local prices are never stale."""
        return not price.local and (self.today - price.checked).days > _STALE_DAYS

    def ended(self, price: Price) -> bool:
        """Whether the model can no longer be used."""
        return price.valid_until is not None and price.valid_until < self.today

    def price_expired(self, price: Price) -> bool:
        """Whether the price is no longer valid and its successor is not known."""
        return price.price_until is not None and price.price_until < self.today

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
    """The exact cost of one call in US dollars; None if a required price or token count is unknown.

    Compute each call separately, because the price per token can depend on the prompt length.

    Args:
        cached_tokens: prompt tokens that the provider reports as cached.
        batch: whether the call is part of a batch.
    """
    price = book.find(provider, model)
    if price is None or price.currency != USD:
        return None
    return price.call(prompt_tokens, completion_tokens, cached_tokens=cached_tokens, batch=batch)


def speech_cost(book: PriceBook, provider: str, model: str, text: str) -> Decimal | None:
    """The exact cost of speech for `text` in US dollars; None if unknown, or not billed by the character."""
    price = book.find(provider, model)
    if price is None or price.currency != USD or price.speech_per_mchar is None:
        return None
    return len(text) * price.speech_per_mchar / MTOK


def training_cost(book: PriceBook, provider: str, base_model: str, trained_tokens: int | None) -> Decimal | None:
    """The exact cost in US dollars of training on `trained_tokens` (over all epochs); None if unknown.

    Example, curie in 2023: 1,229,945 tokens at 3 USD per million = 3.689835 USD.
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


def _merge_custom(from_file: Sequence[PriceEntry], from_page: Sequence[PriceEntry], today: date) -> MergedPrices:
    """Merge the amounts of the file and of the page; the page overrides the file."""
    file, page = merge(from_file, today, own=True), merge(from_page, today, own=True)
    merged = _by_key(file.prices)
    for custom in page.prices:
        merged[custom.key] = with_overrides(custom, merged.get(custom.key))
    return MergedPrices(
        tuple(merged.values()), file.last_days | page.last_days, file.batch_factors | page.batch_factors
    )


def _find_row(prices: Sequence[Price], provider: str, model: str) -> Price | None:
    """The row of this model, otherwise the row for all models tuned from the same base."""
    base = tuned_base(model)
    tuned = None
    for price in prices:
        if price.provider != provider:
            continue
        if price.model == model:
            return price
        if tuned is None and base is not None and base == price.base_model and _is_for_all_tuned(price):
            tuned = price
    return tuned


def _is_for_all_tuned(price: Price) -> bool:
    """Whether this price applies to all models tuned from its base."""
    return price.model == f"ft:{price.base_model}"


def _by_key(rows: Iterable[Price]) -> dict[Key, Price]:
    by_key: dict[Key, Price] = {}
    for price in rows:
        by_key.setdefault(price.key, price)
    return by_key


@dataclass(frozen=True, slots=True)
class GenerationEstimate:
    """Tokens and US dollars of a run. `worst_usd`: the amount to reserve, with all answers at their maximum length."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    local: bool


def estimate_generation(
    book: PriceBook,
    provider: str,
    model: str,
    *,
    requests: int,
    prompt_tokens_each: int,
    completion_tokens_each: int,
    max_tokens: int,
) -> GenerationEstimate:
    """Estimate `requests` calls from the tokens of one call, such as a preview."""
    price = book.find(provider, model)
    prompt_tokens, completion_tokens = requests * prompt_tokens_each, requests * completion_tokens_each
    return GenerationEstimate(
        requests=requests,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        expected_usd=_times(requests, cost_of(book, provider, model, prompt_tokens_each, completion_tokens_each)),
        worst_usd=_times(requests, cost_of(book, provider, model, prompt_tokens_each, max_tokens)),
        local=price is not None and price.local,
    )


def _times(requests: int, usd_per_request: Decimal | None) -> Decimal | None:
    """Multiply the cost per call, because the price per token can depend on the prompt length."""
    return None if usd_per_request is None else requests * usd_per_request
