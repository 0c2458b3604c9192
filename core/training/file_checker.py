"""The whole training file, looked at before anything is sent: in one pass, in bounded memory, faults by their line."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np

from core import packaged_models
from core.cost import tokens
from core.cost.prices import tuned_base
from core.dataset import export
from core.db.store import Store
from core.engine import training_line
from core.errors import BadFile
from core.message import msg
from core.training import line_check
from core.training.file_report import ExamplePreview, FileCheck, Level, LineProblem
from core.training.job_form import FileFormat, JobForm
from core.training.line_check import BadLine, CheckedExample

_NAMED = 100  # faults that are told line by line; more are only counted
_SHOWN = 3  # examples in the preview
_PREVIEW = 120  # characters of a broken line
_LONGEST_SHOWN = 2_000  # characters of an example in the preview
_TOGETHER = 256  # texts counted at a time
_TOLD_EVERY = 1_000  # lines
FEWEST = 10  # examples: the least that OpenAI and Azure take (guide "Supervised fine-tuning")
_AT_LEAST = {"openai": FEWEST, "azure": FEWEST}
_LEARN_TOOLS = frozenset({"openai", "azure"})  # providers that also learn tool calls and from images
_PAIRS = re.compile(r"davinci-002|babbage-002")  # OpenAI's only bases that learn from prompt and completion
_LARGEST = 512 << 20  # bytes: the most that OpenAI's and Azure's files take
_CHAT_TOKENS = 11  # around a user's and an assistant's turn; see core.dataset.export
# Tokens of one training example. OpenAI: guide "Supervised fine-tuning", token limits. The engine: its own context.
_CONTEXTS = (
    (re.compile(r"gpt-4\.1.*|gpt-4o.*"), 65_536),
    (re.compile(r"gpt-3\.5-turbo.*|gpt-35-turbo.*|davinci-002|babbage-002"), 16_384),
    (re.compile("|".join(map(re.escape, (packaged_models.BASE, *packaged_models.WRITERS)))), 4_096),
)


def context_of(model: str) -> int | None:
    """The most tokens that one training example for this base model may have; None: not known."""
    name = tuned_base(model) or model
    return next((most for pattern, most in _CONTEXTS if pattern.fullmatch(name)), None)


def wanted_format(provider: str, model: str) -> FileFormat | None:
    """The only format that a provider takes for this base; None: either, or not known."""
    if provider == "azure":
        return "chat"
    if provider != "openai":
        return None
    return "completion" if _PAIRS.fullmatch(tuned_base(model) or model) else "chat"


def check_form(
    store: Store, form: JobForm, *, context: int | None = None, seen: Callable[[int], None] | None = None
) -> FileCheck:
    """Look at the lines that a job of this form would send. They are made as they are read; no file is written.

    Args:
        context: the most tokens of one example; by default what is known of the model.
        seen: is told now and then how many lines have been read; may raise to end it.

    Raises:
        NotFound: the data set is not there (any more).
        BadTrainingFile: it has no usable rows, or a given separator or stop occurs inside the texts.
    """
    selection = export.Selection(store, form.dataset_id, form.version_id)
    made = (
        export.plan(selection, "chat")
        if form.file_format == "chat"
        else export.plan(selection, separator=form.separator, stop=form.stop)
    )
    both = chain(export.jsonl_lines(selection, made), export.jsonl_lines(selection, made, "validation"))
    found = _FileCheckState(
        form.base_model,
        context_of(form.base_model) if context is None else context,
        made.stop or "",
        form.provider not in _LEARN_TOOLS,
    )
    wanted = wanted_format(form.provider, form.base_model)
    if wanted is not None and wanted != form.file_format:
        found.tell(0, "error", "format", msg("This base learns from files in the {wanted} format only.", wanted=wanted))
    lines = enumerate((line.encode() for line in both), 1)
    return _look(found, lines, _AT_LEAST.get(form.provider, 1), seen)


def check_file(
    path: Path,
    model: str,
    *,
    context: int | None = None,
    stop: str = "",
    at_least: int = 1,
    text_only: bool = True,
    seen: Callable[[int], None] | None = None,
) -> FileCheck:
    """Look at a JSONL file from anywhere, however large.

    Args:
        stop: what completions end with; "" for none.
        at_least: how many examples the provider wants.
        text_only: whether the provider learns from text alone, as the engine does.

    Raises:
        BadFile: it cannot be read.
    """
    found = _FileCheckState(model, context_of(model) if context is None else context, stop, text_only)
    try:
        with path.open("rb") as file:
            return _look(found, training_line.lines(file), at_least, seen)
    except OSError as exc:
        raise BadFile(
            msg("{name} cannot be read: {reason}.", name=path.name, reason=exc.strerror),
            msg("Choose another file."),
        ) from exc


def _look(
    found: _FileCheckState, lines: Iterable[tuple[int, bytes]], at_least: int, seen: Callable[[int], None] | None
) -> FileCheck:
    for number, raw in lines:
        found.size += len(raw)
        if raw.strip():
            found.line(number, raw)
        if seen is not None and number % _TOLD_EVERY == 0:
            seen(number)
    return found.result(at_least)


@dataclass(slots=True)
class _FileCheckState:
    """What is known of the lines so far."""

    model: str
    context: int | None
    stop: str
    text_only: bool = True
    size: int = 0
    lines: int = 0
    examples: int = 0
    file_format: FileFormat | None = None
    tokens: int = 0
    exact: bool = True
    longest: tuple[int, int, str] = (0, 0, "")  # bytes, line, text
    counts: Counter[str] = field(default_factory=Counter)
    levels: dict[str, Level] = field(default_factory=dict)
    told: dict[Level, list[LineProblem]] = field(default_factory=lambda: {"error": [], "warning": []})
    preview: list[ExamplePreview] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    digests: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))

    def line(self, number: int, raw: bytes) -> None:
        self.lines += 1
        try:
            example = line_check.read(raw, text_only=self.text_only)
            self.file_format = self.file_format or example.file_format
            if example.file_format != self.file_format:
                raise BadLine(
                    "mixed",
                    msg(
                        "It is in the {file_format} format; the lines before it are not.",
                        file_format=example.file_format,
                    ),
                )
        except BadLine as exc:
            self.tell(number, "error", exc.kind, exc.sentence, raw)
            return
        self.good(number, raw, example)

    def good(self, number: int, raw: bytes, example: CheckedExample) -> None:
        self.examples += 1
        if len(self.preview) < _SHOWN:
            shown = (example.prompt[:_LONGEST_SHOWN], example.completion[:_LONGEST_SHOWN])
            self.preview.append(ExamplePreview(number, *shown))
        self.digests.append(int.from_bytes(blake2b(raw.strip(), digest_size=8).digest(), "big"))
        self.places.append(number)
        text = example.prompt + example.completion
        if len(raw) > self.longest[0]:
            self.longest = (len(raw), number, text)
        if self.context is not None and len(text.encode()) > self.context:  # a token has a byte at least
            count = self.count([text])
            if count > self.context:
                sentence = msg(
                    "It has {count} tokens, and the model reads {context} at most: its end is cut off.",
                    count=f"{count:,}",
                    context=f"{self.context:,}",
                )
                self.tell(number, "error", "over_context", sentence, raw)
            self.tokens += count
        else:
            self.waiting.append(text)
            if len(self.waiting) == _TOGETHER:
                self.flush()
        if self.stop and self.stop in example.completion.removesuffix(self.stop):
            sentence = msg(
                "Its completion has the stop {stop} before its end: the model learns to end there.",
                stop=repr(self.stop),
            )
            self.tell(number, "warning", "stop_inside", sentence, raw)

    def count(self, texts: list[str]) -> int:
        counted = tokens.count(texts, self.model)
        self.exact &= counted.exact
        return counted.tokens

    def flush(self) -> None:
        self.tokens += self.count(self.waiting)
        self.waiting = []

    def tell(self, line: int, level: Level, kind: str, sentence: str, raw: bytes = b"") -> None:
        self.counts[kind] += 1
        self.levels[kind] = level
        if len(self.told[level]) < _NAMED:
            begins = raw[: _PREVIEW * 4].decode("utf-8", "replace").strip()[:_PREVIEW]
            self.told[level].append(LineProblem(line, level, kind, sentence, begins.replace("\0", "�")))

    def result(self, at_least: int) -> FileCheck:
        if self.waiting:
            self.flush()
        self.repeats()
        if not self.lines:
            self.tell(0, "error", "nothing", msg("The file contains no examples."))
        elif self.examples < at_least:
            few = msg(
                "The file has too few good examples ({examples}): this provider needs at least {at_least}.",
                examples=f"{self.examples:,}",
                at_least=f"{at_least:,}",
            )
            self.tell(0, "error", "too_few", few)
        elif self.examples < FEWEST:
            few = msg(
                "There are very few examples ({examples}): the model will repeat them, and learn little else.",
                examples=f"{self.examples:,}",
            )
            self.tell(0, "warning", "too_few", few)
        if self.size > _LARGEST:
            self.tell(
                0,
                "error",
                "too_large",
                msg("The file has {size} MiB; 512 MiB is the most.", size=f"{self.size / 2**20:,.0f}"),
            )
        marks = _CHAT_TOKENS * self.examples if self.file_format == "chat" else 0
        told = sorted(self.told["error"], key=_by_line) + sorted(self.told["warning"], key=_by_line)
        return FileCheck(
            file_format=self.file_format,
            lines=self.lines,
            examples=self.examples,
            bytes=self.size,
            tokens=self.tokens + marks,
            exact_tokens=self.exact and bool(self.examples),
            longest_tokens=self.count([self.longest[2]]) if self.examples else 0,
            longest_line=self.longest[1],
            context=self.context,
            problems=tuple(told[:_NAMED]),
            counts=dict(self.counts),
            levels=dict(self.levels),
            preview=tuple(self.preview),
        )

    def repeats(self) -> None:
        """Lines that are there already, by 64 bits of each; the first one of a kind stays."""
        if not self.digests:
            return
        numbers, places = np.frombuffer(self.digests, np.uint64), np.frombuffer(self.places, np.uint64)
        order = np.argsort(numbers, kind="stable")
        again = np.flatnonzero(numbers[order][1:] == numbers[order][:-1]) + 1
        for place in np.sort(places[order][again]).tolist():
            self.tell(place, "warning", "duplicate", msg("The same line already exists: you would pay for it twice."))


def _by_line(problem: LineProblem) -> int:
    return problem.line
