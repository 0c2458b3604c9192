"""A job on storage that the engine shares with the trainers of a cluster, and the attempts in it.

jobs/JOB/attempt.json      the newest attempt; a trainer of an older one stops
jobs/JOB/attempts/N/       what `core.engine.training.job_folder` describes, written by attempt N alone
jobs/JOB/*.npz, *.gguf     the job's data, which no attempt changes
bases/KEY/                 copies of base models; weights/KEY/: their weights, converted for training

A trainer may still be running though the engine has given it up: its node could not be reached for a while. Therefore
each attempt has a number and a folder of its own. The next attempt begins with a copy of the last saved state and of
the curve up to there; the engine copies what the newest attempt appends to the job folder in its home, and reads
nothing else. What an older attempt writes never counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from core.engine import json_file, launcher_settings
from core.engine.api.errors import is_disk_full
from core.engine.training.job_folder import Journal
from core.engine.training.shared_bucket import SharedBucket
from core.engine.training.shared_storage import SharedFolder, SharedStorage, complete_lines

APPENDED: Final = ("metrics.jsonl", "events.jsonl", "checkpoints.jsonl")
"""The files of an attempt that grow."""
RESUME: Final = "resume.safetensors"
STOP: Final = "stop"
"""A file that asks the trainer of an attempt to save its state and exit."""
CLAIM: Final = "claimed"
"""A file that rank 0 of an attempt creates; it cannot be created twice."""
LOG: Final = "trainer.log"
"""Why an attempt has ended, if its state does not say so."""
FAILED: Final = "fabula-failed "
"""Begins a line of a Ray job's log that has the failed state of a trainer which could not write to the storage."""
SPEC_FILES: Final = ("train", "valid", "start_adapter", "base_gguf", "base_folder")
"""Fields of a job's specification that name a file or folder on the storage."""
_NEWEST = "attempt.json"
_LEFT = "left-running-"
_copying_base = threading.Lock()


def storage_of(setting: str) -> SharedStorage:
    """The storage of FABULA_RAY_STORAGE, which `launcher_settings.check` has accepted."""
    return SharedBucket(setting) if launcher_settings.is_bucket(setting) else SharedFolder(Path(setting))


def located(location: str) -> tuple[SharedStorage, str]:
    """The storage of an attempt, and its folder there, from its `SharedJob.location`."""
    place, _, path = location.rpartition("/jobs/")
    return storage_of(place), f"jobs/{path}"


class ProgressMissing(OSError):
    """The folder of a job's last attempt is not on the storage, which may not be mounted."""


class HomeFull(OSError):
    """The disk of the engine's home is full; the storage may have space."""


