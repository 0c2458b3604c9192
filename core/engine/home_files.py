"""The files in the engine's home folder, for backups and checks. Needs none of the engine's packages.

engine.db    files, jobs, events, checkpoints, models, aliases, responses, batches, shadows
files/       uploaded files, and the results of batches
uploads/     parts of unfinished uploads
batches/     copies of the input files of open batches
adapters/    the tuned models
jobs/        one folder per job: progress, resumable state
bases/       added base models: records, converted files and downloads
exports/     exported models; written again on request
wandb/       files of Weights & Biases, for jobs with that integration
models/      converted weights of base models; rebuilt when they are missing
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from core.engine.schema import SCHEMA_VERSION

DATABASE = "engine.db"
REBUILT = frozenset({"models", "exports", "engine.lock", "engine.log", "engine.log.1"})
"""Names in the home folder that the engine creates again, or, for exports, on request."""
BASES = "bases"
_RELOCATED = ("bases/*/record.json", "jobs/*/job.json", "jobs/*/checkpoints.jsonl")
"""JSON files with absolute paths of the home folder."""


@dataclass(frozen=True, slots=True)
class FileReport:
    """Differences between the engine's database and its files; paths are relative to the home folder.

    Attributes:
        missing: files that a row of the database needs.
        orphans: files and folders that no row needs.
    """

    missing: tuple[str, ...]
    orphans: tuple[str, ...]


def schema_version(home: Path) -> int:
    """Schema version of the engine's database; 0: there is none."""
    if not (home / DATABASE).is_file():
        return 0
    with closing(_open(home)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_newer(version: int) -> bool:
    """Whether a newer engine wrote a database of this schema version."""
    return version > SCHEMA_VERSION


def damage(home: Path) -> str:
    """What SQLite's integrity check finds in the engine's database; "" if it is intact."""
    try:
        with closing(_open(home)) as connection:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as exc:
        return str(exc)
    return "" if found == "ok" else found


def compare_files(home: Path) -> FileReport:
    """Compare the files of an engine's home with its database.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    with closing(_open(home)) as connection:
        uploads = {
            row[0] for row in connection.execute("SELECT id FROM files WHERE job_id IS NULL AND deleted_at IS NULL")
        }
        adapters = {row[0] for row in connection.execute("SELECT adapter FROM models")}
        jobs = {row[0] for row in connection.execute("SELECT id FROM jobs")}
        batches = _newer(connection, "SELECT id FROM batches WHERE status IN ('validating', 'in_progress')")
        parts = _newer(connection, "SELECT id FROM upload_parts")
    needed = {f"files/{name}" for name in uploads} | adapters | {f"batches/{name}.jsonl" for name in batches}
    needed |= {f"uploads/{name}" for name in parts}
    known = needed | {f"jobs/{name}" for name in jobs} | {"files/incoming"}
    found = {
        f"{folder}/{path.name}"
        for folder in ("files", "adapters", "jobs", "batches", "uploads")
        if (home / folder).is_dir()
        for path in (home / folder).iterdir()
    }
    missing = sorted(name for name in needed if not (home / name).is_file())
    return FileReport(tuple(missing), tuple(sorted(found - known)))


def relocate(home: Path, old: Path, new: Path) -> None:
    """Rewrite the absolute paths in a copied home folder for its new location."""
    for path in (found for pattern in _RELOCATED for found in home.glob(pattern)):
        before = text = path.read_text(encoding="utf-8")
        for as_ascii in (True, False):  # both ways in which JSON writes a path
            was, now = (json.dumps(f"{folder}/", ensure_ascii=as_ascii)[:-1] for folder in (old, new))
            text = text.replace(was, now)
        if text != before:
            path.write_text(text, encoding="utf-8")


def _newer(connection: sqlite3.Connection, query: str) -> set[str]:
    """The ids that a query finds; none in a database from before its table."""
    try:
        return {row[0] for row in connection.execute(query)}
    except sqlite3.OperationalError:
        return set()


def _open(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(home / DATABASE)
