"""Prepares preference training (DPO): which of two answers to a prompt people prefer, as a training file. Pure.

A file has one of two formats, as the model was trained: OpenAI's lines for chat models (`input`, `preferred_output`,
`non_preferred_output`), and TRL's for models that continue a text (`prompt`, `chosen`, `rejected`), with the separator
and the stop of their training. The rows are read twice, once to count and once to write.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from core.datasets.analysis import Example, digest
from core.datasets.importers import preference_lines
from core.errors import BadTrainingFile
from core.message import Message, msg, sentences

PreferenceFormat = Literal["chat", "completion"]
DropReason = Literal["single", "empty", "equal", "conversation", "repeated", "outvoted", "undecided"]
REASONS: Final[Mapping[DropReason, Callable[[str], Message]]] = {
    "single": lambda n: msg("Rows without a second answer: {n}.", n=n),
    "empty": lambda n: msg("Rows with an empty answer: {n}.", n=n),
    "equal": lambda n: msg("Rows whose two answers are equal, so there is nothing to prefer: {n}.", n=n),
    "conversation": lambda n: msg(
        "Rows with a conversation of several messages or with tools, which only a chat model reads: {n}.", n=n
    ),
    "repeated": lambda n: msg("Rows that repeat a choice; it counts once: {n}.", n=n),
    "outvoted": lambda n: msg("Rows with the opposite choice of most rows for the same two answers: {n}.", n=n),
    "undecided": lambda n: msg("Rows whose two answers were preferred equally often: {n}.", n=n),
}
"""Why a row is not trained on, with the number of rows."""


class PreferenceRow(NamedTuple):
    """One choice: the answer that was preferred, and the other one; None if there is no other one.

    `conversation`: see `preference_lines`; "" if the prompt is all there is.
    """

    prompt: str
    preferred: str
    rejected: str | None
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class PreferencePlan:
    """How preferences are written. Made by `plan`; then iterate over the same rows again.

    Attributes:
        separator, stop: the end of every prompt and of every answer; "" in a chat file.
        system: the system text of a chat file, for rows whose conversation has none of its own.
        rows: number of rows; kept: those that are trained on; dropped: the others, by reason.
        longest: characters of the longest kept row, with its longer answer.
    """

    file_format: PreferenceFormat
    separator: str
    stop: str
    system: str
    rows: int = 0
    kept: int = 0
    longest: int = 0
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    balance: Mapping[int, int] = field(default_factory=dict, repr=False)

    def preferences(self, rows: Iterable[PreferenceRow]) -> Iterator[PreferenceRow]:
        """The rows that are trained on, as the model reads them.

        Raises:
            BadTrainingFile: the rows have changed since the plan was made.
        """
        written = set[int]()
        for row in (_as_read(row, self.stop) for row in rows):
            if _reason(row, self.file_format) is not None:
                continue
            key, sign = _key(row)
            if key not in self.balance:
                raise BadTrainingFile(msg("The rows have changed while the file was being written."), msg("Try again."))
            if self.balance[key] * sign > 0 and key not in written:
                written.add(key)
                yield self._marked(row)

    def pairs(self, rows: Iterable[PreferenceRow]) -> Iterator[Example]:
        """Each prompt with both answers, as the model reads them: what a job trains on."""
        for prompt, preferred, rejected, _conversation in self.preferences(rows):
            yield prompt, preferred
            yield prompt, rejected or ""

    def lines(self, rows: Iterable[PreferenceRow]) -> Iterator[str]:
        """Lines of the file, JSON without line end."""
        for row in self.preferences(rows):
            yield json.dumps(self._line(row), ensure_ascii=False)

    def sentences(self) -> tuple[Message, ...]:
        """The rows that are not trained on, as sentences."""
        return tuple(REASONS[reason](f"{n:,}") for reason, n in self.dropped.items())

    def _marked(self, row: PreferenceRow) -> PreferenceRow:
        if self.file_format == "chat":
            return row
        prompt = row.prompt if self.separator and row.prompt.endswith(self.separator) else row.prompt + self.separator
        spaced = (text if text.startswith(" ") else f" {text}" for text in (row.preferred, row.rejected or ""))
        return PreferenceRow(prompt, *(text + self.stop for text in spaced))

    def _line(self, row: PreferenceRow) -> dict[str, object]:
        if self.file_format == "completion":
            return {"prompt": row.prompt, "chosen": row.preferred, "rejected": row.rejected}
        line = preference_lines.line_of(row.conversation, row.prompt, row.preferred, row.rejected or "")
        messages = line["input"]["messages"]
        if self.system and messages[0].get("role") not in ("system", "developer"):
            line["input"] = {**line["input"], "messages": [{"role": "system", "content": self.system}, *messages]}
        return line


def plan(
    rows: Iterable[PreferenceRow],
    file_format: PreferenceFormat = "chat",
    *,
    separator: str = "",
    stop: str = "",
    system: str = "",
) -> PreferencePlan:
    """Count the rows and decide which are trained on.

    Several rows may have the same prompt and the same two answers, because several people chose: the answer that was
    preferred more often wins, and counts once. If both were preferred equally often, none of these rows is used.

    Args:
        rows: read once.
        separator, stop: of a completion file; answers end at the stop, as the model's calls do.
        system: begins the conversations of a chat file.

    Raises:
        BadTrainingFile: no row can be used.
    """
    is_chat = file_format == "chat"
    separator, stop, system = ("", "", system) if is_chat else (separator, stop, "")
    dropped, choices = Counter[DropReason](), dict[int, tuple[int, int]]()
    longest = 0
    for row in (_as_read(row, stop) for row in rows):
        if (reason := _reason(row, file_format)) is not None:
            dropped[reason] += 1
            continue
        key, sign = _key(row)
        against, in_favour = choices.get(key, (0, 0))
        choices[key] = (against + (sign < 0), in_favour + (sign > 0))
        longest = max(
            longest, len(row.prompt) + len(row.conversation) + max(map(len, (row.preferred, row.rejected or "")))
        )
    total = sum(map(sum, choices.values())) + dropped.total()
    for against, in_favour in choices.values():
        if against == in_favour:
            dropped["undecided"] += against + in_favour
        else:
            dropped["outvoted"] += min(against, in_favour)
            dropped["repeated"] += max(against, in_favour) - 1
    balance = {key: in_favour - against for key, (against, in_favour) in choices.items()}
    kept = sum(map(bool, balance.values()))
    ordered = {reason: dropped[reason] for reason in REASONS if dropped[reason]}
    found = PreferencePlan(file_format, separator, stop, system, total, kept, longest, ordered, balance)
    if not found.kept:
        raise BadTrainingFile(
            sentences(msg("There is no pair of answers to learn from. Rows: {n}.", n=f"{total:,}"), *found.sentences()),
            msg("Start from a chat model.")
            if dropped["conversation"]
            else msg("Vote on answers on the Story page, or load a file of preferences."),
        )
    return found


def _as_read(row: PreferenceRow, stop: str) -> PreferenceRow:
    """A row with answers that end where a call of the model would end: at its stop."""
    if not stop or row.rejected is None:
        return row
    preferred, rejected = (text.split(stop)[0].rstrip() for text in (row.preferred, row.rejected))
    return PreferenceRow(row.prompt, preferred, rejected, row.conversation)


def _reason(row: PreferenceRow, file_format: PreferenceFormat) -> DropReason | None:
    """Why a model of this format learns nothing from a row alone; None if it does."""
    if row.rejected is None:
        return "single"
    if not row.preferred.strip() or not row.rejected.strip():
        return "empty"
    if row.preferred.strip() == row.rejected.strip():
        return "equal"
    is_read = file_format == "chat" or preference_lines.is_one_prompt(row.conversation)
    return None if is_read else "conversation"


def _key(row: PreferenceRow) -> tuple[int, int]:
    """Identifies a prompt with two answers in either order, and the order: 1 or -1."""
    preferred, rejected = row.preferred.strip(), (row.rejected or "").strip()
    first, second = sorted((preferred, rejected))
    return digest(f"{row.prompt}\x1f{row.conversation}", f"{first}\x1f{second}"), 1 if first == preferred else -1
