"""The job folder, through which the engine and the trainer communicate.

job.json             what to train (written by the engine)
metrics.jsonl        one line per step
events.jsonl         one line per event
checkpoints.jsonl    one line per checkpoint; the adapters are in checkpoints/
state.json           the trainer's progress, updated at most once a second
resume.safetensors   adapter and optimizer state of the last saved step
final.gguf           the adapter of the finished job
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from core.engine import json_file
from core.engine.job_rules import TrainingMethod
from core.engine.training_options import Schedule
from core.message import extra_fields

Status = Literal["starting", "running", "paused", "succeeded", "failed"]

MEASURED_STEPS = 3  # timed steps after the first one that are needed to estimate the end
_STATE_PERIOD_S = 1.0  # readers poll at about the same interval
RESULTS_COLUMNS = (
    "step",
    "elapsed_tokens",
    "elapsed_examples",
    "training_loss",
    "training_sequence_accuracy",
    "training_token_accuracy",
    "validation_loss",
    "validation_token_accuracy",
)
_REWARD_COLUMNS = (
    "training_reward_accuracy",
    "training_reward_margin",
    "validation_reward_accuracy",
    "validation_reward_margin",
)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The specification of one fine-tuning job, written by the engine.

    Attributes:
        job_id: the engine's id, for messages.
        base_gguf: model file of the base.
        weights_dir: folder for the converted weights of the base (created if missing).
        base_folder: folder with the base's original weights, from which training starts; None if only the GGUF file has
            weights.
        start_adapter: adapter to start from; None to start with a new adapter.
        train, valid: files written by `core.engine.formats.tokens.save`.
        n_epochs, batch_size: as in OpenAI's hyperparameters.
        learning_rate: the highest learning rate.
        warmup, schedule, early_stopping: see `core.engine.training_options.TrainingOptions`.
        seed: random seed for the adapter's initial values and the order of examples.
        lora_rank, lora_alpha: rank and scale of the adapter.
        checkpoint_seconds: maximum training time in seconds that is lost on kill -9.
        threads: CPU threads; 0 means all.
        dtype: dtype of the frozen matrices: `float32`, `bfloat16`, or `auto` for whichever is faster on this machine.
        method: the training method, which determines the loss (`trainer.methods`). Files for DPO contain each pair's
            preferred answer, then its rejected one.
        beta: DPO's beta; None means `auto`.
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
    method: TrainingMethod = "supervised"
    base_folder: Path | None = None
    warmup: float = 0.0
    schedule: Schedule = "linear"
    early_stopping: int | None = None
    beta: float | None = None

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """Read `job.json`; unknown keys are ignored."""
        raw = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        known = {field.name for field in fields(cls)} & raw.keys()
        values = {name: raw[name] for name in known}
        for name in ("base_gguf", "base_folder", "weights_dir", "start_adapter", "train", "valid"):
            values[name] = Path(values[name]) if values.get(name) else None
        return cls(**values)


class Journal:
    """Writes to the job folder such that a kill at any time leaves complete lines and files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state_at = 0.0
        (folder / "checkpoints").mkdir(exist_ok=True)

    def event(self, message: str, level: str = "info", **data: Any) -> None:
        """Add an event for the user."""
        data |= extra_fields(message)
        line = {"at": time.time(), "level": level, "type": "message", "message": message, "data": data}
        self._append("events.jsonl", line)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Add the metrics of one step."""
        self._append("metrics.jsonl", row)

    def checkpoint(self, row: Mapping[str, Any]) -> None:
        """Add a checkpoint."""
        self._append("checkpoints.jsonl", {**row, "at": time.time()})

    def state(self, status: Status, *, now: bool = False, **figures: Any) -> None:
        """Update state.json; at most once per second unless `now` is set, as it is when the status changes."""
        if not now and time.monotonic() - self._state_at < _STATE_PERIOD_S:
            return
        self._state_at = time.monotonic()
        partial = self.folder / "state.json.part"
        partial.write_text(json.dumps({"status": status, **figures}), encoding="utf-8")
        os.replace(partial, self.folder / "state.json")

    def rewind(self, step: int) -> None:
        """Remove metrics and checkpoints after `step`, and an incomplete last line, before those steps are repeated."""
        for name in ("metrics.jsonl", "checkpoints.jsonl"):
            path = self.folder / name
            if not path.exists():
                continue
            lines = [json.dumps(row) + "\n" for row in read_lines(path) if row.get("step", 0) <= step]
            partial = path.with_name(name + ".part")
            partial.write_text("".join(lines), encoding="utf-8")
            _sync(partial)
            os.replace(partial, path)

    def sync(self) -> None:
        """Sync all lines to disk, so that the lines of a step saved by `resume` are durable."""
        for name in ("metrics.jsonl", "checkpoints.jsonl", "events.jsonl"):
            path = self.folder / name
            if path.exists():
                _sync(path)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the JSON objects of a file that may still be being written; malformed and incomplete lines are skipped."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    yield from (row for line in text.split("\n") if (row := _object(line)) is not None)


def write_job_spec(folder: Path, spec: dict[str, Any]) -> None:
    """Write JOBDIR/job.json atomically."""
    json_file.write(folder / "job.json", spec)


class JsonlTail:
    """Reads a JSONL file from where the last committed read ended.

    A file that was replaced or became shorter is read from its start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._committed = self._last_read = (0, 0)  # (inode, offset in bytes)

    def read_new(self) -> list[dict[str, Any]]:
        """Return the objects of all lines since the last `commit`; malformed and incomplete lines are skipped."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                inode, end = self._committed
                if inode != stat.st_ino or end > stat.st_size:
                    end = 0
                file.seek(end)
                block = file.read()
        except FileNotFoundError:
            return []
        complete = block[: block.rfind(b"\n") + 1]
        self._last_read = (stat.st_ino, end + len(complete))
        return [row for line in complete.splitlines() if (row := _object(line)) is not None]

    def commit(self) -> None:
        """Mark the lines of the last `read_new` as processed."""
        self._committed = self._last_read


def _object(line: bytes | str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def metrics_csv(job_folder: Path) -> str:
    """The current result file, as CSV in OpenAI's format; before the first step it contains only the header.

    Unmeasured values are empty cells. The results of DPO have columns for rewards, under TRL's terms.
    """
    rows = list(read_lines(job_folder / "metrics.jsonl"))
    rewards = _REWARD_COLUMNS if any(_REWARD_COLUMNS[0] in row for row in rows) else ()
    columns = (*RESULTS_COLUMNS, *rewards)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row.get(name) is None else row[name] for name in columns])
    return text.getvalue()
