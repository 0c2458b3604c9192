"""The queue of jobs waiting for the trainer: positions and estimated start times. Only one job trains at a time."""

from __future__ import annotations

from dataclasses import dataclass

from core.engine.store import EngineStore, Job

_STARTUP_S = 10.0  # time for a trainer to start and to load libraries and weights


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A waiting job's position in the queue.

    Attributes:
        position: counted from 1, including a running job, so the first waiting job behind it is at position 2.
        estimated_start: Unix seconds; None if a job ahead cannot be estimated yet.
    """

    position: int
    estimated_start: int | None


def queue_positions(store: EngineStore, now: float) -> dict[str, QueuePosition]:
    """Positions of all jobs that are being validated or queued, by job id. `now` is in Unix seconds."""
    waiting = store.select(Job, "status IN ('validating_files', 'queued')")
    if not waiting:
        return {}
    running = store.select(Job, "status = 'running'")
    free_at: float | None = now
    for job in running:
        free_at = _end(store, job, free_at, now)
    positions: dict[str, QueuePosition] = {}
    for position, job in enumerate(waiting, start=len(running) + 1):
        positions[job.id] = QueuePosition(position, None if free_at is None else round(free_at))
        free_at = _end(store, job, free_at, now)
    return positions


def _end(store: EngineStore, job: Job, starts: float | None, now: float) -> float | None:
    """Estimated end of a job that starts at `starts`: the trainer's estimate, or else tokens / latest speed."""
    if job.status == "running" and job.estimated_finish is not None:
        return max(float(job.estimated_finish), now)
    speed = job.tokens_per_s or speeds(store).get(job.base)
    if starts is None or speed is None or job.epoch_tokens is None:
        return None
    done = min(1.0, job.step / job.total_steps) if job.total_steps else 0.0
    return starts + _STARTUP_S + job.epoch_tokens * job.n_epochs * (1 - done) / speed


def speeds(store: EngineStore) -> dict[str, float]:
    """Training speed in tokens per second by base model, from the latest job with timed steps, excluding start-up."""
    newest = "seq IN (SELECT max(seq) FROM jobs WHERE tokens_per_s > 0 GROUP BY base)"
    return {job.base: job.tokens_per_s for job in store.select(Job, newest) if job.tokens_per_s}
