"""Writes training pairs according to a `Plan`, as a stream. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from core.datasets.analysis import Example, Findings, digest, usable
from core.datasets.preparation_report import PreparationFinding
from core.errors import BadTrainingFile
from core.message import msg

Format = Literal["completion", "chat"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How pairs are written. Made by `jsonl.plan`; then iterate over the same pairs again with `lines` or `pairs`.

    Attributes:
        separator: the end of every prompt; None in a chat file.
        stop: the end of every completion, to be used as `stop` in requests to the model; None in a chat file.
        added_separator, added_stop: the same if it must be added, else "".
        system: the system text of a chat file, or "".
        report: findings and changes.
    """

    file_format: Format
    separator: str | None
    stop: str | None
    added_separator: str
    added_stop: str
    leading_space: bool
    system: str
    findings: Findings
    report: tuple[PreparationFinding, ...]

    def pairs(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Prompts and completions as the model reads them, without the pairs that are left out.

        Raises:
            BadTrainingFile: the texts have changed since the analysis and do not fit the plan.
        """
        written: set[int] = set()
        for prompt, completion in examples:
            if not usable(prompt, completion) or self._is_duplicate(prompt, completion, written):
                continue
            if self.file_format == "chat":
                yield prompt, completion.strip()
                continue
            if self.separator and not _fits_plan(prompt, self.separator, bool(self.added_separator)):
                raise _rows_changed()
            if self.stop and not _fits_plan(completion, self.stop, bool(self.added_stop)):
                raise _rows_changed()
            text = completion if not self.leading_space or completion.startswith(" ") else f" {completion}"
            yield prompt + self.added_separator, text + self.added_stop

    def lines(self, examples: Iterable[Example]) -> Iterator[str]:
        """Lines of the file, JSON without line end.

        Raises:
            BadTrainingFile: see `pairs`.
        """
        system_turn = [{"role": "system", "content": self.system}] if self.system else []
        for prompt, completion in self.pairs(examples):
            if self.file_format == "chat":
                turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
                yield _json_line({"messages": [*system_turn, *turns]})
            else:
                yield _json_line({"prompt": prompt, "completion": completion})

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
