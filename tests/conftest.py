"""Hermetic by default: every test has an empty home, a scrubbed environment, empty caches, and no network."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from core.db.store import Store
from core.jobs import system_status
from core.providers import parameters
from core.settings import Settings
from core.stories import stream
from core.stories.readers import Recent
from tests.support import fault_server, postgres_server, s3_server, stores
from tests.support.fault_server import FaultServer
from tests.support.s3_server import S3Server
from tests.support.waiting import WAIT_LIMIT_S

_SCRUBBED_PREFIXES = ("FABULA_", "OPENAI_", "AZURE_OPENAI_", "TOGETHER_", "WANDB_", "STREAMLIT_", "DBOS_", "AWS_")
_SCRUBBED = {"DATABASE_URL"} | {
    name
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "WS_PROXY", "WSS_PROXY")
    for name in (proxy, proxy.lower())
}
_LONG = ("browser", "engine", "db", "jobs")  # folders whose tests start whole processes
# How long a page waits for a background result before it is drawn without it; tests wait for the result.
_PAGE_WAITS = {"pages.ui.background": ("TASK_WAIT_S", "REPORT_WAIT_S"), "pages.ui.cache": ("ENDPOINT_WAIT_S",)}
_SET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
    "FABULA_ENV_FILE": os.devnull,  # nor a developer's own settings
    "FABULA_SECRETS_FILE": os.devnull,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "FABULA_FIND_LOCAL_SERVERS": "0",  # a model server of this machine must not appear in a test
    "FABULA_TRAINER_PRIORITY": "normal",  # with `idle`, the other test processes would leave a trainer no time
    "OMP_NUM_THREADS": "1",  # torch's threads spin while they wait for each other: beside other processes, for minutes
}


def pytest_configure() -> None:
    """Before any fixture: session-scoped ones start real processes, which must not see this machine's settings."""
    for name in _to_scrub():
        del os.environ[name]
    os.environ.update(_SET)
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile(  # a busy machine must not fail the test
        "fabula", deadline=None, suppress_health_check=slow
    )
    hypothesis.settings.load_profile("fabula")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first: short files at the end keep all workers busy to the last one. Their names
    decide the order, so that not all browsers run at the same time.
    """
    long = {item.path for item in items if item.get_closest_marker("slow") or item.path.parent.name in _LONG}
    items.sort(key=lambda item: (0, item.path.name, str(item.path)) if item.path in long else (1, "", ""))


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A separate home folder, a scrubbed environment and empty caches for each test."""
    for name in _to_scrub():
        monkeypatch.delenv(name)
    for name, value in _SET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FABULA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(system_status, "TIMEOUT_S", 30.0)  # generous, because the test machine may be busy
    monkeypatch.setattr(system_status, "HEALTH_TIMEOUT_S", 25.0)
    monkeypatch.setattr(stream, "STOP_S", WAIT_LIMIT_S)  # a stopped story is finished once it is saved
    monkeypatch.setattr(socket.socket, "connect", _loopback_only(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", _loopback_only(socket.socket.connect_ex))
    for module, constants in _PAGE_WAITS.items():
        for constant in constants if module in sys.modules else ():
            monkeypatch.setattr(sys.modules[module], constant, WAIT_LIMIT_S)
    if session := sys.modules.get("pages.ui.components.story_session"):
        monkeypatch.setattr(session, "RECENT", Recent())  # a test may write a story with another test's id
    parameters.forget()
    if streamlit := sys.modules.get("streamlit"):
        streamlit.cache_data.clear()
        streamlit.cache_resource.clear()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder (FABULA_HOME) of this test; it does not exist yet."""
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path) -> Settings:
    """The settings for `home`."""
    return Settings.from_env({"FABULA_HOME": str(home)})


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """An empty ledger for these settings."""
    ledger = stores.fresh(settings)
    yield ledger
    ledger.close()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A provider that answers every request with a story."""
    with FaultServer(default=lambda prompt: fault_server.text(f"A story of {prompt}.")) as running:
        yield running


@pytest.fixture
def engine_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """The engine's endpoint: the same story from its model `writer`."""
    with FaultServer(fault_server.text("从前，", "有一位英雄。")) as running:
        monkeypatch.setenv("FABULA_ENGINE_URL", running.url.removesuffix("/v1"))
        yield running


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL; tests that need one are skipped, with the reason, if none can be started."""
    try:
        with postgres_server.running() as url:
            yield url
    except postgres_server.PostgresAbsent as exc:
        pytest.skip(f"PostgreSQL tests skipped: {exc}")


@pytest.fixture
def on_postgres(postgres_url: str, home: Path) -> Settings:
    """Settings with a database on that server: the newest schema, without rows."""
    url = stores.postgres_database(postgres_url)
    return Settings.from_env({"DATABASE_URL": url, "FABULA_HOME": str(home)})


@pytest.fixture(params=["sqlite", "postgresql"])
def on_each_database(request: pytest.FixtureRequest, home: Path) -> Settings:
    """Settings for a database without rows, once with each kind."""
    if request.param == "postgresql":
        found: Settings = request.getfixturevalue("on_postgres")
        return found
    return Settings.from_env({"FABULA_HOME": str(home)})


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A local S3 server."""
    running = S3Server()
    yield running
    running.stop()


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket on it, which this process may use."""
    s3_server.reachable(monkeypatch, s3.address)
    return s3.new_bucket()


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
