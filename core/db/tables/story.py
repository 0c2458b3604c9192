"""Tables for stories, votes and guided tours."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, MessageText, Owned, utcnow
from core.languages import CHINESE

COMPARISON = "comparison"
"""`Story.step` for a text generated for the before-and-after comparison; shown with its job, not in the library."""
SAMPLE = "sample"
"""`Story.step` for a short sample from a model; not shown in the library either."""
NOT_IN_LIBRARY = (COMPARISON, SAMPLE)


class Story(Owned, Base):
    """A streamed story with its request."""

    __tablename__ = "stories"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    actor: Mapped[str] = mapped_column(String(100))
    provider: Mapped[str] = mapped_column(String(50))
    model: Mapped[str] = mapped_column(String(200))
    prompt: Mapped[str] = mapped_column(Text)
    parameters: Mapped[dict[str, Any]]
    text: Mapped[str] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(30))  # None: stopped or broken off, so the text is partial
    completion_tokens: Mapped[int | None]
    first_text_s: Mapped[float | None]
    duration_s: Mapped[float | None]
    # the requested model; `model` is the one that the server reported
    requested_model: Mapped[str | None] = mapped_column(String(200))
    prompt_tokens: Mapped[int | None]
    cost_usd: Mapped[Decimal | None]
    error: Mapped[str | None] = mapped_column(MessageText)  # why the stream broke off
    edited_text: Mapped[str | None] = mapped_column(Text)  # text edited by the user; `text` stays as generated
    stars: Mapped[int | None]  # 1 to 5
    liked: Mapped[bool | None]  # thumbs up or down
    tags: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    # values for the prompt template
    column_values: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # stories from the same prompt, shown side by side
    round_id: Mapped[str | None] = mapped_column(String(32), index=True)
    # for a chain: outline, story, title; or one of the constants above
    step: Mapped[str | None] = mapped_column(String(20))
    deleted_at: Mapped[datetime | None]


class Vote(Base):
    """A user's vote for the best story of a round; a `winner_id` of None means none of them."""

    __tablename__ = "votes"
    __table_args__ = (UniqueConstraint("round_id", "actor"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    actor: Mapped[str] = mapped_column(String(100))
    round_id: Mapped[str] = mapped_column(String(32), index=True)
    blind: Mapped[bool]
    story_ids: Mapped[list[str]]  # in the order in which they were shown
    winner_id: Mapped[str | None] = mapped_column(String(32))


class Tour(Base):
    """A guided tour, with its current step and the things it has created."""

    __tablename__ = "tours"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    state: Mapped[str] = mapped_column(String(20), index=True, default="queued")  # queued running done stopped failed
    step: Mapped[str] = mapped_column(String(20), default="dataset")  # dataset training curve cost story
    dataset_id: Mapped[str | None] = mapped_column(String(32))
    job_id: Mapped[str | None] = mapped_column(String(32))
    story_id: Mapped[str | None] = mapped_column(String(32))
    language: Mapped[str] = mapped_column(String(10), default=CHINESE)  # language of the page on which it was started
    reason: Mapped[str | None] = mapped_column(MessageText)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    finished_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(100))
