"""Text from outside made safe for what takes it next: a database, a spreadsheet. Pure."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

from core.message import Message

# Characters without a shape: controls, soft hyphens, zero-width spaces, marks of direction, blank
# letters (Braille, Hangul), byte-order marks.
_SHAPELESS = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0"
)
# What a spreadsheet takes for a formula (OWASP, "CSV injection"); some of them trim a cell before they look at it.
_FORMULA = re.compile(rf"[\t\r]|[\s\u200c\u200d{_SHAPELESS}]*[=+\-@＝＋－＠]")
_PLAIN_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_DELIMITERS = (",", ";", "\t")
_INVISIBLE = re.compile(f"[{_SHAPELESS}]")
# Joiners shape Arabic, Indic scripts and emoji. Beside ASCII, Chinese, Japanese or Korean they do nothing.
_UNJOINED = r"[\x00-\x7f\u3000-\u9fff\uac00-\ud7a3]"
_IDLE_JOINERS = re.compile(rf"(?:(?<={_UNJOINED})|^)[\u200c\u200d]+|[\u200c\u200d]+(?={_UNJOINED}|$)")


def storable(text: str) -> str:
    """Text that every database takes: without NUL characters, and halves of characters replaced."""
    if isinstance(text, Message):
        return Message(text.template, {k: storable(v) if isinstance(v, str) else v for k, v in text.params.items()})
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def cell(text: str) -> str:
    """Text for a cell of a table: a spreadsheet takes none for a formula, a `'` stands in front of those it would."""
    return f"'{text}" if _FORMULA.match(text) else text


def safe_csv(text: str) -> str:
    """A CSV file from outside with every cell made safe by `cell`; numbers such as `-1.0` stay numbers.

    The file is read with the delimiter of its first line (comma, semicolon or tab), and written with the same one.
    What is no CSV becomes one cell a line.
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
    writer.writerows([one if _PLAIN_NUMBER.fullmatch(one) else cell(one) for one in row] for row in rows)
    return out.getvalue()


def canonical(text: str) -> str:
    """One spelling for texts that look alike: composed (NFC), without invisible characters, runs of white space as one
    space, none at the ends.

    For short labels such as the values of a grid; stories keep their line ends. Joiners stay where they shape a script
    or an emoji.
    """
    spaced = " ".join(unicodedata.normalize("NFC", text).split())
    return " ".join(_IDLE_JOINERS.sub("", _INVISIBLE.sub("", spaced)).split())


class SurrogateJoiner:
    """Makes pieces of a text storable as they come; a character whose halves come in two pieces stays whole.

    JSON may write a character beyond the basic plane (an emoji, a rare Chinese one) as two escapes, and a server that
    cuts between them sends two halves that mean nothing alone.
    """

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """What can be shown now of all that has come."""
        text = self._half + piece
        self._half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        whole = text.removesuffix(self._half) if self._half else text
        return storable(whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def rest(self) -> str:
        """What is left at the end: half a character, told as one that is missing."""
        half, self._half = self._half, ""
        return "\ufffd" if half else ""
