"""A home folder that is not writable, from the start or suddenly: it is reported, no paid request is sent, nothing is
lost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.datasets import datasets
from core.db import rescue_files
from core.db.store import Store
from core.errors import DatabaseLost
from core.settings import Settings
from tests.support.app_pages import trouble, visit
from tests.support.fault_server import FaultServer, text
from tests.support.running_worker import (
    CEILING,
    ROWS,
    assert_bought_once,
    rows_done,
    running_worker,
    start_run,
    stopped_and_broken,
)
from tests.support.stores import create_dataset
from tests.support.waiting import WAIT_LIMIT_S, until

_MOUNTS_S = 30
_PAGES = ("home", "dataset", "training", "cost", "story", "settings")


@pytest.fixture
def provider() -> Iterator[FaultServer]:
    with FaultServer(default=lambda prompt: text(f"A story of {prompt}.")) as running:
        yield running


def _system(*command: object) -> None:
    """A system command; the test is skipped, with the reason, if it is not allowed or missing."""
    try:
        subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=_MOUNTS_S, text=True)
    except (OSError, subprocess.SubprocessError) as exc:
        pytest.skip(f"A read-only disk cannot be made here: {getattr(exc, 'stderr', '') or exc}")


@contextmanager
def _mounted(tmp_path: Path, *options: str) -> Iterator[Path]:
    """A small separate disk below `tmp_path`, for the duration of a block."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(64 << 20)
        _system("mkfs.ext4", "-q", "-F", image)
    folder.mkdir(exist_ok=True)
    _system("mount", "-o", ",".join(("loop", "errors=remount-ro", *options)), image, folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def _settings(home: Path) -> Settings:
    return Settings.from_env({"FABULA_HOME": str(home)})


# --- from the start -------------------------------------------------------------------------------------------------


@contextmanager
def _below_a_file(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "file").write_text("")
    yield tmp_path / "file" / "home"


@contextmanager
def _on_a_read_only_disk(tmp_path: Path) -> Iterator[Path]:
    with _mounted(tmp_path, "ro") as disk:
        yield disk / "home"


@contextmanager
def _at_the_top_of_a_read_only_disk(tmp_path: Path) -> Iterator[Path]:
    with _mounted(tmp_path, "ro") as disk:
        yield disk


_WAYS = pytest.mark.parametrize("way", [_below_a_file, _on_a_read_only_disk, _at_the_top_of_a_read_only_disk])


@_WAYS
def test_every_page_says_that_the_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: object
) -> None:
    with way(tmp_path) as home:  # type: ignore[operator]
        monkeypatch.setenv("FABULA_HOME", str(home))
        for page in _PAGES:
            at = visit(page)
            assert not at.exception
            if page in ("home", "dataset", "training", "cost"):
                assert "Fabula cannot save" in trouble(at)
                assert f"The folder {home} cannot be" in trouble(at)
                assert "Give Fabula write permission to it, or set FABULA_HOME" in trouble(at).replace("`", "")


@_WAYS
def test_a_worker_says_so_waits_and_buys_nothing(tmp_path: Path, provider: FaultServer, way: object) -> None:
    with way(tmp_path) as home:  # type: ignore[operator]
        with running_worker(_settings(home), provider, tmp_path) as running:
            until(lambda: running.log.read_text().count("Give Fabula write permission") >= 2, "it looked again")
            assert running.process.poll() is None
            running.stop()
        told = running.log.read_text()
        assert f"The folder {home} cannot be" in told and "Traceback" not in told
        assert provider.requests == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike `tmp_path`, whose parent pytest closes at the start of every run."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_user_without_rights_is_told_and_the_run_goes_on_once_they_are_given(
    open_folder: Path, provider: FaultServer
) -> None:
    if os.getuid() != 0:
        pytest.skip("Another user cannot be taken on: the tests do not run as root.")
    home = open_folder / "home"
    settings = _settings(home)
    store = Store.open(settings)
    run_id = start_run(store)
    store.close()
    home.chmod(0o755)
    for file in home.iterdir():
        file.chmod(0o644)
    log = open_folder / "nobody.log"
    environ = {"FABULA_HOME": str(home), "OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": provider.url}
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "core.jobs.worker"]
    _system(*command[:4], sys.executable, "-c", "import core.jobs.worker")
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=os.environ | environ, stderr=output)
    try:
        until(lambda: log.read_text().count("Give Fabula write permission") >= 2, "it says so, and looks again")
        assert provider.requests == [] and process.poll() is None
        for path in (home, *home.rglob("*")):
            os.chown(path, 65534, 65534)
        until(lambda: rows_done(store, run_id) == ROWS, "the same worker does the work", 2 * WAIT_LIMIT_S)
    finally:
        process.terminate()
        assert process.wait(WAIT_LIMIT_S) == 0
    assert "Traceback" not in log.read_text()
    assert_bought_once(store, provider, run_id, home)
    store.close()


