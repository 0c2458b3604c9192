"""Idle open tabs: they set no timers, and are updated when what they show changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection

from core.actor import LOCAL
from core.db.store import Store
from core.providers import saved
from core.providers.saved import ProviderForm
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support import bare_tab, studio_process
from tests.support.studio_process import RunningStudio
from tests.support.waiting import WAIT_LIMIT_S

PAGES = ("", "dataset", "training", "cost", "story", "settings")


@pytest.fixture(scope="module")
def idle_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningStudio, Settings]]:
    """A studio in which nothing happens, with an engine elsewhere that is down."""
    home: Path = tmp_path_factory.mktemp("idle") / "home"
    with studio_process.running(home, FABULA_ENGINE_URL="http://127.0.0.1:9") as running:
        yield running, Settings.from_env({"FABULA_HOME": str(home)})


@pytest.mark.parametrize("page", PAGES)
def test_an_idle_page_sets_no_timers(idle_studio: tuple[RunningStudio, Settings], page: str) -> None:
    with bare_tab.joined(idle_studio[0].url) as tab:
        assert "auto_rerun" not in bare_tab.drawn(tab, page)


def test_an_open_tab_shows_what_another_process_has_changed(idle_studio: tuple[RunningStudio, Settings]) -> None:
    studio, settings = idle_studio
    with bare_tab.joined(studio.url) as tab:
        assert "Zebra" not in bare_tab.drawn(tab)
        store = Store.open(settings)
        saved.add(store, LOCAL, SecretKey(settings), ProviderForm("vllm", "Zebra", "http://127.0.0.1:9/v1"))
        store.close()
        assert "Zebra" in _until_finished(tab)


def _until_finished(tab: ClientConnection) -> str:
    """Everything that the next script run sends to a tab that has asked for none, as text."""
    seen = []
    while True:
        message = ForwardMsg.FromString(bytes(tab.recv(WAIT_LIMIT_S)))  # type: ignore[arg-type]  # no text frames
        seen.append(str(message))
        if message.WhichOneof("type") == "script_finished":
            return "\n".join(seen)
