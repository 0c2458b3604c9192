"""Log format of Fabula's processes: one line per message, keys redacted, control characters escaped."""

from __future__ import annotations

import faulthandler
import logging
import re
import sys
from contextlib import suppress

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MIN_SECRET_CHARS = 8
"""Shortest key that is redacted, in characters. Shorter ones are dummy keys for servers without authentication, and
replacing them would damage ordinary text."""
_secrets: set[str] = set()


def register_secret(value: str) -> None:
    """Replace `value` with `[key]` in every later log line of this process."""
    if len(value) >= MIN_SECRET_CHARS:
        _secrets.add(value)


def configure(level: int = logging.INFO) -> None:
    """Log to standard error with `LineFormatter`. Existing handlers keep their own format.

    On a fatal signal (for example a bus error in a memory-mapped file), the stack of every thread is logged, without
    variable values.
    """
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):  # it has no descriptor, or is closed
            faulthandler.enable(file=sys.__stderr__)
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("fabula").setLevel(level)


class LineFormatter(logging.Formatter):
    """Time, level, logger and message in one line.

    Control characters are escaped, so that external text (a model name, a provider's error) can neither start a new log
    line nor send escape codes to a terminal. Traceback lines are indented. Registered secrets are redacted.
    """

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; see the class."""
        return _redacted(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # name set by logging.Formatter
        """Format the first line."""
        record.message = _escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # name set by logging.Formatter
        """Format the traceback, each line indented."""
        return "\n".join(f"  | {_escaped(line)}" for line in super().formatException(ei).split("\n"))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _redacted(text: str) -> str:
    # A copy, because another thread may add a key; the longest first, because a key may begin with a shorter one.
    for secret in sorted(_secrets.copy(), key=len, reverse=True):
        text = text.replace(secret, "[key]")
    return text
