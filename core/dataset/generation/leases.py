"""Who has rows in hand: an id for every executor, and which of them are dead, so that their rows can be given back."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import process_identity
from core.db.store import new_id
from core.db.worker_heartbeats import WorkerBeat

_living: set[str] = set()  # the executors of this process


@contextmanager
def hold_lease() -> Iterator[str]:
    """An id for one executor, alive for the length of the block: machine, process with its start time, number."""
    claimant = f"{_machine(socket.gethostname())}:{process_identity.identity()}:{new_id()}"
    _living.add(claimant)
    try:
        yield claimant
    finally:
        _living.discard(claimant)


def expired(session: Session, claimants: Iterable[str]) -> list[str]:
    """Those that will never answer for their rows.

    On this machine a claimant lives as long as its process and its own block; elsewhere as long as its worker is on
    the list (`core.heartbeat`: workers take those off it that have been silent for half a minute).
    """
    asked = list(claimants)
    elsewhere = {parts for one in asked if (parts := _parts(one))[0] != _machine(socket.gethostname())}
    listed = set()
    if elsewhere:
        listed = {(_machine(host), who) for host, who in session.execute(select(WorkerBeat.host, WorkerBeat.process))}
    return [one for one in asked if not _lives(one, listed)]


def _lives(claimant: str, listed: set[tuple[str, str]]) -> bool:
    machine, who = _parts(claimant)
    if machine != _machine(socket.gethostname()):
        return (machine, who) in listed
    return claimant in _living if who == process_identity.identity() else process_identity.is_running(who)


def _parts(claimant: str) -> tuple[str, str]:
    """(machine, process)."""
    machine, _, rest = claimant.partition(":")
    return machine, rest.rpartition(":")[0]


def _machine(host: str) -> str:
    """A machine's name in few characters, without what stands between the parts."""
    return hashlib.sha256(host.encode()).hexdigest()[:12]
