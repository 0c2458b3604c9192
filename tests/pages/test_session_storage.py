"""The resources of a session are released if its browser does not reconnect in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit import runtime
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.memory_session_storage import MemorySessionStorage
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.script_data import ScriptData
from streamlit.runtime.scriptrunner.script_cache import ScriptCache
from streamlit.runtime.session_manager import SessionStorage
from streamlit.runtime.uploaded_file_manager import UploadedFileRec
from streamlit.runtime.websocket_session_manager import WebsocketSessionManager

import app
from pages.ui import streamlit_patches
from pages.ui.streamlit_patches import ClosingSessionStorage

_KEEP_S = 60.0


class _Server:
    """Streamlit's sessions and uploads, as in its server."""

    def __init__(self, storage: SessionStorage) -> None:
        self.storage = storage
        self.uploads = MemoryUploadedFileManager("/uploads")
        self.manager = WebsocketSessionManager(storage, self.uploads, ScriptCache(), None)

    def visit(self, session_id: str | None = None) -> AppSession:
        """A browser opens a page, or reconnects to its session, and uploads a file."""
        script = ScriptData(str(Path(__file__)), is_hello=False)
        found = self.manager.connect_session(SimpleNamespace(), script, {}, session_id)
        self.uploads.add_file(found, UploadedFileRec("file", "rows.csv", "text/csv", b"prompt,completion"))
        session: AppSession = self.manager.get_session_info(found).session  # type: ignore[union-attr]
        return session

    def left_behind(self, session: AppSession) -> bool:
        """Whether any data of a session still exists."""
        assert bool(self.uploads.get_files(session.id, ["file"])) is not session._script_event_loop.is_closed()
        return not session._script_event_loop.is_closed()


class _Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def storage(clock: _Clock) -> ClosingSessionStorage:
    return ClosingSessionStorage(_KEEP_S, 3, clock)


def _on_a_loop(scenario: Callable[[], None]) -> None:
    """Like the server: sessions run on its event loop."""

    async def run() -> None:
        scenario()

    asyncio.run(run())


def test_streamlit_alone_leaves_it_behind() -> None:
    def scenario() -> None:
        server = _Server(MemorySessionStorage(ttl_seconds=0))
        gone = server.visit()
        server.manager.disconnect_session(gone.id)
        server.manager.disconnect_session(server.visit().id)
        assert server.storage.get(gone.id) is None
        assert server.left_behind(gone)  # if this fails, Streamlit does it itself and our storage can be removed

    _on_a_loop(scenario)


def test_a_session_whose_time_is_over_is_shut_down(storage: ClosingSessionStorage, clock: _Clock) -> None:
    def scenario() -> None:
        server = _Server(storage)
        session = server.visit()
        server.manager.disconnect_session(session.id)
        clock.now += _KEEP_S - 1
        storage.close_expired()
        assert server.left_behind(session)
        assert [info.session for info in storage.list()] == [session]
        clock.now += 1
        assert storage.get(session.id) is None
        storage.close_expired()
        assert not server.left_behind(session)
        assert storage.list() == []

    _on_a_loop(scenario)


def test_it_happens_without_another_visitor() -> None:
    async def scenario() -> None:
        server = _Server(ClosingSessionStorage(keep_s=0.01))
        session = server.visit()
        server.manager.disconnect_session(session.id)
        async with asyncio.timeout(30):
            while server.left_behind(session):
                await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_browser_that_comes_back_has_its_session(storage: ClosingSessionStorage, clock: _Clock) -> None:
    def scenario() -> None:
        server = _Server(storage)
        session = server.visit()
        server.manager.disconnect_session(session.id)
        clock.now += _KEEP_S - 1
        assert server.visit(session.id) is session
        clock.now += _KEEP_S
        storage.close_expired()
        assert server.left_behind(session)

    _on_a_loop(scenario)


def test_those_who_left_first_make_room(storage: ClosingSessionStorage) -> None:
    def scenario() -> None:
        server = _Server(storage)
        sessions = [server.visit() for _ in range(5)]
        for session in sessions:
            server.manager.disconnect_session(session.id)
        storage.close_expired()
        assert [server.left_behind(session) for session in sessions] == [False, False, True, True, True]

    _on_a_loop(scenario)


def test_one_that_cannot_be_shut_down_does_not_keep_the_others(
    storage: ClosingSessionStorage, clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scenario() -> None:
        server = _Server(storage)
        broken, other = server.visit(), server.visit()
        monkeypatch.setattr(broken, "disconnect_file_watchers", lambda: None)
        for session in (broken, other):
            server.manager.disconnect_session(session.id)
        monkeypatch.setattr(broken, "clear_session_caches", lambda: 1 / 0)
        clock.now += _KEEP_S
        storage.close_expired()
        assert not server.left_behind(other)

    _on_a_loop(scenario)


def test_the_server_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = WebsocketSessionManager(
        MemorySessionStorage(), MemoryUploadedFileManager("/uploads"), ScriptCache(), None
    )
    monkeypatch.setattr(runtime, "get_instance", lambda: SimpleNamespace(_session_mgr=manager))
    streamlit_patches.close_left_sessions()
    assert isinstance(manager._session_storage, ClosingSessionStorage)
    assert "close_left_sessions" in app.lifespan.__wrapped__.__code__.co_names  # type: ignore[attr-defined]
