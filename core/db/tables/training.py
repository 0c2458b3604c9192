"""Tables for training jobs, their events and checkpoints, evaluations, and before-and-after comparisons."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, MessageText, Owned, utcnow


class TrainingJob(Owned, Base):
    """Our record of one fine-tuning job. The row is the intent; `remote_id` is the id that the POST returned.

    `status` is the provider's status or, before the job exists there, one of preparing, submitting, failed.
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
    method: Mapped[str] = mapped_column(String(20), default="supervised", server_default="supervised")  # or dpo
    file_format: Mapped[str] = mapped_column(String(20))  # completion | chat
    separator: Mapped[str | None] = mapped_column(String(50))
    stop: Mapped[str | None] = mapped_column(String(50))
    file_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    version_id: Mapped[str | None] = mapped_column(String(32))  # the data set version that it trains on
    training_file: Mapped[str | None] = mapped_column(String(200))  # id at the provider
    validation_file: Mapped[str | None] = mapped_column(String(200))
    validation_share: Mapped[float | None]  # fraction of the examples held out for validation; None if there are none
    parent_id: Mapped[str | None] = mapped_column(String(32), index=True)  # the job whose model this one trains further
    file_bytes: Mapped[int | None]  # size of the training file
    uploaded_bytes: Mapped[int | None]
    estimated_usd: Mapped[Decimal | None]  # estimate shown before submitting
    estimated_s: Mapped[float | None]
    # experiment trackers to which it is logged
    trackers: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str] = mapped_column(String(30), index=True, default="preparing")
    requested_action: Mapped[str | None] = mapped_column(String(10))  # cancel | pause | resume
    remote_id: Mapped[str | None] = mapped_column(String(200))
    submitted_to: Mapped[str | None] = mapped_column(Text)  # address, see `core.providers.account`
    account: Mapped[str | None] = mapped_column(String(32))  # fingerprint of address and key
    fine_tuned_model: Mapped[str | None] = mapped_column(String(200))
    error: Mapped[str | None] = mapped_column(MessageText)
    next_step: Mapped[str | None] = mapped_column(MessageText)
    not_before: Mapped[datetime | None]  # when to poll the provider again, if it asked for a pause
    trained_tokens: Mapped[int | None]
    n_examples: Mapped[int | None]
    estimated_finish: Mapped[datetime | None]
    queue_position: Mapped[int | None]  # at the engine, while waiting; the job in training is at position 1
    estimated_start: Mapped[datetime | None]  # expected start of training, while waiting
    training_s: Mapped[float | None]  # training seconds before `running_since`; None if not started or unknown
    # if the provider does not report `training_s`: when it was first seen training
    running_since: Mapped[datetime | None]
    results_csv: Mapped[str | None] = mapped_column(Text)  # latest copy of the result file
    cost_usd: Mapped[Decimal | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))
    # people who may use its models although the job is private
    readers: Mapped[list[str]] = mapped_column(default=list, server_default="[]")


class TrainingEvent(Base):
    """One event of a job, as reported by its provider; `remote_id` prevents storing it twice."""

    __tablename__ = "training_events"
    __table_args__ = (UniqueConstraint("job_id", "remote_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("training_jobs.id"), index=True)
    remote_id: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(10))
    type: Mapped[str] = mapped_column(String(30))
    message: Mapped[str] = mapped_column(MessageText)


class Checkpoint(Base):
    """One checkpoint of a job; `model` is its model id for requests."""

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
    """A model's evaluation on held-out examples. States: queued, running, stopping, stopped, done, failed(reason)."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    # the job that produced the model; None for a base model
    job_id: Mapped[str | None] = mapped_column(String(32), index=True)
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
    claimed_by: Mapped[str | None] = mapped_column(String(150))  # who may send its requests, see `core.db.leases`
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class EvaluationAnswer(Base):
    """A model's completion for one held-out example."""

    __tablename__ = "evaluation_answers"
    __table_args__ = (UniqueConstraint("evaluation_id", "row_key"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    row_key: Mapped[str] = mapped_column(String(64))
    prompt: Mapped[str] = mapped_column(Text)
    expected: Mapped[str] = mapped_column(Text)
    text: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(30))
    reason: Mapped[str | None] = mapped_column(MessageText)  # why there is no completion
    correct: Mapped[bool | None]
    seconds: Mapped[float | None]  # from sending the request to the complete answer
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]


class ParityVote(Base):
    """A person's blind vote on the answers of two evaluations to one row: for the old one, the new one, or a tie."""

    __tablename__ = "parity_votes"
    __table_args__ = (UniqueConstraint("old_id", "new_id", "row_key", "actor"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    old_id: Mapped[str] = mapped_column(String(32))
    new_id: Mapped[str] = mapped_column(String(32))
    row_key: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(100))
    choice: Mapped[str] = mapped_column(String(10))  # old | new | tie
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class BeforeAfter(Base):
    """The before-and-after comparison: answers from a job's base and tuned models to prompts not seen in training.

    States: queued, running, stopping, stopped, done, failed(reason).
    """

    __tablename__ = "before_after"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("training_jobs.id"), unique=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    source: Mapped[str | None] = mapped_column(
        String(20)
    )  # held_out | grid | preset | tools | none; None if not chosen yet
    settings: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # request settings for both models
    reason: Mapped[str | None] = mapped_column(MessageText)  # why it failed, or what it is waiting for
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class BeforeAfterAnswer(Base):
    """One of the two models' completion for one prompt; its text is in the story.

    States: waiting, writing, done, stopped, failed(reason).
    """

    __tablename__ = "before_after_answers"
    __table_args__ = (UniqueConstraint("before_after_id", "position", "side"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    before_after_id: Mapped[str] = mapped_column(ForeignKey("before_after.id"))
    position: Mapped[int]  # position of the prompt, counted from 0
    side: Mapped[str] = mapped_column(String(10))  # base | tuned
    prompt: Mapped[str] = mapped_column(Text)
    expected: Mapped[str | None] = mapped_column(Text)  # completion in the held-out row; None if there is no such row
    state: Mapped[str] = mapped_column(String(20), default="waiting")
    reason: Mapped[str | None] = mapped_column(MessageText)
    story_id: Mapped[str | None] = mapped_column(String(32))
