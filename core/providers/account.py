"""Which account work was submitted to: the address and a one-way fingerprint of address and key.

A batch or a training job that a provider has may only be continued there. After an edit of the provider, the same id
can mean another account, where the work would be submitted and billed again, or not be found.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from core.errors import ProviderChanged
from core.message import msg, sentences
from core.providers.schemas import Provider

_SALT = b"fabula account"  # fixed: every worker must derive the same fingerprint
_COST = {"n": 1 << 14, "r": 8, "p": 1}  # scrypt, about 50 ms once per key: a short key cannot be guessed quickly
_BYTES = 12


@dataclass(frozen=True, slots=True)
class Account:
    """Where something was submitted.

    Attributes:
        submitted_to: the address, without user name and password; None: not submitted, or to an engine.
        account: fingerprint of address and key; None likewise.
    """

    submitted_to: str | None = None
    account: str | None = None

    def matches(self, provider: Provider) -> bool:
        """Whether the provider still has this address and key. An account that was not recorded counts as the same."""
        return self.account is None or self.account == of(provider).account


def of(provider: Provider) -> Account:
    """The account that a provider uses now. An engine has none: it belongs to one machine, and its token changes."""
    if provider.capabilities.engine_api:
        return Account()
    return Account(provider.shown_url, _fingerprint(provider.base_url.rstrip("/"), provider.api_key))


def changed(provider: Provider, before: Account, what: str) -> ProviderChanged:
    """The error for something that was submitted to another account than the provider uses now.

    Args:
        what: what was submitted, a sentence.
    """
    if before.submitted_to == provider.shown_url:
        now = msg("{name} has another key now, and the account of that key does not have it.", name=provider.name)
    else:
        now = msg(
            "It was submitted to {before}; {name} now points to {now}, which does not have it.",
            before=before.submitted_to or "?",
            name=provider.name,
            now=provider.shown_url,
        )
    return ProviderChanged(
        sentences(what, now),
        msg("Nothing was submitted again. Set the provider back to its earlier address and key to continue."),
    )


@lru_cache(maxsize=64)
def _fingerprint(base_url: str, api_key: str) -> str:
    return hashlib.scrypt(f"{base_url}\n{api_key}".encode(), salt=_SALT, dklen=_BYTES, **_COST).hex()
