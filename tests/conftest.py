"""Hermetic by default: every test has an empty home, a scrubbed environment, empty caches, and no network."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings

_SCRUBBED_PREFIXES = ("FABULA_", "OPENAI_", "AZURE_OPENAI_", "TOGETHER_", "WANDB_", "STREAMLIT_", "DBOS_")
_SCRUBBED = {"DATABASE_URL"} | {
    name
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "WS_PROXY", "WSS_PROXY")
    for name in (proxy, proxy.lower())
}
_SET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false"}


def pytest_configure() -> None:
    """Before any fixture: session-scoped ones start real processes, which must not see this machine's settings."""
    for name in _to_scrub():
        del os.environ[name]
    os.environ.update(_SET)


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home of its own for each test, nothing from the environment, and caches that remember no other test."""
    for name in _to_scrub():
        monkeypatch.delenv(name)
    for name, value in _SET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FABULA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket.socket, "connect", _loopback_only(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", _loopback_only(socket.socket.connect_ex))
    if streamlit := sys.modules.get("streamlit"):
        streamlit.cache_data.clear()
        streamlit.cache_resource.clear()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder that FABULA_HOME names in this test; nothing has made it yet."""
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path) -> Settings:
    """The settings of a local studio in `home`."""
    return Settings.from_env({"FABULA_HOME": str(home)})


def _to_scrub() -> list[str]:
    return [name for name in os.environ if name in _SCRUBBED or name.startswith(_SCRUBBED_PREFIXES)]


def _loopback_only(real: Any) -> Any:
    def connect(self: socket.socket, address: Any) -> Any:
        if isinstance(address, tuple) and not _is_loopback(str(address[0])):
            raise OSError(f"a test tried to reach {address[0]}: tests talk to this machine only")
        return real(self, address)

    return connect


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False
