"""Reads a table as a list of prompts for a model to answer: a template filled from its columns, or conversations up to
the last user message. Answers in the file are dropped. Pure.

`recognise` finds out which of both a file is; `build` makes the list, and names every row that can't be used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from core.datasets import conversation_prompts, grid
from core.datasets.conversation_prompts import UnansweredConversation
from core.datasets.importers import column_mapping, conversations, request_bodies, table_format
from core.datasets.importers.json_objects import BrokenJson
from core.datasets.importers.request_parameters import PARAMETERS, RequestParameters
from core.datasets.importers.table import ImportProblems, position, with_position
from core.datasets.importers.table_reader import Imported
from core.datasets.recipe import template_fields, template_parts
from core.errors import BadFile
from core.message import msg
from core.sanitize import storable

Kind = Literal["prompts", "conversations", "training"]
PROMPT, SYSTEM = "prompt", "system"
_SAMPLED_ROWS = 1_000
_WORDS_OF_A_NAME = 3
_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "…")
# Columns that may hold conversations: also the request of a batch file or a log, and what a stored completion answered.
_CONVERSATION_COLUMNS = (*conversations.COLUMN_NAMES, "body", "request", "request_body", "input", PROMPT)
_TOOLS = ("tools", "functions")
_PARALLEL = "parallel_tool_calls"
_PARAMETER_COLUMNS = ("model_parameters", "modelparameters")  # of LiteLLM's logs and Langfuse's exports
_ANSWERS = ("choices", "completion", "response", "response_body", "output", "answer", "chosen", "rejected")
_ENVELOPE = ("method", "url", "object")  # the same in every line of a batch file or an export
_BRACES = str.maketrans("{}", "()")


@dataclass(frozen=True, slots=True)
class ListFormat:
    """How a file is read as a list of prompts.

    Attributes:
        kind: prompts; conversations; or a training file, whose answers are dropped.
        conversation: the column with the conversations; None for prompts, which a template makes.
        template: the proposed template.
        answers: columns that are dropped.
    """

    kind: Kind
    conversation: str | None
    template: str = ""
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedPrompt:
    """One prompt of a list.

    Attributes:
        prompt: as its row stores it: a text, or a conversation as JSON (`conversation_prompts`).
        values: the columns of its row: `prompt` (and `system`, if the system texts differ), and the file's others.
        tools: the tools that the model may call, as JSON, or "".
    """

    prompt: str
    values: Mapping[str, str]
    tools: str = ""

    @property
    def text(self) -> str:
        """Everything that a model reads, without labels; of JSON only the definitions of tools."""
        if self.tools:
            return f"{self.values.get(SYSTEM, '')}{self.tools}{self.values[PROMPT]}"
        return f"{self.values.get(SYSTEM, '')}{self.values[PROMPT]}"


@dataclass(frozen=True, slots=True)
class PromptList:
    """The prompts of a file, each once.

    Attributes:
        columns: the columns of the training prompt.
        conversations: whether the prompts are conversations.
        system: the system text that all prompts share, or "".
        parameters: sampling parameters that are the same in all rows of the file.
        read: usable rows of the file, including duplicates.
        duplicates: rows left out because their prompt occurs earlier.
        answers: rows whose answer was dropped.
        left_out: rows that can't be used.
        problems: why they can't be used, by line; at most about 100.
        notes: what was changed in the rows kept.
    """

    prompts: tuple[ListedPrompt, ...]
    columns: tuple[str, ...] = (PROMPT,)
    conversations: bool = False
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    read: int = 0
    duplicates: int = 0
    answers: int = 0
    left_out: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def may_lack_header(imported: Imported) -> bool:
    """Whether the first line of a file can be a prompt that was read as the name of the only column."""
    return imported.kind == "csv" and len(imported.frame.columns) == 1


def looks_like_prompt(name: str) -> bool:
    """Whether the name of a column reads like a prompt: several words, or the end of a sentence."""
    text = name.strip()
    return len(text.split()) > _WORDS_OF_A_NAME or text.endswith(_SENTENCE_ENDS)


def with_first_line(imported: Imported) -> Imported:
    """The file with its first line as a row; the only column is called `prompt`."""
    name = str(imported.frame.columns[0])
    cells = [name, *imported.frame.iloc[:, 0]]
    frame = pd.DataFrame({PROMPT: cells})
    frame.attrs = dict(imported.frame.attrs)
    return replace(imported, frame=frame, lines=[1, *imported.lines], entries=[0, *imported.entries])


def recognise(imported: Imported) -> ListFormat:
    """How a file is best read; `imported` as a plain table (`as_table`)."""
    frame = imported.frame
    names = {str(column).strip().lower(): str(column) for column in frame.columns}
    for name in _CONVERSATION_COLUMNS:
        if name in names and (values := _conversations(frame[names[name]], names[name])):
            answers = tuple(names[answer] for answer in _ANSWERS if answer in names and names[answer] != names[name])
            answered = any(map(conversations.is_answered, values[:50])) or {"completion", "chosen"} & names.keys()
            return ListFormat("training" if answered else "conversations", names[name], answers=answers)
    columns = [str(column) for column in frame.columns]
    if len(columns) == 1:
        return ListFormat("prompts", None, f"{{{columns[0].translate(_BRACES)}}}")
    guess = column_mapping.guess(frame)
    known = column_mapping.guess_completion(columns) == guess.completion
    asked = [column for column in columns if column not in _system_columns(columns)] or columns
    by_role = [column for column in asked if column_mapping.guess_role(column) == "prompt"]
    prompts = by_role or [max(asked, key=lambda name: float(frame[name].str.len().mean()))]
    template = "\n".join(f"{{{column.translate(_BRACES)}}}" for column in prompts)
    is_training = known and bool(by_role)
    return ListFormat(
        "training" if is_training else "prompts", None, template, (guess.completion,) if is_training else ()
    )


def build(imported: Imported, how: ListFormat) -> PromptList:
    """The list of prompts.

    Args:
        imported: the file as a plain table.
        how: the result of `recognise`, with a template that the user may have changed.

    Raises:
        BadRecipe: the template is not valid, or names a column that the file does not have.
        BadFile: no row can be used.
    """
    problems, parameters, read, answers = ImportProblems(), RequestParameters(), 0, 0
    names = [str(column).translate(_BRACES) for column in imported.frame.columns]
    reader = _TemplateReader(how, names) if how.conversation is None else _ConversationReader(how, names, parameters)
    found: dict[tuple[str, str], tuple[UnansweredConversation, dict[str, str]]] = {}
    for row_index, cells in enumerate(imported.frame.itertuples(index=False, name=None)):
        row = dict(zip(names, cells, strict=True))
        try:
            asked, others = reader.read(row)
        except BrokenJson as exc:
            problems.add(with_position(_position(imported, row_index), str(exc)))
            continue
        read += 1
        answers += asked.dropped > 0 or any(row[name].strip() for name in reader.answers)
        identity = (asked.system, asked.text if asked.is_single else conversation_prompts.dumps(asked))
        found.setdefault(identity, (asked, others))
    if not found:
        first = problems.first() or imported.problems[0] if problems.first() or imported.problems else ""
        raise BadFile(
            msg("The file has no prompt that can be used. {first}", first=first),
            msg("Choose a file with a column of prompts, or with conversations that have a user message."),
        )
    listed = _listed(list(found.values()))
    return replace(
        listed,
        parameters=parameters.shared(problems),
        read=read,
        duplicates=read - len(found),
        answers=answers,
        left_out=imported.left_out + problems.left_out,
        problems=(*imported.problems, *problems.problems()),
        notes=(*imported.notes, *problems.notes()),
    )


def _conversations(cells: Any, name: str) -> list[object]:
    """The conversations in a column, if at least half of its non-empty cells are some; else none."""
    texts = [cell for cell in cells.head(_SAMPLED_ROWS) if cell.strip()]
    if not texts or not any(text.lstrip()[:1] in ("[", "{") for text in texts[:50]):
        return []
    values = [request_bodies.as_chat(conversations.parse_json(text)) for text in texts]
    # a list of texts named "input" is no conversation, but a list of messages is
    name = name if name.strip().lower() in conversations.COLUMN_NAMES else ""
    matching = [value for value in values if conversations.is_conversation(value, name)]
    return matching if len(matching) * 2 >= len(values) else []


class _TemplateReader:
    """Reads a row by filling the template from its columns.

    Raises:
        BadRecipe: the template is not valid, or names a column that the file does not have.
    """

    def __init__(self, how: ListFormat, columns: Sequence[str]) -> None:
        grid.render(how.template, dict.fromkeys(columns, ""))
        self._parts, self._fields = template_parts(how.template), template_fields(how.template)
        self.answers = [name.translate(_BRACES) for name in how.answers]
        copied = self._fields if self._parts == [("", name) for name in self._fields[:1]] else []
        self._used = {*self.answers, *copied}
        self._system = [name for name in _system_columns(columns) if name not in self._fields]

    def read(self, row: Mapping[str, str]) -> tuple[UnansweredConversation, dict[str, str]]:
        """What a row asks for, and its other columns.

        Raises:
            BrokenJson: it asks for nothing.
        """
        blank = [name for name in self._fields if not row[name].strip()]
        text = storable("".join(words + (row[name] if name else "") for words, name in self._parts))
        text = text.strip() if blank else text  # without the line of an empty value
        if not text or (blank and len(blank) == len(self._fields)):
            raise BrokenJson(msg("The prompt is empty."))
        used = {*self._used, *self._system} if (system := _system_of(row, self._system)) else self._used
        others = {name: cell for name, cell in row.items() if name not in used}
        return UnansweredConversation(system, ({"role": "user", "content": text},), text), _storable(others)


class _ConversationReader:
    """Reads a row's conversation, and collects the parameters of its request."""

    def __init__(self, how: ListFormat, columns: Sequence[str], parameters: RequestParameters) -> None:
        self._column = (how.conversation or "").translate(_BRACES)
        self._parameters = parameters
        self.answers = [name.translate(_BRACES) for name in how.answers]
        self._system = _system_columns(columns)
        given = [column for column in columns if column.lower() in _PARAMETER_COLUMNS]
        request = (*_TOOLS, _PARALLEL, *PARAMETERS, *_ENVELOPE, *given)
        self._used = {self._column, *self._system, *self.answers, *request}

    def read(self, row: Mapping[str, str]) -> tuple[UnansweredConversation, dict[str, str]]:
        """What a row asks for, and its other columns.

        Raises:
            BrokenJson: it can't be asked.
        """
        value = request_bodies.as_chat(conversations.parse_json(row[self._column]))
        request = _request_of(row, value)
        if request.get("functions"):  # next to the messages; those of a body are tools already
            request = request_bodies.with_tools({**request, "messages": value})
            value = request["messages"]
        asked = conversation_prompts.unanswered(value, self._column)
        if tools := request_bodies.tools_of(request):
            parallel = request.get("parallel_tool_calls")
            parallel = parallel if isinstance(parallel, bool) else None
            asked = replace(asked, tools=tools, parallel_tool_calls=parallel)
        if not asked.system and (system := _system_of(row, self._system)):
            asked = replace(asked, system=system)
        self._parameters.add(request)
        return asked, _storable({name: cell for name, cell in row.items() if name not in self._used})


