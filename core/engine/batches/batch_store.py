"""The rows of batches and of their lines in engine.db. A line is counted in the transaction that stores its result."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from core.engine.batches.input_file import MAX_FAULTS, CheckedInput, InputLine
from core.engine.store import EngineStore, File, TableRow, new_id, to_json
from core.message import msg

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
LineState = Literal["waiting", "answered", "failed"]
OPEN: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")
"""Statuses of batches that the engine still works on."""
_PAGE = 200  # lines read at a time
_LINE_BREAKS = re.compile("[\x85\u2028\u2029]")  # those that JSON does not escape


@dataclass(frozen=True, slots=True)
class StoredBatch(TableRow):
    """A batch. Times are Unix seconds; `metadata`, `errors` and `usage` are JSON text or None.

    Attributes:
        clamps: whether a token limit that does not fit into the context is lowered, not refused.
        output_expires_s: after how many seconds the result files expire; None: never.
        model: the model of all requests; None if they name several.
        total, completed, failed: numbers of lines.
    """

    TABLE: ClassVar[str] = "batches"

    id: str
    created_at: int
    expires_at: int
    status: BatchStatus
    endpoint: str
    input_file_id: str
    metadata: str | None
    clamps: int
    output_expires_s: int | None = None
    model: str | None = None
    errors: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a batch. `result` is its line in the output or error file; "" while it waits."""

    batch_id: str
    line: int
    start: int
    size: int
    custom_id: str | None
    state: LineState
    result: str


def is_status(*statuses: BatchStatus) -> str:
    """SQL condition: the batch has one of these statuses."""
    return f"status IN ({', '.join(repr(status) for status in statuses)})"


def open_batches(store: EngineStore) -> list[StoredBatch]:
    """Batches that the engine still works on, oldest first."""
    return store.select(StoredBatch, is_status(*OPEN))


def start(store: EngineStore, batch: StoredBatch, checked: CheckedInput) -> None:
    """Store the lines of a checked file and begin to answer them, unless the batch was cancelled meanwhile. If the file
    is refused, the batch has failed.
    """
    now = int(time.time())
    faults = checked.refusal or checked.faults
    errors = to_json([fault.as_json() for fault in faults[:MAX_FAULTS]]) if faults else None
    with store.transaction() as transaction:
        if checked.refusal:
            store.update(
                StoredBatch, batch.id, where=is_status("validating"), status="failed", failed_at=now, errors=errors
            )
            return
        n_faulty = len(checked.faults)
        is_started = store.update(
            StoredBatch,
            batch.id,
            where=is_status("validating"),
            status="in_progress",
            in_progress_at=now,
            errors=errors,
            total=len(checked.lines),
            failed=n_faulty,
            model=checked.model,
        )
        if is_started:
            rows = [_values(batch.id, line) for line in checked.lines]
            transaction.executemany("INSERT INTO batch_lines VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _values(batch_id: str, line: InputLine) -> tuple[object, ...]:
    place = (batch_id, line.line, line.start, line.size, line.custom_id)
    if line.fault is None:
        return (*place, "waiting", "")
    fault = {
        "code": line.fault.code,
        "message": msg("Line {line}: {problem}", line=line.line, problem=line.fault.message),
    }
    return (*place, "failed", result_line(line.custom_id, None, fault))


def next_line(store: EngineStore, batch_id: str, after: int) -> Line | None:
    """The first waiting line after line number `after`."""
    found = _select(store, "batch_id = ? AND line > ? AND state = 'waiting' ORDER BY line LIMIT 1", batch_id, after)
    return next(iter(found), None)


def record(store: EngineStore, line: Line, state: LineState, result: str) -> bool:
    """Store the result of a line and count it, once, unless the batch is being closed. Return whether it was the last.

    Raises:
        sqlite3.Error: nothing was stored.
    """
    counter = "completed" if state == "answered" else "failed"
    with store.transaction() as transaction:
        counted = transaction.execute(
            f"UPDATE batches SET {counter} = {counter} + 1 WHERE id = ? AND {is_status('in_progress')} AND EXISTS "
            "(SELECT 1 FROM batch_lines WHERE batch_id = ? AND line = ? AND state = 'waiting')",
            (line.batch_id, line.batch_id, line.line),
        )
        if counted.rowcount == 0:
            return False
        transaction.execute(
            "UPDATE batch_lines SET state = ?, result = ? WHERE batch_id = ? AND line = ?",
            (state, result, line.batch_id, line.line),
        )
        return _finalize(store, line.batch_id, "completed + failed = total")


def expire(store: EngineStore, batch_id: str) -> None:
    """Stop answering a batch whose time is over."""
    _finalize(store, batch_id, "1")


def _finalize(store: EngineStore, batch_id: str, condition: str) -> bool:
    where = f"{is_status('validating', 'in_progress')} AND ({condition})"
    return store.update(StoredBatch, batch_id, where=where, status="finalizing", finalizing_at=int(time.time()))


def lines(store: EngineStore, batch_id: str) -> Iterator[Line]:
    """All lines, in order, read in pages."""
    last = 0
    while page := _select(store, f"batch_id = ? AND line > ? ORDER BY line LIMIT {_PAGE}", batch_id, last):
        yield from page
        last = page[-1].line


def close(store: EngineStore, batch_id: str, files: list[File], **values: Any) -> None:
    """Add the result files and set the batch's last status, in one transaction. The lines are in the files now."""
    with store.transaction() as transaction:
        for file in files:
            store.add(file)
        store.update(StoredBatch, batch_id, **values)
        transaction.execute("DELETE FROM batch_lines WHERE batch_id = ?", (batch_id,))


def result_line(custom_id: str | None, response: dict[str, Any] | None, error: dict[str, str] | None) -> str:
    """A line of a result file in OpenAI's format, without its line break.

    Texts may contain Unicode's own line breaks, which are escaped: many programs read such files with
    `text.splitlines()`.
    """
    line = json.dumps(
        {"id": new_id("batch_req"), "custom_id": custom_id, "response": response, "error": error},
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return _LINE_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _select(store: EngineStore, where: str, *values: object) -> list[Line]:
    columns = ", ".join(field.name for field in fields(Line))
    return [Line(*row) for row in store.query(f"SELECT {columns} FROM batch_lines WHERE {where}", values)]
