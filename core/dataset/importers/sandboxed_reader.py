"""Files that are opened by a process of their own, because what reads them can be made to eat or end its process."""

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

from core.dataset.importers import process_limits
from core.dataset.importers.import_problems import LONGEST_LINE
from core.errors import BadFile

_PATIENCE_S = 2 * process_limits.SECONDS  # by the clock, on a machine that has other work
_BLOCK = 1 << 20
_ROOT = Path(__file__).resolve().parents[3]
_KEPT_ENVIRONMENT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "LANG", "TEMP", "TMP")  # no keys
# The other pools reserve a gigabyte of addresses before they are asked for anything.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}


@contextmanager
def run_reader(module: str, arguments: Sequence[str], file: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m module`, which has got the whole file on its standard input. It is ended when it takes too long, and
    with the block."""
    child = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        env=_ENVIRONMENT | {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    retry_limits = threading.Timer(_PATIENCE_S, child.kill)
    retry_limits.start()
    try:
        with suppress(BrokenPipeError), _end(child.stdin) as stdin:  # a child that has ended says why, or not
            file.seek(0)
            while block := file.read(_BLOCK):
                stdin.write(block)
        yield child
    finally:
        retry_limits.cancel()
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def read_messages(child: subprocess.Popen[bytes], refused: Callable[[str], BadFile]) -> Iterator[Any]:
    """What the child tells, line by line, as JSON has it.

    Raises:
        BadFile: what `refused` makes of the child's `{"error": why}`; of "broken", when it stumbled; of "memory", when
            it was ended.
    """
    assert child.stdout is not None  # Popen was asked for it
    while line := child.stdout.readline(8 * LONGEST_LINE):
        try:
            told = json.loads(line)
        except ValueError:  # cut off: longer than any row that can be used, or the child was ended
            break
        if isinstance(told, dict) and "error" in told:
            raise refused(str(told["error"]))
        yield told
    else:
        if (code := child.wait()) == 0:
            return
        if code > 0:  # it stumbled; a signal is below zero
            raise refused("broken")
    raise refused("memory")


@contextmanager
def _end(pipe: IO[bytes] | None) -> Iterator[IO[bytes]]:
    """A pipe of the child; closed afterwards, which tells it that the file is whole."""
    assert pipe is not None  # Popen was asked for it
    try:
        yield pipe
    finally:
        with suppress(BrokenPipeError):
            pipe.close()
