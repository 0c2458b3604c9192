"""Tables for a team: people, the accounts that they sign in with, invitations, and sign-ins."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db.tables.base import Base, utcnow


class Person(Base):
    """A member of the team. From `disabled_at` on, none of their sign-ins is valid."""

    __tablename__ = "people"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # the `actor` or `created_by` of other tables
    email: Mapped[str] = mapped_column(String(320), index=True)  # from the latest sign-in; verified by the provider
    name: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(10))
    disabled_at: Mapped[datetime | None]
    signed_out_at: Mapped[datetime | None]  # sign-ins at the provider before this time are refused
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class SignInAccount(Base):
    """An account at a sign-in provider that belongs to a person. A subject is unique per issuer (OpenID Connect 2)."""

    __tablename__ = "sign_in_accounts"

    issuer: Mapped[str] = mapped_column(String(300), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("people.id"), index=True)
    email: Mapped[str] = mapped_column(String(320))
    email_verified: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class Invitation(Base):
    """Allows one account with this e-mail address to sign in. `provider`: the only sign-in provider allowed; "" for
    any.
    """

    __tablename__ = "invitations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    email: Mapped[str] = mapped_column(String(320), index=True)
    provider: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    created_by: Mapped[str] = mapped_column(String(100))
    accepted_at: Mapped[datetime | None]
    accepted_by: Mapped[str | None] = mapped_column(String(32))


class SignIn(Base):
    """One sign-in at a provider, shared by all tabs of a browser. From `ended_at` on, its cookie is refused."""

    __tablename__ = "sign_ins"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # a hash identifying the sign-in at the provider
    person_id: Mapped[str] = mapped_column(ForeignKey("people.id"), index=True)
    at: Mapped[datetime] = mapped_column(default=utcnow)
    origin: Mapped[str] = mapped_column(String(200))  # IP address and browser
    ended_at: Mapped[datetime | None]
