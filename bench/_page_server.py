"""Starts a Streamlit server for one page in the usual way, for measurements."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_URL = re.compile(r"^ *URL: (http://\S+)$", re.M)  # printed by Streamlit once its port is bound
_START_S, _STOP_S = 120, 40


@contextmanager
def served(script: Path, **environ: str) -> Iterator[tuple[str, int]]:
    """Like `logged`, but without keeping the output; yield the server's URL and process id."""
    with tempfile.TemporaryDirectory() as folder, logged(script, Path(folder) / "log", environ) as (url, process):
        yield url, process.pid


@contextmanager
def logged(
    script: Path, log: Path, environ: Mapping[str, str], start_s: float = _START_S
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a separate server on a free port until the block ends, with its output in `log`; yield its URL and process.

    Raises:
        RuntimeError: it exited, or did not respond within `start_s` seconds; the message contains the end of its
            output.
    """
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port=0", "--server.headless=true"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT), **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _address(log, process, start_s), process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(log: Path, process: subprocess.Popen[bytes], start_s: float) -> str:
    """Return the URL that the server has printed, once it responds."""
    ends = time.monotonic() + start_s
    while time.monotonic() < ends and process.poll() is None:
        if found := _URL.search(log.read_text(errors="replace")):
            try:
                with urllib.request.urlopen(f"{found[1]}/_stcore/health", timeout=2):
                    return found[1]
            except OSError:
                pass
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
