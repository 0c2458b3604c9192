"""Text from outside made safe for what takes it next: a database, a spreadsheet. Pure."""

from __future__ import annotations

_FORMULA = tuple("=+-@\t\r＝＋－＠")  # what a spreadsheet takes for a formula (OWASP, "CSV injection")


def storable(text: str) -> str:
    """Text that every database takes: without NUL characters, and halves of characters replaced."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def cell(text: str) -> str:
    """Text for a cell of a table: a spreadsheet takes none for a formula, a `'` stands in front of those it would."""
    return f"'{text}" if text.startswith(_FORMULA) else text


class Joined:
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
