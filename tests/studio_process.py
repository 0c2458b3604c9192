"""The whole app as a user starts it: `streamlit run app.py` in its own process, on a free port."""

from __future__ import annotations

import json
import os
import re
import shutil
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
_URL = re.compile(r"^ *URL: (http://\S+)$", re.M)  # what Streamlit prints once its port is bound
_STOP_S = 40  # the engine waits for its streams and its trainer


@dataclass(frozen=True)
class RunningStudio:
    """A running app."""

    url: str
    log: Path

    def health(self) -> dict[str, Any]:
        """The `/api/health` response; empty if there is none."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/health", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except OSError:
            return {}
        return found


@contextmanager
def running(home: Path, **environ: str) -> Iterator[RunningStudio]:
    """Run an app on `home` for the duration of a block, with its worker, and its engine unless external."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "studio.log"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", "0", "--server.headless", "true"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "FABULA_HOME": str(home), **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        studio = RunningStudio(until(lambda: _url(log, process), "the studio's address"), log)
        until(lambda: _up(studio, process, external="FABULA_ENGINE_URL" in environ), "the studio's start")
        yield studio
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address that the app has printed; empty before that."""
    printed = log.read_text(errors="replace")
    assert process.poll() is None, printed[-3000:]
    found = _URL.search(printed)
    return found[1] if found else ""


def _up(studio: RunningStudio, process: subprocess.Popen[bytes], *, external: bool) -> bool:
    assert process.poll() is None, studio.log.read_text(errors="replace")[-3000:]
    health = studio.health()
    return health.get("worker") == "up" and (external or health.get("engine") == "up")
