"""A Streamlit server for one page, started the usual way, for measurements."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_URL = re.compile(r"^ *URL: (http://\S+)$", re.M)  # what Streamlit prints once its port is bound
_START_S, _STOP_S = 120, 40


@contextmanager
def served(script: Path, **environ: str) -> Iterator[tuple[str, int]]:
    """URL and process id of a separate server on a free port, which runs until the block ends.

    Raises:
        RuntimeError: it ended, or did not answer in two minutes; with the end of its output.
    """
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port=0", "--server.headless=true"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "studio.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT), **environ},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield _address(log, process), process.pid
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The URL that the server has printed, once it responds."""
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and process.poll() is None:
        if found := _URL.search(log.read_text(errors="replace")):
            try:
                with urllib.request.urlopen(f"{found[1]}/_stcore/health", timeout=2):
                    return found[1]
            except OSError:
                pass
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
