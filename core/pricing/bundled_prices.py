"""Prices of base models from genai-prices (MIT licence): the packaged data, or a newer version that a user fetched.

Fetched data is one of the shared files (`core.shared_files`), for all processes and after restarts. Nothing is fetched
automatically.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache, lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from core.actor import Actor, requires
from core.errors import FabulaError, StorageFull
from core.file_storage import FileStorage, StoredFile
from core.message import msg
from core.pricing.prices import Price, Tier, tuned_base
from core.shared_files import FETCHED_PRICES

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

# Our provider ids → ids in genai-prices, where they differ.
_ALIASES = {"zhipu": "zhipuai", "moonshot": "moonshotai", "gemini": "google"}

PACKAGED = date(2026, 11, 10)
"""The day genai-prices 0.2.3 was uploaded to PyPI, which is the minimum version required."""

URL = "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
"""The same as DEFAULT_UPDATE_URL of genai-prices; defined here so that tests can change it."""

_REQUIRED_PROVIDER = "openai"  # data without this provider is not valid price data
_TIMEOUT_S = 10.0
_fetch_lock = threading.Lock()


@dataclass(frozen=True)
class PriceDataVersion:
    """Price data of one day. `fetched`: when it was downloaded (UTC); None for packaged data."""

    source: str
    day: date
    providers: Mapping[str, Provider]
    fetched: datetime | None = None


def current(files: FileStorage | None) -> PriceDataVersion:
    """The data in use: the last fetched data in these files if it is newer, otherwise the packaged data.

    Raises:
        StorageFull: the shared files cannot be read.
    """
    stored = files.find(FETCHED_PRICES) if files is not None else None
    fetched = _load_file(stored) if stored is not None else None
    return fetched if fetched is not None and fetched.day >= PACKAGED else _packaged()


@requires("editor")
def fetch(actor: Actor, now: datetime, files: FileStorage) -> PriceDataVersion:
    """Fetch the newest data for all processes that share these files. If this fails, the data in use does not change.

    Takes at most about 10 seconds.

    Raises:
        NotAllowed: the actor is a viewer.
        FabulaError: offline, invalid data, or it can't be saved; `what` gives the reason.
    """
    with _fetch_lock:
        try:
            data = _download()
            _parse(data)
            files.write_bytes(FETCHED_PRICES, data, now)
        except Exception as exc:  # errors of httpx2 and pydantic, and any error of the library on malformed data
            reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
            raise FabulaError(
                msg("Couldn't fetch newer prices: {reason}.", reason=reason.removesuffix(".")),
                msg("The prices of {day} remain in use. Try again later.", day=current(files).day),
            ) from exc
    return current(files)


@requires("editor")
def use_packaged(actor: Actor, files: FileStorage) -> None:
    """Delete the fetched data and use the packaged data again.

    Raises:
        NotAllowed: the actor is a viewer. StorageFull: it can't be deleted.
    """
    files.unlink(FETCHED_PRICES)


def _download() -> bytes:
    import httpx2  # the library's own client

    response = httpx2.get(URL, timeout=_TIMEOUT_S)
    response.raise_for_status()
    return bytes(response.content)


def _parse(data: bytes) -> dict[str, Provider]:
    """Parse the data like the updater of genai-prices, which has no public function for this.

    Raises:
        ValueError: not price data; includes pydantic's errors.
    """
    from genai_prices.types import _providers_from_raw

    raw = json.loads(data)
    if not isinstance(raw, list):
        raise ValueError("it is not a list of providers")
    providers = {provider.id: provider for provider in _providers_from_raw(raw)}
    if _REQUIRED_PROVIDER not in providers:
        raise ValueError("it contains no prices")
    return providers


@lru_cache(maxsize=2)
def _load_file(stored: StoredFile) -> PriceDataVersion | None:
    """Load the fetched data; None if it is invalid.

    Raises:
        StorageFull: it cannot be read.
    """
    data = stored.load()
    try:
        providers = _parse(data)
    except Exception:  # a damaged file must not break the packaged prices
        return None
    return PriceDataVersion("genai-prices", stored.modified.date(), providers, stored.modified)


@cache
def _packaged() -> PriceDataVersion:
    from genai_prices.data import providers  # imported here: 1.6 MB of literals take a quarter of a second

    return PriceDataVersion(
        f"genai-prices {version('genai-prices')}", PACKAGED, {provider.id: provider for provider in providers}
    )


class BundledPrices:
    """A `PriceSource` for the price data in use, at one point in time."""

    def __init__(self, now: datetime, files: FileStorage | None = None) -> None:
        self._now, self._files = now, files
        self._latest: PriceDataVersion | None = None
        self._rows_by_provider: dict[tuple[datetime | None, str], tuple[Price, ...]] = {}

    def _current(self) -> PriceDataVersion:
        """The data in use. While it cannot be read, the latest, so that an answer that was paid for gets its cost."""
        try:
            self._latest = current(self._files)
        except StorageFull:
            if self._latest is None:
                raise
        return self._latest

    def find(self, provider: str, model: str) -> Price | None:
        """The price of `model` at `provider`, or None. A tuned model only matches rows for tuned models."""
        data = self._current()
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
        data = self._current()
        for provider in providers:
            if (data.fetched, provider) not in self._rows_by_provider:
                self._rows_by_provider[data.fetched, provider] = tuple(self._rows(provider, data))
        return [price for provider in providers for price in self._rows_by_provider[data.fetched, provider]]

    def providers(self) -> list[str]:
        """Ids of all known providers, sorted."""
        return sorted(self._current().providers)

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
