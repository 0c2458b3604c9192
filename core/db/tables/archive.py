"""Tables for accounts that are moved here: their tuned models and files, and how far each of them has come."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, Date, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, MessageText, utcnow


class AccountArchive(Base):
    """One account at a provider whose tuned models and files are listed and archived.

    States: listing, listed, archiving, archived, stopping, stopped, failed(reason).
    """

    __tablename__ = "account_archives"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    provider: Mapped[str] = mapped_column(String(50))  # id in the registry; "": its key was entered and not stored
    name: Mapped[str] = mapped_column(String(200))
    base_url: Mapped[str] = mapped_column(Text)
    account: Mapped[str | None] = mapped_column(String(32))  # fingerprint, see `core.providers.account`
    state: Mapped[str] = mapped_column(String(20), index=True, default="listing")
    goal: Mapped[str] = mapped_column(String(20), default="inventory")  # inventory | archive
    reason: Mapped[str | None] = mapped_column(MessageText)
    next_step: Mapped[str | None] = mapped_column(MessageText)
    note: Mapped[str | None] = mapped_column(MessageText)  # what it is waiting for
    jobs_cursor: Mapped[str | None] = mapped_column(String(200))  # the last job of the last page that was saved
    usage_note: Mapped[str | None] = mapped_column(MessageText)  # why usage is not known; None if it is
    listed_at: Mapped[datetime | None]  # when the inventory was last complete
    started_at: Mapped[datetime | None]  # when the current work began
    done_at_start: Mapped[int] = mapped_column(default=0)  # units of work that were done when it began
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class ArchivedTune(Base):
    """One fine-tuning job of an account and the model that it made. States: found, archived, data."""

    __tablename__ = "archived_tunes"
    __table_args__ = (UniqueConstraint("archive_id", "remote_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    archive_id: Mapped[str] = mapped_column(ForeignKey("account_archives.id"))
    remote_id: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(20), default="found")
    reason: Mapped[str | None] = mapped_column(MessageText)  # what is missing, and what can still be done
    model: Mapped[str | None] = mapped_column(String(200))
    base_model: Mapped[str] = mapped_column(String(200))
    method: Mapped[str] = mapped_column(String(40))  # supervised | dpo | reinforcement | the provider's own word
    status: Mapped[str] = mapped_column(String(30))
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    trained_rows: Mapped[int | None]
    training_file: Mapped[str | None] = mapped_column(String(200))
    validation_file: Mapped[str | None] = mapped_column(String(200))
    result_files: Mapped[list[str]]
    created_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    dark_on: Mapped[date | None] = mapped_column(Date)
    dark_source: Mapped[str | None] = mapped_column(String(10))  # api | list
    last_used: Mapped[datetime | None]
    calls: Mapped[int | None]  # in the last 30 days; None if unknown
    usd: Mapped[Decimal | None]
    details_stored: Mapped[bool] = mapped_column(default=False)  # its job, events and checkpoints are in the archive
    raw: Mapped[dict[str, Any]] = mapped_column(JSON)  # the job as the provider sent it
    job_id: Mapped[str | None] = mapped_column(String(32))  # the job in the ledger
    dataset_id: Mapped[str | None] = mapped_column(String(32), index=True)
    version_id: Mapped[str | None] = mapped_column(String(32))


class ArchivedFile(Base):
    """One file of an account. States: listed, stored, gone, refused(reason)."""

    __tablename__ = "archived_files"
    __table_args__ = (UniqueConstraint("archive_id", "remote_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    archive_id: Mapped[str] = mapped_column(ForeignKey("account_archives.id"))
    remote_id: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(20), default="listed")
    reason: Mapped[str | None] = mapped_column(MessageText)
    purpose: Mapped[str] = mapped_column(String(40))
    filename: Mapped[str] = mapped_column(String(300))
    # bytes, as listed; None if only a job names the file
    size: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime | None]
    sha256: Mapped[str | None] = mapped_column(String(64))
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    stored_at: Mapped[datetime | None]
