"""Tables for data sets: rows, the runs and batches that fill them, and immutable versions."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, MessageText, Owned, utcnow


class Dataset(Owned, Base):
    """A set of rows with named columns; `recipe` is set if it is generated, from a grid or a list of prompts."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    source: Mapped[str] = mapped_column(
        String(20)
    )  # recipe | prompts | sample | upload | chat | examples | mix | votes
    columns: Mapped[list[str]]  # the columns that form the prompt, in order
    prompt_separator: Mapped[str] = mapped_column(String(20), default=",")  # separator between the columns
    recipe: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    recipe_id: Mapped[str | None] = mapped_column(String(32))  # the saved recipe from which it was created
    system_message: Mapped[str | None] = mapped_column(Text)  # system message of a chat file; None to use the recipe's
    # grid positions below this already have rows; negative while rows are repositioned (`grid_store.update_positions`)
    fill_cursor: Mapped[int] = mapped_column(default=0)
    mix_sources: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # for a mix: its sources
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class Row(Base):
    """One example: one repeat of a grid cell with its generated text.

    States: pending, sent, done, failed(reason), excluded(reason).
    """

    __tablename__ = "rows"
    __table_args__ = (
        UniqueConstraint("dataset_id", "key"),
        Index("ix_rows_state", "dataset_id", "state", "updated_at"),
        Index("ix_rows_position", "dataset_id", "position"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    key: Mapped[str] = mapped_column(String(64))  # hash(recipe fields, values, repeat)
    position: Mapped[int]
    repeat: Mapped[int] = mapped_column(default=0)
    column_values: Mapped[dict[str, Any]]
    prompt: Mapped[str] = mapped_column(Text)  # the prompt as sent; for uploads, the joined columns
    state: Mapped[str] = mapped_column(String(20), default="pending")
    reason: Mapped[str | None] = mapped_column(MessageText)
    text: Mapped[str | None] = mapped_column(Text)
    # for a preference: the answer that was not preferred to `text`
    rejected: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(30))
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    cost_usd: Mapped[Decimal | None]
    run_id: Mapped[str | None] = mapped_column(String(32))
    claimed_by: Mapped[str | None] = mapped_column(String(64))  # the executor that sent it
    batch_id: Mapped[str | None] = mapped_column(String(32), index=True)
    original_text: Mapped[str | None] = mapped_column(Text)  # the generated text, if the user has edited `text`
    previous_state: Mapped[str | None] = mapped_column(String(20))  # for an excluded row: the state to restore
    split: Mapped[str | None] = mapped_column(String(20))  # held_out, train, validation; None if not assigned
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class RecipeVersion(Owned, Base):
    """One version of a saved recipe. Versions of one recipe share `family`; a copy starts a new family."""

    __tablename__ = "recipe_versions"
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
    """An immutable snapshot of a data set, split into training and validation examples."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    number: Mapped[int]
    note: Mapped[str] = mapped_column(Text, default="")
    sha256: Mapped[str] = mapped_column(String(64))  # hash of its examples; equal hashes mean the same version
    settings: Mapped[dict[str, Any]]  # split settings
    n_train: Mapped[int]
    n_validation: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class VersionExample(Base):
    """One example in a version."""

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
    rejected: Mapped[str | None] = mapped_column(Text)  # see `Row`


class Run(Base):
    """One run that fills the pending rows of a data set.

    States: queued, running, waiting(reason, not_before), pausing, paused, stopping, stopped, done, failed(reason).
    """

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")
    reason: Mapped[str | None] = mapped_column(MessageText)
    note: Mapped[str | None] = mapped_column(MessageText)  # what it is waiting for, e.g. "waiting 12 s: rate limit"
    not_before: Mapped[datetime | None]  # for a waiting run, when the worker resumes it
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    mode: Mapped[str] = mapped_column(String(10), default="live")  # live | batch
    scope: Mapped[str] = mapped_column(String(10), default="all")  # all: all pending rows | failed: those being retried
    unable_workers: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")  # see `run_sharing.leave`
    budget_usd: Mapped[Decimal | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))


class Batch(Base):
    """One file of requests at a provider's Batch API. The row is the intent; `remote_id` is the id from the POST.

    `state` is Fabula's own: preparing, submitting, waiting, collecting, done, failed, cancelled.
    """

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # sent as metadata fabula_intent
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    spend_id: Mapped[int | None] = mapped_column(ForeignKey("spend.id", ondelete="SET NULL"), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="preparing")
    reason: Mapped[str | None] = mapped_column(MessageText)
    remote_status: Mapped[str | None] = mapped_column(String(30))
    input_file_id: Mapped[str | None] = mapped_column(String(200))
    remote_id: Mapped[str | None] = mapped_column(String(200))
    output_file_id: Mapped[str | None] = mapped_column(String(200))
    error_file_id: Mapped[str | None] = mapped_column(String(200))
    submitted_to: Mapped[str | None] = mapped_column(Text)  # address, see `core.providers.account`
    account: Mapped[str | None] = mapped_column(String(32))  # fingerprint of address and key
    stranded_at: Mapped[datetime | None]  # when its provider was found to lead to another account; None: it does not
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)
