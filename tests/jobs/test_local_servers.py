"""Model servers on this machine: the four usual ports and nothing else, only if they answer with a list of models."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.jobs import local_servers
from core.providers import presets
from core.providers.presets import ProviderPreset
from core.settings import Settings
from tests.support.fault_server import Answer, FaultServer, error, html, raw

_LOOKS = Settings.from_env({"FABULA_HOME": "/nowhere"})


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def _port(server: FaultServer) -> int:
    return int(server.url.split(":")[2].split("/")[0])


def _ollama(port: int) -> ProviderPreset:
    return replace(presets.find("ollama"), local_port=port)


def test_a_running_server_is_found_with_its_models(server: FaultServer) -> None:
    server.models = [{"id": f"m{n}"} for n in range(4)]
    found = local_servers.find(_LOOKS, (), [_ollama(_port(server))])
    assert [(one.preset.id, one.base_url, len(one.models)) for one in found] == [("ollama", server.url, 4)]
    assert [request.path for request in server.requests] == ["/v1/models"]
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    "answer",
    [html(), error(404, "no"), error(401, "no"), raw(b"[]"), raw(b'{"data": [{"name": "x"}]}'), raw(b"{" * 100_000)],
)
def test_something_else_at_the_port_is_not_offered(server: FaultServer, answer: Answer) -> None:
    server.enqueue(answer)
    assert local_servers.find(_LOOKS, (), [_ollama(_port(server))]) == []


def test_a_port_where_nothing_runs_is_no_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert local_servers.find(_LOOKS, (), [_ollama(free.getsockname()[1])]) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_server_that_is_used_already_is_not_asked(server: FaultServer, host: str) -> None:
    used = [f"http://{host}:{_port(server)}/v1", "https://api.example.com/v1"]
    assert local_servers.find(_LOOKS, used, [_ollama(_port(server))]) == [] and server.requests == []


@pytest.mark.parametrize(
    "environ",
    [{"FABULA_FIND_LOCAL_SERVERS": "0"}, {"FABULA_FIND_LOCAL_SERVERS": "off"}, {"FABULA_MODE": "team"}],
)
def test_it_can_be_turned_off(server: FaultServer, environ: dict[str, str]) -> None:
    assert local_servers.find(Settings.from_env(environ), (), [_ollama(_port(server))]) == []
    assert server.requests == []


def test_only_the_usual_ports_of_this_machine_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(local_servers, "_models", lambda port: asked.append(port))
    assert local_servers.find(_LOOKS) == []
    assert sorted(asked) == [1234, 8000, 8080, 11434]
