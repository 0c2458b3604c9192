"""Checks a whole training file before it is sent: one pass, bounded memory, problems by line."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import Literal

import numpy as np

from core.datasets import export
from core.db.store import Store
from core.engine import finetune_format
from core.engine.chat_messages import BadLine
from core.engine.finetune_format import TrainingLine
from core.finetuning import preference_training
from core.finetuning.job_form import FileFormat, JobForm, context_size, required_format
from core.message import msg
from core.pricing import tokens
from core.pricing.prices import price_list

Level = Literal["error", "warning"]

_MAX_REPORTED = 100  # problems listed by line; further ones are only counted
_PREVIEW_EXAMPLES = 3  # examples in the preview
_LINE_PREVIEW_CHARS = 120  # shown for a line with a problem
_EXAMPLE_PREVIEW_CHARS = 2_000  # shown for each text in the preview
_COUNT_BATCH = 256  # texts per token count
_PROGRESS_LINES = 1_000  # lines
MIN_EXAMPLES = 10  # required by OpenAI and Azure (guide "Supervised fine-tuning")
_PROVIDER_MIN_EXAMPLES = {"openai": MIN_EXAMPLES, "azure": MIN_EXAMPLES}
_ACCEPT_TOOLS_AND_IMAGES = frozenset({"openai", "azure"})  # providers that train on tool calls and images
_MAX_BYTES = 512 << 20  # file size limit of OpenAI and Azure


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
        file_format: the format of the first valid line; None if there is none.
        lines: non-blank lines; examples: the valid ones among them.
        tokens: per epoch; exact_tokens: whether they were counted with the model's own tokenizer.
        longest_tokens, longest_line: token count and line number of the example with the most bytes.
        context: maximum tokens per example; None if unknown.
        problems: the first hundred, errors before warnings, by line.
        counts: lines per kind of problem; levels: the level of each kind.
    """

    file_format: finetune_format.Format | None
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
        found = tuple(sentence for _level, sentence in self.summary())
        return found or (msg("The format of all {examples} examples is valid.", examples=f"{self.examples:,}"),)

    def summary(self) -> tuple[tuple[Level, str], ...]:
        """One sentence per kind of problem with its level, errors first."""
        result = [(problem.level, problem.sentence) for problem in self.problems if not problem.line]
        by_count = sorted(self.counts.items(), key=lambda item: -item[1])
        said = ((self.levels[kind], _count_sentence(kind, count)) for kind, count in by_count)
        result += [(level, sentence) for level, sentence in said if sentence is not None]
        return tuple(sorted(result, key=lambda one: one[0] != "error"))


def _count_sentence(kind: str, n: int) -> str | None:
    """The number of lines with this kind of problem, as a sentence; None for problems of the whole file."""
    return {
        "not_utf8": msg("Lines that are not UTF-8: {n}.", n=f"{n:,}"),
        "not_json": msg("Lines that are not JSON: {n}.", n=f"{n:,}"),
        "not_object": msg("Lines that are not objects: {n}.", n=f"{n:,}"),
        "too_long_line": msg("Lines longer than one example may be: {n}.", n=f"{n:,}"),
        "tools": msg("Lines with tools or tool calls that are not valid: {n}.", n=f"{n:,}"),
        "shape": msg("Lines that are neither a prompt and completion nor a conversation: {n}.", n=f"{n:,}"),
        "role": msg("Lines with a missing or wrong message role: {n}.", n=f"{n:,}"),
        "no_answer": msg("Lines without an answer to learn from: {n}.", n=f"{n:,}"),
        "empty": msg("Lines with an empty answer: {n}.", n=f"{n:,}"),
        "mixed": msg("Lines in a different format than the first: {n}.", n=f"{n:,}"),
        "over_context": msg("Examples that are longer than the model can read: {n}.", n=f"{n:,}"),
        "duplicate": msg("Lines that repeat an earlier one: {n}.", n=f"{n:,}"),
        "stop_inside": msg("Examples that contain the stop before their end: {n}.", n=f"{n:,}"),
    }.get(kind)


def check_form(
    store: Store, form: JobForm, *, context: int | None = None, on_progress: Callable[[int], None] | None = None
) -> FileCheck:
    """Check the lines that a job with this form would send, without writing a file.

    Args:
        context: maximum tokens per example; by default the known limit of the model.
        on_progress: called with the number of lines read, every `_PROGRESS_LINES`; may raise to cancel.

    Raises:
        NotFound: the data set does not exist.
        BadTrainingFile: it has no usable rows, or the separator or stop occurs inside the texts.
    """
    selection = export.Selection(store, form.dataset_id, form.version_id)
    if form.method == "dpo":
        return _check_preferences(selection, form, context, on_progress)
    plan = (
        export.plan(selection, "chat")
        if form.file_format == "chat"
        else export.plan(selection, separator=form.separator, stop=form.stop)
    )
    company = price_list(form.provider)
    all_lines = chain(export.jsonl_lines(selection, plan), export.jsonl_lines(selection, plan, "validation"))
    return check_lines(
        enumerate((line.encode() for line in all_lines), 1),
        form.base_model,
        context=context,
        stop=plan.stop or "",
        required=required_format(form.provider, form.base_model),
        min_examples=_PROVIDER_MIN_EXAMPLES.get(company, 1),
        text_only=company not in _ACCEPT_TOOLS_AND_IMAGES,
        on_progress=on_progress,
    )


