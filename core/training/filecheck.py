"""What a look at a whole training file has found: figures, faults by their line, and all of it in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.errors import BadTrainingFile
from core.training.form import FileFormat

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
        return tuple(told) or (f"The format of all {self.examples:,} examples is right.",)

    def refuse(self) -> None:
        """Stop here when the file cannot be trained on.

        Raises:
            BadTrainingFile: with the first fault and how many more there are.
        """
        first = next((problem for problem in self.problems if problem.level == "error"), None)
        if first is None:
            return
        mend = "Fix or remove the lines listed, then check again."
        if not first.line:
            raise BadTrainingFile(first.sentence, mend)
        if self.errors == 1:
            raise BadTrainingFile(f"Line {first.line:,}: {first.sentence}", mend)
        raise BadTrainingFile(f"Line {first.line:,}, the first of {self.errors:,} faults: {first.sentence}", mend)


def _counted(kind: str, n: int) -> str | None:
    """How many lines have such a fault, as a sentence; None for what is told by itself."""
    return {
        "not_utf8": f"Lines that are not UTF-8: {n:,}.",
        "not_json": f"Lines that are not JSON: {n:,}.",
        "not_object": f"Lines that are not objects: {n:,}.",
        "too_long_line": f"Lines that are longer than any example may be: {n:,}.",
        "shape": f"Lines that are neither a pair nor a conversation: {n:,}.",
        "role": f"Lines with messages whose role is missing or wrong: {n:,}.",
        "no_answer": f"Lines without an answer to learn from: {n:,}.",
        "empty": f"Lines with an empty answer: {n:,}.",
        "mixed": f"Lines in another format than the first: {n:,}.",
        "over_context": f"Examples that are longer than the model can read: {n:,}.",
        "duplicate": f"Lines that repeat an earlier one: {n:,}.",
        "stop_inside": f"Examples that contain the stop before their end: {n:,}.",
    }.get(kind)
