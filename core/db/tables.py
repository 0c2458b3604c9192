"""The ledger's tables. A data set *is* its rows; runs fill them; jobs train on them; spend counts what it cost."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import JSON, Dialect, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime, TypeDecorator


class Usd(TypeDecorator[Decimal]):
    """Exact US dollars: kept as text, since SQLite has no decimal type."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Utc(TypeDecorator[datetime]):
    """A point in time, always UTC and aware, whatever the database gives back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utcnow() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {dict[str, Any]: JSON, list[str]: JSON, datetime: Utc, Decimal: Usd}


class Dataset(Base):
    """A set of rows with named columns; `recipe` is set when it grows from a grid."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    source: Mapped[str] = mapped_column(String(20))  # recipe | sample | upload | chat
    columns: Mapped[list[str]]  # the columns that make the prompt, in order
    recipe: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class Row(Base):
    """One example: a cell of the grid × one repeat, and what came back for it.

    States: pending, sent, done, failed(reason), excluded(reason).
    """

    __tablename__ = "rows"
    __table_args__ = (
        UniqueConstraint("dataset_id", "key"),
        Index("rows_by_state", "dataset_id", "state", "updated_at"),
        Index("rows_by_place", "dataset_id", "position"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    key: Mapped[str] = mapped_column(String(64))  # hash(recipe fields, values, repeat)
    position: Mapped[int]
    repeat: Mapped[int] = mapped_column(default=0)
    column_values: Mapped[dict[str, Any]]
    prompt: Mapped[str] = mapped_column(Text)  # as sent; for uploads, the columns joined
    state: Mapped[str] = mapped_column(String(20), default="pending")
    reason: Mapped[str | None] = mapped_column(Text)
    text: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(30))
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[Decimal | None]
    run_id: Mapped[str | None] = mapped_column(String(32))
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class Run(Base):
    """One go at filling the pending rows of a data set.

    States: queued, running, stopping, stopped, done, failed(reason).
    """

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    reason: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)  # what it waits for right now, e.g. "waiting 12 s: rate limit"
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    budget_usd: Mapped[Decimal | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class TrainingJob(Base):
    """Our record of one fine-tuning job. The row is the intent; `remote_id` is what the one POST answered.

    `status` is the provider's own word; before the provider knows the job: preparing, submitting, failed.
    """

    __tablename__ = "training_jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # sent as metadata fabula_intent
    dataset_id: Mapped[str | None] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(200))
    provider: Mapped[str] = mapped_column(String(50))
    base_model: Mapped[str] = mapped_column(String(200))
    suffix: Mapped[str | None] = mapped_column(String(64))
    hyperparameters: Mapped[dict[str, Any]]
    seed: Mapped[int | None]
    file_format: Mapped[str] = mapped_column(String(20))  # completion | chat
    separator: Mapped[str | None] = mapped_column(String(50))
    stop: Mapped[str | None] = mapped_column(String(50))
    file_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    training_file: Mapped[str | None] = mapped_column(String(200))  # id at the provider
    status: Mapped[str] = mapped_column(String(30), index=True, default="preparing")
    stop_requested: Mapped[str | None] = mapped_column(String(10))  # cancel | pause | resume
    remote_id: Mapped[str | None] = mapped_column(String(200))
    fine_tuned_model: Mapped[str | None] = mapped_column(String(200))
    error: Mapped[str | None] = mapped_column(Text)
    next_step: Mapped[str | None] = mapped_column(Text)
    trained_tokens: Mapped[int | None]
    n_examples: Mapped[int | None]
    estimated_finish: Mapped[datetime | None]
    results_csv: Mapped[str | None] = mapped_column(Text)  # the newest copy of the results file
    cost_usd: Mapped[Decimal | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class TrainingEvent(Base):
    """One event of a job, as the provider told it; `remote_id` keeps polls from storing it twice."""

    __tablename__ = "training_events"
    __table_args__ = (UniqueConstraint("job_id", "remote_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("training_jobs.id"), index=True)
    remote_id: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(10))
    type: Mapped[str] = mapped_column(String(30))
    message: Mapped[str] = mapped_column(Text)


class Spend(Base):
    """One paid (or free) call: an intent before it is sent, the actual figures after."""

    __tablename__ = "spend"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    actor: Mapped[str] = mapped_column(String(100))
    page: Mapped[str] = mapped_column(String(20))  # dataset | training | story
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    reference: Mapped[str] = mapped_column(String(64))  # run, job or story id
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[Decimal | None]  # None: the price is unknown


class Story(Base):
    """A story that was streamed: kept whole, with what made it."""

    __tablename__ = "stories"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    actor: Mapped[str] = mapped_column(String(100))
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    prompt: Mapped[str] = mapped_column(Text)
    parameters: Mapped[dict[str, Any]]
    text: Mapped[str] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(30))  # None: stopped or cut, text is partial
    completion_tokens: Mapped[int | None]
    first_text_s: Mapped[float | None]
    duration_s: Mapped[float | None]


class Tour(Base):
    """The guided demo: which step it is at, and what it made on the way."""

    __tablename__ = "tours"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")  # queued running done stopped failed
    step: Mapped[str] = mapped_column(String(20), default="dataset")  # dataset training curve cost story
    dataset_id: Mapped[str | None] = mapped_column(String(32))
    job_id: Mapped[str | None] = mapped_column(String(32))
    story_id: Mapped[str | None] = mapped_column(String(32))
    reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))
