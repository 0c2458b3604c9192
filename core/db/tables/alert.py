"""Table of alerts: the events found, and whether each was sent."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, MessageText, utcnow


class Alert(Base):
    """One alert on one channel. It is stored before it is sent, so no event is reported twice."""

    __tablename__ = "alerts"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)  # the event, e.g. run:abc:done:2026-11-30T…
    channel: Mapped[str] = mapped_column(String(20), primary_key=True)  # webhook | email
    title: Mapped[str] = mapped_column(MessageText)
    text: Mapped[str] = mapped_column(MessageText)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    tries: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime] = mapped_column(default=utcnow)  # when to try again; also protects it while it is sent
    sent_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)  # why the last attempt failed