def test_a_home_below_a_folder_that_may_not_be_entered_is_reported(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("Another user cannot be taken on: the tests do not run as root.")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "core.jobs.worker"]
    _system(*command[:4], sys.executable, "-c", "import core.jobs.worker")
    log = tmp_path / "nobody.log"
    with log.open("w") as output:
        environ = os.environ | {"FABULA_HOME": str(closed / "home")}
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environ, stderr=output)
    try:
        until(lambda: "Give Fabula write permission" in log.read_text(), "it says so")
    finally:
        process.terminate()
        assert process.wait(WAIT_LIMIT_S) == 0
    assert "Traceback" not in log.read_text()


# --- suddenly ------------------------------------------------------------------------------------------------


def test_a_disk_that_turns_read_only_stops_the_buying_and_loses_no_answer(
    tmp_path: Path, provider: FaultServer
) -> None:
    """Like ext4 after a disk error: open files can no longer be written."""
    home = tmp_path / "disk" / "home"
    with _mounted(tmp_path) as disk:
        store = Store.open(_settings(home))
        run_id = start_run(store)
        with running_worker(_settings(home), provider, tmp_path) as running:
            until(lambda: rows_done(store, run_id) >= 50, "fifty rows")
            asked_before = 0

            def break_it() -> None:
                nonlocal asked_before
                store.close()
                _system("mount", "-o", "remount,abort", disk)
                asked_before = len(provider.prompts())

            stopped_and_broken(running, break_it)
            until(lambda: running.log.read_text().count("may write to its home folder") >= 2, "it says so")
            until(lambda: provider.flying == 0, "nothing is under way")
            asked = len(provider.prompts())
            assert asked - asked_before <= 2 * CEILING and asked < ROWS
            running.stop()
            assert len(provider.prompts()) == asked
        assert "Traceback" not in running.log.read_text()
    try:
        with _mounted(tmp_path), running_worker(_settings(home), provider, tmp_path) as running:
            until(lambda: rows_done(store, run_id) == ROWS, "all rows after the disk was repaired", 2 * WAIT_LIMIT_S)
            until(lambda: rescue_files.files(home) == [], "everything was taken in")
            running.stop()
            assert_bought_once(store, provider, run_id, home)
            store.close()
    finally:
        for file in rescue_files.files(home):
            file.unlink()


def test_an_immutable_database_file_loses_nothing(tmp_path: Path) -> None:
    """Commits go to the journal; the next start can read them, and says that it cannot write."""
    with _mounted(tmp_path) as disk:
        home = disk / "home"
        store = Store.open(_settings(home))
        create_dataset(store, "first")
        _system("chattr", "+i", home / "fabula.db")
        try:
            create_dataset(store, "second")
            store.close()
            store = Store.open(_settings(home))
            assert _names(store) == {"first", "second"}
            with pytest.raises(DatabaseLost, match="read-only"):
                create_dataset(store, "third")
            store.close()
        finally:
            _system("chattr", "-i", home / "fabula.db")
        store = Store.open(_settings(home))
        create_dataset(store, "third")
        assert _names(store) == {"first", "second", "third"}
        store.close()


def _names(store: Store) -> set[str]:
    return {found.name for found in datasets.list_datasets(store)}
