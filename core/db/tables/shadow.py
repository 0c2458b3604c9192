"""Tables of shadows: an old model and its replacement answer the same calls, and their answers are compared."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, MessageText, utcnow


class ModelShadow(Base):
    """One comparison on programs' calls. A comparison that is started again is a new row, so its counts begin at 0.

    States: starting, on, stopping, flipping; then stopped, flipped (the new model answers), or dark (the same, because
    the old model has stopped). Starting, stopping and flipping are decided, and not yet confirmed by the engine.
    """

    __tablename__ = "model_shadows"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    alias: Mapped[str] = mapped_column(String(200), index=True)  # the old model's id, as programs ask for it
    model: Mapped[str] = mapped_column(String(200))  # the new model, on the engine
    provider: Mapped[str] = mapped_column(String(50))  # of the old model, in the registry
    share: Mapped[int]  # per cent of the calls that are copied
    threshold: Mapped[float | None]  # flips by itself above this agreement, 0 to 1; None: never
    min_calls: Mapped[int]  # not before so many calls were compared
    keep_days: Mapped[int] = mapped_column(default=30)  # how long pairs are kept
    fallback: Mapped[bool]  # whether the new model answers once the old one has stopped
    state: Mapped[str] = mapped_column(String(20), index=True, default="on")
    settled: Mapped[bool] = mapped_column(default=False)  # ended, and the engine has no more of its calls
    reason: Mapped[str | None] = mapped_column(MessageText)  # why it ended, or what the old model's provider said
    note: Mapped[str | None] = mapped_column(MessageText)  # what it waits for
    relayed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    dropped: Mapped[int] = mapped_column(default=0)
    lost: Mapped[int] = mapped_column(default=0)  # deleted by the engine before they were collected
    compared: Mapped[int] = mapped_column(default=0)
    agreed: Mapped[float] = mapped_column(default=0.0)  # sum of the scores of the compared calls
    collected: Mapped[int] = mapped_column(default=0)  # the engine's number of the last call that is in the ledger
    texts_deleted_at: Mapped[datetime | None]  # when someone last deleted its pairs
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))
    ended_by: Mapped[str | None] = mapped_column(String(100))  # who has decided; as in `AliasChange.changed_by`
    ended_at: Mapped[datetime | None]


class ShadowPair(Base):
    """Both answers to one call. Only the newest of a comparison are kept."""

    __tablename__ = "shadow_pairs"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    shadow_id: Mapped[str] = mapped_column(ForeignKey("model_shadows.id"), index=True)
    remote_id: Mapped[str] = mapped_column(String(60), unique=True)  # of the call at the engine
    created_at: Mapped[datetime]
    prompt: Mapped[str] = mapped_column(Text)  # JSON
    old: Mapped[str] = mapped_column(Text)
    new: Mapped[str | None] = mapped_column(Text)
    old_s: Mapped[float | None]
    new_s: Mapped[float | None]
    score: Mapped[float]
    error: Mapped[str] = mapped_column(Text, default="")  # why the new model gave no answer
