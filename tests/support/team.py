"""A team for tests: a sign-in provider's claims about users, and people who have signed in."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from core.actor import Actor, Role
from core.db.store import Store
from core.db.tables import utcnow
from core.people import invitations
from core.people.identity import Identity
from core.people.sign_in import SignedIn, sign_in
from core.settings import Settings

ADMIN_EMAIL = "ann@example.com"
ISSUER = "https://id.example.com"
TEAM_VARIABLES = {
    "FABULA_MODE": "team",
    "FABULA_ADMIN_EMAIL": ADMIN_EMAIL,
    "FABULA_ALLOWED_DOMAINS": "corp.example,partner.example,k.example",
}
_nonces = itertools.count()


def claims(address: str = ADMIN_EMAIL, **changes: Any) -> dict[str, Any]:
    """The claims of one sign-in; each call is a new sign-in. A claim of None is omitted."""
    said: dict[str, Any] = {
        "iss": ISSUER,
        "sub": f"subject of {address}",
        "provider": "default",
        "email": address,
        "email_verified": True,
        "name": address.partition("@")[0].title(),
        "iat": int(utcnow().timestamp()),
        "nonce": f"n{next(_nonces)}",
    }
    said |= changes
    return {name: value for name, value in said.items() if value is not None}


def studio_variables(home: Path, secrets: str) -> dict[str, str]:
    """Create a home folder with this secrets file.

    Args:
        home: it must not exist yet.
        secrets: Streamlit's secrets, as TOML.

    Returns:
        The environment variables of a team's studio in it, without an engine.
    """
    home.mkdir(mode=0o700)
    file = home / "secrets.toml"
    file.write_text(secrets, encoding="utf-8")
    return {
        **TEAM_VARIABLES,
        "FABULA_SECRETS_FILE": str(file),
        "FABULA_ENGINE_URL": "http://127.0.0.1:9",  # nothing answers there
        "STREAMLIT_SERVER_ALLOWED_HOSTS": "localhost",
    }


def identity(email: str = ADMIN_EMAIL, **changes: Any) -> Identity:
    """One sign-in at a provider."""
    return Identity.from_claims(claims(email, **changes))


def arrive(store: Store, settings: Settings, email: str = ADMIN_EMAIL, **changes: Any) -> SignedIn:
    """Sign a person in."""
    return sign_in(store, settings, identity(email, **changes), "192.0.2.1 · Firefox")


def member(store: Store, settings: Settings, admin: Actor, email: str, role: Role) -> SignedIn:
    """Invite a person and sign them in."""
    invitations.invite(store, admin, email, role)
    return arrive(store, settings, email)
