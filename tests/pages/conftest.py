"""Engines that pages find, and prompts that a presenter has prepared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.actor import LOCAL
from core.settings import Settings
from core.shared_files import storage
from core.stories import prompt_suggestions
from tests.support import fault_server
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import TUNED_MODEL


@pytest.fixture
def prepared() -> Iterator[list[str]]:
    lines = ["讲一个**故事**", "另一个", "第三个"]
    prompt_suggestions.save_presenter_prompts(storage(Settings.from_env()), LOCAL, lines)
    yield lines


@pytest.fixture
def server(engine_server: FaultServer) -> FaultServer:
    """The engine, as pages find it: with one base model."""
    return engine_server


@pytest.fixture
def tuned_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """An engine with a base model and one tuned from it."""
    with FaultServer(lambda prompt: fault_server.text("从前，", f"{len(prompt)}。")) as server:
        server.models += [{**server.models[0], "id": TUNED_MODEL}, {**server.models[0], "id": "third"}]
        monkeypatch.setenv("FABULA_ENGINE_URL", server.url.removesuffix("/v1"))
        yield server
