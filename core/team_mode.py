"""What a server needs before a team may use it. With `FABULA_MODE=team`, the studio does not start without it.

The sentences are in English, because they are shown in a terminal, like the startup errors of other programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from core.errors import BadSettings
from core.settings import Settings

MIN_COOKIE_SECRET_BYTES = 32  # the key of an HMAC-SHA-256 should have as many bytes as its digest (RFC 2104)
_CALLBACK = "/oauth2callback"  # where Streamlit listens
_OF_PROVIDER = ("client_id", "client_secret", "server_metadata_url")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """The configuration that decides whether a server may start.

    Attributes:
        auth: the section `[auth]` of Streamlit's secrets; empty if there is none.
        cookie_secret: signs the cookies; if empty, Streamlit generates one for each process.
        agent_api: `server.enableAgentApi`, which serves every page without sign-in.
        trusted_user_headers: `server.trustedUserHeaders`: request headers that override who is signed in.
        allowed_hosts: `server.allowedHosts`.
    """

    auth: Mapping[str, Any] = field(repr=False)
    cookie_secret: str = field(repr=False)
    agent_api: bool
    trusted_user_headers: Mapping[str, str]
    allowed_hosts: Sequence[str]


def check(settings: Settings, setup: ServerSetup) -> None:
    """Refuse to start a server that would let strangers in.

    Raises:
        BadSettings: the server must not start; contains one sentence for each reason. Never raised in local mode.
    """
    if settings.mode == "team" and (faults := list(_faults(settings, setup))):
        raise BadSettings(faults)


def sign_in_providers(auth: Mapping[str, Any]) -> list[str]:
    """The names of the sign-in providers in `[auth]`; `default` is the one without a section of its own."""
    named = [name for name, value in auth.items() if isinstance(value, Mapping) and name != "client_kwargs"]
    return (["default"] if "client_id" in auth else []) + named


def _faults(settings: Settings, setup: ServerSetup) -> Iterator[str]:
    if settings.admin_email is None:
        yield "FABULA_ADMIN_EMAIL is not set: there would be no admin to invite others."
    if not setup.auth:
        yield "Sign-in is not configured: Streamlit's secrets.toml has no section [auth]."
    else:
        yield from _provider_faults(setup.auth)
        redirect = str(setup.auth.get("redirect_uri", "")).replace("{port}", "8501")  # Streamlit fills in its own
        yield from _address_faults(redirect, setup.allowed_hosts)
    if not setup.cookie_secret:
        yield "cookie_secret is not set in [auth]: every process would use another one."
    elif (length := len(setup.cookie_secret.encode())) < MIN_COOKIE_SECRET_BYTES:
        yield f"cookie_secret has {length} bytes; it needs at least {MIN_COOKIE_SECRET_BYTES}."
    if setup.agent_api:
        yield "server.enableAgentApi is on: it serves every page without sign-in."
    if setup.trusted_user_headers and settings.trusted_proxy is None:
        yield (
            "server.trustedUserHeaders is set, so that whoever sends these headers is signed in. "
            "Remove it, or name the proxy that removes them from requests in FABULA_TRUSTED_PROXY."
        )


def _provider_faults(auth: Mapping[str, Any]) -> Iterator[str]:
    providers = sign_in_providers(auth)
    if not providers:
        yield "[auth] names no sign-in provider: it needs client_id, client_secret and server_metadata_url."
    for name in providers:
        section = auth if name == "default" else auth[name]
        missing = [key for key in _OF_PROVIDER if not section.get(key)]
        shown = "[auth]" if name == "default" else f"[auth.{name}]"
        if missing:
            yield f"{shown} has no {', '.join(missing)}."
        if "_" in name:
            yield f"{shown}: Streamlit allows no underscore in the name of a sign-in provider."


def _address_faults(redirect: str, allowed_hosts: Sequence[str]) -> Iterator[str]:
    parts = _split(redirect)
    if parts is None or not parts.hostname or not parts.path.endswith(_CALLBACK):
        yield f"redirect_uri in [auth] must be the whole address of this server, ending in {_CALLBACK}."
        return
    host = parts.hostname.lower()
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        yield "redirect_uri in [auth] must begin with https://: the sign-in cookie must not be sent unencrypted."
    if not allowed_hosts:
        yield f"server.allowedHosts is not set. Set it to the host of redirect_uri: {host}."
    elif "*" in allowed_hosts:
        yield 'server.allowedHosts contains "*", which allows every host.'
    elif not any(_allows(str(allowed).lower().rstrip("."), host) for allowed in allowed_hosts):
        yield f"server.allowedHosts does not contain {host}, the host of redirect_uri."


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises if it is not a number
    except ValueError:
        return None
    return parts


def _allows(allowed: str, host: str) -> bool:
    return host == allowed or (allowed.startswith("*.") and host.endswith(allowed[1:]))
