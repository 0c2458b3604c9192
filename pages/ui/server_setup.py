"""Reads sign-in settings from Streamlit's configuration, for the startup check and the sign-in page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit import config
from streamlit.errors import StreamlitSecretNotFoundError

from core.team_mode import ServerSetup


def use_secrets_file(path: str) -> None:
    """Let Streamlit read its secrets, with the section `[auth]`, from this file only.

    An empty path means its default locations.
    """
    if path:
        config.set_option("secrets.files", [path] if Path(path).is_file() else [])


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


def auth_section() -> Mapping[str, Any]:
    """The section `[auth]` of Streamlit's secrets; empty if there is none."""
    try:
        return dict(st.secrets.get("auth", {}))
    except StreamlitSecretNotFoundError:  # there is no file
        return {}
