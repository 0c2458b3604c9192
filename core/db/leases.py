"""Who works on an item or a row: ids that contain host, process with its start time, and a number.

Whoever holds one is alive as long as its process and its `hold_lease` block are; on other hosts, as long as its worker
is registered.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import processes
from core.db.store import new_id
from core.db.tables import WorkerHeartbeat

_active_claimants: set[str] = set()  # executors in this process


@contextmanager
def hold_lease() -> Iterator[str]:
    """Yield an id for one executor: host, process with its start time, and a unique number. Valid within the block."""
    claimant = f"{this_worker()}:{new_id()}"
    _active_claimants.add(claimant)
    try:
        yield claimant
    finally:
        _active_claimants.discard(claimant)


def this_worker() -> str:
    """The id of this process in claims: host and process with its start time."""
    return f"{_host_hash(socket.gethostname())}:{processes.identity()}"


def live_workers(session: Session) -> set[str]:
    """The ids (see `this_worker`) of the workers that are registered, without those known to have ended."""
    beats = session.execute(select(WorkerHeartbeat.host, WorkerHeartbeat.process)).all()
    own = socket.gethostname()
    return {f"{_host_hash(host)}:{process}" for host, process in beats if host != own or processes.is_running(process)}


def dead_claimants(session: Session, claimants: Iterable[str]) -> list[str]:
    """Find the claimants whose executor is dead.

    On this host, a claimant is alive as long as its process and its `hold_lease` block are. On other hosts, it is alive
    as long as its worker is registered (`core.jobs.heartbeat` removes workers after half a minute without a heartbeat).
    """
    ids = list(claimants)
    remote = {parts for claimant in ids if (parts := _split_claimant(claimant))[0] != _host_hash(socket.gethostname())}
    registered = set()
    if remote:
        registered = {
            (_host_hash(host), process)
            for host, process in session.execute(select(WorkerHeartbeat.host, WorkerHeartbeat.process))
        }
    return [claimant for claimant in ids if not _is_alive(claimant, registered)]


def _is_alive(claimant: str, registered: set[tuple[str, str]]) -> bool:
    host, process = _split_claimant(claimant)
    if host != _host_hash(socket.gethostname()):
        return (host, process) in registered
    return claimant in _active_claimants if process == processes.identity() else processes.is_running(process)


def _split_claimant(claimant: str) -> tuple[str, str]:
    """Return (host hash, process identity)."""
    host, _, rest = claimant.partition(":")
    return host, rest.rpartition(":")[0]


def _host_hash(host: str) -> str:
    """A short host id without ":", which separates the parts of a claimant."""
    return hashlib.sha256(host.encode()).hexdigest()[:12]
