"""Recognises the format of a table from its columns and cells; conversations become prompt and completion. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from core.datasets.importers import conversations, preference_lines, table
from core.datasets.importers.cells import cell_text
from core.datasets.importers.column_mapping import REJECTED_COLUMNS
from core.datasets.importers.conversations import Turn
from core.datasets.importers.json_objects import BrokenJson
from core.datasets.importers.table import ImportProblems, TableRows, position, with_position
from core.errors import BadFile
from core.message import msg

Form = Literal["messages", "sharegpt", "turns", "preference", "alpaca", "dolly", "pairs", "table"]
_SAMPLED_ROWS = 1_000  # rows
_ANSWER_COLUMNS = ("chosen", "preferred_output", "completion", "response", "answer")
_OUTPUT_COLUMNS = ("output", "response", "completion", "answer")
_PROMPT_COLUMNS = ("prompt", "input", "question", "instruction", "query")
# Text columns that may hold the answer next to a list of turns without one.
_TEXT_ANSWER_COLUMNS = (*_ANSWER_COLUMNS, "output", "ideal", "solution", "target", "label")
_SYSTEM, _PROMPT, _COMPLETION, _HISTORY = "system", "prompt", "completion", "history"
SYSTEM_COLUMNS = (_SYSTEM, "systeminstruction", "system_instruction", "system_prompt")
# Columns that may contain conversations with chat template markup.
_MARKUP_COLUMNS = (*conversations.COLUMN_NAMES, "text", "content", "sample", "formatted_chat", "chosen", "rejected")
_EXAMPLE_COLUMNS = (_SYSTEM, _PROMPT, _COMPLETION)


@dataclass(frozen=True, slots=True)
class RecognisedFormat:
    """The format of a file, and how many of its rows have it.

    Attributes:
        form: the format.
        rows: rows in this format with a completion.
        of: all rows of the file, including unusable ones.
    """

    form: Form
    rows: int
    of: int


@dataclass(frozen=True, slots=True)
class _ConversationColumn:
    """A conversation column: its format, and True if its conversations end with an answer."""

    form: Form
    answered: bool


@dataclass(frozen=True, slots=True)
class _ConversationTable:
    """The columns of a table with conversations.

    Attributes:
        answer_column: the conversation, or only its end if `prompt_column` has the beginning.
        prompt_column: the turns or the text before the answer.
        rejected_column: the rejected answer of a preference pair.
    """

    form: Form
    answer_column: str
    prompt_column: str | None
    rejected_column: str | None


def recognise(
    rows: TableRows, filename: str, problems: ImportProblems, *, as_table: bool = False
) -> tuple[TableRows, RecognisedFormat]:
    """The rows with conversations converted to examples, and the recognised format.

    Examples have the columns `prompt` and `completion`, preceded by `system` if a conversation has a system message,
    and followed by the unused columns; for preferences, also by `conversation` (see `preference_lines`).
    `frame.attrs["chat"]`: all rows were conversations. `frame.attrs["examples"]`: no other column is used.

    Args:
        as_table: do not convert conversations.

    Raises:
        BadFile: no conversation can be used.
    """
    names = {str(column).strip().lower(): str(column) for column in rows.frame.columns}
    if not as_table:
        rows = _parse_markup(rows, names)
        conversation_columns = {
            column: detected
            for column in names.values()
            if (detected := _detect_conversations(rows, column)) is not None
        }
        if names.get(_HISTORY) in conversation_columns and any(name in names for name in _OUTPUT_COLUMNS):
            rows = _flatten_history(rows, names[_HISTORY])
            del conversation_columns[names[_HISTORY]]
        if columns := _find_columns(names, conversation_columns):
            total = len(rows.lines) + problems.left_out
            rows = _examples(rows, columns, filename, problems)
            return rows, RecognisedFormat(columns.form, len(rows.lines), total)
    form, completion = _form_of_table(names)
    row_count = len(rows.lines) if completion is None else int((rows.frame[completion].str.strip() != "").sum())
    return rows, RecognisedFormat(form, row_count, len(rows.lines) + problems.left_out)


def _detect_conversations(rows: TableRows, column: str) -> _ConversationColumn | None:
    """The format of a column if at least half of its non-empty cells are conversations."""
    cells = [cell for cell in rows.frame[column].head(_SAMPLED_ROWS) if cell.strip()]
    if not cells or not any(cell.lstrip()[:1] in ("[", "{") for cell in cells[:50]):
        return None
    values = [conversations.parse_json(cell) for cell in cells]
    matching = [value for value in values if conversations.is_conversation(value, column)]
    if len(matching) * 2 < len(values):
        return None
    return _ConversationColumn(
        conversations.format_name(matching[0]), any(map(conversations.is_answered, matching[:50]))
    )


def _find_columns(
    names: Mapping[str, str], conversation_columns: Mapping[str, _ConversationColumn]
) -> _ConversationTable | None:
    rejected = next((names[name] for name in REJECTED_COLUMNS if name in names), None)
    by_name = [names[name] for name in conversations.COLUMN_NAMES if names.get(name) in conversation_columns]
    prompt = next((names[name] for name in _PROMPT_COLUMNS if name in names), next(iter(by_name), None))
    # Turns without an answer, which may be plain text in another column.
    expects_text = prompt is not None and prompt in conversation_columns and not conversation_columns[prompt].answered
    for name in _TEXT_ANSWER_COLUMNS if expects_text else _ANSWER_COLUMNS:
        if name in names and (expects_text or names[name] in conversation_columns):
            rejected_answer = rejected if name in _ANSWER_COLUMNS[:2] else None
            form = conversation_columns[names[name] if names[name] in conversation_columns else str(prompt)].form
            return _ConversationTable("preference" if rejected_answer else form, names[name], prompt, rejected_answer)
    if not by_name and _PROMPT in names and _COMPLETION in names:
        return None  # conversation columns with other names are not part of such an example
    answer = next(
        iter(
            by_name
            or (
                column for column in conversation_columns if column.lower() not in (*REJECTED_COLUMNS, *_PROMPT_COLUMNS)
            )
        ),
        None,
    )
    return None if answer is None else _ConversationTable(conversation_columns[answer].form, answer, None, None)


def _form_of_table(names: Mapping[str, str]) -> tuple[Form, str | None]:
    """The format of a table without conversations, and its completion column if known."""
    output = next((names[name] for name in _OUTPUT_COLUMNS if name in names), None)
    if "chosen" in names and "rejected" in names:
        return "preference", names["chosen"]
    if "instruction" in names and output is not None:
        return ("dolly" if "context" in names else "alpaca"), output
    if _PROMPT in names and _COMPLETION in names:
        return "pairs", names[_COMPLETION]
    return "table", None


def _examples(rows: TableRows, table_columns: _ConversationTable, filename: str, problems: ImportProblems) -> TableRows:
    columns = [str(column) for column in rows.frame.columns]
    used = {table_columns.answer_column, table_columns.prompt_column, table_columns.rejected_column}
    used |= {column for column in columns if column.strip().lower() in (*_EXAMPLE_COLUMNS, *SYSTEM_COLUMNS)}
    others = [column for column in columns if column not in used]
    pairs, kept = table_columns.rejected_column is not None, preference_lines.COLUMN
    kept_columns = [*others, *([str(table_columns.rejected_column), kept] if pairs else [])]
    builder, all_chat, system = table.TableBuilder((*_EXAMPLE_COLUMNS, *kept_columns)), True, False
    for line, entry, row in zip(rows.lines, rows.entries, _row_dicts(rows), strict=True):
        try:
            example_row, is_chat = _example(row, table_columns)
        except BrokenJson as exc:
            problems.add(with_position(position(rows.unit, line, entry, conversation=True), str(exc)))
            continue
        all_chat, system = all_chat and is_chat, system or bool(example_row[_SYSTEM])
        pair = _rejected(row, table_columns) if pairs else []
        builder.add(
            [example_row[name] for name in _EXAMPLE_COLUMNS] + [row[name] for name in others] + pair,
            line,
            entry,
        )
    if not len(builder):
        raise BadFile(
            msg("{filename} has no conversation that can be used. {first}", filename=filename, first=problems.first()),
            msg("Each conversation must end with an answer and have a user message before it."),
        )
    result = builder.rows(rows.unit)
    unused = [] if system else [_SYSTEM]
    unused += [kept] if pairs and not result.frame[kept].any() else []
    result = result.with_frame(result.frame.drop(columns=unused)) if unused else result
    result.frame.attrs.update(chat=all_chat, examples=True)
    return result


def _example(row: Mapping[str, str], columns: _ConversationTable) -> tuple[dict[str, str], bool]:
    """The example of one row, and True if it was a conversation.

    Raises:
        BrokenJson: it is not usable.
    """
    by_name = {name.strip().lower(): cell for name, cell in row.items()}
    system = conversations.system_text(next((by_name[name] for name in SYSTEM_COLUMNS if by_name.get(name)), ""))
    if not row[columns.answer_column].strip() and by_name.get(_COMPLETION, "").strip():
        return {_SYSTEM: system, _PROMPT: by_name.get(_PROMPT, ""), _COMPLETION: by_name[_COMPLETION]}, False
    value = conversations.parse_json(row[columns.answer_column])
    if value is None and columns.prompt_column is not None:  # a plain text answer
        turns = [Turn("assistant", row[columns.answer_column])]
    else:
        turns = conversations.turns(value, columns.answer_column)
    if columns.prompt_column is not None and not any(turn.role == "user" for turn in turns):
        prompt = conversations.parse_json(row[columns.prompt_column])
        is_list = conversations.is_conversation(prompt, "messages")
        context = conversations.turns(prompt) if is_list else [Turn("user", row[columns.prompt_column])]
        turns = [*context, *turns]
    return conversations.example(turns, system), True


def _rejected(row: Mapping[str, str], columns: _ConversationTable) -> list[str]:
    """The rejected answer of a preference, and what of its conversation is more than a prompt."""
    prompt = row[columns.prompt_column] if columns.prompt_column is not None else ""
    rejected = row[str(columns.rejected_column)]
    kept = preference_lines.conversation_of(prompt, row[columns.answer_column], rejected)
    return [_last_answer(rejected), kept]


def _last_answer(cell: str) -> str:
    """The text of a rejected answer; a cell that is not a list of turns stays as it is."""
    value = conversations.parse_json(cell)
    if not conversations.is_conversation(value):
        return cell
    try:
        return conversations.turns(value)[-1].text
    except BrokenJson:
        return cell


def _parse_markup(rows: TableRows, names: Mapping[str, str]) -> TableRows:
    """Parse each row's conversation text (with role markers) into a list of turns, unless a column has the answer."""
    columns = list(names.values()) if len(names) == 1 else [names[name] for name in _MARKUP_COLUMNS if name in names]
    if any(name in names for name in _OUTPUT_COLUMNS):
        return rows
    for column in columns:
        cells = [cell for cell in rows.frame[column].head(_SAMPLED_ROWS) if cell.strip()]
        if any(map(conversations.turns_from_markup, cells[:50])) and sum(map(_has_markup, cells)) * 2 >= len(cells):
            frame = rows.frame.copy()
            frame[column] = frame[column].map(_markup_to_json).astype("str")
            rows = rows.with_frame(frame)
    return rows


def _has_markup(cell: str) -> bool:
    return conversations.turns_from_markup(cell) is not None


def _markup_to_json(cell: str) -> str:
    turns = conversations.turns_from_markup(cell)
    return cell if turns is None else cell_text(turns)


def _flatten_history(rows: TableRows, column: str) -> TableRows:
    """The rows with earlier turns (`history`: a list of pairs) as one text."""
    frame = rows.frame.copy()
    frame[column] = frame[column].map(_transcript).astype("str")
    return rows.with_frame(frame)


def _transcript(cell: str) -> str:
    value = conversations.parse_json(cell)
    if value == []:
        return ""
    try:
        return cell if value is None else conversations.transcript(conversations.turns(value))
    except BrokenJson:
        return cell


def _row_dicts(rows: TableRows) -> Iterator[dict[str, str]]:
    columns = [str(column) for column in rows.frame.columns]
    for cells in rows.frame.itertuples(index=False, name=None):
        yield dict(zip(columns, cells, strict=True))
