"""What a look at a whole training file has found: figures, faults by their line, and all of it in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.errors import BadTrainingFile
from core.message import msg
from core.training.job_form import FileFormat

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong with one line (counted from 1; 0: with the file). `preview` is how the line begins."""

    line: int
    level: Level
    kind: str
    sentence: str
    preview: str = ""


@dataclass(frozen=True, slots=True)
class ExamplePreview:
    """An example as the model reads it."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What a file holds.

    Attributes:
        file_format: of its first good line; None: it has none.
        lines: that are not blank; examples: good ones among them.
        tokens: of one epoch, as the base model reads them; `exact_tokens`: counted by its own vocabulary.
        longest_tokens, longest_line: of the example with the most bytes.
        context: the most tokens that an example may have; None: not known.
        problems: the first hundred, errors before warnings, by line.
        counts: how many lines have each kind of fault.
        levels: of those kinds.
    """

    file_format: FileFormat | None
    lines: int
    examples: int
    bytes: int
    tokens: int
    exact_tokens: bool
    longest_tokens: int
    longest_line: int
    context: int | None
    problems: tuple[LineProblem, ...]
    counts: Mapping[str, int]
    levels: Mapping[str, Level]
    preview: tuple[ExamplePreview, ...]

    @property
    def ok(self) -> bool:
        """Whether a provider would take it."""
        return not self.errors

    @property
    def errors(self) -> int:
        """How many faults would make a provider refuse the file."""
        return sum(count for kind, count in self.counts.items() if self.levels[kind] == "error")

    @property
    def warnings(self) -> int:
        """How many faults are worth a look."""
        return sum(count for kind, count in self.counts.items() if self.levels[kind] == "warning")

    def sentences(self) -> tuple[str, ...]:
        """What was found, the gravest first, in plain words."""
        told = [problem.sentence for problem in self.problems if not problem.line]
        by_weight = sorted(self.counts.items(), key=lambda one: (self.levels[one[0]] != "error", -one[1]))
        told += [sentence for kind, count in by_weight if (sentence := _counted(kind, count)) is not None]
        return tuple(told) or (msg("The format of all {examples} examples is right.", examples=f"{self.examples:,}"),)

    def refuse(self) -> None:
        """Stop here when the file cannot be trained on.

        Raises:
            BadTrainingFile: with the first fault and how many more there are.
        """
        first = next((problem for problem in self.problems if problem.level == "error"), None)
        if first is None:
            return
        mend = msg("Fix or remove the lines listed, then check again.")
        if not first.line:
            raise BadTrainingFile(first.sentence, mend)
        if self.errors == 1:
            raise BadTrainingFile(msg("Line {line}: {sentence}", line=f"{first.line:,}", sentence=first.sentence), mend)
        raise BadTrainingFile(
            msg(
                "Line {line}, the first of {errors} faults: {sentence}",
                line=f"{first.line:,}",
                errors=f"{self.errors:,}",
                sentence=first.sentence,
            ),
            mend,
        )


def _counted(kind: str, n: int) -> str | None:
    """How many lines have such a fault, as a sentence; None for what is told by itself."""
    return {
        "not_utf8": msg("Lines that are not UTF-8: {n}.", n=f"{n:,}"),
        "not_json": msg("Lines that are not JSON: {n}.", n=f"{n:,}"),
        "not_object": msg("Lines that are not objects: {n}.", n=f"{n:,}"),
        "too_long_line": msg("Lines that are longer than any example may be: {n}.", n=f"{n:,}"),
        "shape": msg("Lines that are neither a pair nor a conversation: {n}.", n=f"{n:,}"),
        "role": msg("Lines with messages whose role is missing or wrong: {n}.", n=f"{n:,}"),
        "no_answer": msg("Lines without an answer to learn from: {n}.", n=f"{n:,}"),
        "empty": msg("Lines with an empty answer: {n}.", n=f"{n:,}"),
        "mixed": msg("Lines in another format than the first: {n}.", n=f"{n:,}"),
        "over_context": msg("Examples that are longer than the model can read: {n}.", n=f"{n:,}"),
        "duplicate": msg("Lines that repeat an earlier one: {n}.", n=f"{n:,}"),
        "stop_inside": msg("Examples that contain the stop before their end: {n}.", n=f"{n:,}"),
    }.get(kind)
