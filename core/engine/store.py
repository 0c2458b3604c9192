"""engine.db: files, jobs, events, checkpoints, models, aliases and responses, and their ids in OpenAI's format. The
tables are in `schema`, the rows of batches in `core.engine.batches`.

Acknowledged data survives kill -9 and power loss.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import string
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from core.engine import schema
from core.engine.job_rules import TrainingMethod

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
Format = Literal["chat", "completion", "both"]

_INCREMENTAL = 2  # SQLite's number for a file that shrinks in steps
_SHRUNK_PAGES = 1000  # in one step, about 4 MB; other writers wait meanwhile
_BUSY_S = 30.0  # longest wait for another writer; transactions here take milliseconds
_ALPHABET = string.ascii_letters + string.digits
_WITH_UNDERSCORE = frozenset({"ftckpt", "batch", "batch_req", "upload", "part", "cp"})
"""Kinds of ids that OpenAI writes with an underscore."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table; its fields are the table's columns, without `seq`."""

    TABLE: ClassVar[str]


Row = TypeVar("Row", bound=TableRow)


@dataclass(frozen=True, slots=True)
class File(TableRow):
    """An uploaded file, or the results of a job (`job_id`). Rows of deleted files are kept for pagination."""

    TABLE: ClassVar[str] = "files"

    id: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | None = None
    job_id: str | None = None
    deleted_at: int | None = None


@dataclass(frozen=True, slots=True)
class Job(TableRow):
    """A fine-tuning job.

    Attributes:
        model: the model that training starts from, as named in the request; `base` is its base model.
        tuned_id: id of the future model; `fine_tuned_model` is None until it exists.
        metadata, error: JSON text, or None.
        options: `core.engine.training_options.TrainingOptions` as JSON text; missing ones have their default values.
        events_read: bytes of the trainer's events file that are already in `events`.
        training_s: training time in seconds, without waiting and pauses.
        epoch_tokens: number of tokens in the training file; None if not counted yet.
        method: the request's `method.type`.
        integrations: the request's `integrations` as JSON text; "" if there are none.
    """

    TABLE: ClassVar[str] = "jobs"

    id: str
    created_at: int
    status: Status
    model: str
    base: str
    format: Format
    tuned_id: str
    suffix: str | None
    seed: int
    training_file: str
    validation_file: str | None
    examples: int
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    metadata: str | None
    fine_tuned_model: str | None = None
    result_file: str | None = None
    trained_tokens: int | None = None
    error: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    step: int = 0
    total_steps: int | None = None
    tokens_per_s: float | None = None
    events_read: int = 0
    training_s: float = 0.0
    epoch_tokens: int | None = None
    method: TrainingMethod = "supervised"
    options: str = "{}"
    integrations: str = ""
    beta: float | None = None


@dataclass(frozen=True, slots=True)
class Event(TableRow):
    """One event of a job; `data` is JSON text."""

    TABLE: ClassVar[str] = "events"

    id: str
    job_id: str
    created_at: int
    level: str
    message: str
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class CheckpointRow(TableRow):
    """An adapter saved during training. `model` is its model id and `metrics` is JSON text."""

    TABLE: ClassVar[str] = "checkpoints"

    id: str
    job_id: str
    created_at: int
    step: int
    model: str
    metrics: str


@dataclass(frozen=True, slots=True)
class TunedModel(TableRow):
    """A base model with an adapter on it. `step` is set for checkpoints; None for a job's final model."""

    TABLE: ClassVar[str] = "models"

    id: str
    created_at: int
    base: str
    adapter: str
    format: Format
    job_id: str | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Alias(TableRow):
    """Another name, `id`, for a model of this engine. The model may have been deleted since."""

    TABLE: ClassVar[str] = "aliases"

    id: str
    created_at: int
    model: str


@dataclass(frozen=True, slots=True)
class StoredResponse(TableRow):
    """A response of /v1/responses: its own input items and its object, as JSON text, and the one before it."""

    TABLE: ClassVar[str] = "responses"

    id: str
    created_at: int
    previous_id: str | None
    input: str
    body: str


