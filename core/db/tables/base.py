"""Column types and the base class of all tables."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal

from sqlalchemy import JSON, Dialect, String, Text
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime, TypeDecorator

from core import message
from core.actor import LOCAL

Sharing = Literal["private", "team_read", "team_edit"]
"""Besides its owner and admins: no other person; everyone may read it; every editor may also change it."""


class Usd(TypeDecorator[Decimal]):
    """Exact US dollars, stored as text because SQLite has no decimal type."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Utc(TypeDecorator[datetime]):
    """A time that is always timezone-aware and in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class MessageText(TypeDecorator[str]):
    """A text column that keeps the template and parameters of a `Message`; plain text is stored unchanged."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else message.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else message.loads(value)


def utcnow() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {dict[str, Any]: JSON, list[str]: JSON, datetime: Utc, Decimal: Usd}


def _creator(context: DefaultExecutionContext) -> str:
    values = context.get_current_parameters()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types here
    return str(values["actor"] if "actor" in values else values["created_by"])


def _first_sharing(context: DefaultExecutionContext) -> Sharing:
    return "private" if _creator(context) == LOCAL.id else "team_read"


class Owned:
    """Columns of what belongs to someone. A new thing belongs to its creator, and the team may read it.

    What was made in local mode stays private when the installation becomes a team's. `core.ownership` has the rules.
    """

    owner_id: Mapped[str] = mapped_column(String(100), default=_creator, server_default="")
    sharing: Mapped[str] = mapped_column(String(20), default=_first_sharing, server_default="private")
