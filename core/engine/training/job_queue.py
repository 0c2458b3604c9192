"""The queue of jobs waiting for a trainer: positions and estimated start times."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

from core.engine.store import EngineStore, Job

_STARTUP_S = 10.0  # time for a trainer to start and to load libraries and weights


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A waiting job's position in the queue.

    Attributes:
        position: counted from 1, including running jobs, so the first waiting job behind one is at position 2.
        estimated_start: Unix seconds; None if the jobs ahead cannot be estimated yet.
    """

    position: int
    estimated_start: int | None


def queue_positions(store: EngineStore, now: float, at_once: int = 1) -> dict[str, QueuePosition]:
    """Positions of all jobs that are being validated or queued, by job id.

    Args:
        store: has the jobs.
        now: Unix seconds.
        at_once: how many jobs train at the same time.
    """
    waiting = store.select(Job, "status IN ('validating_files', 'queued')")
    if not waiting:
        return {}
    running = store.select(Job, "status = 'running'")
    speed = speeds(store)
    free_at = sorted(_end(job, now, now, speed) for job in running)[-at_once:]  # for each place; infinite if unknown
    free_at = [now] * (at_once - len(free_at)) + free_at  # sorted, and so a heap
    positions: dict[str, QueuePosition] = {}
    for position, job in enumerate(waiting, start=len(running) + 1):
        starts = free_at[0]
        positions[job.id] = QueuePosition(position, None if math.isinf(starts) else round(starts))
        heapq.heapreplace(free_at, _end(job, starts, now, speed))
    return positions


def _end(job: Job, starts: float, now: float, speed_of: Mapping[str, float]) -> float:
    """Estimated end of a job that starts at `starts`: the trainer's estimate, or else tokens / latest speed; infinite
    if unknown.
    """
    if job.status == "running" and job.estimated_finish is not None:
        return max(float(job.estimated_finish), now)
    speed = job.tokens_per_s or speed_of.get(job.base)
    if speed is None or job.epoch_tokens is None:
        return math.inf
    done = min(1.0, job.step / job.total_steps) if job.total_steps else 0.0
    return starts + _STARTUP_S + job.epoch_tokens * job.n_epochs * (1 - done) / speed


def speeds(store: EngineStore) -> dict[str, float]:
    """Training speed in tokens per second by base model, from the latest job with timed steps, excluding start-up."""
    newest = "seq IN (SELECT max(seq) FROM jobs WHERE tokens_per_s > 0 GROUP BY base)"
    return {job.base: job.tokens_per_s for job in store.select(Job, newest) if job.tokens_per_s}
