"""Prices of untuned models, from genai-prices: the data in its package, or a newer edition. Dated, Decimal, MIT."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from core.cost import price_data_version
from core.cost.price_data_version import PriceDataVersion
from core.cost.prices import Price, Tier, tuned_base

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

# Our provider ids where they differ from the snapshot's.
_ALIASES = {"zhipu": "zhipuai", "moonshot": "moonshotai", "gemini": "google"}


class BundledPrices:
    """A `PriceSource` over the edition of the price data that is in use in `home`, as of one point in time."""

    def __init__(self, now: datetime, home: Path | None = None) -> None:
        self._now, self._home = now, home
        self._known: dict[tuple[datetime | None, str], tuple[Price, ...]] = {}  # by edition and provider

    def find(self, provider: str, model: str) -> Price | None:
        """The price of `model` at `provider`; a tuned model only ever matches a row for tuned models."""
        now = price_data_version.current(self._home)
        theirs = now.providers.get(_ALIASES.get(provider, provider))
        if theirs is None:
            return None
        if tuned_base(model) is None:
            info = theirs.find_model(model.lower(), all_providers=list(now.providers.values()))
            return None if info is None or _is_tuned(info) else self._price(provider, model, info, now)
        # The snapshot lists some tuned ids under their base (ft:gpt-4-0613 under gpt-4): its own matching is no help.
        matches = (info for info in theirs.models if _is_tuned(info) and info.is_match(model.lower()))
        return next((self._price(provider, model, info, now) for info in matches), None)

    def rows(self, providers: Collection[str]) -> list[Price]:
        """Every text model of these providers that has a price, under the snapshot's own ids."""
        now = price_data_version.current(self._home)
        for provider in providers:
            if (now.fetched, provider) not in self._known:
                self._known[now.fetched, provider] = tuple(self._rows(provider, now))
        return [price for provider in providers for price in self._known[now.fetched, provider]]

    def providers(self) -> list[str]:
        """Ids of all providers that the snapshot knows, in alphabetical order."""
        return sorted(price_data_version.current(self._home).providers)

    def _rows(self, provider: str, now: PriceDataVersion) -> Iterator[Price]:
        theirs = now.providers.get(_ALIASES.get(provider, provider))
        for info in theirs.models if theirs is not None else ():
            price = None if _is_tuned(info) else self._price(provider, info.id, info, now)
            if price is not None and price.speech_per_mchar is None:  # the tables compare what writes
                yield price

    def _price(self, provider: str, model: str, info: ModelInfo, now: PriceDataVersion) -> Price | None:
        prices = info.get_prices(self._now)
        batch = info.get_prices(self._now, {"processing": "batch"})
        in_batches = batch is not prices and batch != prices
        paid_in, paid_out = _base_amount(prices.input_mtok), _base_amount(prices.output_mtok)
        spoken = _base_amount(getattr(prices, "input_mchars", None))
        if (paid_in is None or paid_out is None) and spoken is None:  # images, embeddings: not what this studio calls
            return None
        return Price(
            model=model,
            provider=provider,
            input_per_mtok=paid_in,
            output_per_mtok=paid_out,
            training_per_mtok=None,
            base_model=tuned_base(model),
            currency="USD",
            source=now.source,
            checked=now.day,
            cached_input_per_mtok=_base_amount(prices.cache_read_mtok),
            batch_input_per_mtok=_base_amount(batch.input_mtok) if in_batches else None,
            batch_output_per_mtok=_base_amount(batch.output_mtok) if in_batches else None,
            tiers=_tiers(prices),
            speech_per_mchar=spoken,
        )


def _is_tuned(info: ModelInfo) -> bool:
    return info.id.startswith("ft:") or info.id.endswith(".ft-")


def _base_amount(amount: object) -> Decimal | None:
    """The price of a short request."""
    if isinstance(amount, Decimal):
        return amount
    base = getattr(amount, "base", None)
    return base if isinstance(base, Decimal) else None


def _tiers(prices: ModelPrice) -> tuple[Tier, ...]:
    """What long prompts cost. A tier begins above its start, and is the price of every token of such a request."""
    amounts = (prices.input_mtok, prices.cache_read_mtok, prices.output_mtok)
    starts = sorted({int(tier.start) for amount in amounts for tier in getattr(amount, "tiers", ())})
    return tuple(Tier(start, *(_amount_above(amount, start) for amount in amounts)) for start in starts)


def _amount_above(amount: object, start: int) -> Decimal | None:
    reached = [tier.price for tier in getattr(amount, "tiers", ()) if tier.start <= start]
    return reached[-1] if reached else _base_amount(amount)
