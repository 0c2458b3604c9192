"""A node's own copies of a job in a bucket: trainers read and write files, so they work in a folder of the node.

TMP/fabula-UID/STORAGE/bases/, weights/            shared by all jobs on this node, and kept
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
from typing import TypeVar

from core.engine.training.attempts import APPENDED, RESUME, SPEC_FILES
from core.engine.training.shared_bucket import SharedBucket
from core.engine.training.shared_storage import StorageUnreachable

T = TypeVar("T")

_PATIENCE_S = 600.0  # how long a bucket may be out of reach before an attempt has failed
_PAUSE_S = 3.0
_OLD_S = 24 * 3600.0  # a running attempt replaces a file in its folder with every step
_STAGED = "staged"


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
    folder = root / attempt
    folder.mkdir(parents=True, exist_ok=True)
    raw = json.loads(bucket.read(f"{attempt}/job.json") or b"{}")
    for name in SPEC_FILES:
        if raw.get(name):
            path = bucket.path(raw[name])
            target = root / path if path.startswith("bases/") else folder / "data" / Path(path).name
            bucket.get_all(path, target)
            raw[name] = str(target)
    raw["weights_dir"] = str(root / bucket.path(raw["weights_dir"]))
    bucket.get_all(f"{attempt}/{RESUME}", folder / RESUME)
    bucket.get_all(f"{attempt}/checkpoints", folder / "checkpoints")
    for name in APPENDED:
        (folder / name).unlink(missing_ok=True)
        bucket.extend(f"{attempt}/{name}", folder / name)
    (folder / "job.json").write_text(json.dumps(raw), encoding="utf-8")
    (folder / _STAGED).touch()


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
