"""The job folder: what the engine asks for, and what the trainer writes there for it to read.

job.json             what to train (written by the engine)
metrics.jsonl        one line a step
events.jsonl         one line an event
checkpoints.jsonl    one line a checkpoint; the adapters lie in checkpoints/
state.json           where the trainer is, replaced at most once a second
resume.safetensors   adapter and optimizer of the last durable step
final.gguf           the adapter, when all is done
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from core.message import extra_fields

Status = Literal["starting", "running", "paused", "succeeded", "failed"]

MEASURED_STEPS = 3  # after the first one; before that an estimate of the end would be a guess

_STATE_PERIOD_S = 1.0  # readers poll about that often


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One fine-tuning job, as the engine orders it.

    Attributes:
        job_id: the engine's id, for messages.
        base_gguf: model file of the base.
        weights_dir: folder for the converted weights of that base (made when missing).
        start_adapter: adapter to go on from, None for a fresh one.
        train, valid: files written by `core.engine.tokens.save`.
        n_epochs, batch_size: as in OpenAI's hyperparameters.
        learning_rate: of the first step; it falls linearly to 0.
        seed: of the adapter's start and of the order of examples.
        lora_rank, lora_alpha: size and scale of the adapter.
        checkpoint_seconds: longest work that a kill -9 can cost, in seconds.
        threads: processor threads to use; 0 for all.
        dtype: type of the frozen matrices: `float32`, `bfloat16`, or `auto` for the one that is faster here.
    """

    job_id: str
    base_gguf: Path
    weights_dir: Path
    start_adapter: Path | None
    train: Path
    valid: Path | None
    n_epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    lora_rank: int = 16
    lora_alpha: float = 32.0
    checkpoint_seconds: float = 20.0
    threads: int = 0
    dtype: str = "auto"

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """Read `job.json`; keys that this trainer does not know are left alone."""
        raw = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        known = {field.name for field in fields(cls)} & raw.keys()
        values = {name: raw[name] for name in known}
        for name in ("base_gguf", "weights_dir", "start_adapter", "train", "valid"):
            values[name] = Path(values[name]) if values.get(name) else None
        return cls(**values)


class Journal:
    """Writes a job folder so that a kill at any moment leaves whole lines and whole files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state_at = 0.0
        (folder / "checkpoints").mkdir(exist_ok=True)

    def event(self, message: str, level: str = "info", **data: Any) -> None:
        """Something a person should know."""
        data |= extra_fields(message)
        line = {"at": time.time(), "level": level, "type": "message", "message": message, "data": data}
        self._append("events.jsonl", line)

    def metrics(self, row: Mapping[str, Any]) -> None:
        self._append("metrics.jsonl", row)

    def checkpoint(self, row: Mapping[str, Any]) -> None:
        self._append("checkpoints.jsonl", {**row, "at": time.time()})

    def state(self, status: Status, *, now: bool = False, **figures: Any) -> None:
        """Say where the work is; `now` for changes of status, otherwise at most once a second."""
        if not now and time.monotonic() - self._state_at < _STATE_PERIOD_S:
            return
        self._state_at = time.monotonic()
        beside = self.folder / "state.json.part"
        beside.write_text(json.dumps({"status": status, **figures}), encoding="utf-8")
        os.replace(beside, self.folder / "state.json")

    def rewind(self, step: int) -> None:
        """Forget metrics and checkpoints after `step` and any half-written last line: they will be written again."""
        for name in ("metrics.jsonl", "checkpoints.jsonl"):
            path = self.folder / name
            if not path.exists():
                continue
            kept = [json.dumps(row) + "\n" for row in read_lines(path) if row.get("step", 0) <= step]
            beside = path.with_name(name + ".part")
            beside.write_text("".join(kept), encoding="utf-8")
            _to_disk(beside)
            os.replace(beside, path)

    def sync(self) -> None:
        """All lines are on the disk when this returns: the step that `resume` keeps has its own."""
        for name in ("metrics.jsonl", "checkpoints.jsonl", "events.jsonl"):
            path = self.folder / name
            if path.exists():
                _to_disk(path)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects of a file that is still being written; a malformed or unfinished line is skipped."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
