"""The format of a backup file: a gzipped tar with a manifest, the ledger, and the files of the home folder.

manifest.json        what is in it; always the first member
ledger/fabula.db     the SQLite ledger, or
ledger/fabula.dump   the PostgreSQL ledger, in pg_dump's custom format
home/…               files of `FABULA_HOME`, with their paths

gzip's checksum (CRC-32) covers every byte, so reading a damaged or truncated file fails.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from core.admin import AdminError

FORMAT = 1
MANIFEST = "manifest.json"
SQLITE = "ledger/fabula.db"
POSTGRES = "ledger/fabula.dump"
HOME = "home/"
_MAX_MANIFEST_BYTES = 1_000_000
_BLOCK = 1 << 20

DatabaseKind = Literal["sqlite", "postgresql"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Describes a backup.

    Attributes:
        format: version of the file format.
        created_at: when it was made (ISO 8601, UTC).
        database: the kind of database that held the ledger.
        revision: the ledger's last migration.
        engine_version: schema version of the engine's database; 0 if the home folder had no engine.
        home: path of the home folder that was backed up.
        has_secret_key: whether it includes `secret.key`, which decrypts the providers' keys.
        has_base_models: whether it includes base models that were added.
        counts: number of rows in each main table.
    """

    format: int
    created_at: str
    database: DatabaseKind
    revision: str
    engine_version: int
    home: str
    has_secret_key: bool
    has_base_models: bool
    counts: Mapping[str, int]

    def to_bytes(self) -> bytes:
        """Serialize the manifest."""
        return json.dumps(asdict(self), indent=1).encode()


def read_manifest(archive: tarfile.TarFile) -> Manifest:
    """Read the manifest of an open backup, but not the rest of the file.

    Raises:
        AdminError: the file is not a backup, or a newer version of Fabula made it.
    """
    member = archive.next()
    file = archive.extractfile(member) if member is not None and member.name == MANIFEST else None
    if file is None:
        raise AdminError(
            "This file is not a backup of Fabula.", "Choose a file that `python -m core.admin backup` made."
        )
    try:
        raw: dict[str, Any] = json.loads(file.read(_MAX_MANIFEST_BYTES))
        if int(raw["format"]) > FORMAT:
            raise AdminError("This backup was made by a newer version of Fabula.", "Update Fabula, then restore it.")
        return Manifest(**{field.name: raw[field.name] for field in fields(Manifest)})
    except (ValueError, KeyError, TypeError) as exc:
        raise AdminError("The manifest of this backup is damaged.", "Use another backup.") from exc


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a backup file for sequential reading.

    Raises:
        AdminError: the file is not a backup, or is damaged or truncated; also raised while the caller reads it.
    """
    try:
        # tarfile's own gzip reader ignores the checksum.
        with gzip.open(path) as content, tarfile.open(fileobj=content, mode="r|") as archive:
            yield archive
            while content.read(_BLOCK):
                pass  # the checksum is at the end
    except FileNotFoundError as exc:
        raise AdminError(f"There is no file {path}.", "Check the path.") from exc
    except (tarfile.TarError, EOFError, zlib.error) as exc:
        raise _damaged(path) from exc
    except OSError as exc:
        if exc.errno is None:  # gzip.BadGzipFile
            raise _damaged(path) from exc
        raise


def _damaged(path: Path) -> AdminError:
    return AdminError(
        f"{path} is not a backup of Fabula, or it is damaged or incomplete.", "Use another backup; copy it again."
    )
