"""The task that updates open tabs: a fault while it reads or reruns ends neither the task nor the server."""

from __future__ import annotations

import logging

import anyio
import pytest

from core.errors import StorageFull
from pages.ui import live_updates
from tests.support.waiting import WAIT_LIMIT_S

_PLACE = ("session", "fragment")


class _Followed:
    """A value that one fragment of an open tab shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.value: object = "old"
        self.failures: list[Exception] = []
        self.reruns: list[tuple[str, str]] = []
        self.rerun = anyio.Event()
        monkeypatch.setattr(live_updates, "_TICK_S", 0.001)
        monkeypatch.setattr(live_updates, "CHECK_S", 0.0)
        monkeypatch.setattr(live_updates, "_forget_gone", lambda: None)  # there is no server with sessions
        monkeypatch.setattr(live_updates, "_rerun", self._rerun)
        monkeypatch.setattr(live_updates, "_shown", {_PLACE: live_updates._Shown((self.read, ()), "old")})

    def read(self) -> object:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def _rerun(self, *place: str) -> None:
        if self.failures:
            raise self.failures.pop()
        live_updates._shown.clear()
        self.reruns.append(place)  # type: ignore[arg-type]  # two texts
        self.rerun.set()

    async def updated(self) -> list[tuple[str, str]]:
        """Run the task until it reruns a fragment."""
        with anyio.fail_after(WAIT_LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(live_updates.rerun_changed)
                await self.rerun.wait()
                tasks.cancel_scope.cancel()
        return self.reruns


@pytest.mark.parametrize("value", ["new", StorageFull("The disk is full."), KeyError("x")])
def test_a_fragment_is_rerun_when_its_value_has_changed_or_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    """The fragment reads it again and shows the error."""
    followed = _Followed(monkeypatch)
    followed.value = value
    assert anyio.run(followed.updated) == [_PLACE]
    assert caplog.text == ""


def test_a_fault_is_logged_and_the_next_round_updates_the_tab(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    followed = _Followed(monkeypatch)
    followed.value, followed.failures = "new", [RuntimeError("a bug")]
    with caplog.at_level(logging.ERROR):
        assert anyio.run(followed.updated) == [_PLACE]
    assert "Open tabs were not updated." in caplog.text and "a bug" in caplog.text
