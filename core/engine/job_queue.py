"""The line of jobs that wait for the trainer: each one's place, and when it should start. One job trains at a time."""

from __future__ import annotations

from dataclasses import dataclass

from core.engine.store import EngineStore, Job

_START_S = 10.0  # a trainer's process, its libraries and weights, before the first step


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A waiting job's place in line.

    Attributes:
        position: 1 is the next to train, or the job that trains now: behind one running job it is 2.
        estimated_start: unix seconds; None: a job ahead cannot be estimated yet.
    """

    position: int
    estimated_start: int | None


def queue_positions(store: EngineStore, now: float) -> dict[str, QueuePosition]:
    """The place of every job that is validated or queued, by id. `now` in unix seconds."""
    line = store.select(Job, "status IN ('validating_files', 'queued')")
    if not line:
        return {}
    running = store.select(Job, "status = 'running'")
    ends: float | None = now
    for job in running:
        ends = _end(store, job, ends, now)
    found: dict[str, QueuePosition] = {}
    for position, job in enumerate(line, start=len(running) + 1):
        found[job.id] = QueuePosition(position, None if ends is None else round(ends))
        ends = _end(store, job, ends, now)
    return found


def _end(store: EngineStore, job: Job, begins: float | None, now: float) -> float | None:
    """When a job ends that begins at `begins`: as its trainer says, else from its tokens and the newest speed."""
    if job.status == "running" and job.estimated_finish is not None:
        return max(float(job.estimated_finish), now)
    speed = job.tokens_per_s or speeds(store).get(job.base)
    if begins is None or speed is None or job.epoch_tokens is None:
        return None
    done = min(1.0, job.step / job.total_steps) if job.total_steps else 0.0
    return begins + _START_S + job.epoch_tokens * job.n_epochs * (1 - done) / speed


def speeds(store: EngineStore) -> dict[str, float]:
    """Tokens a second by base: of the newest job on it that has timed its steps. The start-up is no part of it."""
    newest = "seq IN (SELECT max(seq) FROM jobs WHERE tokens_per_s > 0 GROUP BY base)"
    return {job.base: job.tokens_per_s for job in store.select(Job, newest) if job.tokens_per_s}