@contextlib.contextmanager
def _written_to_home() -> Iterator[None]:
    """What is done here writes nothing to the storage."""
    try:
        yield
    except OSError as exc:
        if is_disk_full(exc):
            raise HomeFull(exc.errno, exc.strerror) from exc
        raise


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job's trainer.

    Attributes:
        number: from 1; grows with every run.
        submitted: whether the cluster has accepted it.
        ended: whether it has ended and nothing is to be read from it any more.
        stop_requested: whether it was asked to stop although nothing waits for that.
        deleted: whether the job was deleted from the storage.
    """

    number: int
    submitted: bool = False
    ended: bool = False
    stop_requested: bool = False
    deleted: bool = False


class SharedJob:
    """One job on the shared storage; `home` is its folder in the engine's home."""

    def __init__(self, storage: SharedStorage, home: Path) -> None:
        self.storage, self.home = storage, home
        self.root = f"jobs/{home.name}"

    def folder(self, number: int) -> str:
        """The folder of an attempt."""
        return f"{self.root}/attempts/{number}"

    def location(self, number: int) -> str:
        """Where the trainer of an attempt finds it."""
        return self.storage.location(self.folder(number))

    def current(self) -> Attempt | None:
        """The newest attempt; None before the first one."""
        try:
            return Attempt(**json.loads((self.home / _NEWEST).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def record(self, attempt: Attempt) -> None:
        """Store the state of the newest attempt durably."""
        json_file.write(self.home / _NEWEST, asdict(attempt))

    def is_there(self, number: int) -> bool:
        """Whether the storage has an attempt."""
        return self.storage.read(f"{self.folder(number)}/job.json", 1) is not None

    def prepare(self) -> Attempt:
        """Make the folder of the next attempt, which continues from the last saved state.

        Raises:
            ProgressMissing: starting again would cost the progress.
            HomeFull: the disk of the engine's home is full.
            OSError: the storage is full or cannot be reached.
        """
        last = self.current()
        if last is not None and not self.is_there(last.number):
            raise ProgressMissing(self.location(last.number))
        attempt = Attempt(1 if last is None else last.number + 1)
        folder = self.folder(attempt.number)
        self.storage.delete(folder)  # left by an engine that was killed here
        self._take_over(None if last is None else self.folder(last.number), folder)
        saved_step = self.saved_step(attempt.number)
        with _written_to_home():
            if last is not None:  # after the state: all steps of a saved state are in the curve
                self._append(last.number)
            Journal(self.home).rewind(saved_step)
        for name in APPENDED:
            if (self.home / name).exists():
                _cut_incomplete_line(self.home / name)  # left by an engine that was killed while it copied
                self.storage.start(self.home / name, f"{folder}/{name}")
        self._write(f"{folder}/job.json", self._shared_spec())
        self._write(f"{self.root}/{_NEWEST}", {"number": attempt.number})
        with _written_to_home():
            self.record(attempt)
        return attempt

    def _take_over(self, earlier: str | None, folder: str) -> None:
        """Copy the last saved state and the checkpoints, from the earlier attempt or from the engine's home."""
        if earlier is None:
            names = [RESUME, *sorted(f"checkpoints/{path.name}" for path in self.home.glob("checkpoints/*.gguf"))]
            for name in names:
                if (self.home / name).exists():
                    self.storage.put(self.home / name, f"{folder}/{name}")
            return
        if RESUME in self.storage.files(earlier):
            self.storage.share(f"{earlier}/{RESUME}", f"{folder}/{RESUME}")
        for name in self.storage.files(f"{earlier}/checkpoints"):
            if name.endswith(".gguf"):
                self.storage.share(f"{earlier}/checkpoints/{name}", f"{folder}/checkpoints/{name}")

    def saved_step(self, number: int) -> int:
        """The step of an attempt's saved state; 0 if there is none."""
        path = f"{self.folder(number)}/{RESUME}"
        size = self.storage.read(path, 8)
        if size is None:
            return 0
        header = json.loads((self.storage.read(path, 8 + int.from_bytes(size, "little")) or b"")[8:])
        return int(header["__metadata__"]["step"])

    def state(self, number: int) -> dict[str, Any]:
        """The state of an attempt's trainer; empty if there is none yet."""
        return read_state(self.storage, self.folder(number))

    def collect(self, number: int) -> None:
        """Copy what an attempt has appended to the job folder in the engine's home, the state last. Raises OSError."""
        state = self.state(number)
        self._append(number)
        if state.get("status") == "succeeded":
            self.storage.get(f"{self.folder(number)}/final.gguf", self.home / "final.gguf")
        if state:
            json_file.write(self.home / "state.json", state)

    def _append(self, number: int) -> None:
        folder = self.folder(number)

        def get_adapters(lines: bytes) -> None:
            """Fetch those that are only on the storage: their paths are relative."""
            for line in lines.splitlines():
                try:
                    path = Path(json.loads(line)["path"])
                except (ValueError, LookupError, TypeError):  # `EventCollector` skips it as well
                    continue
                if not path.is_absolute():
                    self.storage.get(f"{folder}/checkpoints/{path.name}", self.home / "checkpoints" / path.name)

        for name in APPENDED:
            before = get_adapters if name == "checkpoints.jsonl" else None
            self.storage.extend(f"{folder}/{name}", self.home / name, before)

    def request_stop(self, number: int) -> None:
        """Ask the trainer of an attempt to save its state and exit."""
        self.storage.write(f"{self.folder(number)}/{STOP}", b"")

    def leave_running(self, number: int) -> None:
        """Remember that the cluster did not answer when an attempt was to be ended."""
        (self.home / f"{_LEFT}{number}").touch()

    def left_running(self) -> list[int]:
        """The attempts that are still to be ended on the cluster."""
        return sorted(int(path.name.removeprefix(_LEFT)) for path in self.home.glob(f"{_LEFT}*"))

    def has_ended(self, number: int) -> None:
        """The cluster has ended an attempt."""
        (self.home / f"{_LEFT}{number}").unlink(missing_ok=True)

    def last_log_line(self, number: int) -> str:
        """The last line of an attempt's log, which says why it ended; empty if there is none."""
        try:
            log = self.storage.read(f"{self.folder(number)}/{LOG}") or b""
        except OSError:
            return ""
        lines = log.decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def delete(self) -> None:
        """Delete the job from the shared storage."""
        self.storage.delete(self.root)

    def _write(self, path: str, values: dict[str, Any]) -> None:
        self.storage.write(path, json.dumps(values, ensure_ascii=False).encode())

    def _shared_spec(self) -> dict[str, Any]:
        """The job's specification with locations on the shared storage; the files are copied there once."""
        spec: dict[str, Any] = json.loads((self.home / "job.json").read_text(encoding="utf-8"))
        key = Path(spec["weights_dir"]).name
        for name in SPEC_FILES:
            if spec.get(name):
                spec[name] = self._put(Path(spec[name]), f"bases/{key}" if name.startswith("base_") else self.root)
        return {**spec, "weights_dir": self.storage.location(f"weights/{key}")}

    def _put(self, source: Path, folder: str) -> str:
        """Copy a file to the storage; return where trainers find it. Jobs that start together wait for one copy."""
        if folder != self.root and source.is_relative_to(self.storage.place):
            return str(source)
        with contextlib.nullcontext() if folder == self.root else _copying_base:
            self.storage.put(source, f"{folder}/{source.name}")
        return self.storage.location(f"{folder}/{source.name}")


def _cut_incomplete_line(path: Path) -> None:
    content = path.read_bytes()
    if len(lines := complete_lines(content)) < len(content):
        os.truncate(path, len(lines))


def is_newest(storage: SharedStorage, attempt: str) -> bool | None:
    """Whether the attempt with this folder is the newest one, as seen by its trainer.

    True if that cannot be read; None if the job was deleted.
    """
    job, _, number = attempt.rpartition("/attempts/")
    try:
        newest = storage.read(f"{job}/{_NEWEST}")
        return None if newest is None else bool(json.loads(newest).get("number") == int(number))
    except (OSError, ValueError):
        return True


def read_state(storage: SharedStorage, attempt: str) -> dict[str, Any]:
    """The trainer's state.json in an attempt's folder; an empty dict if there is none."""
    try:
        state = json.loads(storage.read(f"{attempt}/state.json") or b"{}")
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}
