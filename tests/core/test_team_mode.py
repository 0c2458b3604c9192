"""Team mode: every setup that would let strangers in is refused at the start, with a sentence that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import team_mode
from core.errors import BadSettings
from core.settings import Settings
from core.team_mode import ServerSetup

_ROOT = Path(__file__).parents[2]
_CLIENT = {"client_id": "c", "client_secret": "s", "server_metadata_url": "https://id.example.com/.well-known"}
_AUTH: Mapping[str, Any] = {
    "redirect_uri": "https://fabula.example.com/oauth2callback",
    "cookie_secret": "c" * 32,
    **_CLIENT,
}
_TEAM = Settings.from_env({"FABULA_MODE": "team", "FABULA_ADMIN_EMAIL": "ann@example.com"})
_SETUP = ServerSetup(_AUTH, "c" * 32, agent_api=False, trusted_user_headers={}, allowed_hosts=["fabula.example.com"])


def _auth(**changes: Any) -> ServerSetup:
    changed = {name: value for name, value in ({**_AUTH, **changes}).items() if value is not None}
    return replace(_SETUP, auth=changed, cookie_secret=str(changed.get("cookie_secret", "")))


def _faults(setup: ServerSetup, settings: Settings = _TEAM) -> tuple[str, ...]:
    try:
        team_mode.check(settings, setup)
    except BadSettings as exc:
        return exc.faults
    return ()


_NO_PROVIDER = dict.fromkeys(_CLIENT)


@pytest.mark.parametrize(
    ("setup", "told"),
    [
        (replace(_SETUP, auth={}), "Sign-in is not configured"),
        (_auth(**_NO_PROVIDER), "names no sign-in provider"),
        (_auth(client_secret=None), "[auth] has no client_secret."),
        (_auth(okta={"client_id": "c"}), "[auth.okta] has no client_secret, server_metadata_url."),
        (_auth(my_okta=_CLIENT), "no underscore"),
        (_auth(cookie_secret=None), "cookie_secret is not set"),
        (_auth(cookie_secret="c" * 31), "31 bytes; it needs at least 32"),
        (replace(_SETUP, agent_api=True), "server.enableAgentApi is on"),
        (replace(_SETUP, trusted_user_headers={"X-Email": "email"}), "FABULA_TRUSTED_PROXY"),
        (_auth(redirect_uri=None), "ending in /oauth2callback"),
        (_auth(redirect_uri="/oauth2callback"), "ending in /oauth2callback"),
        (_auth(redirect_uri="https://fabula.example.com/"), "ending in /oauth2callback"),
        (_auth(redirect_uri="https://fabula.example.com:x/oauth2callback"), "ending in /oauth2callback"),
        (_auth(redirect_uri="http://fabula.example.com/oauth2callback"), "must begin with https://"),
        (_auth(redirect_uri="ftp://localhost/oauth2callback"), "must begin with https://"),
        (replace(_SETUP, allowed_hosts=[]), "server.allowedHosts is not set"),
        (replace(_SETUP, allowed_hosts=["*"]), "allows every host"),
        (replace(_SETUP, allowed_hosts=["other.example.com"]), "does not contain fabula.example.com"),
        (replace(_SETUP, allowed_hosts=["*.le.com"]), "does not contain fabula.example.com"),
    ],
)
def test_a_team_server_that_lets_strangers_in_is_refused(setup: ServerSetup, told: str) -> None:
    faults = _faults(setup)
    assert len([fault for fault in faults if told in fault]) == 1, faults
    assert _faults(setup, replace(_TEAM, mode="local")) == ()


@pytest.mark.parametrize(
    "setup",
    [
        _SETUP,
        _auth(**_NO_PROVIDER, okta=_CLIENT, microsoft=_CLIENT),
        _auth(cookie_secret="密" * 11),  # 33 bytes
        replace(_SETUP, allowed_hosts=["localhost", "*.example.com"]),
        replace(
            _auth(redirect_uri="http://localhost:{port}/oauth2callback"),
            allowed_hosts=["localhost"],
        ),
    ],
)
def test_a_team_server_with_sign_in_starts(setup: ServerSetup) -> None:
    assert _faults(setup) == ()


def test_somebody_must_be_able_to_invite_others() -> None:
    assert "FABULA_ADMIN_EMAIL" in _faults(_SETUP, replace(_TEAM, admin_email=None))[0]


def test_headers_are_trusted_when_the_proxy_is_named() -> None:
    setup = replace(_SETUP, trusted_user_headers={"X-Email": "email"})
    assert _faults(setup, replace(_TEAM, trusted_proxy="caddy")) == ()


def test_the_server_ends_with_a_sentence_for_each_fault_and_no_traceback(tmp_path: Path) -> None:
    """Options and secrets are read from where Streamlit keeps them."""
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('[auth]\nredirect_uri = "https://f.example.com/oauth2callback"\ncookie_secret = "short"\n')
    environ = {
        "FABULA_MODE": "team",
        "FABULA_ADMIN_EMAIL": "ann@example.com",
        "FABULA_SECRETS_FILE": str(secrets),
        "STREAMLIT_SERVER_ENABLE_AGENT_API": "true",
        "STREAMLIT_SERVER_TRUSTED_USER_HEADERS": '{"X-Email": "email"}',
    }
    done = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port=0", "--server.headless=true"],
        cwd=_ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    for told in ("no sign-in provider", "5 bytes", "allowedHosts is not set", "enableAgentApi", "trustedUserHeaders"):
        assert told in done.stderr, done.stderr
    assert "short" not in done.stderr  # the secret
