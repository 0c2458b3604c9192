"""The cost of machine time: the measured speed of the engine, and the price per token that follows from it.

The built-in engine has no charge. With a price per hour of the machine (electricity or rent), the price per token is
cost per hour ÷ (tokens per second × 3,600).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select

from core.actor import Actor
from core.db.store import Store
from core.db.tables import SpeedMeasurement
from core.errors import FabulaError
from core.message import msg
from core.pricing import custom_prices
from core.pricing.currency import USD, YUAN, convert
from core.pricing.prices import ENGINE, MTOK, Price

_S_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Speed:
    """A measured generation speed: tokens per second with one request at a time, the model, and the time (UTC)."""

    tokens_per_s: Decimal
    model: str
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class MachineTime:
    """Cost per hour of this machine and its generation speed; `speed`: None until it is measured."""

    per_hour: Decimal
    currency: str
    speed: Speed | None = None

    @property
    def per_mtok(self) -> Decimal | None:
        """Cost of generating a million tokens; None: the speed is unknown."""
        if self.per_hour == 0:
            return Decimal(0)
        if self.speed is None or self.speed.tokens_per_s <= 0:
            return None
        return self.per_hour * MTOK / (self.speed.tokens_per_s * _S_PER_HOUR)

    def priced(self, price: Price, training_tokens_per_s: Decimal | None = None) -> Price:
        """A local price that includes the cost of machine time.

        Args:
            training_tokens_per_s: measured by finished jobs on this base model; None: unknown, so is the price.
        """
        training = Decimal(0) if self.per_hour == 0 else None
        if training_tokens_per_s:
            training = self.per_hour * MTOK / (training_tokens_per_s * _S_PER_HOUR)
        return replace(
            unpriced(price), output_per_mtok=self.per_mtok, training_per_mtok=training, currency=self.currency, own=True
        )

    def call(self, completion_tokens: int | None) -> Decimal | None:
        """Cost of generating this many tokens; None: unknown."""
        per_mtok = self.per_mtok
        if per_mtok is None or completion_tokens is None:
            return Decimal(0) if per_mtok == 0 else None
        return per_mtok * completion_tokens / MTOK


def unpriced(price: Price) -> Price:
    """A local price without a price per machine hour: all amounts are unknown, not 0."""
    return replace(price, input_per_mtok=None, output_per_mtok=None, training_per_mtok=None)


def work_usd(
    machine_hour: tuple[Decimal, str] | None, provider: str, billed_usd: Decimal | None, seconds: float | None
) -> Decimal | None:
    """The cost of a job, run, evaluation or story in US dollars: the provider's charge, or on the engine machine time.

    Args:
        machine_hour: cost per hour and its currency; None: not set, so the cost on the engine is unknown.
        billed_usd: the provider's charge; ignored for the engine.
        seconds: duration; None: unknown.
    """
    if provider != ENGINE:
        return billed_usd
    if machine_hour is None:
        return None
    if machine_hour[0] == 0:
        return Decimal(0)
    if seconds is None:
        return None
    return convert(machine_hour[0] * Decimal(str(seconds)) / _S_PER_HOUR, machine_hour[1], USD, YUAN)


def current(store: Store) -> MachineTime | None:
    """Cost per hour with the latest measured speed; None: no cost per hour is set."""
    machine_hour = custom_prices.machine_hour(store)
    return None if machine_hour is None else MachineTime(*machine_hour, latest_speed(store))


def save(store: Store, actor: Actor, speed: Speed) -> None:
    """Save a measurement; the latest one is used.

    Raises:
        FabulaError: the actor is a viewer.
    """
    if actor.role == "viewer":
        raise FabulaError(msg("Viewers cannot measure the machine."), msg("Ask an editor to do it."))
    with store.session() as session:
        session.add(
            SpeedMeasurement(
                model=speed.model, tokens_per_s=float(speed.tokens_per_s), at=speed.measured_at, created_by=actor.id
            )
        )


def latest_speed(store: Store) -> Speed | None:
    """The latest measurement; None: not measured yet."""
    query = select(SpeedMeasurement).order_by(SpeedMeasurement.at.desc(), SpeedMeasurement.id.desc()).limit(1)
    with store.reading() as session:
        row = session.scalars(query).first()
    return None if row is None else Speed(Decimal(str(row.tokens_per_s)), row.model, row.at)
