"""Only a few scripts run at the same time, and a long one keeps no other waiting."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from streamlit.runtime.scriptrunner import script_runner

import app
from pages.ui import streamlit_patches
from pages.ui.streamlit_patches import ScriptLimit
from tests.support.waiting import WAIT_LIMIT_S, until


class _Running:
    """Scripts that run until they are stopped."""

    def __init__(self, limit: ScriptLimit) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.now = self.most = 0
        self.end = threading.Semaphore(0)

    def script(self) -> None:
        with self._limit.running():
            with self._lock:
                self.now += 1
                self.most = max(self.most, self.now)
            assert self.end.acquire(timeout=WAIT_LIMIT_S)
            with self._lock:
                self.now -= 1


def test_no_more_than_the_limit_run_at_once_and_all_get_their_turn() -> None:
    running = _Running(ScriptLimit(at_once=2, short_s=WAIT_LIMIT_S))
    with ThreadPoolExecutor(10) as threads:
        scripts = [threads.submit(running.script) for _ in range(10)]
        until(lambda: running.now == 2, "two scripts")
        running.end.release(10)
        for script in scripts:
            script.result(WAIT_LIMIT_S)
    assert running.most == 2


def test_a_script_that_waits_for_long_no_longer_counts() -> None:
    running = _Running(ScriptLimit(at_once=1, short_s=0.01))
    with ThreadPoolExecutor(3) as threads:
        scripts = [threads.submit(running.script) for _ in range(3)]
        until(lambda: running.now == 3, "all of them")
        running.end.release(3)
        for script in scripts:
            script.result(WAIT_LIMIT_S)


def test_a_script_that_fails_gives_up_its_place() -> None:
    limit = ScriptLimit(at_once=1, short_s=WAIT_LIMIT_S)
    for _ in range(3):
        with pytest.raises(ValueError), limit.running():
            raise ValueError


def test_the_server_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    streamlit = SimpleNamespace(exec_func_with_error_handling=lambda run, context: run(context))
    monkeypatch.setattr(streamlit_patches, "script_runner", streamlit)
    for _ in range(2):  # a second server in the same process
        streamlit_patches.limit_scripts()
    limited = streamlit.exec_func_with_error_handling
    assert limited(lambda context: context + 1, 1) == 2
    assert hasattr(limited, "__wrapped__") and not hasattr(limited.__wrapped__, "__wrapped__")
    assert callable(vars(script_runner)["exec_func_with_error_handling"])  # what it replaces still exists
    assert "limit_scripts" in app.lifespan.__wrapped__.__code__.co_names  # type: ignore[attr-defined]
