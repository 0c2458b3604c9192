"""Writes a backup: the ledger, the engine's database, and the files of the home folder, in one file.

Fabula may keep running meanwhile. The ledger is copied first, then the engine's database, then the files, so the backup
has every file that a database refers to. A job that starts in between is found again by the metadata it was sent with.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from core import file_permissions, secret_key, shared_files
from core.admin import AdminError, archive, ledger_copy
from core.admin.archive import Manifest
from core.db import rescue_files
from core.engine import home_files
from core.errors import FabulaError
from core.file_storage import StoredFile
from core.settings import Settings

_COMPRESSION = 1  # models barely compress, so a higher level only takes longer
# Top-level files that are not copied: the queues, which workers refill, the state of running processes, and the
# engine's token, which is recreated.
_LEFT_OUT = frozenset({"work.db", "engine.json", "engine.keeper", "engine.token"})
_TRANSIENT = (".part", ".log", ".log.1")
_JOURNALS = ("-wal", "-shm", "-journal")
_LAST = ".jsonl"  # append-only, so copied last: a saved training state must not be newer than its log lines


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup.

    Attributes:
        path: the file.
        manifest: describes its content.
        left_out: folders that were not copied because they are symbolic links.
    """

    path: Path
    manifest: Manifest
    left_out: tuple[Path, ...]


def create(settings: Settings, path: Path, *, with_secret_key: bool = False, with_base_models: bool = True) -> Backup:
    """Write a backup to `path`, which only its owner can read.

    Args:
        settings: the installation.
        path: the new file.
        with_secret_key: include `secret.key`.
        with_base_models: include base models that were added to the engine, and their downloads.

    Raises:
        AdminError: `path` exists, a database cannot be copied, or the disk is full; no file is left behind.
        StorageFull: the shared files cannot be read; no file is left behind.
    """
    path = path.expanduser().absolute()
    if path.exists():
        raise AdminError(f"{path} exists.", "Choose another name, or delete it first.")
    partial = path.with_name(path.name + ".part")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fabula-backup-") as folder:
            manifest = _copy_databases(settings, Path(folder), with_secret_key, with_base_models)
            files = _HomeFiles(settings, path, with_secret_key=with_secret_key, with_base_models=with_base_models)
            _write(partial, Path(folder), manifest, files)
        os.replace(partial, path)
    except BaseException as exc:
        partial.unlink(missing_ok=True)
        if isinstance(exc, OSError) and not isinstance(exc, FabulaError):
            next_step = "Choose another folder."
            raise AdminError(f"The backup cannot be written: {exc.strerror or exc}.", next_step) from exc
        raise
    return Backup(path, manifest, tuple(files.left_out))


def _copy_databases(settings: Settings, folder: Path, with_secret_key: bool, with_base_models: bool) -> Manifest:
    """Copy the databases into `folder`, under their names in the archive."""
    (folder / "ledger").mkdir()
    kind = ledger_copy.kind(settings.database_url)
    if kind == "sqlite":
        ledger_copy.copy_sqlite(ledger_copy.sqlite_file(settings.database_url), folder / archive.SQLITE)
        revision, counts = ledger_copy.describe_sqlite(folder / archive.SQLITE)
    else:
        revision, counts = ledger_copy.dump_postgres(settings.database_url, folder / archive.POSTGRES)
    engine_version = home_files.schema_version(settings.engine_home)
    if engine_version:
        target = folder / archive.HOME / settings.engine_home.relative_to(settings.home)
        target.mkdir(parents=True)
        ledger_copy.copy_sqlite(settings.engine_home / home_files.DATABASE, target / home_files.DATABASE)
    return Manifest(
        format=archive.FORMAT,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        database=kind,
        revision=revision,
        engine_version=engine_version,
        home=str(settings.home),
        has_secret_key=with_secret_key and secret_key.key_file(settings.home).is_file(),
        has_base_models=with_base_models,
        counts=counts,
    )


def _write(partial: Path, databases: Path, manifest: Manifest, files: _HomeFiles) -> None:
    with (
        open(partial, "wb", opener=file_permissions.private_opener) as raw,
        tarfile.open(fileobj=raw, mode="w:gz", compresslevel=_COMPRESSION, dereference=True) as tar,
    ):
        _add_bytes(tar, archive.MANIFEST, manifest.to_bytes())
        for copied in sorted(path for path in databases.rglob("*") if path.is_file()):
            tar.add(copied, copied.relative_to(databases).as_posix(), recursive=False)
        for path, name in files:
            with suppress(FileNotFoundError):  # deleted meanwhile
                tar.add(path, archive.HOME + name, recursive=False)
        for stored in files.shared():
            _add_bytes(tar, archive.HOME + stored.name, stored.load(), stored.modified)
        tar.close()
        raw.flush()
        os.fsync(raw.fileno())


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes, modified: datetime | None = None) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, modified.timestamp() if modified else 0
    tar.addfile(member, io.BytesIO(content))


class _HomeFiles:
    """The files of the home folder that belong in a backup, with their names in it, and the shared files."""

    def __init__(self, settings: Settings, backup: Path, *, with_secret_key: bool, with_base_models: bool) -> None:
        self._settings = settings
        self.left_out: list[Path] = []
        ledger = []
        if ledger_copy.kind(settings.database_url) == "sqlite":
            ledger = [ledger_copy.sqlite_file(settings.database_url).absolute()]
        databases = [*ledger, settings.home / "work.db", settings.engine_home / home_files.DATABASE]
        self._skipped = {
            backup,
            *(database.with_name(database.name + ending) for database in databases for ending in ("", *_JOURNALS)),
            *(settings.home / name for name in _LEFT_OUT),
            *(settings.engine_home / name for name in home_files.REBUILT),
        }
        if not shared_files.in_home(settings):
            self._skipped |= {settings.home / name for name in shared_files.NAMES}
        if not with_secret_key:
            self._skipped.add(secret_key.key_file(settings.home))
        if not with_base_models:
            self._skipped.add(settings.engine_home / home_files.BASES)

    def shared(self) -> Iterator[StoredFile]:
        """The shared files, unless they are in the home folder; a backup has them there in any case."""
        if not shared_files.in_home(self._settings):
            files = shared_files.storage(self._settings)
            yield from (found for name in shared_files.NAMES if (found := files.find(name)) is not None)

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        home = self._settings.home
        for folder, folders, names in os.walk(home):
            for name in list(folders):
                path = Path(folder) / name
                if path in self._skipped or path.is_symlink() or name.startswith(".fabula-backup-"):
                    folders.remove(name)
                    self.left_out += [path] if path.is_symlink() else []
            folders.sort()
            for name in sorted(names, key=lambda name: (name.endswith(_LAST), name)):
                path = Path(folder) / name
                if path not in self._skipped and not name.endswith(_TRANSIENT) and path.is_file():
                    yield path, path.relative_to(home).as_posix()
        for path in rescue_files.files(home):
            if path.parent != home:  # next to the home folder; restored into it, where the worker looks too
                yield path, f"rescue-{path.stem.rpartition('rescue-')[2]}{path.suffix}"
