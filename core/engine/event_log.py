"""A job's event log: the engine's events, and those that the trainer writes to the job folder."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.engine.store import CheckpointRow, EngineStore, Event, Job, TunedModel, checkpoint_model_id, new_id, to_json
from core.engine.training.job_folder import MEASURED_STEPS, JsonlTail, read_lines
from core.message import extra_fields, msg

_LEVELS = frozenset({"info", "warn", "error"})


@dataclass(frozen=True, slots=True)
class _Entry:
    """An event that has not been stored yet; `at` is in Unix seconds."""

    at: float
    message: str
    level: str
    type: str
    data: Mapping[str, Any]


def add_event(store: EngineStore, job_id: str, message: str, *, level: str = "info", **data: object) -> None:
    """Add an event of type `message`."""
    _add(store, job_id, _Entry(time.time(), message, level, "message", data))


class EventCollector:
    """Copies one trainer's output to the store: each line once, reading only new lines."""

    def __init__(self, store: EngineStore, job_id: str, home: Path) -> None:
        self._store, self._id, self._home = store, job_id, home
        self._folder = home / "jobs" / job_id
        self._metrics = JsonlTail(self._folder / "metrics.jsonl")

    def collect(self, trained_s: float = 0.0) -> Job:
        """Store everything written since the last call, add `trained_s` seconds of training time, and return the job.

        Raises:
            OSError, sqlite3.Error: nothing was stored; the next call retries.
        """
        job = self._job()
        state, rows = read_state(self._folder), self._metrics.read_new()
        total = _integer(state.get("total_steps")) or job.total_steps
        events, offset = _events(self._folder / "events.jsonl", job.events_read)
        metrics, step = _metrics(rows, job.step, total)
        with self._store.transaction():
            for entry in sorted((*metrics, *events), key=lambda entry: entry.at):
                _add(self._store, job.id, entry)
            _checkpoints(self._store, job, self._folder, self._home)
            is_running = self._job().status == "running"
            self._store.update(
                Job,
                job.id,
                events_read=offset,
                training_s=job.training_s + trained_s,
                step=step,
                total_steps=total,
                tokens_per_s=state.get("tokens_per_s"),
                estimated_finish=_integer(state.get("estimated_finish"))
                if is_running and step >= MEASURED_STEPS
                else None,
            )
        self._metrics.commit()
        return self._job()

    def _job(self) -> Job:
        job = self._store.get(Job, self._id)
        assert job is not None, "rows of jobs are never deleted"
        return job


def read_state(folder: Path) -> dict[str, Any]:
    """The trainer's state.json; an empty dict if it does not exist yet."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def register_adapter(store: EngineStore, job: Job, source: Path, home: Path, step: int | None) -> str:
    """Copy an adapter from the job folder to HOME/adapters and register it as a model; return the model id."""
    model_id = job.tuned_id if step is None else checkpoint_model_id(job.tuned_id, step)
    code = job.tuned_id.rpartition(":")[2]
    adapter = Path("adapters") / (f"{code}.gguf" if step is None else f"{code}-step-{step}.gguf")
    (home / "adapters").mkdir(exist_ok=True)
    partial = home / f"{adapter}.part"
    shutil.copyfile(source, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, home / adapter)
    store.add(TunedModel(model_id, int(time.time()), job.base, str(adapter), job.format, job.id, step))
    return model_id


def _events(path: Path, offset: int) -> tuple[list[_Entry], int]:
    """The trainer's events after byte `offset`, and the new offset."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        offset = min(offset, os.fstat(file.fileno()).st_size)  # the file may be shorter after a power failure
        file.seek(offset)
        block = file.read()
    complete = block[: block.rfind(b"\n") + 1]
    entries = []
    for line in complete.splitlines():
        try:
            event = json.loads(line)
            message, level, at = str(event["message"]), event.get("level"), float(event["at"])
        except (ValueError, KeyError, TypeError):
            continue
        level = level if level in _LEVELS else "info"
        entries.append(_Entry(at, message, level, "message", event.get("data") or {}))
    return entries, offset + len(complete)


def _metrics(rows: Iterable[Mapping[str, Any]], last: int, total: int | None) -> tuple[list[_Entry], int]:
    """Return one event for each step after `last`, and the new last step. Steps repeated after a resume are skipped."""
    entries = []
    for row in rows:
        step = _integer(row.get("step"))
        if step is None or step <= last:
            continue
        last = step
        loss = row.get("training_loss")
        loss_text = f"{loss:.2f}" if isinstance(loss, int | float) else "unknown"
        message = (
            f"Step {step}/{total}: training loss={loss_text}" if total else f"Step {step}: training loss={loss_text}"
        )
        data = {"step": step, "total_steps": total, **_finite(_metric_names(row))}
        entries.append(_Entry(float(row.get("at") or time.time()), message, "info", "metrics", data))
    return entries, last


def _checkpoints(store: EngineStore, job: Job, folder: Path, home: Path) -> None:
    known = {row.step for row in store.select(CheckpointRow, "job_id = ?", (job.id,))}
    for row in read_lines(folder / "checkpoints.jsonl"):
        step, path = _integer(row.get("step")), row.get("path")
        if step is None or step in known or not isinstance(path, str):
            continue
        source = Path(path) if Path(path).is_absolute() else folder / path
        model = register_adapter(store, job, source, home, step)
        metrics = _finite(row.get("metrics") or {})
        at = int(row.get("at") or time.time())
        store.add(CheckpointRow(new_id("ftckpt"), job.id, at, step, model, to_json({"step": step, **metrics})))
        add_event(
            store,
            job.id,
            msg("Checkpoint created at step {step}: {model}", step=step, model=model),
            step=step,
            model=model,
        )
        known.add(step)


def _metric_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's metrics, under the names that OpenAI's events use."""
    return {
        "train_loss": row.get("training_loss"),
        "train_mean_token_accuracy": row.get("training_token_accuracy"),
        "valid_loss": row.get("validation_loss"),
        "valid_mean_token_accuracy": row.get("validation_token_accuracy"),
        "train_reward_accuracy": row.get("training_reward_accuracy"),
        "train_reward_margin": row.get("training_reward_margin"),
        "valid_reward_accuracy": row.get("validation_reward_accuracy"),
        "valid_reward_margin": row.get("validation_reward_margin"),
    }


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep only the finite numbers."""
    return {name: value for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


def _add(store: EngineStore, job_id: str, entry: _Entry) -> None:
    data = to_json({**entry.data, **extra_fields(entry.message)})
    store.add(Event(new_id("ftevent"), job_id, int(entry.at), entry.level, entry.message, entry.type, data))


def _integer(value: object) -> int | None:
    """Convert a finite number to an integer; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)
