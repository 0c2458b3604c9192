"""E-mail addresses: when two are the same, and what can be one. Settings, invitations and sign-ins use these rules."""

from __future__ import annotations

import re

MAX_EMAIL = 320
"""Characters of an e-mail address (RFC 3696)."""
_DOMAIN = re.compile(r"[^\s@,]+\.[^\s@,.]+|localhost")


def lower_email(text: str) -> str:
    """Return an address or a domain in the form used for comparison, without surrounding spaces.

    Lowers only ASCII letters: `str.lower` would turn the Kelvin sign into a `k`, and two domains into one.
    """
    return "".join(one.lower() if one.isascii() else one for one in text.strip())


def is_email(text: str) -> bool:
    """Whether a text has the form of an e-mail address; whether the address exists is not checked."""
    name, at, domain = text.partition("@")
    return bool(name and at and domain) and len(text) <= MAX_EMAIL and not set(" ,@\n\r\t") & set(name + domain)


def is_email_domain(text: str) -> bool:
    """Whether a text can be the part of an e-mail address after the `@`, written in full."""
    return _DOMAIN.fullmatch(text) is not None
