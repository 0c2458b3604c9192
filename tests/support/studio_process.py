"""Runs the whole app as a user would: `streamlit run app.py` in its own process, on a free port."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import _page_server
from tests.support.waiting import WAIT_LIMIT_S, until

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@dataclass(frozen=True)
class RunningStudio:
    """A running app."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

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
    """Run an app on `home` for the duration of a block, with its worker and, unless it is external, its engine."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "studio.log"
    environ = {"FABULA_HOME": str(home), **environ}
    with _page_server.logged(ROOT / "app.py", log, environ, WAIT_LIMIT_S) as (url, process):
        studio = RunningStudio(url, log, process)
        until(lambda: _up(studio, process, external="FABULA_ENGINE_URL" in environ), "the studio's start")
        yield studio


def _up(studio: RunningStudio, process: subprocess.Popen[bytes], *, external: bool) -> bool:
    assert process.poll() is None, studio.log.read_text(errors="replace")[-3000:]
    health = studio.health()
    return health.get("worker") == "up" and (external or health.get("engine") == "up")
