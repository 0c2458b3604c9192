"""Table of the changes of the engine's aliases."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, utcnow


class AliasChange(Base):
    """One change of an alias of the engine. The newest change of an alias says what it leads to, since when and by
    whom, and what it led to before.
    """

    __tablename__ = "alias_changes"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    alias: Mapped[str] = mapped_column(String(200), index=True)
    model: Mapped[str | None] = mapped_column(String(200))  # None: the alias was removed
    previous: Mapped[str | None] = mapped_column(String(200))  # what it led to before; None: it did not exist
    changed_at: Mapped[datetime] = mapped_column(default=utcnow)
    changed_by: Mapped[str] = mapped_column(
        String(100)
    )  # "": through the engine's API; "automatic": by the studio itself
