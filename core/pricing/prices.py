"""A model's price, its currency, and how the base model is derived from a tuned model's id.

Amounts are converted with one dated exchange rate. Without a rate, they are not converted or compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

MTOK = Decimal(1_000_000)
ENGINE = "engine"
TOGETHER = "together"
"""Id of the engine as a provider."""
SELF_HOSTED = frozenset({"ollama", "lmstudio", "llamacpp", "vllm", "sglang", "own-server"})
"""Presets (`data/providers.json`) of servers that run on hardware of the user, without a price per token."""
_ACCOUNT = re.compile(r"-\d{1,3}$")

_TUNED = (
    re.compile(r"ft:(?P<base>[^:]+)(?::.*)?"),  # ft:gpt-4o-mini-2024-07-18:org:suffix:id, ft:ada (price file)
    re.compile(r"(?P<base>[^:]+):ft-.*"),  # 2023's curie:ft-org:ultraman-2023-04-04-03-03-26
    re.compile(r"(?P<base>.+)\.ft-.*"),  # Azure's gpt-4o-mini-2024-07-18.ft-abc
    re.compile(r"(?P<base>.+?)-ft-\d{8,}.*"),  # DashScope's qwen3-8b-ft-202511132025-0260
)

USD = "USD"
Key = tuple[str, str]
"""(provider, model)."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Prices per million tokens for requests with more than `above_tokens` prompt tokens; they apply to all tokens."""

    above_tokens: int
    input_per_mtok: Decimal | None
    cached_input_per_mtok: Decimal | None
    output_per_mtok: Decimal | None


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model at a provider. Amounts are per million tokens; None means unknown.

    Attributes:
        model: the model id; `ft:<base>` with `base_model` set for models tuned from a base.
        training_per_mtok: price of trained tokens (tokens of the training file × epochs).
        source: URL or package name.
        checked: the day on which the price was checked.
        valid_until: last day on which the model can be used, if announced.
        price_until: last day of this price, if no later price is known. The model may still be available.
        training_until: last day on which training can be started, if announced.
        local: whether it runs on this machine, without a charge (electricity is not counted).
        cached_input_per_mtok: price of prompt tokens in the provider's cache.
        batch_input_per_mtok, batch_output_per_mtok: prices in a batch (up to 24 h).
        hosting_per_hour: price per hour for which a tuned model is deployed, used or not.
        tiers: prices for long prompts, in ascending order; empty for most models.
        speech_per_mchar: price per million characters of speech.
        own: whether at least one amount is a custom price.
        note: remarks on the amounts from the price file.
    """

    model: str
    provider: str
    input_per_mtok: Decimal | None
    output_per_mtok: Decimal | None
    training_per_mtok: Decimal | None
    base_model: str | None
    currency: str
    source: str
    checked: date
    valid_until: date | None = None
    training_until: date | None = None
    local: bool = False
    cached_input_per_mtok: Decimal | None = None
    batch_input_per_mtok: Decimal | None = None
    batch_output_per_mtok: Decimal | None = None
    hosting_per_hour: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    own: bool = False
    note: str = ""
    price_until: date | None = None
    speech_per_mchar: Decimal | None = None

    @property
    def key(self) -> tuple[str, str]:
        """(provider, model)."""
        return (self.provider, self.model)

    def call(
        self, prompt_tokens: int | None, completion_tokens: int | None, *, cached_tokens: int = 0, batch: bool = False
    ) -> Decimal | None:
        """The exact cost of one request, in `currency`; None if a required price or token count is unknown.

        Args:
            cached_tokens: cached prompt tokens. There is no discount in batches, or if no cached price is known.
            batch: use batch prices. For long prompts (see `tiers`) these are unknown at all providers.
        """
        rates = self._rates(prompt_tokens, batch)
        if rates is None:
            return None
        cached = 0 if batch or rates[1] is None else min(max(cached_tokens, 0), prompt_tokens or 0)
        uncached = None if prompt_tokens is None else prompt_tokens - cached
        total = Decimal(0)
        for tokens, per_mtok in ((uncached, rates[0]), (cached, rates[1]), (completion_tokens, rates[2])):
            if per_mtok == 0 or tokens == 0:
                continue
            if tokens is None or per_mtok is None or tokens < 0:
                return None
            total += tokens * per_mtok / MTOK
        return total

    def _rates(self, prompt_tokens: int | None, batch: bool) -> _Rates | None:
        """Input, cached input and output prices per million tokens; None if unknown for this prompt length."""
        applicable_tiers = [
            tier for tier in self.tiers if prompt_tokens is not None and prompt_tokens > tier.above_tokens
        ]
        if batch:
            return None if applicable_tiers else (self.batch_input_per_mtok, None, self.batch_output_per_mtok)
        prices: Price | Tier = applicable_tiers[-1] if applicable_tiers else self
        return prices.input_per_mtok, prices.cached_input_per_mtok, prices.output_per_mtok


def price_list(provider: str) -> str:
    """The price list of a provider: further accounts at the same company (`openai-2`) use the prices of the first.

    The company's other rules (file formats, minimum number of examples) are found by this name too.
    """
    return _ACCOUNT.sub("", provider)


_Rates = tuple[Decimal | None, Decimal | None, Decimal | None]


def tuned_base(model: str) -> str | None:
    """The base model in a tuned model's id; None if the id is not that of a tuned model."""
    for pattern in _TUNED:
        if match := pattern.fullmatch(model):
            return match["base"]
    return None


def local_price(model: str, today: date, provider: str = ENGINE) -> Price:
    """The price of a model on the engine or on another of the user's servers: 0 for input, output and training."""
    zero = Decimal(0)
    return Price(
        model=model,
        provider=provider,
        input_per_mtok=zero,
        output_per_mtok=zero,
        training_per_mtok=zero,
        base_model=tuned_base(model),
        currency="USD",
        source="local",
        checked=today,
        local=True,
    )


def unknown_price(provider: str, model: str, today: date) -> Price:
    """The price of a model that is in no price list: all amounts are unknown."""
    return Price(model, provider, None, None, None, tuned_base(model), USD, "", today)


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
