"""Pairs of prompt and answer from pasted text or a file: a chat log, a table, JSON or JSON lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.datasets.dataset_rows import join_values
from core.datasets.example_pairs import ExamplePair
from core.datasets.importers import column_mapping, conversations, decoding, table_reader
from core.errors import BadFile
from core.message import msg

MAX_PASTE_CHARACTERS = 1_000_000
"""Characters; 200 examples of maximum length have 800,000."""
_MAX_REPORTED = 5  # unusable rows that are listed; the others are counted
_HELP = msg("Paste lines such as “Customer: …” and “Agent: …”, a table with two columns, or JSON lines.")
# Timestamps of chat programs before the speaker: [12.03.24, 10:22], 2024-03-12 10:22:05, 10:22 AM -
_TIMESTAMP = r"(?:\[?[\d/.\-:,年月日\s]*\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp][Mm])?\]?\s*(?:[-–]\s+)?)?"
_SPEAKER_LINE = re.compile(rf"^\s*{_TIMESTAMP}\**([^\W\d_][^:：\n,.!?。！？，]{{0,39}}?)\**\s*[:：](?!//)\**\s*(.*)$")
_JSON = re.compile(r"\s*(?:\{|\[\s*[\[{\"])")  # a chat log may begin with a time in brackets
_USER_NAMES = frozenset(("client", "buyer", "visitor", "guest", "me", "q", "顾客", "客户", "买家", "访客"))
_ASSISTANT_NAMES = frozenset(("support", "seller", "service", "helpdesk", "a", "回答", "坐席", "卖家", "店家", "小二"))


@dataclass(frozen=True, slots=True)
class Pasted:
    """The result.

    Attributes:
        pairs: the examples.
        form: the detected format.
        notes: what was left out, as sentences.
    """

    pairs: tuple[ExamplePair, ...]
    form: Literal["chat", "table"]
    notes: tuple[str, ...] = ()


def from_text(text: str) -> Pasted:
    """The pairs in a pasted text.

    Raises:
        BadFile: it contains none, or is too long.
    """
    if not text.strip():
        raise BadFile(msg("Nothing was pasted."), _HELP)
    if len(text) > MAX_PASTE_CHARACTERS:
        raise BadFile(
            msg(
                "The text has {count} characters; the limit is {value}.",
                count=f"{len(text):,}",
                value=f"{MAX_PASTE_CHARACTERS:,}",
            ),
            msg("Upload it instead."),
        )
    if not _JSON.match(text) and (turns := _markup_turns(text) or _chat_log_turns(text)) is not None:
        return _from_turns(turns)
    try:
        return from_table(table_reader.read_table(text.rstrip("\n").encode("utf-8", "replace"), "pasted.txt"))
    except BadFile as exc:
        raise BadFile(msg("No examples were found in the text."), _HELP) from exc


def from_file(data: bytes, name: str) -> Pasted:
    """The pairs in a file: a chat log (.txt), or any table that `table_reader.read_table` reads.

    Raises:
        BadFile: it contains none, or cannot be read.
    """
    if name.lower().endswith(".txt") and len(data) <= MAX_PASTE_CHARACTERS:
        text = decoding.decode(data, name).text
        if not _JSON.match(text) and (turns := _markup_turns(text) or _chat_log_turns(text)) is not None:
            return _from_turns(turns)
    return from_table(table_reader.read_table(data, name))


def from_table(imported: table_reader.Imported) -> Pasted:
    """The pairs in an imported table; two columns without a header are used as prompt and answer.

    Raises:
        BadFile: it has a single column.
    """
    frame = imported.frame
    columns = [str(column) for column in frame.columns]
    if len(columns) < 2:
        raise BadFile(
            msg("There is only one column; prompts and answers need two."), msg("Add a column with the answers.")
        )
    mapping = column_mapping.guess(frame)
    prompt_rows = frame[list(mapping.prompts)].itertuples(index=False, name=None)
    pairs = [
        ExamplePair(join_values(map(str, values), mapping.separator), str(answer))
        for values, answer in zip(prompt_rows, frame[mapping.completion], strict=True)
    ]
    if len(columns) == 2 and not any(column_mapping.guess_role(column) for column in columns):
        pairs.insert(0, ExamplePair(columns[0], columns[1]))
        if mapping.completion == columns[0]:
            pairs = [pairs[0], *(ExamplePair(pair.answer, pair.prompt) for pair in pairs[1:])]
    return Pasted(tuple(pairs), "table", tuple(imported.left_out_summary(_MAX_REPORTED)))


def _markup_turns(text: str) -> list[tuple[str, str]] | None:
    """The turns of a text with chat template markup. None: it has none."""
    turns = conversations.turns_from_markup(text.strip())
    return None if turns is None else [(turn["speaker"], turn["text"]) for turn in turns]


def _chat_log_turns(text: str) -> list[tuple[str, str]] | None:
    """(role, text) of a chat log; consecutive turns of a speaker are joined. None: it is no chat log."""
    lines = [(line, _SPEAKER_LINE.match(line)) for line in text.splitlines()]
    counts = Counter(match[1].strip() for _line, match in lines if match)
    speakers = _assign_roles(counts)
    if speakers is None:
        return None
    turns: list[tuple[str, str]] = []
    for line, match in lines:
        if match and match[1].strip() in speakers:
            speaker, message = match[1].strip(), match[2].strip()
        elif turns:
            speaker, message = turns[-1][0], line.strip()
        else:
            continue  # text before the first turn
        if turns and turns[-1][0] == speaker:
            message = f"{turns.pop()[1]}\n{message}"
        turns.append((speaker, message))
    return [(speakers[speaker], message.strip()) for speaker, message in turns if message.strip()]


def _assign_roles(counts: Counter[str]) -> dict[str, str] | None:
    """The role (user, assistant, system) of each speaker. None: no two of them can be distinguished."""
    roles = {name: role for name in counts if (role := _role_of_name(name)) is not None}
    if {"user", "assistant"} <= set(roles.values()):
        return roles
    people = [name for name in counts if roles.get(name) != "system"]
    if len(people) > 2:  # “Note: …” within a message is not a speaker: speakers occur repeatedly
        people = [name for name in people if counts[name] > 1]
    if len(people) != 2 or min(counts[name] for name in people) * 3 < max(counts[name] for name in people):
        return None
    first, second = people  # in order of appearance: the user usually speaks first
    user = second if roles.get(second) == "user" or roles.get(first) == "assistant" else first
    return {name: "user" if name == user else "assistant" for name in people}


def _role_of_name(name: str) -> str | None:
    word = name.strip().lower()
    return "user" if word in _USER_NAMES else "assistant" if word in _ASSISTANT_NAMES else conversations.role_of(word)


def _from_turns(turns: Sequence[tuple[str, str]]) -> Pasted:
    """Pairs of each answer and the message just before it."""
    pairs, notes, question = list[ExamplePair](), list[str](), ""
    no_answer = no_question = 0
    for role, message in turns:
        if role == "user":
            no_answer += bool(question)
            question = message
        elif role == "assistant" and question:
            pairs.append(ExamplePair(question, message))
            question = ""
        elif role == "assistant":
            no_question += 1
    no_answer += bool(question)
    if not pairs:
        raise BadFile(msg("The conversation has no question followed by an answer."), _HELP)
    if no_answer:
        notes.append(msg("Messages without an answer, left out: {count}.", count=f"{no_answer:,}"))
    if no_question:
        notes.append(msg("Answers without a question, left out: {count}.", count=f"{no_question:,}"))
    return Pasted(tuple(pairs), "chat", tuple(notes))
