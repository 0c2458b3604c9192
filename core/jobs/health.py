"""Readiness check for load balancers and monitoring: `/api/health/ready`, with reasons.

A web process that cannot use the database or write to its home folder is not ready; another replica may be. Without a
worker, an engine or the shared files it is only degraded: pages still work, and taking every replica out of service
would help no one.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from core import shared_files
from core.db import migrate
from core.db.store import Store
from core.errors import FabulaError
from core.jobs import heartbeat
from core.jobs.engine_supervisor import ask_health
from core.providers import engine_endpoint
from core.settings import Settings

MIN_FREE_BYTES = 200_000_000
"""Below this, a home folder counts as full: a checkpoint of a tuned model and its journal need about half of it."""
_TIMEOUT_S = 4.0  # for all checks together; load balancers usually wait 5 s
_ENGINE_TIMEOUT_S = 2.0
_CACHE_S = 1.0  # many callers cost one check per second
_FILES_CACHE_S = 15.0  # S3 bills each request

_log = logging.getLogger("fabula.health")

State = Literal["ready", "degraded", "not ready"]
_ESSENTIAL = frozenset({"database", "disk"})
# Why the engine does not answer, by its recorded state.
_ENGINE_STATES: dict[engine_endpoint.State, str] = {
    "up": "The engine does not answer.",
    "starting": "The engine is starting.",
    "missing": "The engine's packages are not installed.",
    "down": "The engine ended and will be started again.",
    "stopped": "The engine is not running.",
}


@dataclass(frozen=True, slots=True)
class Readiness:
    """The combined result of all checks.

    Attributes:
        state: `not ready` if an essential check failed, `degraded` if another one did.
        reasons: a sentence for each failed check, by name: database, disk, files, worker, engine. They name no paths,
            addresses or keys, because anyone who reaches the server can read them.
    """

    state: State
    reasons: dict[str, str]


class HealthCheck:
    """Checks one installation and caches the result for a second. Safe to share between threads.

    Args:
        settings: the installation.
        for_worker: count only workers on this host, and skip the engine.
    """

    def __init__(self, settings: Settings, *, for_worker: bool = False) -> None:
        self._settings = settings
        self._store = Store(settings.database_url, settings.home)  # opens no connection yet, and creates no file
        self._checks: dict[str, Callable[[], str]] = {
            "database": self._database,
            "disk": self._disk,
            "files": self._files,
            "worker": self._worker,
        }
        self._worker_host = socket.gethostname() if for_worker else None
        if not for_worker:
            self._checks["engine"] = self._engine
        self._threads = ThreadPoolExecutor(max_workers=2 * len(self._checks), thread_name_prefix="health")
        self._lock = threading.Lock()
        self._latest: tuple[float, Readiness] | None = None
        self._files_lock = threading.Lock()
        self._files_result = (float("-inf"), "")

    def check(self) -> Readiness:
        """Run all checks in parallel. Never raises; takes a few seconds at most."""
        with self._lock:
            if self._latest is not None and time.monotonic() < self._latest[0] + _CACHE_S:
                return self._latest[1]
            health = self._run()
            self._latest = (time.monotonic(), health)
            return health

    def close(self) -> None:
        """Close the connections to the database."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def _run(self) -> Readiness:
        running = {name: self._threads.submit(check) for name, check in self._checks.items()}
        deadline, reasons = time.monotonic() + _TIMEOUT_S, {}
        for name, future in running.items():
            try:
                reason = future.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                future.cancel()
                reason = "No answer in time."
            except Exception as exc:  # a bug in a check must not take the server down
                reason = f"The check failed ({type(exc).__name__})."
            if reason:
                reasons[name] = reason
        state: State = "not ready" if _ESSENTIAL & reasons.keys() else "degraded" if reasons else "ready"
        return Readiness(state, reasons)

    def _database(self) -> str:
        try:
            self._store.check_file()
            state = migrate.schema_state(self._store.engine)
        except (FabulaError, SQLAlchemyError):
            return "The database cannot be reached or read."
        if not state.known:
            return "A newer version of Fabula wrote the database."
        return "" if state.up_to_date else "The database has not been migrated yet."

    def _disk(self) -> str:
        try:
            free = shutil.disk_usage(self._settings.home).free
        except OSError:
            return "The home folder cannot be read."
        if not os.access(self._settings.home, os.W_OK | os.X_OK):
            return "The home folder cannot be written to."
        return "" if free >= MIN_FREE_BYTES else f"Only {free // 1_000_000} MB are free in the home folder."

    def _files(self) -> str:
        """The shared files. What was read of them stays in use, so pages work; only changes are not seen."""
        if shared_files.in_home(self._settings):
            return ""
        if not self._files_lock.acquire(blocking=False):
            return "The shared files do not answer."  # the check before this one hangs, and keeps one thread only
        try:
            if time.monotonic() >= self._files_result[0] + _FILES_CACHE_S:
                try:
                    shared_files.storage(self._settings).reach()
                    reason = ""
                except FabulaError as exc:
                    _log.warning("%s %s", exc.what, exc.next_step)
                    reason = "The shared files cannot be reached or read."
                self._files_result = (time.monotonic(), reason)
            return self._files_result[1]
        finally:
            self._files_lock.release()

    def _worker(self) -> str:
        try:
            state = heartbeat.worker_state(self._store, host=self._worker_host)
        except (FabulaError, SQLAlchemyError):
            return "Unknown: the database cannot be read."
        return "" if state.up else "No worker has reported in the last 20 seconds, so queued work waits."

    def _engine(self) -> str:
        with suppress(FabulaError):
            if ask_health(engine_endpoint.current_endpoint(self._settings), _ENGINE_TIMEOUT_S) is not None:
                return ""
        if self._settings.engine_url is not None:
            return _ENGINE_STATES["up"]
        return _ENGINE_STATES[engine_endpoint.read(self._settings).state]
