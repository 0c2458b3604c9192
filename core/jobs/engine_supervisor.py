"""Supervises the engine: starts it as a child process of the studio, restarts it after a crash, stops it at exit."""

from __future__ import annotations

import fcntl
import http.client
import importlib.metadata
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core import file_permissions, processes
from core.errors import FabulaError
from core.message import listed, msg
from core.process_environment import engine_environment, hub_environment, storage_environment
from core.providers import engine_endpoint
from core.providers.connection import tls_context
from core.providers.engine_endpoint import Endpoint, EngineNote
from core.settings import Settings

ROOT = Path(__file__).parents[2]
_HOST = "127.0.0.1"
_POLL_S = 0.25  # short, because users wait for the engine to start
_STABLE_S = 60.0  # a crash after this uptime is not a start-up failure
INSTALL = f"{sys.executable} -m pip install -r requirements-engine.txt"
_INSTALL = msg("Install them: {command}. The engine then starts within 30 seconds.", command=INSTALL)
_EXIT_MISSING, _EXIT_PORT = 3, 4  # exit codes of core.engine.__main__

_log = logging.getLogger("fabula.engine")
# a proxy cannot reach this machine's loopback interface
_no_proxy_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class SupervisorLimits:
    """How long the supervisor waits, and how much log it keeps.

    Attributes:
        lock_poll_s: interval for checking the lock while another app with the same home directory runs the engine; this
            app takes over when the other one exits.
        missing_poll_s: interval for checking missing packages, which may be being installed.
        first_pause_s, longest_pause_s: pause before a restart after a crash; it doubles with each crash.
        grace_s: time allowed for the engine to stop; the engine waits 12 s for answers in progress, meanwhile 10 s for
            a trainer checkpoint, then 5 s for llama.cpp.
        log_bytes: the log is rotated when it exceeds this size.
    """

    lock_poll_s: float = 5.0
    missing_poll_s: float = 30.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    grace_s: float = 22.0
    log_bytes: int = 2_000_000


