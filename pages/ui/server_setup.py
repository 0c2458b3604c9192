"""Reads sign-in settings from Streamlit's configuration, for the startup check and the sign-in page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit import config
from streamlit.errors import StreamlitSecretNotFoundError

from core.team_mode import ServerSetup

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def use_secrets_file(path: str) -> None:
    """Let Streamlit read its secrets, with the section `[auth]`, from this file only.

    An empty path means its default locations.
    """
    if path:
        config.set_option("secrets.files", [path] if Path(path).is_file() else [])


def keep_to_this_machine() -> None:
    """A server that listens on this machine only answers under this machine's names, unless `allowedHosts` says more.

    Otherwise a web page could give its own name this machine's address, and use the studio as the local user.
    """
    address = config.get_option("server.address")
    if address in _LOOPBACK and not config.get_option("server.allowedHosts"):
        config.set_option("server.allowedHosts", list(_LOOPBACK))


def other_origins() -> tuple[str, ...]:
    """Origins of other web pages that Streamlit's configuration allows; `*`: all."""
    if not config.get_option("server.enableCORS"):
        return ("*",)
    return tuple(str(one) for one in config.get_option("server.corsAllowedOrigins") or ())


def read() -> ServerSetup:
    """The configuration of this server."""
    auth = auth_section()
    headers = config.get_option("server.trustedUserHeaders")
    return ServerSetup(
        auth=auth,
        cookie_secret=str(auth.get("cookie_secret", "")),  # `st.login` reads it from here only
        agent_api=bool(config.get_option("server.enableAgentApi")),
        trusted_user_headers=headers if isinstance(headers, Mapping) else {},
        allowed_hosts=[str(host) for host in config.get_option("server.allowedHosts") or ()],
    )


def client_id(provider: str) -> str:
    """The id of this studio at a sign-in provider; empty if there is no such provider."""
    auth = auth_section()
    section = auth.get(provider, auth if provider == "default" else {})
    return str(section.get("client_id", "")) if isinstance(section, Mapping) else ""


def auth_section() -> Mapping[str, Any]:
    """The section `[auth]` of Streamlit's secrets; empty if there is none."""
    try:
        return dict(st.secrets.get("auth", {}))
    except StreamlitSecretNotFoundError:  # there is no file
        return {}
