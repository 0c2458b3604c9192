"""A job's folder on storage that the engine shares with the trainers of a cluster, and the attempts in it.

STORAGE/jobs/JOB/attempt.json      the newest attempt; a trainer of an older one stops
STORAGE/jobs/JOB/attempts/N/       what `core.engine.training.job_folder` describes, written by attempt N alone
STORAGE/jobs/JOB/*.npz, *.gguf     the job's data, which no attempt changes
STORAGE/bases/KEY/                 copies of base models; STORAGE/weights/KEY/: their weights, converted for training

A trainer may still be running though the engine has given it up: its node could not be reached for a while. Therefore
each attempt has a number and a folder of its own. The next attempt begins with a copy of the last saved state and of
the curve up to there; the engine copies what the newest attempt appends to the job folder in its home, and reads
nothing else. What an older attempt writes never counts.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from core.engine import json_file
from core.engine.event_log import read_state
from core.engine.training.job_folder import Journal

_APPENDED = ("metrics.jsonl", "events.jsonl", "checkpoints.jsonl")
_RESUME = "resume.safetensors"
STOP: Final = "stop"
"""A file that asks the trainer of an attempt to save its state and exit."""
CLAIM: Final = "claimed"
"""A file that rank 0 of an attempt creates; it cannot be created twice."""
_NEWEST = "attempt.json"
_LEFT = "left-running-"
_OLD_COPY_S = 24 * 3600.0  # a copy under way is written to all the time
_copying = threading.Lock()


class ProgressMissing(OSError):
    """The folder of a job's last attempt is not on the storage, which may not be mounted."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job's trainer.

    Attributes:
        number: from 1; grows with every run.
        submitted: whether the cluster has accepted it.
        ended: whether it has ended and nothing is to be read from it any more.
    """

    number: int
    submitted: bool = False
    ended: bool = False


class SharedJob:
    """One job on the shared storage; `home` is its folder in the engine's home."""

    def __init__(self, storage: Path, home: Path) -> None:
        self._storage, self.home = storage, home
        self.root = storage / "jobs" / home.name

    def folder(self, number: int) -> Path:
        """The folder of an attempt."""
        return self.root / "attempts" / str(number)

    def current(self) -> Attempt | None:
        """The newest attempt; None before the first one."""
        try:
            return Attempt(**json.loads((self.home / _NEWEST).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def record(self, attempt: Attempt) -> None:
        """Store the state of the newest attempt durably."""
        json_file.write(self.home / _NEWEST, asdict(attempt))

    def prepare(self) -> Attempt:
        """Make the folder of the next attempt, which continues from the last saved state.

        Raises:
            ProgressMissing: starting again would cost the progress.
            OSError: the storage is full or cannot be reached.
        """
        last = self.current()
        if last is not None and not self.folder(last.number).is_dir():
            raise ProgressMissing(str(self.folder(last.number)))
        attempt = Attempt(1 if last is None else last.number + 1)
        folder = self.folder(attempt.number)
        shutil.rmtree(folder, ignore_errors=True)  # left by an engine that was killed here
        (folder / "checkpoints").mkdir(parents=True)
        earlier = self.home if last is None else self.folder(last.number)
        if (earlier / _RESUME).exists():
            _share(earlier / _RESUME, folder / _RESUME)
        for path in sorted((earlier / "checkpoints").glob("*.gguf")):
            _share(path, folder / "checkpoints" / path.name)
        if last is not None:  # after the state: all steps of a saved state are in the curve
            self._append(last.number)
        Journal(self.home).rewind(saved_step(folder))
        for name in _APPENDED:
            if (self.home / name).exists():
                shutil.copyfile(self.home / name, folder / name)
        json_file.write(folder / "job.json", self._shared_spec())
        json_file.write(self.root / _NEWEST, {"number": attempt.number})
        self.record(attempt)
        return attempt

    def collect(self, number: int) -> None:
        """Copy what an attempt has appended to the job folder in the engine's home, the state last. Raises OSError."""
        folder, state = self.folder(number), read_state(self.folder(number))
        self._append(number)
        if state.get("status") == "succeeded":
            _copy(folder / "final.gguf", self.home / "final.gguf")
        if state:
            json_file.write(self.home / "state.json", state)

    def _append(self, number: int) -> None:
        for name in _APPENDED:
            extend(self.folder(number) / name, self.home / name)

    def request_stop(self, number: int) -> None:
        """Ask the trainer of an attempt to save its state and exit."""
        (self.folder(number) / STOP).touch()

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
            lines = (self.folder(number) / "trainer.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def delete(self) -> None:
        """Delete the job from the shared storage."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _shared_spec(self) -> dict[str, Any]:
        """The job's specification with paths on the shared storage; the files are copied there once."""
        spec: dict[str, Any] = json.loads((self.home / "job.json").read_text(encoding="utf-8"))
        key = Path(spec["weights_dir"]).name
        for name in ("train", "valid", "start_adapter"):
            if spec.get(name):
                spec[name] = str(_copy(Path(spec[name]), self.root / Path(spec[name]).name))
        for name in ("base_gguf", "base_folder"):
            if spec.get(name) and not Path(spec[name]).is_relative_to(self._storage):
                spec[name] = str(copy_shared(Path(spec[name]), self._storage / "bases" / key / Path(spec[name]).name))
        return {**spec, "weights_dir": str(self._storage / "weights" / key)}


def is_newest(attempt: Path) -> bool:
    """Whether the attempt with this folder is the newest one, as seen by its trainer.

    True if that cannot be read; False if the job was deleted.
    """
    try:
        newest: Mapping[str, Any] = json.loads((attempt.parents[1] / _NEWEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return bool(newest.get("number") == int(attempt.name))


def saved_step(folder: Path) -> int:
    """The step of the saved state; 0 if there is none."""
    if not (folder / _RESUME).exists():
        return 0
    with (folder / _RESUME).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(header["__metadata__"]["step"])


def extend(source: Path, target: Path) -> None:
    """Append the complete lines of `source` that `target`, a copy of its beginning, does not have yet."""
    try:
        with source.open("rb") as file:
            size, known = os.fstat(file.fileno()).st_size, target.stat().st_size if target.exists() else 0
            if size == known:
                return
            file.seek(known if known < size else 0)
            block = file.read()
    except FileNotFoundError:
        return
    block = block[: block.rfind(b"\n") + 1]
    if known < size:
        with target.open("ab") as out:
            out.write(block)
    else:  # the storage has lost the end, in a power failure
        partial = target.with_name(target.name + ".part")
        partial.write_bytes(block)
        os.replace(partial, target)


def _share(source: Path, target: Path) -> None:
    """Hard-link a file that is only ever replaced, never changed, or copy it if that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        _copy(source, target)


def copy_shared(source: Path, target: Path) -> Path:
    """`_copy` for what several jobs need: those that start together wait for one copy."""
    with _copying:
        for partial in target.parent.glob(f"{glob.escape(target.name)}.*.part"):  # left by an engine that was killed
            if time.time() - _last_written(partial) > _OLD_COPY_S:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        return _copy(source, target)


def _last_written(path: Path) -> float:
    """When a file or folder, or one of its files, was last changed, in Unix seconds."""
    return max(found.stat().st_mtime for found in (path, *path.rglob("*")))


def _copy(source: Path, target: Path) -> Path:
    """Copy a file or folder atomically and durably, unless the copy is there already."""
    if target.exists() and (source.is_dir() or target.stat().st_size == source.stat().st_size):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid4().hex}.part")  # another engine may copy it as well
    try:
        if source.is_dir():
            shutil.copytree(source, partial)
        else:
            shutil.copyfile(source, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError:
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        if not (source.is_dir() and target.is_dir()):  # otherwise another engine was faster
            raise
    return target
