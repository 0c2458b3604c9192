"""A Streamlit server of a page, started as people start one, for measurements."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_START_S, _STOP_S = 120, 40


@contextmanager
def served(script: Path, **environ: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a server of its own, until the block ends.

    Raises:
        RuntimeError: it ended, or did not answer in two minutes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}", "--server.headless=true"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT), **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    url = f"http://localhost:{port}"
    try:
        _up(url, process)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _up(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers."""
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server did not start")
