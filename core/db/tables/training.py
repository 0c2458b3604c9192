"""Jobs, what their providers told of them, and how their models were judged."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, MessageText, utcnow


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
    version_id: Mapped[str | None] = mapped_column(String(32))  # the version of the data set that it trains on
    training_file: Mapped[str | None] = mapped_column(String(200))  # id at the provider
    validation_file: Mapped[str | None] = mapped_column(String(200))
    validation_share: Mapped[float | None]  # of the examples, kept out of training; None: none
    parent_id: Mapped[str | None] = mapped_column(String(32), index=True)  # the job whose model this one trains on
    file_bytes: Mapped[int | None]  # of the training file
    uploaded_bytes: Mapped[int | None]
    estimated_usd: Mapped[Decimal | None]  # what was shown before the button
    estimated_s: Mapped[float | None]
    trackers: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # where the run is logged too
    status: Mapped[str] = mapped_column(String(30), index=True, default="preparing")
    stop_requested: Mapped[str | None] = mapped_column(String(10))  # cancel | pause | resume
    remote_id: Mapped[str | None] = mapped_column(String(200))
    fine_tuned_model: Mapped[str | None] = mapped_column(String(200))
    error: Mapped[str | None] = mapped_column(MessageText)
    next_step: Mapped[str | None] = mapped_column(MessageText)
    not_before: Mapped[datetime | None]  # the provider is asked again then: it wants a pause until that time
    trained_tokens: Mapped[int | None]
    n_examples: Mapped[int | None]
    estimated_finish: Mapped[datetime | None]
    queue_position: Mapped[int | None]  # in line at the engine, while it waits; the job that trains now is 1
    estimated_start: Mapped[datetime | None]  # of its training, while it waits
    training_s: Mapped[float | None]  # seconds of training until `running_since`; None: none, or not known
    running_since: Mapped[datetime | None]  # where the provider does not tell `training_s`: seen training since
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
    message: Mapped[str] = mapped_column(MessageText)


class Checkpoint(Base):
    """One checkpoint of a job; `model` is the name to call it by."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "remote_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("training_jobs.id"), index=True)
    remote_id: Mapped[str] = mapped_column(String(200))
    step: Mapped[int]
    model: Mapped[str] = mapped_column(String(200))
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[datetime | None]


class Evaluation(Base):
    """One model judged on held-out examples. States: queued, running, stopping, stopped, done, failed(reason)."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(String(32), index=True)  # the job whose model is judged; None: a base
    dataset_id: Mapped[str] = mapped_column(String(32))
    version_id: Mapped[str | None] = mapped_column(String(32))
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(20))  # label | text
    settings: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    reason: Mapped[str | None] = mapped_column(MessageText)
    total: Mapped[int] = mapped_column(default=0)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class EvaluationAnswer(Base):
    """What a model answered to one held-out example."""

    __tablename__ = "answers"
    __table_args__ = (UniqueConstraint("evaluation_id", "row_key"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    row_key: Mapped[str] = mapped_column(String(64))
    prompt: Mapped[str] = mapped_column(Text)
    expected: Mapped[str] = mapped_column(Text)
    text: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(30))
    reason: Mapped[str | None] = mapped_column(MessageText)  # why there is no answer
    right: Mapped[bool | None]


class Comparison(Base):
    """The base and the tuned model of one job on prompts that training has not seen.

    States: queued, running, stopping, stopped, done, failed(reason).
    """

    __tablename__ = "comparisons"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("training_jobs.id"), unique=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    source: Mapped[str | None] = mapped_column(String(20))  # held_out | grid | preset | none; None: not chosen yet
    settings: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # how both models are asked
    reason: Mapped[str | None] = mapped_column(MessageText)  # why it failed, or what it waits for
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class ComparisonAnswer(Base):
    """What one of the two models wrote for one prompt; its words are those of the story.

    States: waiting, writing, done, stopped, failed(reason).
    """

    __tablename__ = "comparison_answers"
    __table_args__ = (UniqueConstraint("comparison_id", "position", "side"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    comparison_id: Mapped[str] = mapped_column(ForeignKey("comparisons.id"))
    position: Mapped[int]  # of the prompt, from 0
    side: Mapped[str] = mapped_column(String(10))  # base | tuned
    prompt: Mapped[str] = mapped_column(Text)
    expected: Mapped[str | None] = mapped_column(Text)  # what the row kept from training has; None: no such row
    state: Mapped[str] = mapped_column(String(20), default="waiting")
    reason: Mapped[str | None] = mapped_column(MessageText)
    story_id: Mapped[str | None] = mapped_column(String(32))
