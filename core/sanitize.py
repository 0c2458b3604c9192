"""Makes external text safe to store in a database, to open in a spreadsheet and to show in Markdown. Pure."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

from core.message import Message

# Invisible characters: controls, soft hyphens, zero-width spaces, direction marks, blank letters (Braille, Hangul),
# byte-order marks.
_INVISIBLE_CHARS = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0"
)
# Text that a spreadsheet treats as a formula (OWASP, "CSV injection"); some spreadsheets trim the cell first.
_FORMULA = re.compile(rf"[\t\r]|[\s\u200c\u200d{_INVISIBLE_CHARS}]*[=+\-@＝＋－＠]")
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_DELIMITERS = (",", ";", "\t")
_MARKDOWN = "\\`*_{}[]<>()#+!|~$"
_INVISIBLE = re.compile(f"[{_INVISIBLE_CHARS}]")
# Zero-width joiners change how Arabic, Indic scripts and emoji are displayed. Next to ASCII, Chinese, Japanese or
# Korean they have no effect.
_UNJOINED = r"[\x00-\x7f\u3000-\u9fff\uac00-\ud7a3]"
_IDLE_JOINERS = re.compile(rf"(?:(?<={_UNJOINED})|^)[\u200c\u200d]+|[\u200c\u200d]+(?={_UNJOINED}|$)")


def storable(text: str) -> str:
    """Text that every database accepts: NUL characters removed, lone surrogates replaced. The same object if it already
    is (but a message with parameters is always a new one).
    """
    if isinstance(text, Message):
        params = {name: storable(value) if isinstance(value, str) else value for name, value in text.params.items()}
        return Message(text.template, params, text.cause)
    text = text.replace("\0", "")
    if text.isascii():  # most texts; this check does not read the text
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def safe_cell(text: str) -> str:
    """Text for a spreadsheet cell: text that would be read as a formula gets a leading `'`."""
    return f"'{text}" if _FORMULA.match(text) else text


def safe_csv(text: str) -> str:
    """An external CSV file with every cell made safe by `safe_cell`; numbers such as `-1.0` stay numbers.

    Reads and writes with the delimiter of the first line (comma, semicolon or tab). Text that is not CSV becomes one
    cell per line.
    """
    text = text.removeprefix("\ufeff").replace("\0", "")
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    lines = list(io.StringIO(text, newline=""))
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:  # a cell of more than 131,072 characters
        rows = [[line.rstrip("\r\n")] for line in lines]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows([value if _PLAIN_NUMBER.fullmatch(value) else safe_cell(value) for value in row] for row in rows)
    return out.getvalue()


def markdown_text(text: str) -> str:
    """Text for a line of Markdown: escaped, so that it can't become a link, an image or HTML."""
    return "".join(f"\\{char}" if char in _MARKDOWN else " " if char in "\r\n\t" else char for char in text)


def canonical(text: str) -> str:
    """One spelling for texts that look the same: NFC, no invisible characters, white space collapsed and trimmed.

    Meant for short labels such as grid values; stories keep their line breaks. Joiners are kept where they shape a
    script or an emoji.
    """
    spaced = " ".join(unicodedata.normalize("NFC", text).split())
    return " ".join(_IDLE_JOINERS.sub("", _INVISIBLE.sub("", spaced)).split())


class SurrogateJoiner:
    """Makes the chunks of a streamed text storable, and joins surrogate pairs that are split across two chunks.

    JSON may encode a character beyond the basic plane (an emoji, a rare Chinese character) as two escapes, and a server
    may send each half in a different chunk.
    """

    def __init__(self) -> None:
        self._half = ""

    def feed(self, chunk: str) -> str:
        """Add a chunk. Returns the text that is complete so far and has not been returned yet."""
        text = self._half + chunk
        self._half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        complete = text.removesuffix(self._half) if self._half else text
        return storable(complete.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def flush(self) -> str:
        """The rest at the end of the stream: U+FFFD for half a character, else ""."""
        half, self._half = self._half, ""
        return "\ufffd" if half else ""
