"""How the studio's processes write their logs: one line per message, without keys, also for hostile text."""

from __future__ import annotations

import logging
import re

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SHORTEST_SECRET = 8
"""Characters of a key. What is shorter is a word for a server that wants no key, and replacing it would damage text."""
_secrets: set[str] = set()


def keep_secret(value: str) -> None:
    """Replace `value` by `[key]` in every log line of this process from now on."""
    if len(value) >= SHORTEST_SECRET:
        _secrets.add(value)


def configure(level: int = logging.INFO) -> None:
    """Send the log to standard error, in the form of `LineFormatter`. Handlers that are there already keep theirs."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("fabula").setLevel(level)


class LineFormatter(logging.Formatter):
    """Time, level, logger and message in one line.

    Control characters are escaped, so that text from outside (a model's name, an error of a provider) can neither
    start a line of its own nor colour a terminal. Lines of a traceback are indented. Known secrets are replaced.
    """

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; see the class."""
        return _without_secrets(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # the name of the library
        """The first line."""
        record.message = _escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # the name of the library
        """The traceback, each line indented."""
        return "\n".join(f"  | {_escaped(line)}" for line in super().formatException(ei).split("\n"))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _without_secrets(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, "[key]")
    return text
