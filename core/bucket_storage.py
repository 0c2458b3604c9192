"""Small files in an S3 bucket (`core.s3_client`).

What was read is kept for `FRESH_S`; then it is read again in the background, so that a run that asks for a price waits
for no network. If the bucket cannot be reached, what was read last stays in use.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from core import s3_client
from core.errors import StorageFull
from core.file_storage import StoredFile, checked_name
from core.message import msg

FRESH_S = 10.0
"""How soon the other hosts notice a change."""
_OLD_S = 60.0  # what was last asked about longer ago is asked about again before it is used
_READ_S, _TRIES = 10, 2
_MODIFIED = "fabula-modified"  # metadata of an object: when its content was made; a copy keeps it
_log = logging.getLogger("fabula.files")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a file. `asked_at`: when the bucket was last asked, successfully or not (monotonic)."""

    file: StoredFile | None
    asked_at: float


class BucketStorage:
    """Files in a bucket; see `core.file_storage.FileStorage`. Safe to share between threads.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`.
    """

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        self._root = self.place.removeprefix("s3://")
        self._bucket, _, self._prefix = self._root.partition("/")
        self._known: dict[str, _Known] = {}
        self._asking: set[str] = set()
        self._lock = threading.Lock()

    def find(self, name: str) -> StoredFile | None:
        """The file as of at most `FRESH_S` ago, or None. Asks the bucket only if that is needed."""
        checked_name(name)
        known = self._known.get(name)
        age_s = float("inf") if known is None else time.monotonic() - known.asked_at
        if known is None or age_s > _OLD_S:
            return self._ask(name, known)
        if age_s > FRESH_S:
            self._ask_in_background(name, known)
        return known.file

    def write_bytes(self, name: str, data: bytes, modified: datetime | None = None) -> None:
        """Create or replace a file; S3 does so in one step. Then read it back."""
        made = (modified or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
        path = self._path(name)
        with self._translated():
            self._client.pipe_file(path, data, Metadata={_MODIFIED: made})
        self._keep(name, self._read(name, None))

    def unlink(self, name: str) -> None:
        """Delete a file, if there is one."""
        path = self._path(name)
        with self._translated():
            self._client.rm_file(path)
        self._keep(name, None)

    def reach(self) -> None:
        """Check that the bucket exists and may be listed."""
        with self._translated():
            self._client.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    @cached_property
    def _client(self) -> Any:
        return s3_client.connect(_READ_S, _TRIES)

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}"

    def _ask(self, name: str, known: _Known | None) -> StoredFile | None:
        try:
            file = self._read(name, known.file if known is not None else None)
        except StorageFull as exc:
            if known is None:
                raise
            _log.warning("%s %s of %s stays in use.", exc.what, name, known.file and known.file.modified)
            file = known.file
        with self._lock:
            if self._known.get(name) is known:  # otherwise something newer was written or read in the meantime
                self._known[name] = _Known(file, time.monotonic())
        return file

    def _ask_in_background(self, name: str, known: _Known) -> None:
        with self._lock:
            if name in self._asking:
                return
            self._asking.add(name)

        def ask() -> None:
            try:
                self._ask(name, known)
            finally:
                self._asking.discard(name)

        threading.Thread(target=ask, name="shared-files", daemon=True).start()

    def _keep(self, name: str, file: StoredFile | None) -> None:
        with self._lock:
            self._known[name] = _Known(file, time.monotonic())

    def _read(self, name: str, before: StoredFile | None) -> StoredFile | None:
        """The file in the bucket; `before` if that is still the same version."""
        path = self._path(name)
        with self._translated():
            try:
                about = self._client.info(path, refresh=True)
                if about["type"] != "file":
                    return None
                version = f"{about['ETag']} {about['LastModified']}"
                if before is not None and before.version == version:
                    return before
                made = self._client.metadata(path).get(_MODIFIED)
                data: bytes = self._client.cat_file(path, max_concurrency=1)
            except FileNotFoundError as exc:
                if s3_client.fault(exc) == "no_bucket":
                    raise
                return None
        return StoredFile(self.place, name, version, _moment(made, about["LastModified"]), lambda: data)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # errors of s3fs, botocore, aiohttp and asyncio, which have no common base class
            _log.debug("%s", self.place, exc_info=exc)
            raise self._fault(exc) from exc

    def _fault(self, error: Exception) -> StorageFull:
        code, kind, fault = s3_client.code(error), type(error).__name__, s3_client.fault(error)
        if fault == "no_bucket":
            return StorageFull(
                msg("The bucket {bucket} does not exist.", bucket=self._bucket),
                msg("Nothing is lost. Create it, or correct `FABULA_FILES_URL` and restart Fabula."),
            )
        if fault == "no_credentials":
            return StorageFull(
                msg("There are no credentials for {place}.", place=self.place),
                msg(
                    "Nothing is lost. Set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or give this host a role, "
                    "then restart Fabula."
                ),
            )
        if fault == "denied":
            return StorageFull(
                msg("Access to {place} was refused ({code}).", place=self.place, code=code or kind),
                msg(
                    "Nothing is lost. Check the credentials. They must allow `s3:ListBucket`, `s3:GetObject`, "
                    "`s3:PutObject` and `s3:DeleteObject`."
                ),
            )
        if fault == "full":
            return StorageFull(
                msg("{place} is full ({code}).", place=self.place, code=code),
                msg("The earlier version is unchanged. Free some space, then save again."),
            )
        return StorageFull(
            msg("{place} can't be reached ({reason}).", place=self.place, reason=code or kind),
            msg("Nothing is lost. Check the network and `AWS_ENDPOINT_URL_S3`, then try again."),
        )


def _moment(made: str | None, stored: datetime) -> datetime:
    if made is not None:
        with suppress(ValueError):
            return datetime.fromisoformat(made)
    return stored.astimezone(UTC)
