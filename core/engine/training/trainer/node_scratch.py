"""A node's own copies of a job in a bucket: trainers read and write files, so they work in a folder of the node.

TMP/fabula-UID/STORAGE/bases/KEY/, weights/KEY/    a base model and its converted weights, for all jobs on this node
TMP/fabula-UID/STORAGE/used/KEY                    locked by processes that use this base; changed when it is used
TMP/fabula-UID/STORAGE/jobs/JOB/attempts/N/        an attempt's folder, and data/: the job's data
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from core.engine.formats import weights
from core.engine.training.attempts import APPENDED, RESUME, SPEC_FILES
from core.engine.training.shared_bucket import SharedBucket
from core.engine.training.shared_storage import StorageUnreachable

T = TypeVar("T")

_PATIENCE_S = 600.0  # how long a bucket may be out of reach before an attempt has failed
_PAUSE_S = 3.0
# A running attempt replaces a file in its folder with every step; on nodes without its first process it needs no file
# after the start.
_OLD_S = 24 * 3600.0
_STAGED = "staged"


@contextmanager
def base_in_use(bucket: SharedBucket, attempt: str, limit_gb: float | None) -> Iterator[None]:
    """Keep the base of an attempt on this node meanwhile, also one that is yet to be downloaded.

    Before and afterwards, bases that no process uses are deleted until all take at most `limit_gb`, or half of the disk
    if that is None; first the one whose last use was longest ago.
    """
    root = _root(bucket)
    key = Path(patiently(lambda: _job(bucket, attempt))["weights_dir"]).name
    try:
        with _base_lock(root, key) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.utime(lock.fileno())
            missing = patiently(lambda: bucket.missing_bytes(f"bases/{key}", root / "bases" / key))
            _make_room(root.parent, limit_gb, missing)
            yield
            os.utime(lock.fileno())
    finally:
        _make_room(root.parent, limit_gb)


def stage(bucket: SharedBucket, attempt: str) -> Path:
    """The attempt's folder on this node, with all that it needs; the processes on a node share one.

    Raises:
        StorageUnreachable: the bucket has been out of reach for 10 minutes.
        OSError: the bucket refuses, or the node's disk is full.
    """
    root = _root(bucket)
    folder = root / attempt
    with locked(root):
        if not (folder / _STAGED).exists():
            _delete_old(root)
        patiently(lambda: _download(bucket, attempt, root))
    return folder


def converted(gguf: Path, folder: Path, on_message: Callable[[str], None]) -> Path:
    """The weights of a base, converted to `folder` once per node for all jobs; see `weights.convert`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent):
        for unfinished in folder.parent.glob(f"{weights.UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        return weights.convert(gguf, folder, on_message)


def discard(bucket: SharedBucket, attempt: str) -> None:
    """Delete an attempt's folder. On other nodes, and after kill -9, `stage` does so a day later."""
    shutil.rmtree(_root(bucket) / attempt, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process of this node at a time use `folder`."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def patiently(use: Callable[[], T], limit_s: float = _PATIENCE_S) -> T:
    """The result of `use`, which is called again while the storage does not answer, for up to `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return use()
        except StorageUnreachable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_S)


def _download(bucket: SharedBucket, attempt: str, root: Path) -> None:
    """Download what this node does not have yet; a base may have been deleted since the attempt was staged."""
    folder = root / attempt
    folder.mkdir(parents=True, exist_ok=True)
    is_staged = (folder / _STAGED).exists()
    raw = _job(bucket, attempt)
    for name in SPEC_FILES:
        if raw.get(name):
            path = bucket.path(raw[name])
            is_base = path.startswith("bases/")
            target = root / path if is_base else folder / "data" / Path(path).name
            if is_base or not is_staged:
                for partial in target.parent.rglob("*.part"):  # of a process that was killed
                    partial.unlink()
                bucket.get_all(path, target)
            raw[name] = str(target)
    if is_staged:
        return
    raw["weights_dir"] = str(root / bucket.path(raw["weights_dir"]))
    bucket.get_all(f"{attempt}/{RESUME}", folder / RESUME)
    bucket.get_all(f"{attempt}/checkpoints", folder / "checkpoints")
    for name in APPENDED:
        (folder / name).unlink(missing_ok=True)
        bucket.extend(f"{attempt}/{name}", folder / name)
    (folder / "job.json").write_text(json.dumps(raw), encoding="utf-8")
    (folder / _STAGED).touch()


def _job(bucket: SharedBucket, attempt: str) -> dict[str, Any]:
    """The specification of an attempt. Raises FileNotFoundError if its job was deleted."""
    content = bucket.read(f"{attempt}/job.json")
    if content is None:
        raise FileNotFoundError(bucket.location(f"{attempt}/job.json"))
    raw: dict[str, Any] = json.loads(content)
    return raw


def _base_lock(root: Path, key: str) -> IO[str]:
    """Shared by the processes that use a base, and exclusive to one that deletes it. The file is never deleted."""
    (root / "used").mkdir(exist_ok=True)
    return (root / "used" / key).open("a")


def _make_room(mine: Path, limit_gb: float | None, needed: int = 0) -> None:
    """Delete bases until they and `needed` more bytes are within the limit, and the disk has these bytes."""
    with locked(mine):
        disk = shutil.disk_usage(mine)
        limit = disk.total // 2 if limit_gb is None else round(limit_gb * 1e9)
        sizes = {base: _size(base) + _size(_weights_of(base)) for base in mine.glob("*/bases/*")}
        excess = max(sum(sizes.values()) + needed - limit, needed - disk.free)
        for base in sorted(sizes, key=_last_used):
            if excess > 0 and _delete_unused(base):
                excess -= sizes[base]


def _delete_unused(base: Path) -> bool:
    """Delete a base and its weights; return whether that was possible."""
    with _base_lock(base.parents[1], base.name) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(_weights_of(base), ignore_errors=True)
        shutil.rmtree(base, ignore_errors=True)
    return not base.exists()


def _weights_of(base: Path) -> Path:
    return base.parents[1] / "weights" / base.name


def _last_used(base: Path) -> int:
    used = base.parents[1] / "used" / base.name
    return (used if used.exists() else base).stat().st_mtime_ns


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, to which another process may be writing."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _root(bucket: SharedBucket) -> Path:
    """The folder for everything of this bucket, which only this user can read."""
    mine = Path(tempfile.gettempdir()) / f"fabula-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    about = mine.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise PermissionError(f"{mine} must be a folder that only its owner can use")
    root = mine / hashlib.sha256(bucket.place.encode()).hexdigest()[:16]
    root.mkdir(exist_ok=True)
    return root


def _delete_old(root: Path) -> None:
    """Delete the folders of attempts that were killed."""
    for attempt in root.glob("jobs/*/attempts/*"):
        with suppress(FileNotFoundError):  # its process has just deleted it
            if time.time() - attempt.stat().st_mtime > _OLD_S:
                shutil.rmtree(attempt, ignore_errors=True)
