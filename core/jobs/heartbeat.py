"""Tracks worker liveness through the ledger: each worker writes heartbeats, and any process can read them."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select

from core import processes
from core.db.store import Store, new_id
from core.db.tables import Run, Tour, TrainingJob, WorkerHeartbeat, utcnow

BEAT_INTERVAL_S = 5.0  # each heartbeat is one small durable write
DOWN_AFTER_S = 20.0  # after four missed heartbeats, a worker is shown as down
_DEAD_AFTER_S = 30.0  # after this time without heartbeats, a remote worker's jobs go to other workers


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The combined state of all workers.

    Attributes:
        up: whether at least one worker is alive.
        running: number of items being worked on (runs, jobs, tours).
        queued: number of items waiting for a worker.
    """

    up: bool
    running: int
    queued: int


def worker_state(store: Store, *, host: str | None = None) -> WorkerState:
    """Read from the ledger whether a worker is alive, and how much work is running and queued.

    Args:
        store: the ledger.
        host: count only the workers of this host.

    Raises:
        StorageFull: the database is unavailable.
    """
    cutoff = utcnow() - timedelta(seconds=DOWN_AFTER_S)
    with store.reading() as session:
        beats = session.scalars(select(WorkerHeartbeat).where(WorkerHeartbeat.heartbeat_at > cutoff)).all()
        n_queued = (
            select(func.count()).select_from(Run).where(Run.state == "queued").scalar_subquery()
            + select(func.count()).select_from(TrainingJob).where(TrainingJob.status == "preparing").scalar_subquery()
            + select(func.count()).select_from(Tour).where(Tour.state == "queued").scalar_subquery()
        )
        queued = session.scalar(select(n_queued)) or 0
    live = [beat for beat in beats if host in (None, beat.host) and not _process_ended(beat)]
    return WorkerState(up=bool(live), running=sum(beat.running for beat in live), queued=queued)


class Heartbeat:
    """Writes one worker's heartbeats and detects dead workers."""

    def __init__(self, store: Store) -> None:
        self.id = new_id()
        self._store = store
        self._seen: dict[str, tuple[object, float]] = {}

    def beat(self, running: int) -> None:
        """Record that this worker is alive and works on `running` items."""
        with self._store.session() as session:
            row = session.get(WorkerHeartbeat, self.id)
            if row is None:
                session.add(row := WorkerHeartbeat(id=self.id, host=socket.gethostname(), process=processes.identity()))
            row.heartbeat_at, row.running = utcnow(), running

    def stop(self) -> None:
        """Delete this worker's heartbeat."""
        self._delete({self.id})

    def remove_earlier(self, ids: set[str]) -> None:
        """Delete heartbeats that this process left behind while the database was unavailable.

        Other workers do not delete them, because this process is still running.
        """
        if ids:
            self._delete(ids)

    def live_ids(self) -> set[str]:
        """Return the ids of the live workers, including this one; delete the heartbeats of dead ones.

        A worker on this machine is dead when its process has ended. A worker elsewhere is dead when its row has not
        changed for 30 seconds *of this process's monotonic clock*, so that a wrong clock or a suspended laptop does not
        make it look dead.
        """
        with self._store.reading() as session:
            beats = session.scalars(select(WorkerHeartbeat)).all()
        now = time.monotonic()
        self._seen = {
            beat.id: seen
            if (seen := self._seen.get(beat.id)) and seen[0] == beat.heartbeat_at
            else (beat.heartbeat_at, now)
            for beat in beats
        }
        dead = {beat.id for beat in beats if beat.id != self.id and self._is_dead(beat, now)}
        if dead:
            self._delete(dead)
        return {beat.id for beat in beats} - dead | {self.id}

    def _is_dead(self, beat: WorkerHeartbeat, now: float) -> bool:
        if beat.host == socket.gethostname():  # a live worker writes no heartbeats while the disk is full
            return _process_ended(beat)
        return now - self._seen[beat.id][1] > _DEAD_AFTER_S

    def _delete(self, ids: set[str]) -> None:
        with self._store.session() as session:
            session.execute(delete(WorkerHeartbeat).where(WorkerHeartbeat.id.in_(ids)))


def _process_ended(beat: WorkerHeartbeat) -> bool:
    """Whether a worker on this machine has certainly ended."""
    return beat.host == socket.gethostname() and not processes.is_running(beat.process)
