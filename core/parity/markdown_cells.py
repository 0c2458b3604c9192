"""Table cells of the Markdown reports, in English."""

from __future__ import annotations

from core.evaluation.scoring import Interval
from core.message import percent
from core.sanitize import markdown_text

NONE = "–"
"""There is no such figure."""
_TEXT_CHARS = 300


def share(interval: Interval | None) -> str:
    """A share of rows with its interval."""
    if interval is None:
        return NONE
    return f"{percent(interval.value)} ({percent(interval.low)} to {percent(interval.high)})"


def text(words: str) -> str:
    """A text in one line, shortened and escaped."""
    line = " ".join(words.split())
    return markdown_text(line if len(line) <= _TEXT_CHARS else line[:_TEXT_CHARS] + " …")
