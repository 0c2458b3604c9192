"""Pairs of prompt and answer from text that was pasted, or a file: a chat log, a table, JSON or JSON lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.dataset.completed_rows import join_values
from core.dataset.example_pairs import ExamplePair
from core.dataset.importers import chat_markup, column_mapping, column_roles, conversations, decoding, table_reader
from core.errors import BadFile
from core.message import msg

LONGEST_PASTE = 1_000_000
"""Characters; 200 examples of the longest kind have 800,000."""
_NAMED = 5  # rows that could not be used and are named; more of them are counted
_HELP = msg("Paste lines such as “Customer: …” and “Agent: …”, a table with two columns, or JSON lines.")
# What chat programs put before the speaker: [12.03.24, 10:22], 2024-03-12 10:22:05, 10:22 AM -
_STAMP = r"(?:\[?[\d/.\-:,年月日\s]*\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp][Mm])?\]?\s*(?:[-–]\s+)?)?"
_SPEAKS = re.compile(rf"^\s*{_STAMP}\**([^\W\d_][^:：\n,.!?。！？，]{{0,39}}?)\**\s*[:：](?!//)\**\s*(.*)$")
_JSON = re.compile(r"\s*(?:\{|\[\s*[\[{\"])")  # a chat log may begin with a time in brackets
_ASKS = frozenset(("client", "buyer", "visitor", "guest", "me", "q", "顾客", "客户", "买家", "访客"))
_ANSWERS = frozenset(("support", "seller", "service", "helpdesk", "a", "回答", "坐席", "卖家", "店家", "小二"))


@dataclass(frozen=True, slots=True)
class Pasted:
    """What was read.

    Attributes:
        form: what the text was taken for.
        notes: what was left out, in sentences.
    """

    pairs: tuple[ExamplePair, ...]
    form: Literal["chat", "table"]
    notes: tuple[str, ...] = ()


def from_text(text: str) -> Pasted:
    """The pairs in a pasted text.

    Raises:
        BadFile: there are none in it, or it is too long.
    """
    if not text.strip():
        raise BadFile(msg("Nothing was pasted."), _HELP)
    if len(text) > LONGEST_PASTE:
        raise BadFile(
            msg(
                "The text has {text} characters; up to {value} fit here.",
                text=f"{len(text):,}",
                value=f"{LONGEST_PASTE:,}",
            ),
            msg("Upload it instead."),
        )
    if not _JSON.match(text) and (turns := _rendered(text) or _turns(text)) is not None:
        return _from_turns(turns)
    try:
        return from_table(table_reader.read_table(text.rstrip("\n").encode("utf-8", "replace"), "pasted.txt"))
    except BadFile as exc:
        raise BadFile(msg("No examples were found in the text."), _HELP) from exc


def from_file(data: bytes, name: str) -> Pasted:
    """The pairs in a file: a chat log (.txt), or any table that `table_reader.read_table` reads.

    Raises:
        BadFile: there are none in it, or it cannot be read.
    """
    if name.lower().endswith(".txt") and len(data) <= LONGEST_PASTE:
        text = decoding.decode(data, name).text
        if not _JSON.match(text) and (turns := _rendered(text) or _turns(text)) is not None:
            return _from_turns(turns)
    return from_table(table_reader.read_table(data, name))


def from_table(imported: table_reader.Imported) -> Pasted:
    """The pairs in a table that was read; two columns without a header are taken as prompt and answer.

    Raises:
        BadFile: it has a single column.
    """
    frame = imported.frame
    columns = [str(column) for column in frame.columns]
    if len(columns) < 2:
        raise BadFile(
            msg("There is only one column; prompts and answers need two."), msg("Add a column with the answers.")
        )
    found = column_mapping.guess(frame)
    asked = frame[list(found.prompts)].itertuples(index=False, name=None)
    pairs = [
        ExamplePair(join_values(map(str, values), found.separator), str(answer))
        for values, answer in zip(asked, frame[found.completion], strict=True)
    ]
    if len(columns) == 2 and not any(column_roles.part_of(column) for column in columns):
        pairs.insert(0, ExamplePair(columns[0], columns[1]))
        if found.completion == columns[0]:
            pairs = [pairs[0], *(ExamplePair(pair.answer, pair.prompt) for pair in pairs[1:])]
    return Pasted(tuple(pairs), "table", tuple(imported.left_out_named(_NAMED)))


def _rendered(text: str) -> list[tuple[str, str]] | None:
    """The turns of a text with the marks of a chat template; None: it is none."""
    found = chat_markup.turns(text.strip())
    return None if found is None else [(turn["speaker"], turn["text"]) for turn in found]


def _turns(text: str) -> list[tuple[str, str]] | None:
    """(speaker, what was said) of a chat log, neighbours of one speaker joined; None: it is none."""
    lines = [(line, _SPEAKS.match(line)) for line in text.splitlines()]
    named = Counter(found[1].strip() for _line, found in lines if found)
    speakers = _speakers(named)
    if speakers is None:
        return None
    turns: list[tuple[str, str]] = []
    for line, found in lines:
        if found and found[1].strip() in speakers:
            speaker, said = found[1].strip(), found[2].strip()
        elif turns:
            speaker, said = turns[-1][0], line.strip()
        else:
            continue  # a title above the first turn
        if turns and turns[-1][0] == speaker:
            said = f"{turns.pop()[1]}\n{said}"
        turns.append((speaker, said))
    return [(speakers[speaker], said.strip()) for speaker, said in turns if said.strip()]


def _speakers(named: Counter[str]) -> dict[str, str] | None:
    """The part (user, assistant, system) of each speaker; None where no two of them can be told apart."""
    roles = {name: role for name in named if (role := _role(name)) is not None}
    if {"user", "assistant"} <= set(roles.values()):
        return roles
    people = [name for name in named if roles.get(name) != "system"]
    if len(people) > 2:  # “Note: …” within a message is no speaker: those speak again and again
        people = [name for name in people if named[name] > 1]
    if len(people) != 2 or min(named[name] for name in people) * 3 < max(named[name] for name in people):
        return None
    one, other = people  # in the order of their first words: the one who asks speaks first
    asks = other if roles.get(other) == "user" or roles.get(one) == "assistant" else one
    return {name: "user" if name == asks else "assistant" for name in people}


def _role(name: str) -> str | None:
    word = name.strip().lower()
    return "user" if word in _ASKS else "assistant" if word in _ANSWERS else conversations.role_of(word)


def _from_turns(turns: Sequence[tuple[str, str]]) -> Pasted:
    """Each answer with what was asked just before it."""
    pairs, notes, asked = list[ExamplePair](), list[str](), ""
    unanswered = unasked = 0
    for role, said in turns:
        if role == "user":
            unanswered += bool(asked)
            asked = said
        elif role == "assistant" and asked:
            pairs.append(ExamplePair(asked, said))
            asked = ""
        elif role == "assistant":
            unasked += 1
    unanswered += bool(asked)
    if not pairs:
        raise BadFile(msg("The conversation has no question followed by an answer."), _HELP)
    if unanswered:
        notes.append(msg("Messages without an answer, left out: {unanswered}.", unanswered=f"{unanswered:,}"))
    if unasked:
        notes.append(msg("Answers without a question, left out: {unasked}.", unasked=f"{unasked:,}"))
    return Pasted(tuple(pairs), "chat", tuple(notes))
