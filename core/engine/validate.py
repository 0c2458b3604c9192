"""Training files: every line is read before a job exists, in bounded memory; a bad one is named with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from core.engine.training_line import BadLine, Conversation, Format, PromptCompletion, format_of, lines, parse
from core.message import msg, sentences

_NAMED = 10  # broken lines named in one message; more would not be read


class InvalidTrainingFile(ValueError):
    """A training file that cannot be used; the message names lines and reasons."""


@dataclass(frozen=True, slots=True)
class TrainingFileSummary:
    """What a good file holds."""

    format: Format
    examples: int


def check(path: Path) -> TrainingFileSummary:
    """Read the whole file.

    Raises:
        InvalidTrainingFile: the first ten broken lines by number and reason, and how many more there are.
        OSError: the file cannot be read.
    """
    found: Format | None = None
    examples, problems = 0, 0
    named: list[str] = []
    with path.open("rb") as file:
        for number, raw in _written(file):
            try:
                example = parse(raw)
                file_format = format_of(example)
                found = found or file_format
                if file_format != found:
                    raise BadLine(
                        "mixed",
                        msg("It is in the {file_format} format; the lines before it are not.", file_format=file_format),
                    )
                examples += 1
            except BadLine as exc:
                problems += 1
                if len(named) < _NAMED:
                    named.append(msg("Line {line}: {sentence}", line=number, sentence=exc.sentence))
    if problems > len(named):
        named.append(msg("{named} more lines are broken.", named=problems - len(named)))
    if named:
        raise InvalidTrainingFile(sentences(*named))
    if found is None:
        raise InvalidTrainingFile(msg("The file contains no examples."))
    return TrainingFileSummary(found, examples)


def examples(path: Path) -> Iterator[tuple[int, PromptCompletion | Conversation]]:
    """(line number, example) for each line of a file that `check` has passed. Raises BadLine otherwise."""
    with path.open("rb") as file:
        for number, raw in _written(file):
            yield number, parse(raw)


def _written(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank."""
    return ((number, raw) for number, raw in lines(file) if raw.strip())
