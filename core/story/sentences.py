"""A text cut into sentences as they are read aloud, for Chinese and Latin writing. Pure."""

from __future__ import annotations

import re

# An ending, its closing quotes, and for the Latin full stop what must follow: white space, so that 3.5 stays whole.
_END = re.compile(r"(?:[。！？!?…；]+[”’」』）)\"']*|\.+[”’\"')]*(?=\s)|\n)\s*")
SPOKEN_MOST = 4_000  # characters; OpenAI's /audio/speech takes 4,096 in one request


def sentences(text: str, *, over: bool = True) -> list[str]:
    """Its sentences, without white space around. While it is still being written (`over` False), finished ones only."""
    found, start = [], 0
    for end in _END.finditer(text):
        found.append(text[start : end.end()])
        start = end.end()
    if over:
        found.append(text[start:])
    return [sentence.strip() for sentence in found if any(c.isalnum() for c in sentence)]


def parts(text: str, most: int = SPOKEN_MOST) -> list[str]:
    """The text in few parts of whole sentences, none longer than `most` characters."""
    found: list[str] = []
    for sentence in sentences(text):
        pieces = [sentence[i : i + most] for i in range(0, len(sentence), most)]
        for piece in pieces:
            if found and len(found[-1]) + 1 + len(piece) <= most:
                found[-1] += f" {piece}"
            else:
                found.append(piece)
    return found
