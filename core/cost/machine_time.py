"""What an hour of this machine buys: the speed of the engine, measured on request, and a price per token from it.

The built-in engine sends no bill. Once an hour of the machine has a price (electricity or rent), the time that writing
takes has one too: cost per hour ÷ (tokens per second × 3,600).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select

from core.actor import Actor
from core.cost import custom_prices
from core.cost.currency import USD, YUAN, convert
from core.cost.prices import ENGINE, MTOK, Price
from core.db.store import Store
from core.db.tables import SpeedMeasurement
from core.errors import FabulaError
from core.message import msg

_S_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Speed:
    """A measured generation speed: tokens per second of one request at a time, of which model, and when (UTC)."""

    tokens_per_s: Decimal
    model: str
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class MachineTime:
    """What an hour of this machine costs, and how fast it writes; `speed` is None until it has been measured."""

    per_hour: Decimal
    currency: str
    speed: Speed | None = None

    @property
    def per_mtok(self) -> Decimal | None:
        """Cost of the time in which a million tokens are written; None while the speed is unknown."""
        if self.per_hour == 0:
            return Decimal(0)
        if self.speed is None or self.speed.tokens_per_s <= 0:
            return None
        return self.per_hour * MTOK / (self.speed.tokens_per_s * _S_PER_HOUR)

    def priced(self, price: Price, training_tokens_per_s: Decimal | None = None) -> Price:
        """A local price with the cost of its machine time.

        Args:
            training_tokens_per_s: as finished jobs on this base took; None: no job has shown it, the price is unknown.
        """
        training = Decimal(0) if self.per_hour == 0 else None
        if training_tokens_per_s:
            training = self.per_hour * MTOK / (training_tokens_per_s * _S_PER_HOUR)
        return replace(
            unpriced(price), output_per_mtok=self.per_mtok, training_per_mtok=training, currency=self.currency, own=True
        )

    def call(self, completion_tokens: int | None) -> Decimal | None:
        """Cost of the time in which so many tokens are written; None where it is unknown."""
        each = self.per_mtok
        if each is None or completion_tokens is None:
            return Decimal(0) if each == 0 else None
        return each * completion_tokens / MTOK


def unpriced(price: Price) -> Price:
    """A local price while nobody has said what an hour of the machine costs: unknown, not 0."""
    return replace(price, input_per_mtok=None, output_per_mtok=None, training_per_mtok=None)


def work_usd(
    hour: tuple[Decimal, str] | None, provider: str, billed_usd: Decimal | None, seconds: float | None
) -> Decimal | None:
    """What a job, run, evaluation or story cost in US dollars: its bill, or on the engine the time of this machine.

    Args:
        hour: what an hour of this machine costs, with its currency; None: the engine's work has no price.
        billed_usd: what the provider asks; the engine sends no bill, so there it does not count.
        seconds: how long the work took; None: unknown.
    """
    if provider != ENGINE:
        return billed_usd
    if hour is None:
        return None
    if hour[0] == 0:
        return Decimal(0)
    if seconds is None:
        return None
    return convert(hour[0] * Decimal(str(seconds)) / _S_PER_HOUR, hour[1], USD, YUAN)


def current(store: Store) -> MachineTime | None:
    """What an hour of this machine costs, with the newest measured speed; None until someone has priced the hour."""
    hour = custom_prices.machine_hour(store)
    return None if hour is None else MachineTime(*hour, newest(store))


def save(store: Store, actor: Actor, speed: Speed) -> None:
    """Record a measurement; the newest one counts.

    Raises:
        FabulaError: the actor may only look.
    """
    if actor.role == "viewer":
        raise FabulaError(msg("Viewers cannot measure the machine."), msg("Ask an editor to do it."))
    with store.session() as session:
        session.add(
            SpeedMeasurement(
                model=speed.model, tokens_per_s=float(speed.tokens_per_s), at=speed.measured_at, created_by=actor.id
            )
        )


def newest(store: Store) -> Speed | None:
    """The newest measurement; None: none was made yet."""
    query = select(SpeedMeasurement).order_by(SpeedMeasurement.at.desc(), SpeedMeasurement.id.desc()).limit(1)
    with store.reading() as session:
        row = session.scalars(query).first()
    return None if row is None else Speed(Decimal(str(row.tokens_per_s)), row.model, row.at)
