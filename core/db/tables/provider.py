"""Tables for providers that were added on the settings page."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, utcnow


class SavedProvider(Base):
    """One added provider. Removing it deletes the row and its key; `RemovedProvider` keeps its id."""

    __tablename__ = "providers"

    id: Mapped[str] = mapped_column(String(50), primary_key=True)  # as in runs, prices and the spend ledger
    preset: Mapped[str] = mapped_column(String(30))
    name: Mapped[str] = mapped_column(String(100))
    base_url: Mapped[str] = mapped_column(Text)
    encrypted_key: Mapped[str] = mapped_column(Text, default="")  # see `core.secret_key`; "" if it needs none
    certificates: Mapped[str] = mapped_column(Text, default="")  # PEM of the server's own CA; "" for the system's CAs
    models: Mapped[list[str]]  # offered instead of the server's list; [] to use that list
    found: Mapped[dict[str, Any] | None]  # findings of the last test
    revision: Mapped[str] = mapped_column(String(32))  # changes with every edit and test
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))


class RemovedProvider(Base):
    """The id of a removed provider. It is never used again, because prices, runs, jobs and ledger lines refer to it."""

    __tablename__ = "removed_providers"

    id: Mapped[str] = mapped_column(String(50), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    removed_at: Mapped[datetime] = mapped_column(default=utcnow)
    removed_by: Mapped[str] = mapped_column(String(100))
