"""The whole studio as a person starts it: `streamlit run app.py` in a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import until

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
_START_S = 120  # Python, Streamlit and the engine's libraries on a cold disk and a busy machine
_STOP_S = 40  # the engine gives its streams and its trainer time


@dataclass(frozen=True)
class RunningStudio:
    """A running studio."""

    url: str
    log: Path

    def health(self) -> dict[str, Any]:
        """What `/api/health` says; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/health", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except OSError:
            return {}
        return found


@contextmanager
def running(home: Path, **environ: str) -> Iterator[RunningStudio]:
    """A studio on `home` for the length of a block, up with its worker, and its engine unless that is foreign."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.mkdir(parents=True, exist_ok=True)
    log = home / "studio.log"
    arguments = ["app.py", "--server.port", str(port), "--server.headless", "true"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", *arguments],
            cwd=ROOT,
            env={**os.environ, "FABULA_HOME": str(home), **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    studio = RunningStudio(f"http://localhost:{port}", log)
    try:
        until(lambda: _up(studio, process, external="FABULA_ENGINE_URL" in environ), "the studio's start", _START_S)
        yield studio
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _up(studio: RunningStudio, process: subprocess.Popen[bytes], *, external: bool) -> bool:
    assert process.poll() is None, studio.log.read_text(errors="replace")[-3000:]
    health = studio.health()
    return health.get("worker") == "up" and (external or health.get("engine") == "up")
