"""Tables of guests: links that show a round of stories to people without an account, and their votes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, utcnow


class GuestLink(Base):
    """A link for guests. It shows one round, or, for a stage, the round that the presenter shows at the moment."""

    __tablename__ = "guest_links"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)  # SHA-256; the token itself is in the link only
    stage: Mapped[bool]
    round_id: Mapped[str | None] = mapped_column(String(32))  # None: a stage without a finished round yet
    story_ids: Mapped[list[str]] = mapped_column(JSON)  # of the round, in the order shown
    max_guests: Mapped[int]  # that may vote
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]  # no more votes, and the names are shown


class GuestVote(Base):
    """A guest's vote for the best story of a round. `story_id` None: none of them."""

    __tablename__ = "guest_votes"
    __table_args__ = (UniqueConstraint("link_id", "round_id", "guest"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    link_id: Mapped[str] = mapped_column(ForeignKey("guest_links.id"))
    round_id: Mapped[str] = mapped_column(String(32), index=True)
    guest: Mapped[str] = mapped_column(String(64))  # SHA-256 of the browser's cookie
    story_id: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
