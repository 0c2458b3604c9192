"""A small set of examples, pairs of a prompt and its answer: read from pasted text or a file, checked before training.

The input is a chat log, a table, JSON or JSON lines. `core.finetuning.examples` trains on the pairs. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from core.datasets.dataset_rows import join_values
from core.datasets.importers import column_mapping, conversations, decoding, table_reader
from core.errors import BadFile
from core.message import listed, msg

MIN_EXAMPLES, MAX_EXAMPLES = 5, 200  # with fewer, a model memorises them; more would take too long for a form
MAX_CELL_CHARACTERS = 2_000  # of a prompt or an answer: about 500 tokens of English, 1,300 of Chinese
_MAX_ROW_NUMBERS = 5  # maximum number of row numbers in a sentence
_MAX_QUOTED = 30  # maximum number of quoted characters of a prompt
MAX_PASTE_CHARACTERS = 1_000_000  # 200 examples of maximum length contain 800,000
_MAX_REPORTED = 5  # unusable rows that are listed; the others are counted
_HELP = msg("Paste lines such as “Customer: …” and “Agent: …”, a table with two columns, or JSON lines.")
# Timestamps of chat programs before the speaker: [12.03.24, 10:22], 2024-03-12 10:22:05, 10:22 AM -
_TIMESTAMP = r"(?:\[?[\d/.\-:,年月日\s]*\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp][Mm])?\]?\s*(?:[-–]\s+)?)?"
_SPEAKER_LINE = re.compile(rf"^\s*{_TIMESTAMP}\**([^\W\d_][^:：\n,.!?。！？，]{{0,39}}?)\**\s*[:：](?!//)\**\s*(.*)$")
_JSON = re.compile(r"\s*(?:\{|\[\s*[\[{\"])")  # a chat log may begin with a time in brackets
_USER_NAMES = frozenset(("client", "buyer", "visitor", "guest", "me", "q", "顾客", "客户", "买家", "访客"))
_ASSISTANT_NAMES = frozenset(("support", "seller", "service", "helpdesk", "a", "回答", "坐席", "卖家", "店家", "小二"))


class ExamplePair(NamedTuple):
    """One example: a prompt and the answer to learn."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class ExampleFinding:
    """A finding of the check; `blocking`: training cannot start until it is fixed."""

    sentence: str
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class CheckedExamples:
    """The result of the check.

    Attributes:
        pairs: the pairs to train on: complete, without duplicates and surrounding spaces.
        findings: blocking ones first.
        too_many: whether there are more than `MAX_EXAMPLES`, which need the data set page instead.
    """

    pairs: tuple[ExamplePair, ...]
    findings: tuple[ExampleFinding, ...]
    too_many: bool = False

    @property
    def ready(self) -> bool:
        """True if training can start."""
        return not any(finding.blocking for finding in self.findings)


def check(pairs: Sequence[ExamplePair], rows: Sequence[int] | None = None) -> CheckedExamples:
    """Check the pairs before training.

    Args:
        pairs: the pairs as typed; a row without prompt and answer is ignored.
        rows: the row number that the form shows for each pair; by default counted from 1.
    """
    numbers = range(1, len(pairs) + 1) if rows is None else rows
    typed = [
        (number, ExamplePair(pair.prompt.strip(), pair.answer.strip()))
        for number, pair in zip(numbers, pairs, strict=True)
        if pair.prompt.strip() or pair.answer.strip()
    ]
    complete = [(number, pair) for number, pair in typed if pair.prompt and pair.answer]
    usable = tuple(dict.fromkeys(pair for _number, pair in complete))
    return CheckedExamples(
        usable,
        (
            *_check_count(len(usable), len(typed)),
            *_too_long(typed),
            *_contradictions(complete),
            *_incomplete(typed),
            *_duplicates(complete),
            *_same_answers(usable),
        ),
        too_many=len(usable) > MAX_EXAMPLES,
    )


def _check_count(count: int, typed: int) -> list[ExampleFinding]:
    """Findings about too few or too many pairs; `typed`: number of non-empty rows."""
    if typed == 0:
        problem = msg("There are no examples yet. Type, paste or upload at least 5, or start with a sample.")
    elif count == 0:
        problem = msg("No row has both a prompt and an answer. Fill in the missing side of at least 5 rows.")
    elif count < MIN_EXAMPLES:
        problem = msg(
            "Too few examples: {count} of at least {value}. With so few, a model repeats the examples instead "
            "of learning the task. Add {missing} more; 12 is a good start.",
            count=count,
            value=MIN_EXAMPLES,
            missing=MIN_EXAMPLES - count,
        )
    elif count > MAX_EXAMPLES:
        problem = msg(
            "Too many examples for this form: {count}; the limit is {value}. Load the file on the "
            "Data set page, where you can check its quality, split it and choose the settings.",
            count=f"{count:,}",
            value=MAX_EXAMPLES,
        )
    else:
        return []
    return [ExampleFinding(problem, True)]


