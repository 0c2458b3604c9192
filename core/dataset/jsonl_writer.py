"""How pairs are written once that is decided: line by line, as often as needed, never all held. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from core.dataset.analysis import Example, Findings, digest, usable
from core.dataset.preparation_report import PreparationFinding
from core.errors import BadTrainingFile
from core.message import msg

Format = Literal["completion", "chat"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How pairs are written. Made by `jsonl.plan`, then go through the same pairs again with `lines` or `pairs`.

    Attributes:
        separator: what stands at the end of every prompt; None in a chat file.
        stop: what stands at the end of every completion, to be given as `stop` when the model is used; None in a
            chat file.
        added_separator, added_stop: the same where it is not there yet, else "".
        system: the system text of a chat file, or "".
        report: what was found and will be done.
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
        """Prompts and completions as the model reads them; those that are left out are not among them.

        Raises:
            BadTrainingFile: the texts are others than those that were looked at, and do not fit the plan.
        """
        written: set[int] = set()
        for prompt, completion in examples:
            if not usable(prompt, completion) or self._again(prompt, completion, written):
                continue
            if self.file_format == "chat":
                yield prompt, completion.strip()
                continue
            if self.separator and not _fits(prompt, self.separator, bool(self.added_separator)):
                raise _changed()
            if self.stop and not _fits(completion, self.stop, bool(self.added_stop)):
                raise _changed()
            begun = completion if not self.leading_space or completion.startswith(" ") else f" {completion}"
            yield prompt + self.added_separator, begun + self.added_stop

    def lines(self, examples: Iterable[Example]) -> Iterator[str]:
        """Lines of the file, JSON without line end.

        Raises:
            BadTrainingFile: see `pairs`.
        """
        first = [{"role": "system", "content": self.system}] if self.system else []
        for prompt, completion in self.pairs(examples):
            if self.file_format == "chat":
                turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
                yield _line({"messages": [*first, *turns]})
            else:
                yield _line({"prompt": prompt, "completion": completion})

    def _again(self, prompt: str, completion: str, written: set[int]) -> bool:
        """Whether such a pair has been written. Only pairs that are there more than once are remembered."""
        if not self.findings.repeated:
            return False
        number = digest(prompt, completion)
        if number not in self.findings.repeated:
            return False
        again = number in written
        written.add(number)
        return again


def _fits(text: str, mark: str, added: bool) -> bool:
    """Whether a text ends with `mark`, once, when it has been written."""
    return mark not in text if added else text.endswith(mark) and mark not in text[: -len(mark)]


def _changed() -> BadTrainingFile:
    return BadTrainingFile(msg("The rows have changed while the file was being written."), msg("Try again."))


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
