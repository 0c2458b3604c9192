"""The files of an archived account on disk, and the lock of the one process that works on it.

    <account>/files/<file id>           a file, byte for byte
    <account>/jobs/<job id>/…           job.json, events.jsonl and checkpoints.jsonl, as the API sent them

A file has its final name only when it is complete and on the disk, so it is never fetched twice, even if the process is
killed before the ledger knows about it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import file_permissions
from core.errors import FabulaError, StorageFull, Transient
from core.message import msg
from core.settings import Settings

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,119}")
_BLOCK = 1 << 20  # bytes per read when hashing
_PART = ".part"


class InUse(FabulaError):
    """Another process is working on this account now."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A complete file in the archive."""

    sha256: str
    size: int


def folder_of(settings: Settings) -> Path:
    """The folder of all archives: in the shared folder of an installation with several hosts, else in FABULA_HOME."""
    shared = settings.files_url if settings.files_url and not settings.files_url.startswith("s3://") else None
    return (Path(shared) if shared else settings.home) / "archives"


class Workspace:
    """The folder of one account."""

    def __init__(self, settings: Settings, archive_id: str) -> None:
        self.folder = folder_of(settings) / archive_id
        self._cut_off: dict[str, tuple[hashlib._Hash, int]] = {}  # hash and size of what is written, by file

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the account's lock. It ends with the process, however that ends.

        Raises:
            InUse: another process has it.
            StorageFull: the folder cannot be written.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "w", opener=file_permissions.private_opener)  # noqa: SIM115  # held below
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise InUse(
                    msg("Another process is working on this account."),
                    msg("Wait until it has finished, or stop it there."),
                ) from exc
            yield

    def file(self, file_id: str) -> Path:
        """Where a file is, or will be."""
        return self.folder / "files" / _safe(file_id)

    def job_folder(self, job_id: str) -> Path:
        """Where a job's own record is, or will be."""
        return self.folder / "jobs" / _safe(job_id)

    def found(self, file_id: str) -> Stored | None:
        """A file that is complete already; None if it is not here."""
        path = self.file(file_id)
        return _measured(path) if path.is_file() else None

    def store(self, file_id: str, download: Callable[[Callable[[bytes], object], int], None]) -> Stored:
        """Write a file block by block, then give it its name.

        Args:
            download: passes the blocks of the file to a function, beginning at this byte. That is 0, unless an earlier
                call for the same file was cut off by an error that may pass.

        Raises:
            StorageFull: the disk is full.
            Exception: what `download` raises. After a Transient error the part is kept for the next call of this
                object; another process begins again, because the part may not be on the disk completely.
        """
        path = self.file(file_id)
        digest, size = self._cut_off.pop(file_id, (hashlib.sha256(), 0))
        if size and not _has_size(path, size):
            digest, size = hashlib.sha256(), 0
        with _replacing(path, append=size > 0) as write:

            def take(block: bytes) -> None:
                nonlocal size
                write(block)
                digest.update(block)
                size += len(block)

            try:
                download(take, size)
            except Transient:
                self._cut_off[file_id] = digest, size
                raise
        return Stored(digest.hexdigest(), size)

    def store_job(
        self,
        job_id: str,
        job: Mapping[str, Any],
        events: Iterable[Mapping[str, Any]],
        checkpoints: Iterable[Mapping[str, Any]],
    ) -> None:
        """Write a job's record, the events last."""
        folder = self.job_folder(job_id)
        contents = {
            "job.json": json.dumps(job, ensure_ascii=False, indent=1),
            "checkpoints.jsonl": _lines(checkpoints),
            "events.jsonl": _lines(events),
        }
        for name, content in contents.items():
            with _replacing(folder / name) as write:
                write(content.encode("utf-8", "replace"))

    def read_lines(self, job_id: str, name: str) -> list[dict[str, Any]]:
        """The objects of a job's `events.jsonl` or `checkpoints.jsonl`; [] if there is none."""
        path = self.job_folder(job_id) / name
        try:
            with path.open(encoding="utf-8") as file:
                return [json.loads(line) for line in file if line.strip()]
        except FileNotFoundError:
            return []


def _lines(objects: Iterable[Mapping[str, Any]]) -> str:
    return "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in objects)


def _safe(name: str) -> str:
    """A remote id as a file name; ids that are none, or could lead elsewhere, are replaced by their hash."""
    return (
        name
        if _PLAIN.fullmatch(name) and not name.endswith(_PART)
        else f"id-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()}"
    )


def _measured(path: Path) -> Stored:
    digest, size = hashlib.sha256(), 0
    with storage_errors(path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return Stored(digest.hexdigest(), size)


@contextmanager
def _replacing(path: Path, *, append: bool = False) -> Iterator[Callable[[bytes], object]]:
    """Write a file under a temporary name; it gets its own when it is complete and on the disk.

    `append`: continue the one that a Transient error has left.
    """
    part = path.with_name(path.name + _PART)
    with storage_errors(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(part, "ab" if append else "wb", opener=file_permissions.private_opener)  # noqa: SIM115  # closed below
    try:

        def write(block: bytes) -> None:
            with storage_errors(path.parent):
                file.write(block)

        yield write
        with storage_errors(path.parent):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(part, path)
            _sync_folder(path.parent)
    except BaseException as exc:
        with suppress(OSError):
            file.close()
            if not isinstance(exc, Transient):
                part.unlink(missing_ok=True)
        raise


def _has_size(path: Path, size: int) -> bool:
    """Whether the part of a file that was cut off is on the disk as it was written."""
    with suppress(OSError):
        return path.with_name(path.name + _PART).stat().st_size == size
    return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turn errors of the disk into StorageFull, which says what is safe."""
    try:
        yield
    except OSError as exc:
        if isinstance(exc, FabulaError):
            raise
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageFull(
            msg("{path} can't be written: {reason}.", path=place, reason=exc.strerror or type(exc).__name__),
            msg("What is stored is safe. Free some space; the archive then continues.")
            if full
            else msg("What is stored is safe. Give Fabula write permission to the folder; the archive then continues."),
        ) from exc
