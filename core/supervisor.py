"""Keeps the engine running: a child process of the dashboard, started again when it falls, never left behind."""

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
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core import engine_endpoint, permissions, process_identity
from core.engine_endpoint import Endpoint, EngineNote, current_endpoint
from core.errors import FabulaError
from core.message import msg
from core.settings import Settings, engine_environment

__all__ = ["INSTALL", "Endpoint", "EngineProcess", "ask_health", "current_endpoint", "missing_packages"]

ROOT = Path(__file__).parent.parent
_HOST = "127.0.0.1"
_LOOK_S = 0.25  # the start of the engine is what people wait for
_LOCK_LOOK_S = 5.0  # another studio on the same home keeps the engine; this one takes over when that one ends
_MISSING_LOOK_S = 30.0  # somebody may be installing the packages
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_WELL_S = 60.0  # an engine that lived so long did not fall because of how it was started
_GRACE_S = 22.0  # the engine gives its streams five seconds, its trainer ten for a checkpoint, llama.cpp five
_LOG_BYTES = 2_000_000
INSTALL = f"{sys.executable} -m pip install -r requirements-engine.txt"
_INSTALL = msg("Install them: {value}. The engine then starts within 30 seconds.", value=INSTALL)
_EXIT_MISSING, _EXIT_PORT = 3, 4  # as core.engine.__main__ documents them

_log = logging.getLogger("fabula.engine")
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our own loopback


