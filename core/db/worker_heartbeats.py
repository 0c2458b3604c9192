"""The workers' heartbeats: who is there, so that any process can ask and the dead one's work is taken over."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables import Base, utcnow


class WorkerBeat(Base):
    """One life of one worker process; the row goes when the worker stops in peace."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # DBOS's executor id
    host: Mapped[str] = mapped_column(String(200))
    process: Mapped[str] = mapped_column(String(100))  # pid and start time: pids come back, the pair does not
    started_at: Mapped[datetime] = mapped_column(default=utcnow)
    beat_at: Mapped[datetime] = mapped_column(default=utcnow)
    running: Mapped[int] = mapped_column(default=0)  # pieces of work in hand
