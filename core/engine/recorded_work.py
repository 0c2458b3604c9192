"""Folders with a record, each worked on by its own process: the library of base models, and the exports.

The processes write their progress to the records. A process that ends without a result leaves a failed record.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

_log = logging.getLogger(__name__)


class Recorded(Protocol):
    """A record. Work on it is unfinished while its state is one of `RecordedWork.active`."""

    @property
    def id(self) -> str: ...

    @property
    def created(self) -> int: ...

    @property
    def state(self) -> str: ...


R = TypeVar("R", bound=Recorded)


class RecordedWork(ABC, Generic[R]):
    """The folders below `root`. Methods may be called from any thread.

    Attributes:
        root: the folder that holds them; created if missing.
        active: the states of unfinished work.
        ids: what an id looks like; it is the name of the record's folder.
        log_name: the file in that folder with the output of the processes.
    """

    active: ClassVar[Collection[str]]
    ids: ClassVar[re.Pattern[str]]
    log_name: ClassVar[str]

    def __init__(self, root: Path, at_once: int) -> None:
        """At most `at_once` processes run at the same time."""
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._slots = threading.Semaphore(at_once)
        self._stopping = False

    @abstractmethod
    def _read(self, folder: Path) -> R | None:
        """The record in a folder; None if it has none that can be read."""

    @abstractmethod
    def _start_process(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the work on a folder."""

    @abstractmethod
    def _fail(self, folder: Path, found: R, code: int) -> None:
        """Record that the process ended with this exit code, without a result."""

    def start(self) -> None:
        """Begin the work again that an earlier engine left unfinished."""
        for one in self.records():
            if one.state in self.active:
                self._begin(one.id)

    def stop(self) -> None:
        """Stop all processes; their work begins again at the next start."""
        with self._lock:
            self._stopping = True
            running = list(self._running.values())
        for process in running:
            _end(process)

    def records(self) -> list[R]:
        """All records, oldest first."""
        found = [one for folder in self.root.iterdir() if (one := self._read(folder)) is not None]
        return sorted(found, key=lambda one: (one.created, one.id))

    def get(self, record_id: str) -> R | None:
        """Return one record; None if there is none with this id."""
        return self._read(self.root / record_id) if self.ids.fullmatch(record_id) else None

    def remove(self, record_id: str) -> None:
        """Stop the work on a record and delete its folder. Raises KeyError if there is no such record."""
        with self._lock:
            if self.get(record_id) is None:
                raise KeyError(record_id)
            process = self._running.pop(record_id, None)
            if process is not None:
                _end(process)
            shutil.rmtree(self.root / record_id)

    def _begin(self, record_id: str) -> None:
        threading.Thread(target=self._work, args=(record_id,), name=record_id, daemon=True).start()

    def _work(self, record_id: str) -> None:
        """Run the process for one record when there is a free place."""
        folder = self.root / record_id
        with self._slots:
            with self._lock:
                wanted = self.get(record_id)
                if self._stopping or record_id in self._running or wanted is None or wanted.state not in self.active:
                    return
                process = self._running[record_id] = self._start_process(folder)
            process.wait()
            with self._lock:
                ours = self._running.pop(record_id, None) is process
                found = self.get(record_id)
                if not ours or self._stopping or found is None or found.state not in self.active:
                    return
                _log.error("%s ended with code %s; see %s", record_id, process.returncode, folder / self.log_name)
                self._fail(folder, found, process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
