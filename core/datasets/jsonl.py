"""Prepares training data: chooses a separator and a stop sequence, and writes JSONL. Pure.

Follows OpenAI's 2023 tool (see `analysis`): ` ->` and a stop are added. The pairs are read twice, once for analysis and
once for writing, so a file may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from core.datasets import analysis, conversation_rows
from core.datasets.analysis import (
    SEPARATORS,
    STOPS,
    Example,
    Findings,
    Occurrence,
    PreparationFinding,
    analyse,
    digest,
    existing_mark,
    first_unused,
    usable,
)
from core.errors import BadTrainingFile
from core.message import msg

Format = Literal["completion", "chat"]


def plan(
    examples: Iterable[Example],
    file_format: Format = "completion",
    *,
    separator: str | None = None,
    stop: str | None = None,
    system: str = "",
    conversations: bool = False,
) -> Plan:
    """Analyse the pairs and decide how to write them. Marks that are already present are not added again.

    Every completion of a completion file begins with a space, as the tokenizers of 2023 required.

    Args:
        examples: (prompt, completion) pairs; read once.
        file_format: `completion` (prompt and completion) or `chat` (messages).
        separator: ends every prompt; None means the one that all prompts end with, else ` ->`, else another common one
            that no prompt contains.
        stop: ends every completion; None means the one that all completions end with, else `.`, else another common one
            that no completion contains.
        system: the system text of a chat file, which has no separator, stop, or leading spaces.
        conversations: the rows are conversations (`conversation_rows`), which only a chat file can hold.

    Raises:
        BadTrainingFile: no pair can be used, or the given separator or stop occurs inside the texts.
    """
    findings = analyse(examples, separator, stop)
    if not findings.usable:
        raise BadTrainingFile(
            msg("There is no example to train on."), msg("Generate rows, or choose a data set with finished rows.")
        )
    if file_format == "chat" or conversations:
        described = analysis.describe_conversations() if conversations else analysis.describe_chat(system)
        report = (*analysis.describe_findings(findings), *described)
        return Plan("chat", None, None, "", "", system, findings, report, conversations)
    prompts, completions, texts = findings.in_prompts, findings.in_completions, findings.usable
    if separator is None:
        separator = existing_mark(SEPARATORS, prompts, texts) or first_unused(SEPARATORS, prompts, "separator")
    if stop is None:
        stop = existing_mark(STOPS, completions, texts) or first_unused(STOPS, completions, "stop")
    _require_unused(separator, stop, findings)
    added_separator = "" if _all_end_with(separator, prompts, texts) else separator
    added_stop = "" if _all_end_with(stop, completions, texts) else stop
    changes = analysis.describe_changes(findings, added_separator, added_stop)
    report = (*analysis.describe_findings(findings), *changes)
    return Plan("completion", separator, stop, added_separator, added_stop, "", findings, report)


def _require_unused(separator: str, stop: str, findings: Findings) -> None:
    """Raise BadTrainingFile if the separator or the stop occurs inside the texts."""
    prompts, completions, texts = findings.in_prompts, findings.in_completions, findings.usable
    if inside := _count_inside(separator, prompts, texts):
        raise BadTrainingFile(
            msg(
                "The separator {separator} occurs inside {inside} prompts.",
                separator=repr(separator),
                inside=f"{inside:,}",
            ),
            msg(
                "Use one that no prompt contains, for example {separator}.",
                separator=repr(first_unused(SEPARATORS, prompts, "separator")),
            ),
        )
    if inside := _count_inside(stop, completions, texts):
        raise BadTrainingFile(
            msg(
                "The stop {stop} occurs inside {inside} completions: the model would learn to end there.",
                stop=repr(stop),
                inside=f"{inside:,}",
            ),
            msg(
                "Use one that no completion contains, for example {stop}.",
                stop=repr(first_unused(STOPS, completions, "stop")),
            ),
        )


def _all_end_with(mark: str, occurrences: Mapping[str, Occurrence], texts: int) -> bool:
    return not mark or occurrences[mark].at_end == texts


def _count_inside(mark: str, occurrences: Mapping[str, Occurrence], texts: int) -> int:
    """Number of texts that contain `mark`; if all texts end with it, that end is not counted."""
    if not mark:
        return 0
    return occurrences[mark].before_end if _all_end_with(mark, occurrences, texts) else occurrences[mark].anywhere


@dataclass(frozen=True, slots=True)
class Plan:
    """How pairs are written. Made by `jsonl.plan`; then iterate over the same pairs again with `lines` or `pairs`.

    Attributes:
        separator: the end of every prompt; None in a chat file.
        stop: the end of every completion, to be used as `stop` in requests to the model; None in a chat file.
        added_separator, added_stop: the same marks if they must be added, else "".
        system: the system text of a chat file, or "".
        report: findings and changes.
        conversations: the rows are conversations, written with all their messages and tools.
    """

    file_format: Format
    separator: str | None
    stop: str | None
    added_separator: str
    added_stop: str
    system: str
    findings: Findings
    report: tuple[PreparationFinding, ...]
    conversations: bool = False

    @property
    def kept(self) -> int:
        """Number of pairs that are written."""
        return self.findings.kept

    def pairs(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Prompts and completions as the model reads them, without the pairs that are left out.

        Raises:
            BadTrainingFile: the texts have changed since the analysis and do not fit the plan.
        """
        for prompt, completion in self._kept(examples):
            if self.conversations:
                yield conversation_rows.texts(prompt, completion)
                continue
            if self.file_format == "chat":
                yield prompt, completion.strip()
                continue
            if self.separator and not _fits_plan(prompt, self.separator, bool(self.added_separator)):
                raise _rows_changed()
            if self.stop and not _fits_plan(completion, self.stop, bool(self.added_stop)):
                raise _rows_changed()
            text = completion if completion.startswith(" ") else f" {completion}"
            yield prompt + self.added_separator, text + self.added_stop

    def lines(self, examples: Iterable[Example]) -> Iterator[str]:
        """Lines of the file, JSON without line end.

        Raises:
            BadTrainingFile: see `pairs`.
        """
        if self.conversations:
            for prompt, completion in self._kept(examples):
                yield _json_line(conversation_rows.line(prompt, completion, self.system))
            return
        system_turn = [{"role": "system", "content": self.system}] if self.system else []
        for prompt, completion in self.pairs(examples):
            if self.file_format == "chat":
                turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
                yield _json_line({"messages": [*system_turn, *turns]})
            else:
                yield _json_line({"prompt": prompt, "completion": completion})

    def _kept(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The pairs that are written, as they are in the rows."""
        written: set[int] = set()
        for prompt, completion in examples:
            if usable(prompt, completion) and not self._is_duplicate(prompt, completion, written):
                yield prompt, completion

    def _is_duplicate(self, prompt: str, completion: str, written: set[int]) -> bool:
        """True if this pair was written before. Only pairs that occur more than once are remembered."""
        if not self.findings.repeated:
            return False
        pair_digest = digest(prompt, completion)
        if pair_digest not in self.findings.repeated:
            return False
        seen = pair_digest in written
        written.add(pair_digest)
        return seen


def _fits_plan(text: str, mark: str, added: bool) -> bool:
    """True if the written text contains `mark` exactly once, at its end."""
    return mark not in text if added else text.endswith(mark) and mark not in text[: -len(mark)]


def _rows_changed() -> BadTrainingFile:
    return BadTrainingFile(msg("The rows have changed while the file was being written."), msg("Try again."))


def _json_line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
