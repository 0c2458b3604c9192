"""Tables for custom prices, budgets and the spend ledger."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, utcnow


class CustomPrice(Base):
    """A price set by the user, which overrides the price list: one amount for one kind of use of one model."""

    __tablename__ = "custom_prices"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(20))  # training input cached_input output hosting_hour batch_factor
    amount: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(String(3), default="USD")
    unit: Mapped[str] = mapped_column(String(10), default="mtok")  # mtok | ktok | hour | factor
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    note: Mapped[str] = mapped_column(Text, default="")
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class SpeedMeasurement(Base):
    """The engine's measured generation speed on this machine in tokens per second, with one request at a time."""

    __tablename__ = "speed_measurements"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(200))
    tokens_per_s: Mapped[float]
    measured_at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    created_by: Mapped[str] = mapped_column(String(100))


class Budget(Base):
    """A spending limit: per calendar month (UTC) for everyone, for one person or for each person, or for each
    single run."""

    __tablename__ = "budgets"
    __table_args__ = (UniqueConstraint("scope", "subject"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    scope: Mapped[str] = mapped_column(String(10))  # run | month | person | each
    subject: Mapped[str] = mapped_column(String(100), default="")  # for `person`, the actor
    amount_usd: Mapped[Decimal]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class BudgetRequest(Base):
    """Someone asks the admins for a higher budget. `decided_at` without `granted_usd`: declined."""

    __tablename__ = "budget_requests"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    person_id: Mapped[str] = mapped_column(String(100), index=True)
    scope: Mapped[str] = mapped_column(String(10))  # run | month | person: the budget that limits them
    limit_usd: Mapped[Decimal]  # of that budget when they asked
    missing_usd: Mapped[Decimal | None]  # how much the blocked request exceeded it; None: nothing was blocked
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None] = mapped_column(String(100))
    granted_usd: Mapped[Decimal | None]  # the new budget


class Spend(Base):
    """One paid or free call: reserved before it is sent, then updated with actual figures.

    SQLAlchemy keeps the old value of changed columns that budgets depend on, because `core.db.spend_totals` needs it.
    """

    __tablename__ = "spend"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    created_at: Mapped[datetime] = mapped_column(default=utcnow, index=True, active_history=True)
    actor: Mapped[str] = mapped_column(String(100), active_history=True)
    page: Mapped[str] = mapped_column(String(20))  # dataset | training | story | comparison
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    reference: Mapped[str] = mapped_column(String(64), index=True, active_history=True)  # run, job or story id
    # set for live runs
    row_id: Mapped[int | None] = mapped_column(ForeignKey("rows.id", ondelete="SET NULL"), index=True)
    sent_at: Mapped[datetime | None]  # set before the request is sent; None means never sent, so not billed
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[Decimal | None] = mapped_column(active_history=True)  # None if unknown
    estimated_usd: Mapped[Decimal | None] = mapped_column(active_history=True)  # the estimate made before the call
    # counted by Fabula; the two columns above are the provider's counts, if reported
    counted_prompt_tokens: Mapped[int | None]
    counted_completion_tokens: Mapped[int | None]


class SpendTotal(Base):
    """A total that counts against budgets, one row per scope; `core.db.spend_totals` keeps it up to date."""

    __tablename__ = "spend_totals"

    scope: Mapped[str] = mapped_column(String(10), primary_key=True)  # person | reference
    subject: Mapped[str] = mapped_column(String(100), primary_key=True)  # the actor, or the run, job or story id
    month: Mapped[str] = mapped_column(String(7), primary_key=True)  # for a person: 2026-11 (UTC); otherwise ""
    max_usd: Mapped[Decimal]  # spent plus reserved; unknown costs count at their estimate


class RescuedEntry(Base):
    """A line of a rescue file whose cost was recorded (see `core.jobs.recovery`)."""

    __tablename__ = "rescued_entries"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
