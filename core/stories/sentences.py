"""Splits text into sentences for text to speech, for Chinese and Latin scripts. Pure."""

from __future__ import annotations

import re

# Sentence end and closing quotes. A Latin full stop must be followed by white space, so that 3.5 is not split.
_END = re.compile(r"(?:[。！？!?…；]+[”’」』）)\"']*|\.+[”’\"')]*(?=\s)|\n)\s*")
MAX_SPEECH_CHARS = 4_000  # OpenAI's /audio/speech accepts 4,096 per request


def sentences(text: str, *, complete: bool = True) -> list[str]:
    """The sentences, stripped. For a text that is still being written (`complete=False`), only the finished ones."""
    parts_, start = [], 0
    for end in _END.finditer(text):
        parts_.append(text[start : end.end()])
        start = end.end()
    if complete:
        parts_.append(text[start:])
    return [sentence.strip() for sentence in parts_ if any(c.isalnum() for c in sentence)]


def parts(text: str, max_chars: int = MAX_SPEECH_CHARS) -> list[str]:
    """The text in as few parts of whole sentences as possible, each at most `max_chars` characters."""
    result: list[str] = []
    for sentence in sentences(text):
        pieces = [sentence[i : i + max_chars] for i in range(0, len(sentence), max_chars)]
        for piece in pieces:
            if result and len(result[-1]) + 1 + len(piece) <= max_chars:
                result[-1] += f" {piece}"
            else:
                result.append(piece)
    return result
