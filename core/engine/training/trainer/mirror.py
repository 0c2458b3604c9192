"""Uploads what a trainer writes to its node's disk to a bucket, in the background: no step waits for the network.

Each upload is in such an order that what a reader finds is complete: the adapters, the lines that name them, the saved
state, whose steps are in those lines, the finished adapter, and the trainer's state last.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from core.engine.training import attempts
from core.engine.training.job_folder import Journal
from core.engine.training.shared_bucket import SharedBucket
from core.engine.training.shared_storage import StorageRefused, StorageUnreachable
from core.engine.training.trainer.node_scratch import patiently

_log = logging.getLogger(__name__)

_UPLOAD_S = 2.0  # the engine looks as often
_FINISH_S = 3600.0  # how long a finished trainer waits for the bucket; then the steps since the last upload are lost
_SNAPSHOT = ".uploading"


class MirroredJournal(Journal):
    """A journal whose adapters are named by their path in the job folder, because the engine has other folders."""

    def checkpoint(self, row: dict[str, object]) -> None:  # type: ignore[override]  # rows are dictionaries
        """Add a checkpoint."""
        super().checkpoint({**row, "path": Path(str(row["path"])).relative_to(self.folder).as_posix()})


class Mirror:
    """Uploads the folder of an attempt while its trainer runs, and asks whether it should go on.

    Args:
        bucket: the storage.
        attempt: the attempt's folder there.
        folder: its folder on this node, staged by `node_scratch`.
    """

    def __init__(self, bucket: SharedBucket, attempt: str, folder: Path) -> None:
        self._bucket, self._attempt, self._folder = bucket, attempt, folder
        self._lines = {name: _size(folder / name) for name in attempts.APPENDED}  # bytes that are in the bucket
        self._files = {path: _version(folder / path) for path in self._adapters()}
        self._files[attempts.RESUME] = _version(folder / attempts.RESUME)
        self._state: bytes | None = None
        self._stop = self._is_older = False
        self._failure: StorageRefused | None = None
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), name=work.__name__, daemon=True)
            for work in (self._upload_unless_older, self._ask)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop_requested(self) -> bool:
        """Whether the trainer is to save its state and exit: the engine has asked for that or begun a newer attempt.

        Raises:
            StorageRefused: nothing can be uploaded any more.
        """
        if self._failure is not None:
            raise self._failure
        return self._stop

    def finish(self) -> None:
        """Upload the rest; return when everything is in the bucket, or a newer attempt has begun.

        Raises:
            StorageRefused: the bucket is full, or access is denied.
            StorageUnreachable: the bucket has been out of reach for an hour.
        """
        self._over.set()
        for thread in self._threads:
            thread.join()

        def upload() -> None:
            self._ask()
            self._upload_unless_older()

        patiently(upload, _FINISH_S)

    def _repeat(self, work: object) -> None:
        assert callable(work)
        while not self._over.wait(_UPLOAD_S):
            try:
                work()
            except StorageUnreachable as exc:  # the next round uploads it
                _log.warning("%s", exc)
            except StorageRefused as exc:
                self._failure = exc
                return
            except OSError as exc:
                _log.warning("What the trainer has written cannot be read for now: %s", exc)

    def _ask(self) -> None:
        newest = attempts.is_newest(self._bucket, self._attempt)
        if newest:
            self._stop = self._stop or self._bucket.read(f"{self._attempt}/{attempts.STOP}") is not None
            return
        self._stop = self._is_older = True
        if newest is None:  # the job was deleted; what was uploaded after that must go too
            self._bucket.delete(self._attempt)

    def _upload_unless_older(self) -> None:
        if not self._is_older:
            self._upload()

    def _upload(self) -> None:
        """Upload what is new. What is uploaded last is read first, so that it is not newer than what it depends on."""
        state = _content(self._folder / "state.json")
        final = self._snapshot("final.gguf")
        resume = self._snapshot(attempts.RESUME)
        lines = {name: _content(self._folder / name) or b"" for name in self._lines}
        for path in self._adapters():
            self._replace(path, self._folder / path)
        for name, content in lines.items():
            if len(content) > self._lines[name]:
                self._bucket.append(content, self._lines[name], f"{self._attempt}/{name}")
                self._lines[name] = len(content)
        for path, snapshot in ((attempts.RESUME, resume), ("final.gguf", final)):
            if snapshot is not None:
                self._replace(path, snapshot)
                snapshot.unlink()
        if state is not None and state != self._state:
            self._bucket.write(f"{self._attempt}/state.json", state)
            self._state = state

    def _adapters(self) -> list[str]:
        return sorted(f"checkpoints/{path.name}" for path in (self._folder / "checkpoints").glob("*.gguf"))

    def _snapshot(self, name: str) -> Path | None:
        """A link to a file that is only ever replaced; None if it is in the bucket or not there."""
        path, snapshot = self._folder / name, self._folder / (name + _SNAPSHOT)
        snapshot.unlink(missing_ok=True)
        if _version(path) in (None, self._files.get(name)):
            return None
        os.link(path, snapshot)
        return snapshot

    def _replace(self, name: str, source: Path) -> None:
        version = _version(source)
        if self._files.get(name) != version:
            self._bucket.replace(source, f"{self._attempt}/{name}")
            self._files[name] = version


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version(path: Path) -> tuple[int, int, int] | None:
    """Changes when a file is replaced; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