class EngineProcess:
    """The engine of this studio: `start()` it with the server, `stop()` it at the end. One per process.

    With `FABULA_ENGINE_URL` set there is nothing to keep, and both do nothing.

    Args:
        settings: where the home is.
        module: what is run, `core.engine`; takes `--host --port --home` and answers `GET /health`.
        requirements: the list of packages that it needs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        module: str = "core.engine",
        requirements: Path = ROOT / "requirements-engine.txt",
    ) -> None:
        self._settings, self._module, self._requirements = settings, module, requirements
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._log_path = settings.engine_home / "engine.log"

    def start(self) -> None:
        """Begin keeping the engine, in a thread, and return at once."""
        if self._settings.engine_url is not None or (self._thread is not None and self._thread.is_alive()):
            return
        self._stopping.clear()
        # The kernel ties the engine to the *thread* that starts it (prctl(2)), so one thread does so for all its life.
        self._thread = threading.Thread(target=self._keep, name="fabula-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the engine, in peace if it can; a job that trains saves a checkpoint and goes on at the next start."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    # --- the supervisor's thread -------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._alone():
                    process_identity.terminate(
                        engine_endpoint.read(self._settings).process, _GRACE_S
                    )  # of a life that was cut short
                    self._live()
            except BlockingIOError:
                self._stopping.wait(_LOCK_LOOK_S)
            except (FabulaError, OSError) as exc:
                _log.error("The engine cannot be started: %s", exc)
                self._stopping.wait(_LONGEST_PAUSE_S)
            except Exception:  # without this thread no engine would ever be started again
                _log.exception("Unexpected error; the engine is started again in half a minute.")
                self._stopping.wait(_LONGEST_PAUSE_S)

    def _live(self) -> None:
        pause_s, url = _FIRST_PAUSE_S, engine_endpoint.read(self._settings).url
        while not self._stopping.is_set():
            if missing := missing_packages(self._requirements):
                self._tell(EngineNote("missing", url, "", _missing(missing), _INSTALL))
                self._stopping.wait(_MISSING_LOOK_S)
                continue
            began = time.monotonic()
            url = f"http://{_HOST}:{self._port()}"
            code = self._run(url)
            if self._stopping.is_set():
                break
            well = time.monotonic() - began > _WELL_S
            pause_s = _FIRST_PAUSE_S if well else min(_LONGEST_PAUSE_S, pause_s * 2)
            self._tell(self._fallen(url, code))
            self._stopping.wait(pause_s)
        self._tell(EngineNote("stopped", url, "", msg("The engine was stopped."), msg("Restart Fabula.")))

    def _run(self, url: str) -> int:
        """One life of the engine; its exit code."""
        child = self._spawn(url)
        try:
            note = EngineNote(
                "starting",
                url,
                process_identity.identity(child.pid),
                msg("The engine is starting."),
                msg("Wait a few seconds."),
            )
            self._tell(note)
            while child.poll() is None and not self._stopping.wait(_LOOK_S):
                self._bound_log()
                if note.state == "starting" and ask_health(Endpoint(url, self._token()), 1.0) is not None:
                    note = EngineNote("up", url, note.process)
                    self._tell(note)
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    child.kill()
        return child.wait()

    def _spawn(self, url: str) -> subprocess.Popen[bytes]:
        self._log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = engine_environment(os.environ) | {
            "FABULA_ENGINE_TOKEN": self._token(),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }
        arguments = ["--host", _HOST, "--port", str(urlsplit(url).port), "--home", str(self._settings.engine_home)]
        with open(self._log_path, "ab", opener=permissions.private_opener) as log:
            return subprocess.Popen(
                [sys.executable, "-m", "core.parent_watch", str(os.getpid()), self._module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                process_group=0,  # Ctrl+C in a terminal is for the studio, which then stops the engine itself
            )

    def _token(self) -> str:
        return engine_endpoint.token(self._settings)

    def _port(self) -> int:
        """The last one if it is free, so that addresses stay; else any free one."""
        last = urlsplit(engine_endpoint.read(self._settings).url).port or 0
        for port in (last, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engine does
                try:
                    probe.bind((_HOST, port))
                except OSError:
                    continue
                return int(probe.getsockname()[1])
        raise FabulaError(msg("No port is free on this machine."), msg("Close some programs and restart Fabula."))

    def _fallen(self, url: str, code: int) -> EngineNote:
        words = self._last_words()
        _log.warning("The engine ended with code %s: %s", code, words)
        if code == _EXIT_MISSING:
            return EngineNote("missing", message=words, next_step=_INSTALL)
        if code == _EXIT_PORT:  # taken in the moment between our look and its start: the next try has another
            return EngineNote(
                "down",
                message=msg("The engine's port is taken: {words}", words=words),
                next_step=msg("Fabula restarts it automatically."),
            )
        return EngineNote(
            "down",
            url,
            "",
            msg("The engine ended: {words}", words=words),
            msg("Fabula restarts it; its log is {log_path}.", log_path=self._log_path),
        )

    def _last_words(self) -> str:
        """The last line of the log."""
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 2_000))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _bound_log(self) -> None:
        """Keep the log and one older part of it; the engine goes on writing to the same file."""
        try:
            if self._log_path.stat().st_size > _LOG_BYTES:
                self._log_path.with_suffix(".log.1").write_bytes(self._log_path.read_bytes())
                os.truncate(self._log_path, 0)
        except OSError as exc:
            _log.error("The engine's log cannot be shortened: %s", exc)

    def _tell(self, note: EngineNote) -> None:
        try:
            engine_endpoint.write(self._settings, note)
        except FabulaError as exc:  # no reason to end an engine that works
            _log.error("%s %s", exc.what, exc.next_step)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One supervisor per home.

        Raises:
            BlockingIOError: another process keeps the engine.
        """
        self._settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._settings.home / "engine.keeper", "w", opener=permissions.private_opener) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


def ask_health(where: Endpoint, timeout_s: float) -> dict[str, Any] | None:
    """What the engine says about itself at `GET /health`; None when it does not answer (in time)."""
    request = urllib.request.Request(f"{where.url}/health", headers={"Authorization": f"Bearer {where.token}"})
    try:
        with _direct.open(request, timeout=timeout_s) as answer:
            found = json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return found if isinstance(found, dict) else None


def missing_packages(requirements: Path) -> list[str]:
    """Names in a requirements file that are not installed here, in its order."""
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
    return msg("The engine needs packages that are not installed: {names}.", names=", ".join(names))
