"""Table of worker heartbeats, which show any process which workers are alive."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, utcnow


class WorkerHeartbeat(Base):
    """One worker session; deleted when the worker stops cleanly."""

    __tablename__ = "worker_heartbeats"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # DBOS's executor id
    host: Mapped[str] = mapped_column(String(200))
    process: Mapped[str] = mapped_column(String(100))  # pid and start time, because pids are reused
    started_at: Mapped[datetime] = mapped_column(default=utcnow)
    heartbeat_at: Mapped[datetime] = mapped_column(default=utcnow)
    running: Mapped[int] = mapped_column(default=0)  # number of items that it is working on
