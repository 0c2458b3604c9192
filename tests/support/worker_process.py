"""A worker in its own process, for tests that kill it; its jobs log their actions to a file.

Arguments: the home directory, and the behaviour of jobs: `hang` (until killed), `finish`.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from core.db.store import Store
from core.db.tables import Tour, utcnow
from core.errors import FabulaError
from core.jobs.task_runner import KINDS, JobKind
from core.jobs.worker import Worker
from core.settings import Settings


def note(home: Path, word: str, item_id: str) -> None:
    """Write one line to the log: action, item, process."""
    with (home / "diary").open("a") as file:
        file.write(f"{word} {item_id} {os.getpid()}\n")


def kinds(home: Path, behaviour: str) -> dict[str, JobKind]:
    """Job kinds in which tours do fake work."""

    def carry_out(store: Store, _registry: object, item_id: str, stopping: threading.Event) -> None:
        with store.session() as session:
            session.get_one(Tour, item_id).state = "running"
        note(home, "began", item_id)
        if behaviour == "hang":
            stopping.wait()
            return
        with store.session() as session:
            tour = session.get_one(Tour, item_id)
            tour.state, tour.finished_at = "done", utcnow()
        note(home, "ended", item_id)

    def give_up(_store: Store, _item_id: str, error: FabulaError) -> None:
        raise AssertionError(error.what)

    return {"tour": JobKind("tour", 1, KINDS["tour"].unfinished, carry_out, give_up)}


def main() -> None:
    """Run a worker until killed, or stop cleanly when a line arrives on stdin."""
    home, behaviour = Path(sys.argv[1]), sys.argv[2]
    settings = Settings.from_env({"FABULA_HOME": str(home), "DATABASE_URL": os.environ.get("DATABASE_URL", "")})
    worker = Worker(settings, kinds=kinds(home, behaviour))
    worker.start()
    sys.stdin.readline()
    worker.stop()
    note(home, "stopped", "worker")


if __name__ == "__main__":
    main()
