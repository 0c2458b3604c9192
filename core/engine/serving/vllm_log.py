"""Why a vLLM server has ended, from its output: tracebacks of several processes, one after another."""

from __future__ import annotations

import os
import re
from pathlib import Path

_BYTES = 256 * 1024  # the tracebacks of all processes have some 100 lines each
_CHARS = 400
_PREFIX = re.compile(r"^(?:\([^()]* pid=\d+\) )?(?:(INFO|WARNING|ERROR) [\d: .-]+ \[[^\]]*\] )?")
_REASON = re.compile(r"(?:[\w.]*(?:Error|Exception|Exit|Interrupt): |Value error, |vllm(?: \w+)?: error: )(.+)")
# Of processes that only say that another one has failed.
_FOLLOWS = re.compile(r"See root cause above|See stack trace|Worker failed with error|WorkerProc initialization failed")
_DETAILS = re.compile(r" \[type=\w+, input_value=.*")  # of pydantic


def reason(log: Path) -> str:
    """The last error that does not follow from another one, or else the last line; "–" if there is none."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _BYTES))
        text = file.read().decode("utf-8", "replace").strip()
    found = last = ""
    for line in text.splitlines():
        prefix = _PREFIX.match(line)
        assert prefix is not None  # it may be empty
        if prefix[1] in ("INFO", "WARNING"):
            continue
        last = line[prefix.end() :].strip() or last
        error = _REASON.match(last)
        if error and not _FOLLOWS.search(last) and not error[1].startswith("1 validation error"):
            found = last if not last.startswith("Value error, ") else error[1]
    return _DETAILS.sub("", found or last)[:_CHARS] or "–"