def _too_long(typed: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    long_rows = [(number, max(map(len, pair))) for number, pair in typed if max(map(len, pair)) > MAX_CELL_CHARACTERS]
    if not long_rows:
        return []
    number, length = long_rows[0]
    if len(long_rows) == 1:
        sentence = msg(
            "The text in row {number} has {length} characters; the limit is {value}. Shorten it.",
            number=number,
            length=f"{length:,}",
            value=f"{MAX_CELL_CHARACTERS:,}",
        )
    else:
        numbers, limit = _row_list([number for number, _length in long_rows]), f"{MAX_CELL_CHARACTERS:,}"
        sentence = msg(
            "Rows {numbers} have texts of more than {value} characters. Shorten them.", numbers=numbers, value=limit
        )
    return [ExampleFinding(sentence, True)]


def _contradictions(complete: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    """The same prompt with different answers: one finding per prompt."""
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for number, pair in complete:
        by_prompt.setdefault(pair.prompt, []).append((number, pair.answer))
    findings = []
    for prompt, answers in by_prompt.items():
        if len({answer for _number, answer in answers}) > 1:
            sentence = msg(
                "Rows {numbers} have the same prompt, “{quoted}”, with different answers. Keep one of them: "
                "a model can't learn both.",
                numbers=_row_list([number for number, _answer in answers]),
                quoted=_quoted(prompt),
            )
            findings.append(ExampleFinding(sentence, True))
    return findings[:_MAX_ROW_NUMBERS]


def _incomplete(typed: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    findings = []
    if no_answer := [number for number, pair in typed if not pair.answer]:
        numbers = _row_list(no_answer)
        single = msg("No answer in row {numbers}: left out of training.", numbers=numbers)
        several = msg("No answer in rows {numbers}: left out.", numbers=numbers)
        findings.append(ExampleFinding(single if len(no_answer) == 1 else several))
    if no_prompt := [number for number, pair in typed if not pair.prompt]:
        numbers = _row_list(no_prompt)
        single = msg("No prompt in row {numbers}: left out of training.", numbers=numbers)
        several = msg("No prompt in rows {numbers}: left out.", numbers=numbers)
        findings.append(ExampleFinding(single if len(no_prompt) == 1 else several))
    return findings


def _duplicates(complete: Sequence[tuple[int, ExamplePair]]) -> list[ExampleFinding]:
    seen, repeated = set[ExamplePair](), list[int]()
    for number, pair in complete:
        if pair in seen:
            repeated.append(number)
        seen.add(pair)
    if not repeated:
        return []
    numbers = _row_list(repeated)
    if len(repeated) == 1:
        return [ExampleFinding(msg("Row {numbers} repeats an earlier row: it counts once.", numbers=numbers))]
    return [ExampleFinding(msg("Rows {numbers} repeat earlier rows: each counts once.", numbers=numbers))]


def _same_answers(usable: Sequence[ExamplePair]) -> list[ExampleFinding]:
    if len(usable) < MIN_EXAMPLES or len({pair.answer for pair in usable}) > 1:
        return []
    sentence = msg(
        "All answers are the same: the model will give this answer to every prompt. Add examples with other answers."
    )
    return [ExampleFinding(sentence)]


def _row_list(numbers: Sequence[int]) -> str:
    """Row numbers as a list, limited to the first few."""
    more = ["…"] if len(numbers) > _MAX_ROW_NUMBERS else []
    return listed([*(f"{number:,}" for number in numbers[:_MAX_ROW_NUMBERS]), *more])


def _quoted(text: str) -> str:
    normalized = " ".join(text.split())
    return normalized if len(normalized) <= _MAX_QUOTED else f"{normalized[:_MAX_QUOTED]}…"


@dataclass(frozen=True, slots=True)
class Pasted:
    """The pairs read from pasted text or a file.

    Attributes:
        pairs: the examples.
        form: the detected format.
        notes: sentences about what was left out.
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
        count, limit = f"{len(text):,}", f"{MAX_PASTE_CHARACTERS:,}"
        what = msg("The text has {count} characters; the limit is {value}.", count=count, value=limit)
        raise BadFile(what, msg("Upload it instead."))
    if (turns := _turns(text)) is not None:
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
    is_short_text = name.lower().endswith(".txt") and len(data) <= MAX_PASTE_CHARACTERS
    if is_short_text and (turns := _turns(decoding.decode(data, name).text)) is not None:
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
        what = msg("There is only one column; prompts and answers need two.")
        raise BadFile(what, msg("Add a column with the answers."))
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


def _turns(text: str) -> list[tuple[str, str]] | None:
    """(role, text) of a conversation: with chat template markup, or a chat log; None if it is neither."""
    if _JSON.match(text):
        return None
    marked = conversations.turns_from_markup(text.strip())
    return [(turn["speaker"], turn["text"]) for turn in marked] if marked else _chat_log_turns(text)


def _chat_log_turns(text: str) -> list[tuple[str, str]] | None:
    """(role, text) of a chat log; consecutive turns of a speaker are joined. None if it is not a chat log."""
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
    """The role (user, assistant, system) of each speaker; None if no two of them can be distinguished."""
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
    """Pair each answer with the message just before it."""
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
