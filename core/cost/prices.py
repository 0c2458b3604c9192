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
)


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs at a provider. Amounts are per million tokens; None is unknown, never 0.

    Attributes:
        model: the model's id; a tuned model's price has the id `ft:<base>` and `base_model` set.
        training_per_mtok: for each token of the training file, times the epochs.
        source: address of the page or name of the package that says so.
        checked: the day on which somebody looked.
        valid_until: last day on which the model can be used, where that is announced.
        training_until: last day on which training can be started, where that is announced.
        local: runs on the person's own machine: nobody sends a bill (electricity is not counted).
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
