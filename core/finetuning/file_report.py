"""The result of a training file check: figures, problems by line, and a summary in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.errors import BadTrainingFile
from core.finetuning.job_form import FileFormat
from core.message import msg

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class LineProblem:
    """A problem with one line, counted from 1 (0: the whole file). `preview`: the start of the line."""

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
    """The result of checking a file.

    Attributes:
        file_format: of its first valid line; None: there is none.
        lines: non-blank lines; examples: the valid ones among them.
        tokens: per epoch; exact_tokens: whether they were counted with the model's own tokenizer.
        longest_tokens, longest_line: token count and line number of the example with the most bytes.
        context: maximum tokens per example; None: not known.
        problems: the first hundred, errors before warnings, by line.
        counts: lines per kind of problem; levels: the level of each kind.
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
        """Whether a provider would accept the file."""
        return not self.errors

    @property
    def errors(self) -> int:
        """The number of problems that make a provider reject the file."""
        return sum(count for kind, count in self.counts.items() if self.levels[kind] == "error")

    @property
    def warnings(self) -> int:
        """The number of problems that do not prevent training."""
        return sum(count for kind, count in self.counts.items() if self.levels[kind] == "warning")

    def sentences(self) -> tuple[str, ...]:
        """A summary in sentences, most severe first."""
        result = [problem.sentence for problem in self.problems if not problem.line]
        by_severity = sorted(self.counts.items(), key=lambda item: (self.levels[item[0]] != "error", -item[1]))
        result += [sentence for kind, count in by_severity if (sentence := _count_sentence(kind, count)) is not None]
        return tuple(result) or (msg("The format of all {examples} examples is valid.", examples=f"{self.examples:,}"),)

    def raise_for_errors(self) -> None:
        """Raise an error if the file can't be trained on.

        Raises:
            BadTrainingFile: with the first error and the number of errors.
        """
        first = next((problem for problem in self.problems if problem.level == "error"), None)
        if first is None:
            return
        next_step = msg("Fix or remove the lines listed, then check again.")
        if not first.line:
            raise BadTrainingFile(first.sentence, next_step)
        if self.errors == 1:
            raise BadTrainingFile(
                msg("Line {line}: {sentence}", line=f"{first.line:,}", sentence=first.sentence), next_step
            )
        raise BadTrainingFile(
            msg(
                "Line {line}, the first of {errors} errors: {sentence}",
                line=f"{first.line:,}",
                errors=f"{self.errors:,}",
                sentence=first.sentence,
            ),
            next_step,
        )


def _count_sentence(kind: str, n: int) -> str | None:
    """The number of lines with this kind of problem, as a sentence; None for problems of the whole file."""
    return {
        "not_utf8": msg("Lines that are not UTF-8: {n}.", n=f"{n:,}"),
        "not_json": msg("Lines that are not JSON: {n}.", n=f"{n:,}"),
        "not_object": msg("Lines that are not objects: {n}.", n=f"{n:,}"),
        "too_long_line": msg("Lines that are too long for an example: {n}.", n=f"{n:,}"),
        "shape": msg("Lines that are neither a prompt and completion nor a conversation: {n}.", n=f"{n:,}"),
        "role": msg("Lines with a missing or wrong message role: {n}.", n=f"{n:,}"),
        "no_answer": msg("Lines without an answer to learn from: {n}.", n=f"{n:,}"),
        "empty": msg("Lines with an empty answer: {n}.", n=f"{n:,}"),
        "mixed": msg("Lines in a different format than the first: {n}.", n=f"{n:,}"),
        "over_context": msg("Examples that are longer than the model can read: {n}.", n=f"{n:,}"),
        "duplicate": msg("Lines that repeat an earlier one: {n}.", n=f"{n:,}"),
        "stop_inside": msg("Examples that contain the stop before their end: {n}.", n=f"{n:,}"),
    }.get(kind)
