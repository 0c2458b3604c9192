"""Validates training files before a job is created: every line is parsed, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.engine.finetune_format import (
    BadLine,
    Conversation,
    Format,
    PromptCompletion,
    format_of,
    lines,
    parse,
    parse_lines,
)
from core.message import msg, sentences

_MAX_LISTED = 10  # broken lines that one message lists


class InvalidTrainingFile(ValueError):
    """An invalid training file; the message lists lines and reasons."""


@dataclass(frozen=True, slots=True)
class TrainingFileSummary:
    """Format and number of examples of a valid file."""

    format: Format
    examples: int


def check(path: Path) -> TrainingFileSummary:
    """Validate a whole file.

    Raises:
        InvalidTrainingFile: lines are broken; the message lists the first ten and the number of the others.
        OSError: the file cannot be read.
    """
    file_format: Format | None = None
    examples, problems = 0, 0
    listed: list[str] = []
    with path.open("rb") as file:
        for line in parse_lines(lines(file)):
            if isinstance(line.parsed, BadLine):
                problems += 1
                if len(listed) < _MAX_LISTED:
                    listed.append(msg("Line {line}: {sentence}", line=line.number, sentence=line.parsed.sentence))
            else:
                file_format = file_format or format_of(line.parsed)
                examples += 1
    if problems > len(listed):
        listed.append(msg("{count} more lines are broken.", count=problems - len(listed)))
    if listed:
        raise InvalidTrainingFile(sentences(*listed))
    if file_format is None:
        raise InvalidTrainingFile(msg("The file contains no examples."))
    return TrainingFileSummary(file_format, examples)


def examples(path: Path) -> Iterator[tuple[int, PromptCompletion | Conversation]]:
    """(line number, example) of each line of a valid file. Raises BadLine for an invalid one."""
    with path.open("rb") as file:
        for number, raw in lines(file):
            if raw.strip():
                yield number, parse(raw)
