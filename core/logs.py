"""Log format of Fabula's processes: one line per message, keys redacted, control characters escaped.

Plain text, or JSON with FABULA_LOG_FORMAT=json. `bound` adds the ids of the run, job or person that messages belong to.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MIN_SECRET_CHARS = 8
"""Shortest key that is redacted, in characters. Shorter ones are dummy keys for servers without authentication, and
replacing them would damage ordinary text."""
_secrets: set[str] = set()
_ids: ContextVar[Mapping[str, str]] = ContextVar("fabula_log_ids", default=MappingProxyType({}))


def register_secret(value: str) -> None:
    """Replace `value` with `[key]` in every later log line of this process."""
    if len(value) >= MIN_SECRET_CHARS:
        _secrets.add(value)


@contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Add ids to every message of this thread or task until the block ends, for example `bound(run=run_id)`.

    Tasks and `asyncio.to_thread` inherit them; other threads do not.
    """
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def configure(level: int = logging.INFO) -> None:
    """Log to standard error with `LineFormatter`. Existing handlers keep their own format.

    Call this before settings are read, and `set_format` afterwards.

    On a fatal signal (for example a bus error in a memory-mapped file), the stack of every thread is logged, without
    variable values.

    Args:
        level: lowest level of Fabula's own messages.
    """
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):  # it has no descriptor, or is closed
            faulthandler.enable(file=sys.__stderr__)
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("fabula").setLevel(level)


def set_format(log_format: str) -> None:
    """Switch every handler, including those of libraries, to JSON lines if `log_format` is `json`."""
    if log_format != "json":
        return
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(JsonFormatter())


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
        ids = " ".join(f"{name}={_escaped(value)}" for name, value in _ids.get().items())
        return super().formatMessage(record) + (f" [{ids}]" if ids else "")

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # name set by logging.Formatter
        """Format the traceback, each line indented."""
        return "\n".join(f"  | {_escaped(line)}" for line in super().formatException(ei).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object per message: `time` (UTC), `level`, `logger`, `message`, `exception`, and the ids of `bound`.

    Registered secrets are redacted in every value.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; see the class."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_ids.get(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        # Before encoding: JSON may write the characters of a secret in another way.
        return _redacted(json.dumps({name: _redacted(value) for name, value in fields.items()}))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _redacted(text: str) -> str:
    # A copy, because another thread may add a key; the longest first, because a key may begin with a shorter one.
    for secret in sorted(_secrets.copy(), key=len, reverse=True):
        text = text.replace(secret, "[key]")
    return text
