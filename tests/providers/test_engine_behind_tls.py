"""An engine on another machine, behind a real TLS proxy whose certificate is signed by a private authority."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from core.errors import BadSettings, FabulaError
from core.jobs.engine_supervisor import ask_health
from core.providers import CompletionRequest, Registry
from core.providers.async_client import AsyncTextClient
from core.providers.engine_endpoint import current_endpoint
from core.settings import Settings
from tests.support import engine_process, studio_process, tls_proxy
from tests.support.engine_process import TINY, TOKEN

# Greedy: what a model of random weights samples may be no text at all.
REQUEST = CompletionRequest(model=TINY, prompt="唐 ->", temperature=0, max_tokens=4, endpoint="completion")


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings for an engine behind TLS."""
    pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")
    folder = tmp_path_factory.mktemp("remote")
    ca_file, certificate = tls_proxy.authority(folder)
    with (
        engine_process.running(folder / "engine") as engine,
        tls_proxy.running(certificate, urlsplit(engine.url).port or 0) as address,
    ):
        yield {
            "FABULA_ENGINE_URL": address,
            "FABULA_ENGINE_TOKEN": TOKEN,
            "FABULA_ENGINE_CA_FILE": str(ca_file),
        }


def settings_of(home: Path, environ: dict[str, str]) -> Settings:
    return Settings.from_env({"FABULA_HOME": str(home), **environ})


def whole(registry: Registry) -> str:
    return registry.get("engine").complete(REQUEST).texts[0].text


def streamed(registry: Registry) -> str:
    return "".join(registry.get("engine").stream(REQUEST))


def bulk(registry: Registry) -> str:
    async def ask() -> str:
        client = AsyncTextClient(registry.provider("engine"))
        try:
            return (await client.complete(REQUEST)).texts[0].text
        finally:
            await client.aclose()

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [whole, streamed, bulk], ids=lambda one: one.__name__)
def test_every_client_trusts_the_private_authority(
    remote: dict[str, str], home: Path, ask: Callable[[Registry], str]
) -> None:
    settings = settings_of(home, remote)
    registry = Registry.from_settings(settings, remote)
    assert ask(registry)
    without = {name: value for name, value in remote.items() if name != "FABULA_ENGINE_CA_FILE"}
    stranger = Registry.from_settings(settings_of(home, without), without)
    with pytest.raises(FabulaError, match="is not trusted") as refused:
        ask(stranger)
    assert "FABULA_ENGINE_CA_FILE" in refused.value.next_step
    assert ask_health(current_endpoint(settings), 30) and not ask_health(
        current_endpoint(settings_of(home, without)), 30
    )


def test_a_studio_uses_the_engine(remote: dict[str, str], home: Path) -> None:
    with (
        studio_process.running(home, **remote) as studio,
        urllib.request.urlopen(f"{studio.url}/api/health/ready", timeout=30) as answer,
    ):
        assert "engine" not in json.load(answer)["reasons"]


@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_a_file_without_certificates_is_refused_at_the_start(
    remote: dict[str, str], home: Path, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "other.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadSettings) as refused:
        settings_of(home, {**remote, "FABULA_ENGINE_CA_FILE": str(path)})
    assert "FABULA_ENGINE_CA_FILE" in refused.value.faults[0] and "PEM" in refused.value.faults[0]
