"""A person's identity, as reported by a sign-in provider."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from core.errors import SignInRefused
from core.message import msg

MAX_EMAIL = 320
"""Characters of an e-mail address (RFC 3696)."""
_MAX_NAME, _MAX_ISSUER, _MAX_SUBJECT = 200, 300, 255
_SIGN_IN_CLAIMS = ("iss", "sub", "provider", "iat", "exp", "nonce", "sid", "jti")


@dataclass(frozen=True, slots=True)
class Identity:
    """One sign-in at a provider.

    Attributes:
        provider: name of the provider in this studio's configuration.
        email: the address in lower case.
        sign_in_id: the same in every tab that uses this sign-in's cookie; a new sign-in gets a new id.
        issued_at: when the provider signed the person in, by its clock; None if it did not report the time.
    """

    issuer: str
    subject: str
    provider: str
    email: str
    name: str
    sign_in_id: str
    issued_at: datetime | None

    @classmethod
    def from_claims(cls, claims: Mapping[str, object]) -> Identity:
        """Read the claims of an ID token (OpenID Connect Core 2 and 5.1), with the provider's name as `provider`.

        Raises:
            SignInRefused: a claim that is needed is missing, or the e-mail address is not verified.
        """
        issuer, subject = _text(claims, "iss", _MAX_ISSUER), _text(claims, "sub", _MAX_SUBJECT)
        email = lower_email(_text(claims, "email", MAX_EMAIL))
        if not (issuer and subject and is_email(email)):
            raise SignInRefused(
                msg("Your sign-in provider did not say who you are: it sent no account or no e-mail address."),
                msg("Ask an admin to allow the scopes `openid`, `email` and `profile` at the provider."),
            )
        if claims.get("email_verified") is not True:
            raise SignInRefused(
                msg("Your sign-in provider has not verified the address {email}.", email=email),
                msg("Verify it there, then sign in again."),
            )
        fixed = json.dumps([claims.get(name) for name in _SIGN_IN_CLAIMS], default=str)
        return cls(
            issuer=issuer,
            subject=subject,
            provider=_text(claims, "provider", _MAX_NAME),
            email=email,
            name=_text(claims, "name", _MAX_NAME) or email,
            sign_in_id=hashlib.sha256(fixed.encode()).hexdigest(),
            issued_at=_time(claims.get("iat")),
        )

    @property
    def domain(self) -> str:
        """The part of the e-mail address after the `@`."""
        return self.email.rpartition("@")[2]


def lower_email(text: str) -> str:
    """An address for comparison. Lowers only ASCII letters: `str.lower` would turn the Kelvin sign into a `k`."""
    return "".join(one.lower() if one.isascii() else one for one in text.strip())


def is_email(text: str) -> bool:
    """Whether a text has the form of an e-mail address; whether the address exists is not checked."""
    name, at, domain = text.partition("@")
    return bool(name and at and domain) and len(text) <= MAX_EMAIL and not set(" ,@\n\r\t") & set(name + domain)


def _text(claims: Mapping[str, object], name: str, limit: int) -> str:
    """A claim as text; empty if it is missing, not text, or too long to be valid."""
    value = claims.get(name)
    return value if isinstance(value, str) and len(value) <= limit else ""


def _time(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        return None
