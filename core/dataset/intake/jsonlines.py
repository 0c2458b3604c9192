"""JSONL: one object a line. `prompt` and `completion`, or `messages`, as fine-tuning APIs read them; else a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import pandas as pd

from core.dataset.intake import table
from core.dataset.intake.celltext import text_of
from core.dataset.intake.decoding import BROKEN
from core.dataset.intake.problems import LONGEST_CELL, LONGEST_LINE, Problems
from core.dataset.intake.textlines import Lines, LineTooLong, RowTooLong
from core.errors import BadFile

_SHAPES = (
    'Each line must be {"prompt": "…", "completion": "…"} or {"messages": […]}, or have the keys of the first one.'
)
_ROLES = {"system", "developer", "user", "assistant"}
_LONGEST_ROLE = 40  # characters of a role that is none, in a message
_EXAMPLE = ("system", "prompt", "completion", "split")  # columns of examples; `system` and `split` may not be there
_KEYS = {"messages", "prompt", "completion"}
Object = tuple[int, dict[str, Any]]  # the number of its line, and what it holds


class Broken(ValueError):
    """Why a line cannot be used."""


def read(lines: Lines, filename: str, problems: Problems) -> pd.DataFrame:
    """The good lines, all cells text.

    Examples become the columns `prompt` and `completion`, with `system` in front and `split` behind where a line has
    them. Where the first object has none of the keys of an example, its own keys are the columns.

    Raises:
        BadFile: no line can be used.
    """
    objects = _objects(lines, filename, problems)
    first = next(objects, None)
    if first is None:
        raise nothing(filename, problems)
    objects = chain([first], objects)
    if _KEYS & first[1].keys() or len(first[1]) < 2:
        return examples(objects, filename, problems)
    return _table(objects, list(first[1]), filename, problems)


def examples(objects: Iterable[Object], filename: str, problems: Problems) -> pd.DataFrame:
    """Objects of `prompt` and `completion`, or of `messages`, as a table. `attrs["chat"]`: all were messages.

    Raises:
        BadFile: none can be used.
    """
    good, chat, used = table.Table(_EXAMPLE), True, {"prompt", "completion"}
    for line, found in objects:
        try:
            row = _example(found)
        except Broken as exc:
            problems.add(f"Line {line:,}: {exc}")
            continue
        chat = chat and "system" in row  # only messages have that key
        used |= {name for name, cell in row.items() if cell}
        good.add([row.get(name, "") for name in _EXAMPLE])
        if good.full:
            table.ends_early(len(good), line, problems)
            break
    if not len(good):
        raise nothing(filename, problems)
    frame = good.frame()[[name for name in _EXAMPLE if name in used]]
    frame.attrs["chat"] = chat
    return frame


def nothing(filename: str, problems: Problems) -> BadFile:
    """The error of a file without any good line."""
    return BadFile(f"{filename} has no line that can be used. {problems.first()}", _SHAPES)


def _table(objects: Iterable[Object], keys: list[str], filename: str, problems: Problems) -> pd.DataFrame:
    """Objects of any flat kind: the keys of the first one are the columns."""
    table.checked_width(len(keys), filename)
    good, known = table.Table(table.names(keys, problems)), set(keys)
    for line, found in objects:
        if strange := found.keys() - known:
            key = min(strange)
            known |= strange
            problems.note(f"Line {line:,} has {key[:100]!r}, which the first line has not; it is left out.")
        cells = [text_of(found.get(key)) for key in keys]
        flaws = ((name, table.flaw(cell)) for name, cell in zip(keys, cells, strict=True))
        if bad := next(((name, flaw) for name, flaw in flaws if flaw), None):
            problems.add(f"Line {line:,}, {bad[0][:100]!r}: {bad[1]}")
            continue
        good.add(cells)
        if good.full:
            table.ends_early(len(good), line, problems)
            break
    if not len(good):
        raise nothing(filename, problems)
    return good.frame().rename(columns={"": "column 1"})


def _objects(lines: Lines, filename: str, problems: Problems) -> Iterator[Object]:
    """The objects of all lines that hold one.

    Raises:
        BadFile: the file is one list.
    """
    begun = False
    while True:
        number = lines.begin()
        try:
            line = next(lines).strip("\r\n \t\ufeff")
            if not begun and line.startswith("["):
                raise BadFile(
                    f"{filename} is one JSON list, not JSONL.",
                    "Write one object a line, without brackets and commas around.",
                )
            begun = begun or bool(line)
            if line:
                yield number, _object(line)
        except StopIteration:
            return
        except (LineTooLong, RowTooLong):
            problems.add(f"Line {number:,} has more than {LONGEST_LINE:,} characters.")
        except Broken as exc:
            problems.add(f"Line {number:,}: {exc}")


def _object(line: str) -> dict[str, Any]:
    if BROKEN in line:
        raise Broken("Some bytes fit no character.")
    try:
        found = json.loads(line)
    except json.JSONDecodeError as exc:
        raise Broken(f"It is not JSON: {exc.msg}, at column {exc.colno:,}.") from exc
    except (ValueError, RecursionError) as exc:  # a number of 10,000 digits, a million brackets
        raise Broken("It is JSON that cannot be read.") from exc
    if not isinstance(found, dict):
        raise Broken("It is not an object in braces.")
    return found


def _example(found: dict[str, Any]) -> dict[str, str]:
    """One object as an example: `prompt`, `completion`, `system` when it was made of messages, `split` if it has it.

    Raises:
        Broken: it is none.
    """
    row = _messages(found["messages"]) if "messages" in found else _pair(found)
    if isinstance(split := found.get("split"), str):
        row["split"] = split
    for name, cell in row.items():
        if "\0" in cell:
            raise Broken(f"{name} has a NUL character.")
        if len(cell) > LONGEST_CELL:
            raise Broken(f"{name} has more than {LONGEST_CELL:,} characters.")
        try:
            cell.encode()
        except UnicodeEncodeError as exc:
            raise Broken(f"{name} has half of a character (a lone surrogate).") from exc
    if not row["completion"].strip():
        raise Broken("Its completion is empty.")
    return row


def _pair(found: dict[str, Any]) -> dict[str, str]:
    missing = [name for name in ("prompt", "completion") if not isinstance(found.get(name), str)]
    if name := '" and "'.join(missing):
        raise Broken(f'There is no text under "{name}".')
    return {"prompt": found["prompt"], "completion": found["completion"]}


def _messages(messages: object) -> dict[str, str]:
    """Several turns become one example: the last answer, with everything before it as the prompt."""
    if not isinstance(messages, list) or not messages:
        raise Broken('Its "messages" is not a list with messages in it.')
    for number, message in enumerate(messages, 1):
        _check(number, message)
    if (role := messages[-1]["role"]) != "assistant":
        raise Broken(f"Its last message is the {role}'s, not the assistant's.")
    system = "\n\n".join(m["content"] for m in messages if m["role"] in ("system", "developer"))
    turns = [m for m in messages[:-1] if m["role"] in ("user", "assistant")]
    if not turns:
        raise Broken("There is no message of the user.")
    if len(turns) == 1:
        prompt = turns[0]["content"]
    else:
        prompt = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in turns)
    return {"system": system, "prompt": prompt, "completion": messages[-1]["content"]}


def _check(number: int, message: object) -> None:
    """See that the `number`-th message has a role and a text, in the words of `core.training.checkline`.

    Raises:
        Broken: it has not.
    """
    if not isinstance(message, dict):
        raise Broken(f"Message {number:,} is not an object in braces.")
    if "role" not in message:
        raise Broken(f"Message {number:,} has no role.")
    if (role := str(message["role"])) not in _ROLES:
        raise Broken(f"Message {number:,} has a role that is none: {role[:_LONGEST_ROLE]!r}.")
    if not isinstance(message.get("content"), str):
        raise Broken(f"Message {number:,} has no text as content.")
