"""What a table holds, recognised by its columns and their cells; conversations become prompt and completion. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from core.dataset.importers import chat_markup, conversations, table
from core.dataset.importers.cell_format import text_of
from core.dataset.importers.conversations import Turn
from core.dataset.importers.import_problems import ImportProblems
from core.dataset.importers.json_objects import BrokenJson
from core.dataset.importers.positions import located, position
from core.dataset.importers.table import TableRows
from core.errors import BadFile
from core.message import msg

Form = Literal["messages", "sharegpt", "turns", "preference", "alpaca", "dolly", "pairs", "table"]
_LOOKED_AT = 1_000  # rows
_ANSWERS = ("chosen", "preferred_output", "completion", "response", "answer")
_OUTPUTS = ("output", "response", "completion", "answer")
_REJECTED = ("rejected", "non_preferred_output")
_ASKED = ("prompt", "input", "question", "instruction", "query")
_PLAIN_ANSWERS = (*_ANSWERS, "output", "ideal", "solution", "target", "label")  # beside a list of turns that asks
_SYSTEM, _PROMPT, _COMPLETION, _HISTORY = "system", "prompt", "completion", "history"
_SYSTEMS = (_SYSTEM, "systeminstruction", "system_instruction", "system_prompt")
# Columns whose texts may be conversations written out with the marks of a chat template.
_RENDERED = (*conversations.NAMES, "text", "content", "sample", "formatted_chat", "chosen", "rejected")
_EXAMPLE = (_SYSTEM, _PROMPT, _COMPLETION)


@dataclass(frozen=True, slots=True)
class RecognisedFormat:
    """What a file was taken for, and how many of its rows are such.

    Attributes:
        form: its format.
        rows: rows with something to learn, in this form.
        of: all rows of the file, those that could not be used among them.
    """

    form: Form
    rows: int
    of: int


@dataclass(frozen=True, slots=True)
class _ConversationColumn:
    """A column of conversations: their format, and whether they end with an answer."""

    form: Form
    answered: bool


@dataclass(frozen=True, slots=True)
class _ConversationTable:
    """The columns of a table with conversations.

    Attributes:
        said: holds the conversation, or only its end where `asked` holds the beginning.
        asked: the turns or the text before the answer.
        rejected: the worse answer of a preference pair.
    """

    form: Form
    said: str
    asked: str | None
    rejected: str | None


def recognised(
    rows: TableRows, filename: str, problems: ImportProblems, *, as_table: bool = False
) -> tuple[TableRows, RecognisedFormat]:
    """The rows, with conversations turned into examples, and what they were taken for.

    Examples have the columns `prompt` and `completion`, `system` in front where a conversation has one, and behind
    them all columns that are no part of it. `frame.attrs["chat"]`: all were conversations. `frame.attrs["examples"]`:
    no other column has a part in them.

    Args:
        as_table: take nothing for a conversation.

    Raises:
        BadFile: no conversation can be used.
    """
    names = {str(column).strip().lower(): str(column) for column in rows.frame.columns}
    if not as_table:
        rows = _with_rendered(rows, names)
        found = {column: one for column in names.values() if (one := _conversations_in(rows, column)) is not None}
        if names.get(_HISTORY) in found and any(name in names for name in _OUTPUTS):
            rows = _with_transcripts(rows, names[_HISTORY])
            del found[names[_HISTORY]]
        if parts := _parts(names, found):
            total = len(rows.lines) + problems.left_out
            rows = _examples(rows, parts, filename, problems)
            return rows, RecognisedFormat(parts.form, len(rows.lines), total)
    form, learned = _form_of_table(names)
    filled = len(rows.lines) if learned is None else int((rows.frame[learned].str.strip() != "").sum())
    return rows, RecognisedFormat(form, filled, len(rows.lines) + problems.left_out)


def _conversations_in(rows: TableRows, column: str) -> _ConversationColumn | None:
    """What most filled cells of a column hold, if that is conversations."""
    cells = [cell for cell in rows.frame[column].head(_LOOKED_AT) if cell.strip()]
    if not cells or not any(cell.lstrip()[:1] in ("[", "{") for cell in cells[:50]):
        return None
    values = [conversations.decoded(cell) for cell in cells]
    alike = [value for value in values if conversations.is_conversation(value, column)]
    if len(alike) * 2 < len(values):
        return None
    return _ConversationColumn(conversations.form_of(alike[0]), any(map(conversations.is_answered, alike[:50])))


def _parts(names: Mapping[str, str], found: Mapping[str, _ConversationColumn]) -> _ConversationTable | None:
    rejected = next((names[name] for name in _REJECTED if name in names), None)
    known = [names[name] for name in conversations.NAMES if names.get(name) in found]
    asked = next((names[name] for name in _ASKED if name in names), next(iter(known), None))
    # Turns that wait for an answer, which may be a plain text.
    plain = asked is not None and asked in found and not found[asked].answered
    for name in _PLAIN_ANSWERS if plain else _ANSWERS:
        if name in names and (plain or names[name] in found):
            pair = rejected if name in _ANSWERS[:2] else None
            form = found[names[name] if names[name] in found else str(asked)].form
            return _ConversationTable("preference" if pair else form, names[name], asked, pair)
    if not known and _PROMPT in names and _COMPLETION in names:
        return None  # turns under another name are no part of such an example
    said = next(iter(known or (column for column in found if column.lower() not in (*_REJECTED, *_ASKED))), None)
    return None if said is None else _ConversationTable(found[said].form, said, None, None)


def _form_of_table(names: Mapping[str, str]) -> tuple[Form, str | None]:
    """The format of a table without conversations, and its column with the text to learn, where that is certain."""
    output = next((names[name] for name in _OUTPUTS if name in names), None)
    if "chosen" in names and "rejected" in names:
        return "preference", names["chosen"]
    if "instruction" in names and output is not None:
        return ("dolly" if "context" in names else "alpaca"), output
    if _PROMPT in names and _COMPLETION in names:
        return "pairs", names[_COMPLETION]
    return "table", None


def _examples(rows: TableRows, parts: _ConversationTable, filename: str, problems: ImportProblems) -> TableRows:
    columns = [str(column) for column in rows.frame.columns]
    used = {parts.said, parts.asked, parts.rejected}
    used |= {column for column in columns if column.strip().lower() in (*_EXAMPLE, *_SYSTEMS)}
    others = [column for column in columns if column not in used]
    kept = [*others, *([parts.rejected] if parts.rejected else [])]
    good, chat, system = table.TableBuilder((*_EXAMPLE, *kept)), True, False
    for line, entry, row in zip(rows.lines, rows.entries, _dicts(rows), strict=True):
        try:
            found, is_chat = _example(row, parts)
        except BrokenJson as exc:
            problems.add(located(position(rows.place, line, entry, conversation=True), str(exc)))
            continue
        chat, system = chat and is_chat, system or bool(found[_SYSTEM])
        rejected = [_last_answer(row[parts.rejected])] if parts.rejected else []
        good.add([found[name] for name in _EXAMPLE] + [row[name] for name in others] + rejected, line, entry)
    if not len(good):
        raise BadFile(
            msg("{filename} has no conversation that can be used. {first}", filename=filename, first=problems.first()),
            msg("Each conversation must end with an answer and have a user message before it."),
        )
    made = good.rows(rows.place)
    made = made if system else made.with_frame(made.frame.drop(columns=_SYSTEM))
    made.frame.attrs.update(chat=chat, examples=True)
    return made


def _example(row: Mapping[str, str], parts: _ConversationTable) -> tuple[dict[str, str], bool]:
    """The example of one row, and whether it was a conversation.

    Raises:
        BrokenJson: it is none.
    """
    by_name = {name.strip().lower(): cell for name, cell in row.items()}
    system = conversations.system_text(next((by_name[name] for name in _SYSTEMS if by_name.get(name)), ""))
    if not row[parts.said].strip() and by_name.get(_COMPLETION, "").strip():
        return {_SYSTEM: system, _PROMPT: by_name.get(_PROMPT, ""), _COMPLETION: by_name[_COMPLETION]}, False
    value = conversations.decoded(row[parts.said])
    if value is None and parts.asked is not None:  # an answer that is plain text
        found = [Turn("assistant", row[parts.said])]
    else:
        found = conversations.turns(value, parts.said)
    if parts.asked is not None and not any(turn.role == "user" for turn in found):
        asked = conversations.decoded(row[parts.asked])
        whole = conversations.is_conversation(asked, "messages")
        before = conversations.turns(asked) if whole else [Turn("user", row[parts.asked])]
        found = [*before, *found]
    return conversations.example(found, system), True


def _last_answer(cell: str) -> str:
    """The text of a rejected answer; what is no list of turns stays as it is."""
    value = conversations.decoded(cell)
    if not conversations.is_conversation(value):
        return cell
    try:
        return conversations.turns(value)[-1].text
    except BrokenJson:
        return cell


def _with_rendered(rows: TableRows, names: Mapping[str, str]) -> TableRows:
    """The rows with written-out conversations as lists of turns, where no column holds their answer by itself."""
    columns = list(names.values()) if len(names) == 1 else [names[name] for name in _RENDERED if name in names]
    if any(name in names for name in _OUTPUTS):
        return rows
    for column in columns:
        cells = [cell for cell in rows.frame[column].head(_LOOKED_AT) if cell.strip()]
        if any(map(chat_markup.turns, cells[:50])) and sum(map(_is_rendered, cells)) * 2 >= len(cells):
            frame = rows.frame.copy()
            frame[column] = frame[column].map(_unrendered).astype("str")
            rows = rows.with_frame(frame)
    return rows


def _is_rendered(cell: str) -> bool:
    return chat_markup.turns(cell) is not None


def _unrendered(cell: str) -> str:
    found = chat_markup.turns(cell)
    return cell if found is None else text_of(found)


def _with_transcripts(rows: TableRows, column: str) -> TableRows:
    """The rows with earlier turns (`history`: a list of pairs) as one text."""
    frame = rows.frame.copy()
    frame[column] = frame[column].map(_transcript).astype("str")
    return rows.with_frame(frame)


def _transcript(cell: str) -> str:
    value = conversations.decoded(cell)
    if value == []:
        return ""
    try:
        return cell if value is None else conversations.transcript(conversations.turns(value))
    except BrokenJson:
        return cell


def _dicts(rows: TableRows) -> Iterator[dict[str, str]]:
    columns = [str(column) for column in rows.frame.columns]
    for cells in rows.frame.itertuples(index=False, name=None):
        yield dict(zip(columns, cells, strict=True))
