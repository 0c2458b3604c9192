"""A Ray cluster of one node with two processors on this machine, for tests: start, kill, start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.support import process_tree
from tests.support.waiting import until

_START_S = 300.0  # a busy machine takes minutes
# Two curves are compared, so both are computed in float32: oneDNN's bfloat16 would be much faster on some processors,
# and its rounding depends on how examples are grouped. Without it, the trainer chooses float32.
FLOAT32 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}


class RayHead:
    """`ray start --head`; its processes are the descendants of one process, and are killed with it.

    Args:
        environ: variables of the node.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environ or {}
        self._folder = tempfile.TemporaryDirectory(
            prefix="ray-", ignore_cleanup_errors=True
        )  # sockets need short paths
        self._port, self._dashboard = _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """For FABULA_LAUNCHER."""
        return f"ray://127.0.0.1:{self._dashboard}"

    def start(self) -> None:
        """Start the head and wait until its Jobs API answers."""
        environ = {
            **os.environ,
            **self._environ,
            **FLOAT32,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # `python` of jobs
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # it listens on this machine only
            "RAY_worker_niceness": "0",  # with Ray's 15, other test processes would leave a trainer no time
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--num-cpus=2", "--object-store-memory=80000000", f"--temp-dir={self._folder.name}"]
        command += ["--node-ip-address=127.0.0.1", f"--port={self._port}", "--include-dashboard=true"]
        command += [f"--dashboard-port={self._dashboard}", "--dashboard-agent-listen-port=0"]
        command += [f"--ray-client-server-port={_free_port()}"]
        with (Path(self._folder.name) / "start.log").open("ab") as log:
            self._process = subprocess.Popen(  # not in this folder: the code must come from the job
                command, cwd=self._folder.name, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        until(self._answers, "Ray's Jobs API did not start", _START_S)

    def processes(self, text: str) -> list[int]:
        """The ids of the cluster's processes with `text` in their command lines."""
        return [pid for pid in self._all() if text in process_tree.command_line(pid)]

    def kill_processes(self, text: str) -> None:
        """Kill -9 all of those."""
        for pid in self.processes(text):
            _kill(pid)

    def kill(self) -> None:
        """Kill -9 everything, as if the machine had lost power."""
        for pid in self._all():
            _kill(pid)
        if self._process is not None:
            self._process.wait()

    def close(self) -> None:
        """Kill everything and delete its folder."""
        self.kill()
        self._folder.cleanup()

    def _all(self) -> list[int]:
        """The cluster's processes: parents before children."""
        if self._process is None or self._process.poll() is not None:
            return []
        return process_tree.family(self._process.pid)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log()
        with suppress(httpx2.TransportError):
            url = f"http://127.0.0.1:{self._dashboard}/api/jobs/"
            return httpx2.get(url, timeout=10, trust_env=False).status_code == 200
        return False

    def _log(self) -> str:
        return (Path(self._folder.name) / "start.log").read_text(errors="replace")[-2000:]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
