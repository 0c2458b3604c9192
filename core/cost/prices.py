"""One price, and how model names tell a tuned model from its base."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

MTOK = Decimal(1_000_000)
ENGINE = "engine"
"""Id of the provider that runs on one's own machine (core.providers gives it this id)."""

_TUNED = (
    re.compile(r"ft:(?P<base>[^:]+)(?::.*)?"),  # ft:gpt-4o-mini-2024-07-18:org:suffix:id, ft:ada (a row of the book)
    re.compile(r"(?P<base>[^:]+):ft-.*"),  # 2023's curie:ft-org:ultraman-2023-04-04-03-03-26
    re.compile(r"(?P<base>.+)\.ft-.*"),  # Azure's gpt-4o-mini-2024-07-18.ft-abc
    re.compile(r"(?P<base>.+?)-ft-\d{8,}.*"),  # DashScope's qwen3-8b-ft-202511132025-0260
)


@dataclass(frozen=True, slots=True)
class Tier:
    """Per million tokens, for a request whose prompt has more than `above_tokens`: then all of its tokens cost this."""

    above_tokens: int
    input_per_mtok: Decimal | None
    cached_input_per_mtok: Decimal | None
    output_per_mtok: Decimal | None


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs at a provider. Amounts are per million tokens; None is unknown, never 0.

    Attributes:
        model: the model's id; a tuned model's price has the id `ft:<base>` and `base_model` set.
        training_per_mtok: for each token of the training file, times the epochs.
        source: address of the page or name of the package that says so.
        checked: the day on which somebody looked.
        valid_until: last day on which the model can be used, where that is announced.
        price_until: last day of the price itself, where it is known and none follows it: the model may live on.
        training_until: last day on which training can be started, where that is announced.
        local: runs on the person's own machine: nobody sends a bill (electricity is not counted).
        cached_input_per_mtok: for prompt tokens that the provider has read shortly before.
        batch_input_per_mtok, batch_output_per_mtok: in a batch that may take a day.
        hosting_per_hour: what a tuned model costs for each hour that it is deployed, used or not.
        tiers: dearer prices for long prompts, by their start; empty for most models.
        speech_per_mchar: for each million characters read aloud.
        own: a person of this studio has set at least one of the amounts.
        note: what one should know about the amounts, in the words of who looked them up.
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
        """(provider, model): how a row of the book is named."""
        return (self.provider, self.model)

    def call(
        self, prompt_tokens: int | None, completion_tokens: int | None, *, cached_tokens: int = 0, batch: bool = False
    ) -> Decimal | None:
        """What one request costs, exact, in `currency`; None when a price that is needed, or a count, is unknown.

        Args:
            cached_tokens: how many of the prompt's tokens the provider has cached. Batches get no such discount, and
                neither does a model for which no cached price is known.
            batch: priced as part of a batch. No provider says what a long prompt (see `tiers`) costs in one: unknown.
        """
        rates = self._rates(prompt_tokens, batch)
        if rates is None:
            return None
        cached = 0 if batch or rates[1] is None else min(max(cached_tokens, 0), prompt_tokens or 0)
        fresh = None if prompt_tokens is None else prompt_tokens - cached
        total = Decimal(0)
        for tokens, per_mtok in ((fresh, rates[0]), (cached, rates[1]), (completion_tokens, rates[2])):
            if per_mtok == 0 or tokens == 0:
                continue
            if tokens is None or per_mtok is None or tokens < 0:
                return None
            total += tokens * per_mtok / MTOK
        return total

    def _rates(self, prompt_tokens: int | None, batch: bool) -> _Rates | None:
        """Input, cached input and output per million tokens; None where a long prompt's are not known."""
        long = [tier for tier in self.tiers if prompt_tokens is not None and prompt_tokens > tier.above_tokens]
        if batch:
            return None if long else (self.batch_input_per_mtok, None, self.batch_output_per_mtok)
        at: Price | Tier = long[-1] if long else self
        return at.input_per_mtok, at.cached_input_per_mtok, at.output_per_mtok


_Rates = tuple[Decimal | None, Decimal | None, Decimal | None]


def tuned_base(model: str) -> str | None:
    """The base that a tuned model was made from, read from its id; None for an untuned model."""
    for pattern in _TUNED:
        if match := pattern.fullmatch(model):
            return match["base"]
    return None


def local_price(model: str, today: date) -> Price:
    """The price of a model of the engine: nothing, on either side, and nothing for training."""
    zero = Decimal(0)
    return Price(
        model=model,
        provider=ENGINE,
        input_per_mtok=zero,
        output_per_mtok=zero,
        training_per_mtok=zero,
        base_model=tuned_base(model),
        currency="USD",
        source="local",
        checked=today,
        local=True,
    )