def _storable(values: Mapping[str, str]) -> dict[str, str]:
    return {name: storable(cell) for name, cell in values.items()}


def _system_columns(columns: Sequence[str]) -> list[str]:
    """The columns that hold a system text for their row."""
    return [column for column in columns if column.strip().lower() in table_format.SYSTEM_COLUMNS]


def _system_of(row: Mapping[str, str], columns: Sequence[str]) -> str:
    found = next((row[name] for name in columns if row[name]), "")
    return storable(conversations.system_text(found)).strip()


def _listed(found: Sequence[tuple[UnansweredConversation, dict[str, str]]]) -> PromptList:
    """The list, with a shared system text kept apart."""
    systems = {asked.system for asked, _ in found}
    shared = next(iter(systems)) if len(systems) == 1 else ""
    as_conversations = len(systems) > 1 or not all(asked.is_single for asked, _ in found)
    columns = (SYSTEM, PROMPT) if len(systems) > 1 else (PROMPT,)
    prompts = []
    for asked, others in found:
        own = "" if shared else asked.system
        prompt = conversation_prompts.dumps(asked, own) if as_conversations else asked.text
        tools = json.dumps(asked.tools, ensure_ascii=False) if asked.tools else ""
        values = {SYSTEM: asked.system, PROMPT: asked.text} if len(columns) > 1 else {PROMPT: asked.text}
        kept = {(f"{name} (file)" if name in (SYSTEM, PROMPT) else name): cell for name, cell in others.items()}
        prompts.append(ListedPrompt(prompt, {**values, **kept}, tools))
    return PromptList(tuple(prompts), columns, as_conversations, shared)


def _position(imported: Imported, row_index: int) -> str:
    return position(imported.unit, imported.lines[row_index], imported.entries[row_index])


def _request_of(row: Mapping[str, str], conversation: object) -> Mapping[str, Any]:
    """The fields next to the messages: those of the request that contains them, or else the row's columns, of which one
    may hold all parameters of the request.
    """
    if isinstance(conversation, Mapping) and "messages" in conversation:
        return conversation
    found: dict[str, Any] = {name: _parsed(row[name]) for name in (*PARAMETERS, *_TOOLS, _PARALLEL) if name in row}
    for column in row:
        if column.lower() in _PARAMETER_COLUMNS and isinstance(given := _parsed(row[column]), Mapping):
            found = {**given, **found}
    return found


def _parsed(cell: str) -> Any:
    try:
        return json.loads(cell) if cell.strip() else None
    except ValueError:
        return cell
