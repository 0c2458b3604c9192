"""Runs a real engine process for the duration of a `with` block, with a client from the official SDK."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai

_START_S = 120


@dataclass(frozen=True)
class RunningEngine:
    """A running engine's URL, token and home directory."""

    url: str
    token: str
    home: Path

    @property
    def client(self) -> openai.OpenAI:
        """A client from the official SDK with a different base URL."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0, timeout=None)


@contextmanager
def running_engine(home: Path) -> Iterator[RunningEngine]:
    """Start `python -m core.engine` on a free port with `home`, and stop it at the end of the block.

    Raises:
        RuntimeError: it exited, or did not respond within two minutes.
    """
    token = secrets.token_urlsafe(16)
    command = [sys.executable, "-m", "core.engine", "--host", "127.0.0.1", "--port", "0", "--home", str(home)]
    root = Path(__file__).resolve().parents[1]
    environ = {**os.environ, "FABULA_ENGINE_TOKEN": token}
    process = subprocess.Popen(command, cwd=root, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip().rpartition(" ")[2]  # the engine prints its address first
        engine = RunningEngine(url.removesuffix("/v1"), token, home)
        _wait(engine, process)
        yield engine
    finally:
        process.terminate()
        process.wait(60)


def _wait(engine: RunningEngine, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the engine ended with code {process.returncode}")
        try:
            if httpx2.get(f"{engine.url}/health", headers={"authorization": f"Bearer {engine.token}"}).is_success:
                return
        except httpx2.TransportError:
            time.sleep(0.2)
    raise RuntimeError("the engine did not answer")
