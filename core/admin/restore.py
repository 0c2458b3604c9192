"""Restores a backup into an empty home folder and an empty database."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import create_engine, delete

from core import file_permissions, shared_files
from core.admin import AdminError, archive, ledger_copy
from core.admin.archive import Manifest
from core.db import migrate
from core.db.store import Store
from core.db.tables import WorkerHeartbeat
from core.engine import home_files
from core.errors import FabulaError
from core.settings import Settings

_UNPACKED = "restore.part"
_IGNORED = frozenset({"lost+found"})  # in the root of a volume


def restore(settings: Settings, path: Path) -> Manifest:
    """Restore the backup at `path` into the empty home folder and database of `settings`; return its manifest.

    The ledger is moved into place last. If a restore was interrupted, the home folder contains `restore.part`.

    Raises:
        AdminError: the home folder or the database is not empty, the backup is damaged or newer than this version, or
            it was made from another kind of database.
        StorageFull: the place of the shared files cannot be used.
    """
    file_permissions.keep_private(settings.home)
    _check_empty(settings)
    unpacked = settings.home / _UNPACKED
    try:
        try:
            with archive.opened(path.expanduser()) as backup:
                manifest = archive.read_manifest(backup)
                _check_usable(manifest, settings)
                _unpack(backup, unpacked)
        except BaseException:
            shutil.rmtree(unpacked, ignore_errors=True)
            raise
        _put_in_place(settings, manifest, unpacked)
    except OSError as exc:
        if isinstance(exc, FabulaError):
            raise
        raise AdminError(
            f"The backup cannot be restored: {exc.strerror or exc}.",
            "Free some space, empty the home folder, and try again.",
        ) from exc
    _check_counts(settings, manifest.counts)
    return manifest


def _check_empty(settings: Settings) -> None:
    home = settings.home
    if home.is_dir() and {entry.name for entry in home.iterdir()} - _IGNORED:
        raise AdminError(
            f"The home folder {home} is not empty. Nothing was restored.",
            "Set `FABULA_HOME` to an empty folder, or move this one away first.",
        )
    files = shared_files.storage(settings)
    files.reach()
    if found := [name for name in shared_files.NAMES if files.find(name) is not None]:
        raise AdminError(
            f"There are shared files in {files.place}: {', '.join(found)}. Nothing was restored.",
            "Set `FABULA_FILES_URL` to an empty folder or prefix, or move these files away first.",
        )
    if ledger_copy.kind(settings.database_url) == "sqlite":
        if ledger_copy.sqlite_file(settings.database_url).exists():
            raise _database_not_empty()
        return
    ledger_copy.program("pg_restore")
    engine = create_engine(settings.database_url)
    try:
        if not ledger_copy.is_empty(engine):
            raise _database_not_empty()
    finally:
        engine.dispose()


def _check_usable(manifest: Manifest, settings: Settings) -> None:
    if not migrate.known_state(manifest.revision).known or home_files.is_newer(manifest.engine_version):
        raise AdminError(
            "This backup was made by a newer version of Fabula. Nothing was restored.",
            "Update Fabula, then restore it.",
        )
    if manifest.database != ledger_copy.kind(settings.database_url):
        names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
        wanted = "Unset `DATABASE_URL`." if manifest.database == "sqlite" else "Set `DATABASE_URL` to an empty one."
        raise AdminError(
            f"This backup was made from {names[manifest.database]}. Nothing was restored.",
            f"It can only be restored into the same kind of database. {wanted}",
        )


def _unpack(backup: tarfile.TarFile, folder: Path) -> None:
    """Unpack the archive. tarfile's `data` filter rejects paths outside the folder, unsafe links and devices."""
    folder.mkdir(mode=0o700, parents=True)
    while (member := backup.next()) is not None:
        backup.extract(member, folder, filter="data")


def _put_in_place(settings: Settings, manifest: Manifest, unpacked: Path) -> None:
    home = unpacked / archive.HOME
    if home.is_dir():
        engine = settings.engine_home.relative_to(settings.home)
        home_files.relocate(home / engine, Path(manifest.home) / engine, settings.engine_home)
        if not shared_files.in_home(settings):
            shared_files.move(home, shared_files.storage(settings))
        for entry in home.iterdir():
            os.replace(entry, settings.home / entry.name)
    if manifest.database == "sqlite":
        target = ledger_copy.sqlite_file(settings.database_url)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.move(unpacked / archive.SQLITE, target)
    else:
        ledger_copy.restore_postgres(settings.database_url, unpacked / archive.POSTGRES)
    shutil.rmtree(unpacked)
    file_permissions.keep_private(settings.home)


def _check_counts(settings: Settings, counts: Mapping[str, int]) -> None:
    """Compare the restored ledger with the manifest, and delete the heartbeats of the original's workers."""
    store = Store.open(settings, create=False)
    try:
        with store.session() as session:
            session.execute(delete(WorkerHeartbeat))
            _revision, restored = ledger_copy.describe(session.connection())
    finally:
        store.close()
    if restored != dict(counts):
        raise AdminError(
            f"The restored database has {restored}, the backup {dict(counts)}.",
            "Do not use it. Empty the home folder and the database, and restore another backup.",
        )


def _database_not_empty() -> AdminError:
    return AdminError("The database is not empty. Nothing was restored.", "Set `DATABASE_URL` to an empty database.")
