"""Validates training files before a job is created: every line is parsed, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from core.engine.training_line import BadLine, Conversation, Format, PromptCompletion, format_of, lines, parse
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
    first_format: Format | None = None
    examples, problems = 0, 0
    listed: list[str] = []
    with path.open("rb") as file:
        for number, raw in _non_blank_lines(file):
            try:
                example = parse(raw)
                file_format = format_of(example)
                first_format = first_format or file_format
                if file_format != first_format:
                    raise BadLine(
                        "mixed",
                        msg("It is in the {file_format} format; the lines before it are not.", file_format=file_format),
                    )
                examples += 1
            except BadLine as exc:
                problems += 1
                if len(listed) < _MAX_LISTED:
                    listed.append(msg("Line {line}: {sentence}", line=number, sentence=exc.sentence))
    if problems > len(listed):
        listed.append(msg("{count} more lines are broken.", count=problems - len(listed)))
    if listed:
        raise InvalidTrainingFile(sentences(*listed))
    if first_format is None:
        raise InvalidTrainingFile(msg("The file contains no examples."))
    return TrainingFileSummary(first_format, examples)


def examples(path: Path) -> Iterator[tuple[int, PromptCompletion | Conversation]]:
    """(line number, example) of each line of a valid file. Raises BadLine for an invalid one."""
    with path.open("rb") as file:
        for number, raw in _non_blank_lines(file):
            yield number, parse(raw)


def _non_blank_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank."""
    return ((number, raw) for number, raw in lines(file) if raw.strip())
