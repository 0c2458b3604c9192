"""A bucket on S3 as storage that the engine shares with the trainers of a cluster.

An object cannot be appended to. A file that grows is therefore kept as blocks of BLOCK bytes, PATH/000000, PATH/000001,
…: only the last one is written again as it grows. A reader knows from the size of its copy which block comes next, so
that nothing is listed, and a repeated upload does no harm.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from core import s3_client
from core.engine.training.shared_storage import StorageRefused, StorageUnreachable, append, complete_lines
from core.message import msg

BLOCK: Final = 64 * 1024
"""Bytes of a block: about 200 steps."""
_READ_S, _TRIES = 10, 2
_FILE_READ_S, _FILE_TRIES = 60, 5  # for whole files, whose parts have up to 50 MB
_EXISTS = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})  # codes: the object exists


class SharedBucket:
    """`s3://bucket/prefix`; see `core.engine.training.shared_storage.SharedStorage`."""

    poll_s: Final = 2.0  # each look is some requests

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        self._root = self.place.removeprefix("s3://")
        self._bucket, _, self._prefix = self._root.partition("/")

    def location(self, path: str) -> str:
        """See `SharedStorage`."""
        return f"{self.place}/{path}"

    def path(self, location: str) -> str:
        """The path of a `location`."""
        return location.removeprefix(f"{self.place}/")

    def read(self, path: str, length: int | None = None) -> bytes | None:
        """See `SharedStorage`."""
        limits = {} if length is None else {"start": 0, "end": length}
        with self._translated():
            try:
                data: bytes = self._client.cat_file(f"{self._root}/{path}", max_concurrency=1, **limits)
            except FileNotFoundError as exc:
                if s3_client.fault(exc) == "no_bucket":
                    raise
                return None
        return data

    def write(self, path: str, data: bytes) -> None:
        """See `SharedStorage`."""
        with self._translated():
            self._client.pipe_file(f"{self._root}/{path}", data)

    def create(self, path: str) -> None:
        """See `SharedStorage`: a conditional write (`If-None-Match: *`).

        Raises:
            StorageRefused: the server ignores or refuses the condition.
        """
        mine = uuid4().hex.encode()
        if not self._wrote_new(path, mine) and self.read(path) != mine:  # otherwise only the answer was lost
            raise FileExistsError(path)
        if self._wrote_new(path, mine):
            raise StorageRefused(
                msg(
                    "The S3 server of {place} does not support conditional writes (`If-None-Match`).", place=self.place
                ),
                msg("Use another server or a newer version of it, or a folder that all machines share."),
            )

    def files(self, folder: str) -> list[str]:
        """See `SharedStorage`."""
        names = [path.removeprefix(f"{folder}/") for path in self._sizes(f"{folder}/")]
        return sorted(name for name in names if "/" not in name)

    def put(self, source: Path, path: str) -> None:
        """See `SharedStorage`."""
        wanted = {path: source}
        if source.is_dir():
            found = (one for one in source.rglob("*") if one.is_file())
            wanted = {f"{path}/{one.relative_to(source).as_posix()}": one for one in found}
        there = self._sizes(path)
        for target, file in wanted.items():
            if there.get(target) != file.stat().st_size:
                self.replace(file, target)

    def replace(self, source: Path, path: str) -> None:
        """Upload a local file, also if there is one already."""
        with self._translated():
            self._file_client.put_file(str(source), f"{self._root}/{path}")

    def get(self, path: str, target: Path) -> None:
        """See `SharedStorage`."""
        size = self._sizes(path).get(path)
        if size is None:
            raise FileNotFoundError(path)
        self._get(path, target, size)

    def get_all(self, path: str, target: Path) -> None:
        """Download a file, or all files of a folder; those that are there in their size are kept."""
        for found, local, size in self._copies(path, target):
            self._get(found, local, size)

    def missing_bytes(self, path: str, target: Path) -> int:
        """What `get_all` would download."""
        return sum(size for _, local, size in self._copies(path, target) if not _is_copy(local, size))

    def share(self, source: str, target: str) -> None:
        """See `SharedStorage`: a copy on the server."""
        with self._translated():
            self._file_client.cp_file(f"{self._root}/{source}", f"{self._root}/{target}")

    def start(self, source: Path, path: str) -> None:
        """See `SharedStorage`."""
        self.append(source.read_bytes(), 0, path)

    def append(self, data: bytes, known: int, path: str) -> None:
        """Write the blocks of a growing file, of which `known` bytes are there."""
        for start in range(known - known % BLOCK, len(data), BLOCK):
            self.write(_block(path, start), data[start : start + BLOCK])

    def extend(self, path: str, target: Path, before: Callable[[bytes], None] | None = None) -> None:
        """See `SharedStorage`."""
        known = target.stat().st_size if target.exists() else 0
        start, found = known - known % BLOCK, b""
        while block := self.read(_block(path, start)):
            found += block
            start += BLOCK
            if len(block) < BLOCK:
                break
        lines = complete_lines(found[known % BLOCK :])
        if lines and before is not None:
            before(lines)
        if lines:
            append(lines, target)

    def delete(self, folder: str) -> None:
        """See `SharedStorage`."""
        paths = [f"{self._root}/{path}" for path in self._sizes(f"{folder}/")]
        with self._translated():
            if paths:
                self._client.rm(paths)

    def ray_storage(self, path: str) -> Mapping[str, Any]:
        """See `SharedStorage`. What is passed on has no credentials: each node has its own."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        filesystem = PyFileSystem(FSSpecHandler(self._client))
        return {"storage_path": f"{self._root}/{path}", "storage_filesystem": filesystem}

    @cached_property
    def _client(self) -> Any:
        return self._connected(_READ_S, _TRIES)

    @cached_property
    def _file_client(self) -> Any:
        return self._connected(_FILE_READ_S, _FILE_TRIES)

    def _connected(self, read_s: int, tries: int) -> Any:
        try:
            return s3_client.connect(read_s, tries)
        except ImportError as exc:
            raise StorageRefused(
                msg("{place} needs the package s3fs, which is missing.", place=self.place),
                msg("Install it for the engine and on every node: `pip install -r requirements-s3.txt`."),
            ) from exc

    def _wrote_new(self, path: str, data: bytes) -> bool:
        with self._translated():
            try:
                self._client.pipe_file(f"{self._root}/{path}", data, mode="create")
            except OSError as exc:
                if isinstance(exc, FileExistsError) or s3_client.code(exc) in _EXISTS:
                    return False
                raise
        return True

    def _sizes(self, prefix: str) -> dict[str, int]:
        """The size of every file whose path begins with `prefix`."""
        key = f"{self._prefix}/" if self._prefix else ""
        found: dict[str, int] = {}
        more: dict[str, str] = {}
        with self._translated():
            while True:
                answer = self._client.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=key + prefix, **more)
                found |= {one["Key"].removeprefix(key): one["Size"] for one in answer.get("Contents", [])}
                if not answer.get("IsTruncated"):
                    return found
                more = {"ContinuationToken": answer["NextContinuationToken"]}

    def _copies(self, path: str, target: Path) -> Iterator[tuple[str, Path, int]]:
        """A file, or all files of a folder: each with the place of its copy in `target`, and its size."""
        for found, size in self._sizes(path).items():
            if found == path:
                yield found, target, size
            elif found.startswith(f"{path}/"):
                yield found, target / found.removeprefix(f"{path}/"), size

    def _get(self, path: str, target: Path, size: int) -> None:
        if _is_copy(target, size):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{uuid4().hex}.part")
        try:
            with self._translated():
                self._file_client.get_file(f"{self._root}/{path}", str(partial))
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # errors of s3fs, botocore, aiohttp and asyncio, which have no common base class
            if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):  # of this machine
                raise
            raise self._fault(exc) from exc

    def _fault(self, error: Exception) -> OSError:
        fault, code = s3_client.fault(error), s3_client.code(error) or type(error).__name__
        if fault == "no_bucket":
            return StorageRefused(
                msg("The bucket {bucket} does not exist.", bucket=self._bucket),
                msg("Create it, or correct `FABULA_RAY_STORAGE` and restart the engine. Then resume the job."),
            )
        if fault == "no_credentials":
            return StorageRefused(
                msg("There are no credentials for {place}.", place=self.place),
                msg(
                    "The engine and every node of the cluster need their own: `AWS_ACCESS_KEY_ID` and "
                    "`AWS_SECRET_ACCESS_KEY`, or a role. Then resume the job."
                ),
            )
        if fault == "denied":
            return StorageRefused(
                msg("Access to {place} was refused ({code}).", place=self.place, code=code),
                msg(
                    "Check the credentials of the engine and of the cluster's nodes. They must allow `s3:ListBucket`, "
                    "`s3:GetObject`, `s3:PutObject` and `s3:DeleteObject`. Then resume the job."
                ),
            )
        if fault == "full":
            return StorageRefused(
                msg("{place} is full ({code}).", place=self.place, code=code),
                msg("Free some space there, then resume the job: it continues from its last checkpoint."),
            )
        return StorageUnreachable(msg("{place} can't be reached ({reason}).", place=self.place, reason=code))


def _is_copy(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _block(path: str, start: int) -> str:
    return f"{path}/{start // BLOCK:06d}"
