"""Which workers live, told through the ledger: each one beats, any process can look."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select

from core import process_identity
from core.db.store import Store, new_id
from core.db.tables import Run, Tour, TrainingJob, utcnow
from core.db.worker_heartbeats import WorkerBeat

BEAT_S = 5.0  # one small durable write: seldom enough for any disk
_SILENT_S = 20.0  # four missed beats: told as down
_DEAD_S = 30.0  # a machine that is silent for so long has its work taken over by others


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What the workers do together.

    Attributes:
        up: whether at least one lives.
        running: pieces of work in hand (runs, jobs, tours).
        queued: pieces of work that wait for a worker.
    """

    up: bool
    running: int
    queued: int


def alive(store: Store) -> WorkerState:
    """Ask the ledger whether a worker lives and how much there is to do.

    Raises:
        StorageFull: the database is gone.
    """
    horizon = utcnow() - timedelta(seconds=_SILENT_S)
    with store.reading() as session:
        beats = session.scalars(select(WorkerBeat).where(WorkerBeat.beat_at > horizon)).all()
        waiting = (
            select(func.count()).select_from(Run).where(Run.state == "queued").scalar_subquery()
            + select(func.count()).select_from(TrainingJob).where(TrainingJob.status == "preparing").scalar_subquery()
            + select(func.count()).select_from(Tour).where(Tour.state == "queued").scalar_subquery()
        )
        queued = session.scalar(select(waiting)) or 0
    living = [beat for beat in beats if not _gone(beat)]
    return WorkerState(up=bool(living), running=sum(beat.running for beat in living), queued=queued)


class Heartbeat:
    """One worker's beat, and its eye on the others."""

    def __init__(self, store: Store) -> None:
        self.id = new_id()
        self._store = store
        self._seen: dict[str, tuple[object, float]] = {}

    def beat(self, running: int) -> None:
        """Say that this worker lives and has `running` pieces of work in hand."""
        with self._store.session() as session:
            row = session.get(WorkerBeat, self.id)
            if row is None:
                session.add(
                    row := WorkerBeat(id=self.id, host=socket.gethostname(), process=process_identity.identity())
                )
            row.beat_at, row.running = utcnow(), running

    def stop(self) -> None:
        """Take this worker off the list."""
        self._forget({self.id})

    def replace(self, ids: set[str]) -> None:
        """Take earlier lives of this worker off the list, which could not do so when the database was away: their
        process lives, so that nobody else would."""
        if ids:
            self._forget(ids)

    def living(self) -> set[str]:
        """Ids of the workers whose work is theirs, this one included; the dead are taken off the list.

        A worker of this machine is dead when its process is; one elsewhere when its row has not changed for half a
        minute *of this process's own clock*, so that neither a wrong clock nor a laptop's sleep kills anybody.
        """
        with self._store.reading() as session:
            beats = session.scalars(select(WorkerBeat)).all()
        now = time.monotonic()
        self._seen = {
            beat.id: old if (old := self._seen.get(beat.id)) and old[0] == beat.beat_at else (beat.beat_at, now)
            for beat in beats
        }
        dead = {beat.id for beat in beats if beat.id != self.id and self._dead(beat, now)}
        if dead:
            self._forget(dead)
        return {beat.id for beat in beats} - dead | {self.id}

    def _dead(self, beat: WorkerBeat, now: float) -> bool:
        if beat.host == socket.gethostname():  # one that waits for a full disk is silent, and alive
            return _gone(beat)
        return now - self._seen[beat.id][1] > _DEAD_S

    def _forget(self, ids: set[str]) -> None:
        with self._store.session() as session:
            session.execute(delete(WorkerBeat).where(WorkerBeat.id.in_(ids)))


def _gone(beat: WorkerBeat) -> bool:
    """Whether a worker of this machine is certainly dead."""
    return beat.host == socket.gethostname() and not process_identity.is_running(beat.process)
