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
    source: Mapped[str] = mapped_column(String(20))  # recipe | sample | upload | chat | mix
    columns: Mapped[list[str]]  # the columns that make the prompt, in order
    recipe: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    recipe_id: Mapped[str | None] = mapped_column(String(32))  # the saved recipe that it began with
    filled: Mapped[int] = mapped_column(default=0)  # places of the grid, from 0, that have been looked at
    parts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # of a mix: what it is made of
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
    claimed_by: Mapped[str | None] = mapped_column(String(64))  # the executor that has sent it
    batch_id: Mapped[str | None] = mapped_column(String(32), index=True)
    original_text: Mapped[str | None] = mapped_column(Text)  # what was written, once a person has edited `text`
    state_before: Mapped[str | None] = mapped_column(String(20))  # of an excluded row: what it goes back to
    split: Mapped[str | None] = mapped_column(String(20))  # held_out, train, validation; None: not decided
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class Recipe(Base):
    """One version of a saved recipe. Versions of one recipe share `family`; a copy begins a family of its own."""

    __tablename__ = "recipes"
    __table_args__ = (UniqueConstraint("family", "version"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    family: Mapped[str] = mapped_column(String(32), index=True)
    version: Mapped[int]
    name: Mapped[str] = mapped_column(String(200))
    recipe: Mapped[dict[str, Any]]
    copied_from: Mapped[str | None] = mapped_column(String(32))
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class DatasetVersion(Base):
    """What a data set was at one moment, split into train and validation; its examples never change."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    number: Mapped[int]
    note: Mapped[str] = mapped_column(Text, default="")
    sha256: Mapped[str] = mapped_column(String(64))  # of its examples: equal ones are the same version
    settings: Mapped[dict[str, Any]]  # how it was split
    n_train: Mapped[int]
    n_validation: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class VersionExample(Base):
    """One example of a version."""

    __tablename__ = "version_examples"
    __table_args__ = (UniqueConstraint("version_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    position: Mapped[int]
    split: Mapped[str] = mapped_column(String(20))  # train | validation | held_out
    row_key: Mapped[str] = mapped_column(String(64))
    column_values: Mapped[dict[str, Any]]
    prompt: Mapped[str] = mapped_column(Text)
    completion: Mapped[str] = mapped_column(Text)


class Batch(Base):
    """One file of requests at a provider's Batch API. The row is the intent; `remote_id` is what the POST answered.

    `state` is ours: preparing, submitting, waiting, collecting, done, failed, cancelled; `status` the provider's word.
    """

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # sent as metadata fabula_intent
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="preparing")
    reason: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str | None] = mapped_column(String(30))
    input_file: Mapped[str | None] = mapped_column(String(200))
    remote_id: Mapped[str | None] = mapped_column(String(200))
    output_file: Mapped[str | None] = mapped_column(String(200))
    error_file: Mapped[str | None] = mapped_column(String(200))
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class Run(Base):
    """One go at filling the pending rows of a data set.

    States: queued, running, pausing, paused, stopping, stopped, done, failed(reason).
    """

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    reason: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)  # what it waits for right now, e.g. "waiting 12 s: rate limit"
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    mode: Mapped[str] = mapped_column(String(10), default="live")  # live | batch
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
    reason: Mapped[str | None] = mapped_column(Text)
    total: Mapped[int] = mapped_column(default=0)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class Answer(Base):
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
    reason: Mapped[str | None] = mapped_column(Text)  # why there is no answer
    right: Mapped[bool | None]


class OwnPrice(Base):
    """A price that a person has set: it stands before the book's. One amount for one use of one model."""

    __tablename__ = "own_prices"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    what: Mapped[str] = mapped_column(String(20))  # training input cached_input output hosting_hour batch_factor
    amount: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(String(3), default="USD")
    unit: Mapped[str] = mapped_column(String(10), default="mtok")  # mtok | ktok | hour | factor
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    note: Mapped[str] = mapped_column(Text, default="")
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class Budget(Base):
    """The most that may be spent: in a calendar month (UTC) by everybody or by one person, or in any one run."""

    __tablename__ = "budgets"
    __table_args__ = (UniqueConstraint("scope", "subject"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    scope: Mapped[str] = mapped_column(String(10))  # run | month | person
    subject: Mapped[str] = mapped_column(String(100), default="")  # of `person`: the actor
    amount_usd: Mapped[Decimal]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class Spend(Base):
    """One paid (or free) call: an intent before it is sent, the actual figures after."""

    __tablename__ = "spend"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    actor: Mapped[str] = mapped_column(String(100))
    page: Mapped[str] = mapped_column(String(20))  # dataset | training | story
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    reference: Mapped[str] = mapped_column(String(64), index=True)  # run, job or story id
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[Decimal | None]  # None: the price is unknown
    estimated_usd: Mapped[Decimal | None]  # what was expected before the call
    counted_prompt_tokens: Mapped[int | None]  # by our own count; the two above are the provider's where it gave them
    counted_completion_tokens: Mapped[int | None]


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
    asked_model: Mapped[str | None] = mapped_column(String(200))  # `model` is what the server said it was
    prompt_tokens: Mapped[int | None]
    cost_usd: Mapped[Decimal | None]
    error: Mapped[str | None] = mapped_column(Text)  # why it was cut
    edited_text: Mapped[str | None] = mapped_column(Text)  # a person's own version; `text` stays as written
    stars: Mapped[int | None]  # 1 to 5
    liked: Mapped[bool | None]  # thumb up or down
    tags: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    column_values: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # what filled the prompt
    round_id: Mapped[str | None] = mapped_column(String(32), index=True)  # stories from one prompt, side by side
    step: Mapped[str | None] = mapped_column(String(20))  # of a chain: outline, story, title
    deleted_at: Mapped[datetime | None]


class Vote(Base):
    """Which of the stories of one round a person liked best. `winner` None: none of them."""

    __tablename__ = "votes"
    __table_args__ = (UniqueConstraint("round_id", "actor"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utcnow)
    actor: Mapped[str] = mapped_column(String(100))
    round_id: Mapped[str] = mapped_column(String(32), index=True)
    blind: Mapped[bool]
    order: Mapped[list[str]]  # story ids as they stood on the screen
    winner: Mapped[str | None] = mapped_column(String(32))  # story id


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
