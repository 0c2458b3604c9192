"""`python -m core.engine.serving.vllm_child PROGRAM ARGUMENTS…`: runs a vLLM server until stdin closes.

vLLM itself would outlive an engine that is killed. This process has the server in its own process group and ends all of
its processes when the engine closes stdin, exits or is killed; it exits when the server exits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_STOP_S = 10.0  # for requests in progress, after SIGTERM


def main(command: list[str]) -> None:
    """Run the command; the exit code is the server's, or 127 if it cannot be started."""
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as exc:
        print(f"{command[0]} cannot be started: {exc}", file=sys.stderr, flush=True)
        os._exit(127)
    threading.Thread(target=_stop_with_engine, args=(server,), daemon=True).start()
    code = server.wait()
    _signal(server, signal.SIGKILL)  # its workers, if it was killed
    os._exit(code if code >= 0 else 128 - code)


def _stop_with_engine(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    _signal(server, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(_STOP_S)
    _signal(server, signal.SIGKILL)


def _signal(server: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, number)


if __name__ == "__main__":
    main(sys.argv[1:])
