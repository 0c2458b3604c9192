"""The cost of machine time: the engine's speed, the seconds that it works, and the resulting prices.

The built-in engine is free of charge. If a price per machine hour (electricity or rent) is set, the price per token is
cost per hour ÷ (tokens per second × 3,600), and a story, job, run or evaluation costs its hours × price per hour.
Stories and jobs record their seconds. For runs and evaluations, they come from the times of the calls in the spend
ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Float, case, extract, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.actor import Actor, requires
from core.db.store import Store, in_chunks
from core.db.tables import Evaluation, Run, SpeedMeasurement, Spend, Story, TrainingJob, utcnow
from core.pricing import custom_prices
from core.pricing.prices import ENGINE, MTOK, USD, YUAN, Price, convert

_S_PER_HOUR = 3_600

_MAX_GAP = timedelta(minutes=5)  # a longer gap between two requests is a pause; only this much of it counts


@dataclass(frozen=True, slots=True)
class Speed:
    """A measured generation speed: tokens per second with one request at a time, the model, and the time (UTC)."""

    tokens_per_s: Decimal
    model: str
    measured_at: datetime


@dataclass(frozen=True, slots=True)
class MachineTime:
    """This machine's hourly cost and its generation speed; `speed` is None until it is measured."""

    per_hour: Decimal
    currency: str
    speed: Speed | None = None

    @property
    def per_mtok(self) -> Decimal | None:
        """Cost of generating a million tokens; None if the speed is unknown."""
        if self.per_hour == 0:
            return Decimal(0)
        if self.speed is None or self.speed.tokens_per_s <= 0:
            return None
        return self.per_hour * MTOK / (self.speed.tokens_per_s * _S_PER_HOUR)

    def priced(self, price: Price, training_tokens_per_s: Decimal | None = None) -> Price:
        """A local price that includes the cost of machine time.

        Args:
            training_tokens_per_s: measured by finished jobs on this base model; if None, the price is unknown too.
        """
        training = Decimal(0) if self.per_hour == 0 else None
        if training_tokens_per_s:
            training = self.per_hour * MTOK / (training_tokens_per_s * _S_PER_HOUR)
        return replace(
            unpriced(price), output_per_mtok=self.per_mtok, training_per_mtok=training, currency=self.currency, own=True
        )

    def call(self, completion_tokens: int | None) -> Decimal | None:
        """Cost of generating this many tokens; None if unknown."""
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
    """The cost of a job, run, evaluation or story in US dollars: the provider's charge or, on the engine, machine time.

    Args:
        machine_hour: cost per hour and its currency; None if not set, so that the cost on the engine is unknown.
        billed_usd: the provider's charge; ignored for the engine.
        seconds: duration; None if unknown.
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
    """This machine's hourly cost and its latest measured speed; None if no cost per hour is set."""
    machine_hour = custom_prices.machine_hour(store)
    return None if machine_hour is None else MachineTime(*machine_hour, latest_speed(store))


@requires("editor")
def save(store: Store, actor: Actor, speed: Speed) -> None:
    """Save a measurement; the latest one is used.

    Raises:
        NotAllowed: the actor is a viewer.
    """
    with store.session() as session:
        session.add(
            SpeedMeasurement(
                model=speed.model,
                tokens_per_s=float(speed.tokens_per_s),
                measured_at=speed.measured_at,
                created_by=actor.id,
            )
        )


def latest_speed(store: Store) -> Speed | None:
    """The latest measurement; None if not measured yet."""
    query = select(SpeedMeasurement).order_by(SpeedMeasurement.measured_at.desc(), SpeedMeasurement.id.desc()).limit(1)
    with store.reading() as session:
        row = session.scalars(query).first()
    return None if row is None else Speed(Decimal(str(row.tokens_per_s)), row.model, row.measured_at)


def request_seconds(session: Session, ended: Mapping[str, datetime | None]) -> dict[str, float | None]:
    """Seconds with requests in flight, by run or evaluation, without pauses; None if no request was sent.

    The database sums the gaps between requests, each at most `_MAX_GAP`.

    Args:
        session: database session.
        ended: id → end time (UTC); None if it is still running.
    """
    result: dict[str, float | None] = dict.fromkeys(ended)
    max_gap_s = _MAX_GAP.total_seconds()
    for ids in in_chunks(list(ended)):
        sent_s = _epoch_seconds(session, Spend.sent_at)
        previous_s = func.lag(sent_s).over(partition_by=Spend.reference, order_by=Spend.sent_at)
        sent_calls = select(Spend.reference, Spend.sent_at, (sent_s - previous_s).label("gap_s"))
        gaps = sent_calls.where(Spend.reference.in_(ids), Spend.sent_at.is_not(None)).subquery()
        counted_s = case((gaps.c.gap_s > max_gap_s, max_gap_s), else_=gaps.c.gap_s)
        query = select(gaps.c.reference, func.max(gaps.c.sent_at), func.sum(counted_s)).group_by(gaps.c.reference)
        for key, last, busy_s in session.execute(query):
            last_call_s = ((ended[key] or utcnow()) - last).total_seconds()
            result[key] = round(float(busy_s or 0) + min(max(0.0, last_call_s), max_gap_s), 3)
    return result


def _epoch_seconds(session: Session, moment: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """A timestamp column in seconds; in SQLite to the millisecond (SQLite, "Date And Time Functions")."""
    if session.get_bind().dialect.name == "postgresql":
        return extract("epoch", moment)
    return func.julianday(moment, type_=Float()) * 86_400.0


def engine_seconds(store: Store, references: Sequence[str]) -> dict[str, float | None]:
    """Seconds of the engine's stories, jobs, runs and evaluations, by id. Other ids are left out."""
    result: dict[str, float | None] = {}
    with store.reading() as session:
        for ids in in_chunks(references):
            stories = select(Story.id, Story.duration_s).where(Story.id.in_(ids), Story.provider == ENGINE)
            jobs = select(TrainingJob.id, TrainingJob.training_s).where(
                TrainingJob.id.in_(ids), TrainingJob.provider == ENGINE
            )
            result |= {key: duration_s for key, duration_s in [*session.execute(stories), *session.execute(jobs)]}
            runs = select(Run.id, Run.finished_at).where(Run.id.in_(ids), Run.provider == ENGINE)
            evaluations = select(Evaluation.id, Evaluation.finished_at).where(
                Evaluation.id.in_(ids), Evaluation.provider == ENGINE
            )
            result |= request_seconds(
                session, dict([*session.execute(runs).all(), *session.execute(evaluations).all()])
            )
    return result


def usd_per_call(store: Store, references: Sequence[str]) -> dict[str, Decimal | None]:
    """Cost of one call in US dollars, by story, job, run or evaluation: machine time / calls; None if unknown."""
    machine_hour = custom_prices.machine_hour(store)
    if machine_hour is None:
        return dict.fromkeys(references)
    durations = engine_seconds(store, references)
    calls: dict[str, int] = {}
    with store.reading() as session:
        for ids in in_chunks(references):
            query = select(Spend.reference, func.count()).where(Spend.reference.in_(ids), Spend.provider == ENGINE)
            calls |= {key: count for key, count in session.execute(query.group_by(Spend.reference))}
    result: dict[str, Decimal | None] = {}
    for key in references:
        cost_usd = work_usd(machine_hour, ENGINE, None, durations.get(key))
        result[key] = None if cost_usd is None else cost_usd / calls.get(key, 1)
    return result
