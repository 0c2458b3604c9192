"""A person's identity, as reported by a sign-in provider."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from core.email_addresses import MAX_EMAIL, is_email, lower_email
from core.errors import SignInRefused
from core.message import msg

_MAX_NAME, _MAX_ISSUER, _MAX_SUBJECT = 200, 300, 255
_SIGN_IN_CLAIMS = ("iss", "sub", "provider", "iat", "exp", "nonce", "sid", "jti")


@dataclass(frozen=True, slots=True)
class Identity:
    """One sign-in at a provider.

    Attributes:
        provider: name of the provider in this studio's configuration.
        email: the address in lower case.
        email_verified: whether the provider said that it has verified the address; False if its issuer is trusted
            without that.
        sign_in_id: the same in every tab that uses this sign-in's cookie; a new sign-in gets a new id.
        issued_at: when the provider signed the person in, by its clock; None if it did not report the time.
    """

    issuer: str
    subject: str
    provider: str
    email: str
    email_verified: bool
    name: str
    sign_in_id: str
    issued_at: datetime | None

    @classmethod
    def from_claims(
        cls, claims: Mapping[str, object], client_id: str = "", trusted_issuers: Collection[str] = ()
    ) -> Identity:
        """Read the claims of an ID token (OpenID Connect Core 2 and 5.1), with the provider's name as `provider`.

        Args:
            claims: what the provider says.
            client_id: of this studio at the provider, which the token must be meant for; "": not checked.
            trusted_issuers: issuers whose addresses count as verified although they do not say so
                (`FABULA_TRUSTED_EMAIL_ISSUERS`). Their "not verified" is still believed.

        Raises:
            SignInRefused: a claim that is needed is missing, the token is meant for another application, or the e-mail
                address is not verified.
        """
        issuer, subject = _text(claims, "iss", _MAX_ISSUER), _text(claims, "sub", _MAX_SUBJECT)
        email = lower_email(_text(claims, "email", MAX_EMAIL))
        if not (issuer and subject and is_email(email)):
            raise SignInRefused(
                msg("Your sign-in provider did not identify you: it sent no account or no e-mail address."),
                msg("Ask an admin to allow the scopes `openid`, `email` and `profile` at the provider."),
            )
        if client_id and client_id not in _audience(claims):
            raise SignInRefused(
                msg("Your sign-in provider answered for another application."),
                msg("Sign in again. If that fails too, ask an admin to check `client_id` in the section [auth]."),
            )
        verified = claims.get("email_verified")
        if verified is not True and not (verified is None and issuer in trusted_issuers):
            raise _not_verified(email, said=verified is not None)
        fixed = json.dumps([claims.get(name) for name in _SIGN_IN_CLAIMS], default=str)
        return cls(
            issuer=issuer,
            subject=subject,
            provider=_text(claims, "provider", _MAX_NAME),
            email=email,
            email_verified=verified is True,
            name=_text(claims, "name", _MAX_NAME) or email,
            sign_in_id=hashlib.sha256(fixed.encode()).hexdigest(),
            issued_at=_time(claims.get("iat")),
        )

    @property
    def domain(self) -> str:
        """The part of the e-mail address after the `@`."""
        return self.email.rpartition("@")[2]


def _not_verified(email: str, *, said: bool) -> SignInRefused:
    """The refusal of an address. `said`: the provider sent `email_verified`."""
    if said:
        return SignInRefused(
            msg("Your sign-in provider has not verified the address {email}.", email=email),
            msg("Verify it there, then sign in again."),
        )
    return SignInRefused(
        msg("Your sign-in provider does not say whether it has verified the address {email}.", email=email),
        msg("Ask an admin to let the provider send `email_verified`, or to set `FABULA_TRUSTED_EMAIL_ISSUERS`."),
    )


def _audience(claims: Mapping[str, object]) -> list[object]:
    """The applications that a token is meant for: one, or a list."""
    audience = claims.get("aud")
    return audience if isinstance(audience, list) else [audience]


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
