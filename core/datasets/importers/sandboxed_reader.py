"""Runs readers of untrusted files in a child process, because a malicious file could exhaust memory or crash it.

Both ends: the parent uses `run_reader` and `read_messages`, the child `apply_limits` and `write_message`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from core.datasets.importers.table import MAX_LINE_CHARACTERS
from core.errors import BadFile

_CPU_SECONDS = 60  # CPU time; a sheet of a million rows takes ten

_TIMEOUT_S = 2 * _CPU_SECONDS  # wall-clock time, with a margin for a busy machine
_BLOCK = 1 << 20
_ROOT = Path(__file__).resolve().parents[3]
_PASSED_ENVIRONMENT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "LANG", "TEMP", "TMP")  # no keys
# Arrow's other memory pools reserve a gigabyte of address space at start.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}


@contextmanager
def run_reader(module: str, arguments: Sequence[str], file: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module` with the whole file on its standard input.

    The process is killed after a timeout, and at the end of the block.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        env=_ENVIRONMENT | {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    timer = threading.Timer(_TIMEOUT_S, child.kill)
    timer.start()
    try:
        # If the pipe breaks, the child has ended; `read_messages` reports why.
        with suppress(BrokenPipeError), _closing(child.stdin) as stdin:
            file.seek(0)
            while block := file.read(_BLOCK):
                stdin.write(block)
        yield child
    finally:
        timer.cancel()
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def read_messages(child: subprocess.Popen[bytes], to_error: Callable[[str], BadFile]) -> Iterator[Any]:
    """Read the child's messages, one JSON value per line.

    Raises:
        BadFile: from `to_error`, called with the child's `{"error": …}`; with "broken" if it failed; with "memory" if
            it was killed.
    """
    assert child.stdout is not None  # opened with PIPE
    while line := child.stdout.readline(8 * MAX_LINE_CHARACTERS):
        try:
            message = json.loads(line)
        except ValueError:  # incomplete: the row is too long, or the child was killed
            break
        if isinstance(message, dict) and "error" in message:
            raise to_error(str(message["error"]))
        yield message
    else:
        if (code := child.wait()) == 0:
            return
        if code > 0:  # it failed; negative codes are signals
            raise to_error("broken")
    raise to_error("memory")


@contextmanager
def _closing(pipe: IO[bytes] | None) -> Iterator[IO[bytes]]:
    """The child's input pipe; closing it marks the end of the file."""
    assert pipe is not None  # opened with PIPE
    try:
        yield pipe
    finally:
        with suppress(BrokenPipeError):
            pipe.close()


def write_message(line: object) -> None:
    """Write one line of JSON for the parent process."""
    sys.stdout.write(json.dumps(line) + "\n")


def apply_limits(memory: int) -> None:
    """Limit memory and CPU time of this process, and disable core dumps, where the system supports it.

    Args:
        memory: bytes of address space.
    """
    try:
        import resource
    except ImportError:  # Windows: only the parent's timeout applies
        return
    for resource_id, maximum in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(resource_id, (maximum, maximum))
        except (ValueError, OSError):  # macOS does not support all of them
            continue
