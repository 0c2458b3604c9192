"""The files that all processes of an installation need, on every host, and the storage that they are in.

Everything else that hosts share is in the database. In FABULA_HOME stays what belongs to one host: the engine's models
and jobs, rescue files, the queues of SQLite, logs. `docs/decisions.md` has the survey.
"""

from __future__ import annotations

import logging
import secrets
from functools import lru_cache
from pathlib import Path

from core.errors import StorageFull
from core.file_storage import FileStorage, FolderStorage
from core.message import msg
from core.settings import Settings

_log = logging.getLogger("fabula.files")

PRICES = "prices.csv"
"""Own prices; same columns as `data/prices.csv`, which it overrides. Nothing in Fabula writes it."""

FETCHED_PRICES = "genai-prices.json"
"""The last fetched prices of base models, unchanged; modified when they were fetched."""

PRESENTER_PROMPTS = "stage_prompts.txt"
"""The prompts of presenter mode, one per line."""

NAMES = (PRICES, FETCHED_PRICES, PRESENTER_PROMPTS)
"""All shared files."""


def storage(settings: Settings) -> FileStorage:
    """The storage of an installation: FABULA_HOME unless FABULA_FILES_URL is set."""
    return _storage(settings.home, None if in_home(settings) else settings.files_url)


def in_home(settings: Settings) -> bool:
    """Whether the shared files are in FABULA_HOME itself."""
    return settings.files_url is None or Path(settings.files_url) == settings.home


def unused(settings: Settings) -> list[str]:
    """Shared files in FABULA_HOME that nothing reads, because FABULA_FILES_URL is set."""
    return [] if in_home(settings) else [name for name in NAMES if (settings.home / name).is_file()]


def move(folder: Path, files: FileStorage) -> list[str]:
    """Move the shared files in a folder to this storage, with their times; return their names.

    A file that the storage has already stays in the folder.

    Raises:
        StorageFull: a file cannot be read or written. It stays where it is.
    """
    source, moved = FolderStorage(folder), []
    for name in NAMES:
        found = source.find(name)
        if found is not None and files.find(name) is None:
            files.write_bytes(name, found.load(), found.modified)
            source.unlink(name)
            moved.append(name)
    return moved


def log_problem(settings: Settings) -> None:
    """At the start of a process: log why the shared files cannot be used. They are tried again when they are needed."""
    if in_home(settings):
        return
    try:
        storage(settings).reach()
    except StorageFull as exc:
        _log.error("%s %s", exc.what, exc.next_step)


def verify(files: FileStorage) -> None:
    """Write, read and delete a test file.

    Raises:
        StorageFull: that is not possible.
    """
    name, data = f"fabula-check-{secrets.token_hex(8)}", secrets.token_bytes(16)
    files.reach()
    files.write_bytes(name, data)
    try:
        found = files.find(name)
        if found is None or found.load() != data:
            raise StorageFull(
                msg("{place} does not return what was written.", place=files.place),
                msg("Use another place for `FABULA_FILES_URL`."),
            )
    finally:
        files.unlink(name)


@lru_cache(maxsize=8)
def _storage(home: Path, url: str | None) -> FileStorage:
    if url is None:
        return FolderStorage(home)
    if url.startswith("s3://"):
        from core.bucket_storage import BucketStorage

        return BucketStorage(url)
    return FolderStorage(Path(url), shared=True)
