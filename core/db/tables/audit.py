"""Table of the audit log."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, utcnow


class AuditEntry(Base):
    """One action of one person. Entries are only added: `core.db.audit_log` writes and chains them."""

    __tablename__ = "audit_log"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # from 1, without gaps
    at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    actor: Mapped[str] = mapped_column(String(100), index=True)  # a person's id
    origin: Mapped[str] = mapped_column(String(200))  # address and browser of the sign-in
    action: Mapped[str] = mapped_column(String(100), index=True)  # name of the function, without `core.`
    details: Mapped[str] = mapped_column(Text)  # JSON: `arguments`, and `changes` with the values before and after
    previous_hash: Mapped[str] = mapped_column(String(64))  # `hash` of the entry before; "" for the first one
    hash: Mapped[str] = mapped_column(String(64))  # SHA-256 of everything else
