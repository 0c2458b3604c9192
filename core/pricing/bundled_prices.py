"""Prices of base models from genai-prices (MIT licence): the packaged data, or a newer version that was fetched."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from core.pricing import price_data_version
from core.pricing.price_data_version import PriceDataVersion
from core.pricing.prices import Price, Tier, tuned_base

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

# Our provider ids → ids in genai-prices, where they differ.
_ALIASES = {"zhipu": "zhipuai", "moonshot": "moonshotai", "gemini": "google"}


class BundledPrices:
    """A `PriceSource` for the price data used in `home`, at one point in time."""

    def __init__(self, now: datetime, home: Path | None = None) -> None:
        self._now, self._home = now, home
        self._rows_by_provider: dict[tuple[datetime | None, str], tuple[Price, ...]] = {}

    def find(self, provider: str, model: str) -> Price | None:
        """The price of `model` at `provider`, or None. A tuned model only matches rows for tuned models."""
        data = price_data_version.current(self._home)
        provider_data = data.providers.get(_ALIASES.get(provider, provider))
        if provider_data is None:
            return None
        if tuned_base(model) is None:
            info = provider_data.find_model(model.lower(), all_providers=list(data.providers.values()))
            return None if info is None or _is_tuned(info) else self._price(provider, model, info, data)
        # genai-prices lists some tuned ids under their base (ft:gpt-4-0613 under gpt-4), so its matching is not used.
        matches = (info for info in provider_data.models if _is_tuned(info) and info.is_match(model.lower()))
        return next((self._price(provider, model, info, data) for info in matches), None)

    def rows(self, providers: Collection[str]) -> list[Price]:
        """All priced text models of these providers, with the ids used by genai-prices."""
        data = price_data_version.current(self._home)
        for provider in providers:
            if (data.fetched, provider) not in self._rows_by_provider:
                self._rows_by_provider[data.fetched, provider] = tuple(self._rows(provider, data))
        return [price for provider in providers for price in self._rows_by_provider[data.fetched, provider]]

    def providers(self) -> list[str]:
        """Ids of all known providers, sorted."""
        return sorted(price_data_version.current(self._home).providers)

    def _rows(self, provider: str, data: PriceDataVersion) -> Iterator[Price]:
        provider_data = data.providers.get(_ALIASES.get(provider, provider))
        for info in provider_data.models if provider_data is not None else ():
            price = None if _is_tuned(info) else self._price(provider, info.id, info, data)
            if price is not None and price.speech_per_mchar is None:  # the tables only compare text models
                yield price

    def _price(self, provider: str, model: str, info: ModelInfo, data: PriceDataVersion) -> Price | None:
        prices = info.get_prices(self._now)
        batch = info.get_prices(self._now, {"processing": "batch"})
        has_batch_price = batch is not prices and batch != prices
        input_per_mtok, output_per_mtok = _base_amount(prices.input_mtok), _base_amount(prices.output_mtok)
        speech_per_mchar = _base_amount(getattr(prices, "input_mchars", None))
        if (input_per_mtok is None or output_per_mtok is None) and speech_per_mchar is None:  # images, embeddings
            return None
        return Price(
            model=model,
            provider=provider,
            input_per_mtok=input_per_mtok,
            output_per_mtok=output_per_mtok,
            training_per_mtok=None,
            base_model=tuned_base(model),
            currency="USD",
            source=data.source,
            checked=data.day,
            cached_input_per_mtok=_base_amount(prices.cache_read_mtok),
            batch_input_per_mtok=_base_amount(batch.input_mtok) if has_batch_price else None,
            batch_output_per_mtok=_base_amount(batch.output_mtok) if has_batch_price else None,
            tiers=_tiers(prices),
            speech_per_mchar=speech_per_mchar,
        )


def _is_tuned(info: ModelInfo) -> bool:
    return info.id.startswith("ft:") or info.id.endswith(".ft-")


def _base_amount(amount: object) -> Decimal | None:
    """The price for a short prompt."""
    if isinstance(amount, Decimal):
        return amount
    base = getattr(amount, "base", None)
    return base if isinstance(base, Decimal) else None


def _tiers(prices: ModelPrice) -> tuple[Tier, ...]:
    """Prices for long prompts. A tier applies above its start, to all tokens of the request."""
    amounts = (prices.input_mtok, prices.cache_read_mtok, prices.output_mtok)
    starts = sorted({int(tier.start) for amount in amounts for tier in getattr(amount, "tiers", ())})
    return tuple(Tier(start, *(_amount_above(amount, start) for amount in amounts)) for start in starts)


def _amount_above(amount: object, start: int) -> Decimal | None:
    reached = [tier.price for tier in getattr(amount, "tiers", ()) if tier.start <= start]
    return reached[-1] if reached else _base_amount(amount)