class EngineStore:
    """Access to one SQLite file (WAL, synchronous=FULL), with one connection per thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._enable_shrinking()
        with self.transaction() as transaction:
            version = transaction.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(str.strip, schema.SCHEMA.split(";")):
                    transaction.execute(statement)
            for older in range(version or schema.SCHEMA_VERSION, schema.SCHEMA_VERSION):
                for statement in schema.MIGRATIONS[older]:
                    transaction.execute(statement)
            if version < schema.SCHEMA_VERSION:
                transaction.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction: committed durably when the block ends, rolled back if it raises. May be nested."""
        connection = self._connection()
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def add(self, row: TableRow) -> None:
        """Insert a row. Raises sqlite3.IntegrityError if its id already exists."""
        values = asdict(row)
        names = ", ".join(values)
        placeholders = ", ".join("?" * len(values))
        with self.transaction() as transaction:
            transaction.execute(f"INSERT INTO {row.TABLE} ({names}) VALUES ({placeholders})", tuple(values.values()))

    def update(self, kind: type[Row], row_id: str, *, where: str = "1", **values: object) -> bool:
        """Set columns of one row if the SQL condition `where` holds; return whether the row was updated."""
        assigned = ", ".join(f"{name} = ?" for name in values)
        with self.transaction() as transaction:
            cursor = transaction.execute(
                f"UPDATE {kind.TABLE} SET {assigned} WHERE id = ? AND ({where})", (*values.values(), row_id)
            )
            return cursor.rowcount == 1

    def remove(self, kind: type[Row], row_id: str) -> None:
        """Delete one row."""
        with self.transaction() as transaction:
            transaction.execute(f"DELETE FROM {kind.TABLE} WHERE id = ?", (row_id,))

    def remove_older(self, kind: type[Row], created_before: float) -> int:
        """Delete the rows that were created before a time (Unix seconds), and return their number."""
        with self.transaction() as transaction:
            statement = f"DELETE FROM {kind.TABLE} WHERE created_at < ?"
            return transaction.execute(statement, (created_before,)).rowcount

    def shrink(self) -> None:
        """Return the space of deleted rows to the file system, so that their content is gone from the file as well. If
        that fails, a later call does it.
        """
        connection = self._connection()
        with suppress(sqlite3.OperationalError):
            for _ in range(0, connection.execute("PRAGMA freelist_count").fetchone()[0], _SHRUNK_PAGES):
                # `execute` would stop after one page
                connection.executescript(f"PRAGMA incremental_vacuum({_SHRUNK_PAGES})")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def get(self, kind: type[Row], row_id: str) -> Row | None:
        """Return the row with this id."""
        rows = self.select(kind, "id = ?", (row_id,))
        return rows[0] if rows else None

    def select(self, kind: type[Row], where: str, values: Sequence[Any] = (), tail: str = "ORDER BY seq") -> list[Row]:
        """Return the rows for which `where` (SQL with ? placeholders) holds."""
        names = ", ".join(field.name for field in fields(kind))
        make: Callable[..., Row] = kind
        return [make(*row) for row in self.query(f"SELECT {names} FROM {kind.TABLE} WHERE {where} {tail}", values)]

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of any SELECT with ? placeholders."""
        return self._connection().execute(sql, values).fetchall()

    def page(
        self,
        kind: type[Row],
        where: str,
        values: Sequence[Any],
        *,
        after: str | None,
        limit: int,
        newest_first: bool = True,
    ) -> tuple[list[Row], bool]:
        """Return one page of rows and whether more follow; `after` is the id of the last row of the previous page.

        Raises:
            KeyError: there is no row `after`.
        """
        order = "DESC" if newest_first else "ASC"
        if after is not None:
            found = self.query(f"SELECT seq FROM {kind.TABLE} WHERE id = ?", (after,))
            if not found:
                raise KeyError(after)
            where, values = f"({where}) AND seq {'<' if newest_first else '>'} ?", (*values, found[0][0])
        rows = self.select(kind, where, (*values, limit + 1), f"ORDER BY seq {order} LIMIT ?")
        return rows[:limit], len(rows) > limit

    def _enable_shrinking(self) -> None:
        """Let the file shrink; one from before this existed is rewritten once, if there is space for that."""
        connection = self._connection()
        if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
            with suppress(sqlite3.OperationalError):
                connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
                connection.execute("VACUUM")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")  # SQLite's default depends on how it was built
            self._local.connection = connection
        return connection


def to_json(value: object) -> str:
    """JSON text for a column."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def random_code(length: int) -> str:
    """Random letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_id(kind: str) -> str:
    """An id such as `file-…`, `ftjob-…`, `ftckpt_…`, `batch_…`; 24 random characters avoid collisions."""
    return f"{kind}{'_' if kind in _WITH_UNDERSCORE else '-'}{random_code(24)}"


def tuned_model_id(base: str, suffix: str | None) -> str:
    """`ft:gemma-3-270m:fabula:ultraman:AbC123xy`; without a suffix its field is empty, as at OpenAI."""
    return f"ft:{base}:fabula:{suffix or ''}:{random_code(8)}"


def checkpoint_model_id(tuned_id: str, step: int) -> str:
    """The model id of a checkpoint."""
    return f"{tuned_id}:ckpt-step-{step}"