def _check_preferences(
    selection: export.Selection, form: JobForm, context: int | None, on_progress: Callable[[int], None] | None
) -> FileCheck:
    """`check_form` for preference training."""
    plan = preference_training.plan(selection, form.file_format, form.separator, form.stop)
    lines = (export.preference_lines_of(selection, plan, part) for part in ("train", "validation"))
    company = price_list(form.provider)
    return check_lines(
        enumerate((line.encode() for line in chain.from_iterable(lines)), 1),
        form.base_model,
        context=context,
        min_examples=_PROVIDER_MIN_EXAMPLES.get(company, 1),
        text_only=company not in _ACCEPT_TOOLS_AND_IMAGES,
        on_progress=on_progress,
    )


def check_lines(
    lines: Iterable[tuple[int, bytes]],
    model: str,
    *,
    context: int | None = None,
    stop: str = "",
    required: FileFormat | None = None,
    min_examples: int = 1,
    text_only: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> FileCheck:
    """Check the numbered lines of a training file of any size.

    Args:
        context, on_progress: see `check_form`.
        stop: the end marker of completions; "" for none.
        required: the only format that the provider accepts; None means both.
        min_examples: required by the provider.
        text_only: whether the provider only trains on text, like the engine.
    """
    state = _FileCheckState(model, context_size(model) if context is None else context, stop, text_only)
    for line in finetune_format.parse_lines(_counted(state, lines, on_progress), text_only=text_only):
        state.check_line(line)
    return state.result(min_examples, required)


def _counted(
    state: _FileCheckState, lines: Iterable[tuple[int, bytes]], on_progress: Callable[[int], None] | None
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines, adding up their bytes and reporting progress."""
    for number, raw in lines:
        state.size += len(raw)
        yield number, raw
        if on_progress is not None and number % _PROGRESS_LINES == 0:
            on_progress(number)


@dataclass(slots=True)
class _FileCheckState:
    """The state of a check while lines are read."""

    model: str
    context: int | None
    stop: str
    text_only: bool = True
    size: int = 0
    lines: int = 0
    examples: int = 0
    has_pairs: bool = False
    file_format: finetune_format.Format | None = None
    tokens: int = 0
    exact: bool = True
    longest: tuple[int, int, str] = (0, 0, "")  # bytes, line, text
    counts: Counter[str] = field(default_factory=Counter)
    levels: dict[str, Level] = field(default_factory=dict)
    problems: dict[Level, list[LineProblem]] = field(default_factory=lambda: {"error": [], "warning": []})
    preview: list[ExamplePreview] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    digests: array[int] = field(default_factory=lambda: array("Q"))
    line_numbers: array[int] = field(default_factory=lambda: array("Q"))

    def check_line(self, line: TrainingLine) -> None:
        self.lines += 1
        if isinstance(line.parsed, BadLine):
            self.add_problem(line.number, "error", line.parsed.kind, line.parsed.sentence, line.raw)
            return
        self.file_format = self.file_format or finetune_format.format_of(line.parsed)
        prompt, completion = finetune_format.prompt_and_completion(line.parsed)
        rejected = finetune_format.rejected_completion(line.parsed)
        self.add_example(line.number, line.raw, prompt, completion, rejected)

    def add_example(self, number: int, raw: bytes, prompt: str, completion: str, rejected: str | None = None) -> None:
        """Add an example; with a rejected answer, the model reads the prompt twice."""
        self.examples += 1
        if len(self.preview) < _PREVIEW_EXAMPLES:
            shown = (prompt[:_EXAMPLE_PREVIEW_CHARS], completion[:_EXAMPLE_PREVIEW_CHARS])
            self.preview.append(ExamplePreview(number, *shown))
        self.digests.append(int.from_bytes(blake2b(raw.strip(), digest_size=8).digest(), "big"))
        self.line_numbers.append(number)
        self.add_text(number, raw, prompt + completion)
        if rejected is not None:
            self.has_pairs = True
            self.add_text(number, raw, prompt + rejected, is_rejected=True)
        if self.stop and self.stop in completion.removesuffix(self.stop):
            sentence = msg(
                "Its completion contains the stop {stop} before its end, so the model learns to end there.",
                stop=repr(self.stop),
            )
            self.add_problem(number, "warning", "stop_inside", sentence, raw)

    def add_text(self, number: int, raw: bytes, text: str, *, is_rejected: bool = False) -> None:
        """Count the tokens of a prompt with its answer, and report it if it does not fit the model."""
        size = len(text.encode())
        if size > self.longest[0]:
            self.longest = (size, number, text)
        if self.context is None or size <= self.context:  # a token has at least one byte
            self.waiting.append(text)
            if len(self.waiting) >= _COUNT_BATCH:
                self.flush()
            return
        count = self.count([text])
        self.tokens += count
        if count > self.context:
            said, most = f"{count:,}", f"{self.context:,}"
            whole = msg(
                "It has {count} tokens, but the model reads at most {context}. The end is cut off.",
                count=said,
                context=most,
            )
            if is_rejected:
                whole = msg(
                    "With its rejected answer it has {count} tokens, but the model reads at most {context}.",
                    count=said,
                    context=most,
                )
            self.add_problem(number, "error", "over_context", whole, raw)

    def count(self, texts: list[str]) -> int:
        counted = tokens.count(texts, self.model)
        self.exact &= counted.exact
        return counted.tokens

    def flush(self) -> None:
        self.tokens += self.count(self.waiting)
        self.waiting = []

    def add_problem(self, line: int, level: Level, kind: str, sentence: str, raw: bytes = b"") -> None:
        self.counts[kind] += 1
        self.levels[kind] = level
        if len(self.problems[level]) < _MAX_REPORTED:
            start = raw[: _LINE_PREVIEW_CHARS * 4].decode("utf-8", "replace").strip()[:_LINE_PREVIEW_CHARS]
            self.problems[level].append(LineProblem(line, level, kind, sentence, start.replace("\0", "�")))

    def result(self, min_examples: int, required: FileFormat | None) -> FileCheck:
        if self.waiting:
            self.flush()
        self.find_duplicates()
        self.check_whole(min_examples, required)
        template_tokens = export.CHAT_TOKENS * self.examples if self.file_format == "chat" else 0
        reported = [
            problem
            for level in ("error", "warning")
            for problem in sorted(self.problems[level], key=lambda problem: problem.line)
        ]
        return FileCheck(
            file_format=self.file_format,
            lines=self.lines,
            examples=self.examples,
            bytes=self.size,
            tokens=self.tokens + template_tokens,
            exact_tokens=self.exact and bool(self.examples),
            longest_tokens=self.count([self.longest[2]]) if self.examples else 0,
            longest_line=self.longest[1],
            context=self.context,
            problems=tuple(reported[:_MAX_REPORTED]),
            counts=dict(self.counts),
            levels=dict(self.levels),
            preview=tuple(self.preview),
        )

    def check_whole(self, min_examples: int, required: FileFormat | None) -> None:
        """Report what is wrong with the file as a whole."""
        if required is not None and self.file_format not in (required, None):
            message = msg("This base model only accepts files in the {required} format.", required=required)
            self.add_problem(0, "error", "format", message)
        if not self.lines:
            self.add_problem(0, "error", "nothing", msg("The file contains no examples."))
        elif self.examples < min_examples:
            message = msg(
                "The file has too few valid examples ({examples}). This provider needs at least {min_examples}.",
                examples=f"{self.examples:,}",
                min_examples=f"{min_examples:,}",
            )
            self.add_problem(0, "error", "too_few", message)
        elif self.examples < MIN_EXAMPLES:
            few = (
                msg(
                    "There are very few pairs of answers ({examples}). More votes make the result more reliable.",
                    examples=f"{self.examples:,}",
                )
                if self.has_pairs
                else msg(
                    "There are very few examples ({examples}). The model will mostly repeat them.",
                    examples=f"{self.examples:,}",
                )
            )
            self.add_problem(0, "warning", "too_few", few)
        if self.size > _MAX_BYTES:
            message = msg("The file is {size} MiB. The maximum is 512 MiB.", size=f"{self.size / 2**20:,.0f}")
            self.add_problem(0, "error", "too_large", message)

    def find_duplicates(self) -> None:
        """Report repeated lines, compared by a 64-bit hash. The first occurrence is not reported."""
        if not self.digests:
            return
        numbers, line_numbers = np.frombuffer(self.digests, np.uint64), np.frombuffer(self.line_numbers, np.uint64)
        order = np.argsort(numbers, kind="stable")
        repeated = np.flatnonzero(numbers[order][1:] == numbers[order][:-1]) + 1
        for line_number in np.sort(line_numbers[order][repeated]).tolist():
            self.add_problem(line_number, "warning", "duplicate", msg("Duplicate line: you would pay for it twice."))