class EngineProcess:
    """This app's engine process: call `start()` with the server's start and `stop()` at exit. One per process.

    If `FABULA_ENGINE_URL` is set, both do nothing.

    Args:
        settings: home directory and engine settings.
        module: the module to run; takes `--host --port --home` and serves `GET /health`.
        requirements: requirements file with the packages that the module needs.
        limits: pauses and log size.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        module: str = "core.engine",
        requirements: Path = ROOT / "requirements-engine.txt",
        limits: SupervisorLimits | None = None,
    ) -> None:
        self._settings, self._module, self._requirements = settings, module, requirements
        self._limits = limits or SupervisorLimits()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._log_path = settings.engine_home / "engine.log"

    def start(self) -> None:
        """Start supervising the engine in a thread and return immediately."""
        if self._settings.engine_url is not None or (self._thread is not None and self._thread.is_alive()):
            return
        self._stopping.clear()
        # prctl(2) ties the engine to the *thread* that starts it, so one long-lived thread starts it every time.
        self._thread = threading.Thread(target=self._supervise, name="fabula-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the engine gracefully if possible. A training job saves a checkpoint and resumes at the next start."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    # --- the supervisor's thread -------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._exclusive():
                    # stop an engine that an earlier process left running
                    processes.terminate(engine_endpoint.read(self._settings).process, self._limits.grace_s)
                    self._run_until_stopped()
            except BlockingIOError:
                self._stopping.wait(self._limits.lock_poll_s)
            except (FabulaError, OSError) as exc:
                _log.error("The engine cannot be started: %s", exc)
                self._stopping.wait(self._limits.longest_pause_s)
            except Exception:  # without this thread the engine would never be restarted
                _log.exception("Unexpected error; the engine is restarted in 30 seconds.")
                self._stopping.wait(self._limits.longest_pause_s)

    def _run_until_stopped(self) -> None:
        pause_s, url = self._limits.first_pause_s, engine_endpoint.read(self._settings).url
        while not self._stopping.is_set():
            if missing := missing_packages(self._requirements):
                self._record(EngineNote("missing", url, "", _missing(missing), _INSTALL))
                self._stopping.wait(self._limits.missing_poll_s)
                continue
            started = time.monotonic()
            url = f"http://{_HOST}:{self._port()}"
            code = self._run(url)
            if self._stopping.is_set():
                break
            was_stable = time.monotonic() - started > _STABLE_S
            pause_s = self._limits.first_pause_s if was_stable else min(self._limits.longest_pause_s, pause_s * 2)
            self._record(self._crash_note(url, code))
            self._stopping.wait(pause_s)
        self._record(EngineNote("stopped", url, "", msg("The engine was stopped."), msg("Restart Fabula.")))

    def _run(self, url: str) -> int:
        """Run the engine until it exits or `stop` is called; return its exit code."""
        child = self._spawn(url)
        try:
            note = EngineNote(
                "starting",
                url,
                processes.identity(child.pid),
                msg("The engine is starting."),
                msg("Wait a few seconds."),
            )
            self._record(note)
            while child.poll() is None and not self._stopping.wait(_POLL_S):
                self._rotate_log()
                if note.state == "starting" and ask_health(Endpoint(url, self._token()), 1.0) is not None:
                    note = EngineNote("up", url, note.process)
                    self._record(note)
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(self._limits.grace_s)
                except subprocess.TimeoutExpired:
                    child.kill()
        return child.wait()

    def _spawn(self, url: str) -> subprocess.Popen[bytes]:
        self._log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = (
            engine_environment(os.environ)
            | hub_environment(os.environ)
            | storage_environment(os.environ)
            | {
                "FABULA_ENGINE_TOKEN": self._token(),
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONUNBUFFERED": "1",
            }
        )
        arguments = ["--host", _HOST, "--port", str(urlsplit(url).port), "--home", str(self._settings.engine_home)]
        with open(self._log_path, "ab", opener=file_permissions.private_opener) as log:
            return subprocess.Popen(
                [sys.executable, "-m", "core.processes", str(os.getpid()), self._module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                process_group=0,  # Ctrl+C in a terminal goes only to the app, which then stops the engine
            )

    def _token(self) -> str:
        return engine_endpoint.token(self._settings)

    def _port(self) -> int:
        """The previous port if it is free, so that the address stays the same; otherwise any free port."""
        last = urlsplit(engine_endpoint.read(self._settings).url).port or 0
        for port in (last, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the engine binds with this option too
                try:
                    probe.bind((_HOST, port))
                except OSError:
                    continue
                return int(probe.getsockname()[1])
        raise FabulaError(msg("No port is free on this machine."), msg("Close some programs and restart Fabula."))

    def _crash_note(self, url: str, code: int) -> EngineNote:
        log_line = self._last_log_line()
        _log.warning("The engine ended with code %s: %s", code, log_line)
        if code == _EXIT_MISSING:
            return EngineNote("missing", message=log_line, next_step=_INSTALL)
        if code == _EXIT_PORT:  # the port was taken after it was checked; the next attempt uses another port
            return EngineNote(
                "down",
                message=msg("The engine's port is taken: {log_line}", log_line=log_line),
                next_step=msg("Fabula restarts it automatically."),
            )
        return EngineNote(
            "down",
            url,
            "",
            msg("The engine ended: {log_line}", log_line=log_line),
            msg("Fabula restarts it; its log is {log_path}.", log_path=self._log_path),
        )

    def _last_log_line(self) -> str:
        """The last line of the log."""
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 2_000))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _rotate_log(self) -> None:
        """Move a full log to `.log.1` and truncate it in place, because the engine keeps the file open."""
        try:
            if self._log_path.stat().st_size > self._limits.log_bytes:
                self._log_path.with_suffix(".log.1").write_bytes(self._log_path.read_bytes())
                os.truncate(self._log_path, 0)
        except OSError as exc:
            _log.error("The engine's log cannot be shortened: %s", exc)

    def _record(self, note: EngineNote) -> None:
        try:
            engine_endpoint.write(self._settings, note)
        except FabulaError as exc:  # not a reason to stop a working engine
            _log.error("%s %s", exc.what, exc.next_step)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock of the home directory: one supervisor per home directory.

        Raises:
            BlockingIOError: another process holds it.
        """
        self._settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._settings.home / "engine.keeper", "w", opener=file_permissions.private_opener) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


def ask_health(endpoint: Endpoint, timeout_s: float) -> dict[str, Any] | None:
    """The engine's `GET /health` response; None if it does not respond in time."""
    opener = _no_proxy_opener
    request = urllib.request.Request(f"{endpoint.url}/health", headers={"Authorization": f"Bearer {endpoint.token}"})
    try:
        if endpoint.url.startswith("https:"):
            tls = urllib.request.HTTPSHandler(context=tls_context(endpoint.certificates))
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)
        with opener.open(request, timeout=timeout_s) as response:
            health = json.load(response)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return health if isinstance(health, dict) else None


def missing_packages(requirements: Path) -> list[str]:
    """Packages in a requirements file that are not installed, in file order."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    names = [match[0] for line in lines if (match := re.match(r"[A-Za-z0-9][\w.-]*", line))]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _missing(names: Sequence[str]) -> str:
    return msg("The engine needs packages that are not installed: {names}.", names=listed(names))
