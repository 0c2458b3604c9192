"""A job's log: the engine's own words, and what the trainer writes in the job's folder."""

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

from core.engine import ids
from core.engine.jsonl_tail import JsonlTail
from core.engine.store import CheckpointRow, EngineStore, Event, Job, TunedModel, to_json
from core.engine.trainer.job import MEASURED_STEPS, read_lines
from core.message import extra_fields, msg

_LEVELS = frozenset({"info", "warn", "error"})


@dataclass(frozen=True, slots=True)
class _Entry:
    """An event that is not in the store yet; `at` in unix seconds."""

    at: float
    message: str
    level: str
    type: str
    data: Mapping[str, Any]


def add_event(store: EngineStore, job_id: str, message: str, *, level: str = "info", **data: object) -> None:
    """Add an event of type `message`."""
    _add(store, job_id, _Entry(time.time(), message, level, "message", data))


class EventCollector:
    """What the trainer of one job writes, taken over into the store: each line once, and only what is new is read."""

    def __init__(self, store: EngineStore, job_id: str, home: Path) -> None:
        self._store, self._id, self._home = store, job_id, home
        self._folder = home / "jobs" / job_id
        self._metrics = JsonlTail(self._folder / "metrics.jsonl")

    def take(self, trained_s: float = 0.0) -> Job:
        """Take over what was written since the last time, and `trained_s` seconds of training; the job as it is now.

        Raises:
            OSError, sqlite3.Error: nothing of this round is kept, the next one takes it.
        """
        job = self._job()
        state, rows = state_of(self._folder), self._metrics.fresh()
        total = _whole(state.get("total_steps")) or job.total_steps
        events, read = _events(self._folder / "events.jsonl", job.events_read)
        metrics, step = _metrics(rows, job.step, total)
        with self._store.transaction():
            for entry in sorted((*metrics, *events), key=lambda entry: entry.at):
                _add(self._store, job.id, entry)
            _checkpoints(self._store, job, self._folder, self._home)
            trains = self._job().status == "running"
            self._store.update(
                Job,
                job.id,
                events_read=read,
                training_s=job.training_s + trained_s,
                step=step,
                total_steps=total,
                tokens_per_s=state.get("tokens_per_s"),
                estimated_finish=_whole(state.get("estimated_finish")) if trains and step >= MEASURED_STEPS else None,
            )
        self._metrics.keep()
        return self._job()

    def _job(self) -> Job:
        job = self._store.get(Job, self._id)
        assert job is not None, "rows of jobs are never taken away"
        return job


def state_of(folder: Path) -> dict[str, Any]:
    """The trainer's state.json; empty before there is one."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def keep_adapter(store: EngineStore, job: Job, source: Path, home: Path, step: int | None) -> str:
    """Make a model of an adapter of the job's folder; its id. The adapter gets a name of its own in HOME/adapters."""
    model_id = job.tuned_id if step is None else ids.checkpoint_model(job.tuned_id, step)
    code = job.tuned_id.rpartition(":")[2]
    adapter = Path("adapters") / (f"{code}.gguf" if step is None else f"{code}-step-{step}.gguf")
    (home / "adapters").mkdir(exist_ok=True)
    part = home / f"{adapter}.part"
    shutil.copyfile(source, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, home / adapter)
    store.add(TunedModel(model_id, int(time.time()), job.base, str(adapter), job.format, job.id, step))
    return model_id


def _events(path: Path, read: int) -> tuple[list[_Entry], int]:
    """The trainer's own events from where the last round ended, and the new end in bytes."""
    if not path.exists():
        return [], read
    with path.open("rb") as file:
        read = min(read, os.fstat(file.fileno()).st_size)  # shorter than we know it: the power failed
        file.seek(read)
        fresh = file.read()
    whole = fresh[: fresh.rfind(b"\n") + 1]
    entries = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
            message, level, at = str(event["message"]), event.get("level"), float(event["at"])
        except (ValueError, KeyError, TypeError):
            continue
        level = level if level in _LEVELS else "info"
        entries.append(_Entry(at, message, level, "message", event.get("data") or {}))
    return entries, read + len(whole)


def _metrics(rows: Iterable[Mapping[str, Any]], last: int, total: int | None) -> tuple[list[_Entry], int]:
    """One event for each step after `last`, and the last step. After a resume the trainer repeats steps: those are
    known."""
    entries = []
    for row in rows:
        step = _whole(row.get("step"))
        if step is None or step <= last:
            continue
        last = step
        loss = row.get("training_loss")
        shown = f"{loss:.2f}" if isinstance(loss, int | float) else "unknown"
        message = f"Step {step}/{total}: training loss={shown}" if total else f"Step {step}: training loss={shown}"
        data = {"step": step, "total_steps": total, **_measured(_metric_names(row))}
        entries.append(_Entry(float(row.get("at") or time.time()), message, "info", "metrics", data))
    return entries, last


def _checkpoints(store: EngineStore, job: Job, folder: Path, home: Path) -> None:
    known = {row.step for row in store.select(CheckpointRow, "job_id = ?", (job.id,))}
    for row in read_lines(folder / "checkpoints.jsonl"):
        step, path = _whole(row.get("step")), row.get("path")
        if step is None or step in known or not isinstance(path, str):
            continue
        source = Path(path) if Path(path).is_absolute() else folder / path
        model = keep_adapter(store, job, source, home, step)
        metrics = _measured(row.get("metrics") or {})
        at = int(row.get("at") or time.time())
        store.add(CheckpointRow(ids.new("ftckpt"), job.id, at, step, model, to_json({"step": step, **metrics})))
        add_event(
            store,
            job.id,
            msg("Checkpoint created at step {step}: {model}", step=step, model=model),
            step=step,
            model=model,
        )
        known.add(step)


def _metric_names(row: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's names as OpenAI's events have them."""
    return {
        "train_loss": row.get("training_loss"),
        "train_mean_token_accuracy": row.get("training_token_accuracy"),
        "valid_loss": row.get("validation_loss"),
        "valid_mean_token_accuracy": row.get("validation_token_accuracy"),
    }


def _measured(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not measured or is not a number."""
    return {name: value for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}


def _add(store: EngineStore, job_id: str, entry: _Entry) -> None:
    data = to_json({**entry.data, **extra_fields(entry.message)})
    store.add(Event(ids.new("ftevent"), job_id, int(entry.at), entry.level, entry.message, entry.type, data))


def _whole(value: object) -> int | None:
    """A finite number as a whole one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)
