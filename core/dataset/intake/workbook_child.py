"""A process of its own that opens one workbook and writes its rows as JSON lines: `… workbook_child BYTES [SHEET]`.

The workbook comes on standard input. A workbook is a zip file of XML, and calamine holds a sheet as a full rectangle:
a few kilobytes can ask for more memory than there is, and no check before opening sees every way to do it. Here that
ends this process only. It reads no file, no network, and is given no keys.

The first line tells the sheets, and which one is read; each further line is a row of texts, from row 1 on. Anything
else is one line `{"error": …}`.
"""

from __future__ import annotations

import io
import sys
from datetime import date, datetime, time, timedelta

from core.dataset.intake.limits import limit, say


def main(memory: int, wanted: str | None) -> None:
    """Read the workbook on standard input and write the rows of sheet `wanted`, or of the first that has some.

    Args:
        memory: bytes of address space that this process may have.
    """
    limit(memory)
    # After the limit, for it counts too.
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(sys.stdin.buffer.read()))
        tables = [about for about in book.sheets_metadata if about.typ == SheetTypeEnum.WorkSheet]
        seen = [about.name for about in tables if about.visible == SheetVisibleEnum.Visible]
        names = seen or [about.name for about in tables]
        for name in [wanted] if wanted in names else names:
            sheet = book.get_sheet_by_name(name)
            if sheet.height:
                break
        else:
            say({"error": "empty"})
            return
        say({"sheets": names, "sheet": name})
        for row in sheet.iter_rows():
            say([_text(value) for value in row])
    except PasswordError:
        say({"error": "password"})
    except (CalamineError, ValueError, OSError):
        say({"error": "broken"})
    except MemoryError:
        say({"error": "memory"})


def _text(value: object) -> str:
    """A cell as it is read aloud: whole numbers without a point, dates as ISO 8601 has them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        return value.isoformat(" ") if value.time() != time() else value.date().isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, int | float | timedelta) else value if isinstance(value, str) else ""


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
