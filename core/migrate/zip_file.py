"""Writes an archived account as one ZIP file to keep: every file byte for byte, and a list with checksums.

Nothing is held in memory as a whole, and each file's checksum is compared with the one from when it was fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sqlalchemy import select

from core import file_permissions
from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import ArchivedFile, ArchivedTune
from core.errors import BadFile, StorageFull
from core.finetuning.results import plain_text
from core.message import msg
from core.migrate import account_views
from core.migrate.workspace import Workspace
from core.settings import Settings

MANIFEST = "manifest.json"
_FORMAT = 1
_BLOCK = 1 << 20
_UNSAFE = re.compile(r"[^\w.()+-]+")
_MAX_NAME = 100


@requires("admin")
def write(
    store: Store,
    actor: Actor,
    settings: Settings,
    archive_id: str,
    path: Path,
    on_file: Callable[[], object] = lambda: None,
) -> int:
    """Write what is archived so far to a new file. Returns its size in bytes.

    Args:
        on_file: called before each file; an exception from it ends the writing.

    Raises:
        NotFound: the account is not known.
        BadFile: a stored file is missing or has changed; or `path` exists.
        StorageFull: the file cannot be written. Nothing is left behind.
    """
    account = account_views.view(store, archive_id)
    if path.exists():
        raise BadFile(msg("{path} exists.", path=path), msg("Choose another name, or delete it first."))
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", opener=file_permissions.private_opener) as raw:
            with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=1) as target:
                _write(store, settings, account.id, target, on_file)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(part, path)
        return path.stat().st_size
    except BaseException as exc:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(exc, OSError) and not isinstance(exc, StorageFull):
            raise StorageFull(
                msg("{path} can't be written: {reason}.", path=path, reason=exc.strerror or type(exc).__name__),
                msg("Choose another folder, or free some space."),
            ) from exc
        raise


def _write(
    store: Store, settings: Settings, archive_id: str, target: zipfile.ZipFile, on_file: Callable[[], object]
) -> None:
    workspace = Workspace(settings, archive_id)
    account = account_views.view(store, archive_id)
    with store.reading() as session:
        files = session.scalars(
            select(ArchivedFile).where(ArchivedFile.archive_id == archive_id).order_by(ArchivedFile.id)
        ).all()
        tunes = session.scalars(
            select(ArchivedTune).where(ArchivedTune.archive_id == archive_id).order_by(ArchivedTune.id)
        ).all()
    names = {file.remote_id: f"files/{_plain(file.remote_id)}/{_plain(file.filename)}" for file in files}
    manifest = {
        "format": _FORMAT,
        "account": account.name,
        "address": account.base_url,
        "files": [_file_entry(file, names[file.remote_id]) for file in files],
        "tunes": [_tune_entry(tune) for tune in tunes],
    }
    target.writestr(MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1))
    for tune in tunes:
        folder = workspace.job_folder(tune.remote_id)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix in (".json", ".jsonl"):
                target.write(path, f"jobs/{_plain(tune.remote_id)}/{path.name}")
    for file in files:
        if file.state == "stored":
            on_file()
            _copy(target, workspace.file(file.remote_id), names[file.remote_id], file)


def _copy(target: zipfile.ZipFile, path: Path, name: str, file: ArchivedFile) -> None:
    """Add a file, and a results file that is base64 as plain CSV too."""
    digest = hashlib.sha256()
    try:
        source: IO[bytes] = path.open("rb")
    except FileNotFoundError:
        raise _changed(file) from None
    with source, target.open(name, "w", force_zip64=True) as member:
        while block := source.read(_BLOCK):
            digest.update(block)
            member.write(block)
    if digest.hexdigest() != file.sha256:
        raise _changed(file)
    if file.purpose.endswith("results"):
        with suppress(UnicodeDecodeError):
            text = path.read_text("utf-8-sig")
            if (plain := plain_text(text)) != text:
                target.writestr(f"{name}.plain.csv", plain)


def _changed(file: ArchivedFile) -> BadFile:
    return BadFile(
        msg("The archived file {file} is missing or has changed on disk.", file=file.filename),
        msg("The others are safe. Restore the archive folder from a backup, or archive the account again elsewhere."),
    )


def _file_entry(file: ArchivedFile, name: str) -> dict[str, Any]:
    return {
        "id": file.remote_id,
        "name": file.filename,
        "purpose": file.purpose,
        "state": file.state,
        "reason": None if file.reason is None else str(file.reason),
        "path": name if file.state == "stored" else None,
        "bytes": file.stored_bytes,
        "sha256": file.sha256,
    }


def _tune_entry(tune: ArchivedTune) -> dict[str, Any]:
    return {
        "job": tune.remote_id,
        "model": tune.model,
        "base_model": tune.base_model,
        "method": tune.method,
        "status": tune.status,
        "state": tune.state,
        "reason": None if tune.reason is None else str(tune.reason),
        "training_file": tune.training_file,
        "validation_file": tune.validation_file,
        "result_files": tune.result_files,
        "dark_on": None if tune.dark_on is None else tune.dark_on.isoformat(),
    }


def _plain(name: str) -> str:
    return _UNSAFE.sub("_", name).strip(".")[-_MAX_NAME:] or "file"
