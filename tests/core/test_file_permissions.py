"""FABULA_HOME and everything in it is private to one user, under any umask, including existing files."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core import file_permissions
from tests.support.engine_process import ROOT, poll
from tests.support.waiting import WAIT_LIMIT_S

_OPEN_UMASK = 0o022  # the default of most systems


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual umask, also for processes that a test starts."""
    before = os.umask(_OPEN_UMASK)
    yield
    os.umask(before)


def _readable_by_others(home: Path) -> dict[str, str]:
    """Paths that other users may access, with their modes."""
    found = {}
    for path in (home, *home.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
            found[str(path.relative_to(home))] = oct(stat.S_IMODE(mode))
    return found


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o644, 0o600), (0o666, 0o600), (0o777, 0o700), (0o755, 0o700), (0o444, 0o600), (0o600, 0o600), (0o000, 0o600)],
)
def test_a_file_loses_the_permissions_of_others(tmp_path: Path, before: int, after: int) -> None:
    path = tmp_path / "home" / "files" / "file"
    path.parent.mkdir(parents=True)
    path.write_text("x")
    path.chmod(before)
    file_permissions.keep_private(tmp_path / "home")
    assert _mode(path) == after


@pytest.mark.parametrize("before", [0o755, 0o777, 0o750, 0o700, 0o500, 0o000])
def test_a_folder_is_for_its_owner(tmp_path: Path, before: int) -> None:
    inner = tmp_path / "home" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (tmp_path / "home" / "a").chmod(before)
    file_permissions.keep_private(tmp_path / "home")
    assert [_mode(path) for path in (inner.parents[1], inner.parent, inner)] == [0o700] * 3
    assert not _readable_by_others(tmp_path / "home")


def test_what_is_created_afterwards_is_private(tmp_path: Path) -> None:
    file_permissions.keep_private(tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_text("x")
    assert (_mode(tmp_path / "new"), _mode(tmp_path / "new" / "file")) == (0o700, 0o600)
    done = subprocess.run([sys.executable, "-c", "open('child', 'w')"], cwd=tmp_path, check=True)
    assert (done.returncode, _mode(tmp_path / "child")) == (0, 0o600)


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside, home = tmp_path / "outside", tmp_path / "home"
    outside.mkdir()
    (outside / "weights").write_text("x")
    home.mkdir()
    (home / "folder").symlink_to(outside)
    (home / "file").symlink_to(outside / "weights")
    (home / "nowhere").symlink_to(tmp_path / "missing")
    file_permissions.keep_private(home)
    assert (_mode(outside), _mode(outside / "weights"), _mode(home)) == (0o755, 0o644, 0o700)


def test_a_socket_and_a_pipe_are_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(tmp_path / "socket"))
        file_permissions.keep_private(tmp_path)
    assert not _readable_by_others(tmp_path)
    assert not caplog.records


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc as a file system whose permissions cannot be changed")
def test_what_cannot_be_changed_is_named_and_not_fatal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        file_permissions.keep_private(Path("/proc/self/attr"))
    assert "may be readable by other users" in caplog.text
    assert "/proc/self/attr: Operation not permitted" in caplog.text


def test_a_home_that_is_no_folder_of_its_own_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("x")
    file_permissions.keep_private(tmp_path)
    assert _mode(tmp_path / "file") == 0o644
    assert "not a dedicated folder" in caplog.text


def _older_home(home: Path) -> None:
    """A home folder created by an older version."""
    for folder in ("engine/files/incoming", "engine/jobs", "engine/adapters", "uploads"):
        (home / folder).mkdir(parents=True)
    for name in ("engine/engine.log", "engine/engine.log.1", "uploads/stories.csv", "rescue.jsonl"):
        (home / name).write_text("x")


def test_the_engine_alone_keeps_its_home_private(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    from tests.support.engine_process import TINY, finished, pairs, running, upload

    home = tmp_path / "home"
    _older_home(home)
    with running(home) as engine:
        client = engine.client()
        method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
        job = client.fine_tuning.jobs.create(model=TINY, training_file=upload(client, pairs(8)), method=method)  # type: ignore[arg-type]
        assert finished(client, job.id).status == "succeeded"
        assert (home / "engine.db-wal").exists()
        assert not _readable_by_others(home)
    assert not _readable_by_others(home)


@pytest.mark.slow
def test_the_studio_keeps_its_home_private(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    from tests.support import studio_process

    home = tmp_path / "home"
    _older_home(home)
    with studio_process.running(home):
        assert {"fabula.db", "engine.token", "engine.keeper", "studio.log"} <= {path.name for path in home.iterdir()}
        assert not _readable_by_others(home)
    assert not _readable_by_others(home)


def test_a_worker_keeps_its_home_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _older_home(home)
    environ = {**os.environ, "FABULA_HOME": str(home)}
    worker = subprocess.Popen([sys.executable, "-m", "core.jobs.worker"], cwd=ROOT, env=environ)
    try:
        poll(lambda: (home / "fabula.db-wal").exists() and (home / "fabula.db").stat().st_size > 0)
        assert not _readable_by_others(home)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(WAIT_LIMIT_S)
    assert not _readable_by_others(home)


def test_a_home_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    file_permissions.keep_private(tmp_path / "none" / "home")
    assert not (tmp_path / "none").exists()
