"""Writes a batch's output and error file and closes the batch, in one step that survives kill -9."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from core.engine.api.files import BATCH_OUTPUT_PURPOSE, Files
from core.engine.batches import batch_store
from core.engine.batches.batch_store import Line, StoredBatch
from core.engine.store import EngineStore, File, to_json
from core.message import msg

End = Literal["completed", "expired", "cancelled"]
_NOT_EXECUTED: Mapping[End, tuple[str, str]] = {
    "expired": (
        "batch_expired",
        msg("This request could not be executed before the completion window expired."),
    ),
    "cancelled": ("batch_cancelled", msg("This request was not executed because the batch was cancelled.")),
}
_IN, _OUT = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")


def close(store: EngineStore, files: Files, batch: StoredBatch, end: End, copy: Path) -> None:
    """Write the results that there are, close the batch with the status `end`, and delete the copy of its input.

    Raises:
        OSError, sqlite3.Error: nothing is lost; call it again.
    """
    usage = _Usage()
    results = {"output": _answered(store, batch, usage), "error": _failed(store, batch, end)}
    written: dict[str, File] = {}
    try:
        for kind, lines in results.items():
            name = f"{batch.id}_{kind}.jsonl"
            if (file := files.write_lines(name, BATCH_OUTPUT_PURPOSE, lines, batch.output_expires_s)) is not None:
                written[kind] = file
        ids = {f"{kind}_file_id": file.id for kind, file in written.items()}
        ended = {"status": end, f"{end}_at": int(time.time()), "usage": to_json(usage.as_json()), **ids}
        batch_store.close(store, batch.id, list(written.values()), **ended)
    except BaseException:
        for file in written.values():  # otherwise each attempt on a full disk would leave another one
            files.path(file.id).unlink(missing_ok=True)
        raise
    copy.unlink(missing_ok=True)
    store.shrink()


def _answered(store: EngineStore, batch: StoredBatch, usage: _Usage) -> Iterator[str]:
    for line in batch_store.lines(store, batch.id):
        if line.state == "answered":
            usage.add(json.loads(line.result)["response"]["body"].get("usage") or {})
            yield line.result


def _failed(store: EngineStore, batch: StoredBatch, end: End) -> Iterator[str]:
    for line in batch_store.lines(store, batch.id):
        if line.state == "failed":
            yield line.result
        elif line.state == "waiting" and end in _NOT_EXECUTED:
            yield _not_executed(line, end)


def _not_executed(line: Line, end: End) -> str:
    code, message = _NOT_EXECUTED[end]
    return batch_store.result_line(line.custom_id, None, {"code": code, "message": message})


class _Usage:
    """Adds up the tokens of answers."""

    def __init__(self) -> None:
        self._read = self._written = 0

    def add(self, usage: Mapping[str, Any]) -> None:
        """Add the `usage` of one answer."""
        self._read += next((int(usage[name]) for name in _IN if name in usage), 0)
        self._written += next((int(usage[name]) for name in _OUT if name in usage), 0)

    def as_json(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {
            "input_tokens": self._read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self._written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._read + self._written,
        }
