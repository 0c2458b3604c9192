"""Preparation of training data (S3): decide where prompts and completions end, and write JSONL. Pure.

Follows what OpenAI's tool of 2023 did (see `analysis`): ` ->` and a stop are added. The pairs are gone through twice,
once to look and once to write, so that a file may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core.dataset.analysis import (
    LONGEST_PAIR,
    SEPARATOR,
    SEPARATORS,
    STOPS,
    Example,
    Findings,
    Occurrence,
    analyse,
    digest,
    first_free,
    occurrences,
    there_already,
    usable,
)
from core.errors import BadTrainingFile

__all__ = [
    "LONGEST_PAIR",
    "SEPARATOR",
    "SEPARATORS",
    "STOPS",
    "Example",
    "Finding",
    "Findings",
    "Format",
    "Plan",
    "Prepared",
    "analyse",
    "plan",
    "prepare",
    "prepare_chat",
    "propose_separator",
    "propose_stop",
]

Format = Literal["completion", "chat"]

_MOST_ROWS = 20  # row numbers that a finding names


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found or will be done. `str()` is a sentence; `why` is another, or "".

    `rows` are the first rows it is about, from 1.
    """

    kind: str
    count: int
    sentence: str
    rows: tuple[int, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Plan:
    """How pairs are written. Make it with `plan`, then go through the same pairs again with `lines` or `pairs`.

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
    report: tuple[Finding, ...]

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training file in memory.

    Attributes:
        lines: its lines, JSON without line end.
        separator, stop, report: as in `Plan`.
    """

    lines: tuple[str, ...]
    separator: str | None
    stop: str | None
    report: tuple[Finding, ...]


def plan(
    examples: Iterable[Example],
    file_format: Format = "completion",
    *,
    separator: str | None = None,
    stop: str | None = None,
    leading_space: bool = True,
    system: str = "",
) -> Plan:
    """Look at the pairs and decide how to write them. Marks that are there are not added again.

    Args:
        examples: (prompt, completion) pairs; gone through once.
        file_format: `completion` (prompt and completion) or `chat` (messages).
        separator: ends every prompt; None: the one they end with already, else ` ->`, else another usual one that no
            prompt contains.
        stop: ends every completion; None: the one they end with already, else `.`, else another usual one that no
            completion contains (R7).
        leading_space: begin every completion with a space, as tokenizers of that time wanted it.
        system: the system text of a chat file; it has neither separator, nor stop, nor leading spaces.

    Raises:
        BadTrainingFile: no pair can be used, or the given separator or stop occurs inside the texts.
    """
    findings = analyse(examples, separator, stop)
    if not findings.usable:
        raise BadTrainingFile(
            "There is no example to train on.", "Generate rows, or choose a data set with finished rows."
        )
    if file_format == "chat":
        return Plan("chat", None, None, "", "", False, system, findings, (*_found(findings), *_chat(system)))
    prompts, completions, texts = findings.in_prompts, findings.in_completions, findings.usable
    if separator is None:
        separator = there_already(SEPARATORS, prompts, texts) or first_free(SEPARATORS, prompts, "separator")
    if stop is None:
        stop = there_already(STOPS, completions, texts) or first_free(STOPS, completions, "stop")
    if inside := _inside(separator, prompts, texts):
        raise BadTrainingFile(
            f"The separator {separator!r} occurs inside {inside:,} prompts.",
            f"Take one that no prompt contains, for example {first_free(SEPARATORS, prompts, 'separator')!r}.",
        )
    if inside := _inside(stop, completions, texts):
        raise BadTrainingFile(
            f"The stop {stop!r} occurs inside {inside:,} completions: the model would learn to end there.",
            f"Take one that no completion contains, for example {first_free(STOPS, completions, 'stop')!r}.",
        )
    added_separator = "" if _ended(separator, prompts, texts) else separator
    added_stop = "" if _ended(stop, completions, texts) else stop
    done = _done(findings, added_separator, added_stop, leading_space)
    report = (*_found(findings), *done)
    return Plan("completion", separator, stop, added_separator, added_stop, leading_space, "", findings, report)


def prepare(
    examples: Sequence[Example],
    *,
    separator: str | None = None,
    stop: str | None = None,
    leading_space: bool = True,
) -> Prepared:
    """A file of `{"prompt", "completion"}` lines, as 2023's tool wrote it, in memory; see `plan`.

    Raises:
        BadTrainingFile: no pair can be used, or the given separator or stop occurs inside the texts.
    """
    made = plan(examples, separator=separator, stop=stop, leading_space=leading_space)
    return Prepared(tuple(made.lines(examples)), made.separator, made.stop, made.report)


def prepare_chat(examples: Sequence[Example], *, system: str = "") -> Prepared:
    """A file of `{"messages"}` lines: the system text (if any), the prompt as the user, the completion as the answer.

    Raises:
        BadTrainingFile: no pair can be used.
    """
    made = plan(examples, "chat", system=system)
    return Prepared(tuple(made.lines(examples)), None, None, made.report)


def propose_stop(completions: Sequence[str]) -> str:
    """The first usual stop that no completion contains.

    Raises:
        BadTrainingFile: every usual one occurs; one must be given.
    """
    return first_free(STOPS, occurrences(STOPS, completions), "stop")


def propose_separator(prompts: Sequence[str]) -> str:
    """The first usual separator that no prompt contains.

    Raises:
        BadTrainingFile: every usual one occurs; one must be given.
    """
    return first_free(SEPARATORS, occurrences(SEPARATORS, prompts), "separator")


def _found(findings: Findings) -> tuple[Finding, ...]:
    """Plain sentences, the good news too: a silent check looks like none."""
    found = [Finding("pairs", findings.pairs, f"There are {findings.pairs:,} pairs of prompt and completion.")]
    for kind, rows, one, many, why in (
        (
            "empty",
            findings.empty,
            "1 pair has no completion; it is left out.",
            "pairs have no completion",
            "A model that learns an empty answer gives empty answers.",
        ),
        (
            "duplicates",
            findings.duplicates,
            "1 pair is there twice; one of them is left out.",
            "pairs are repeated",
            "What stands there twice counts twice, is paid for twice, and is learned by heart.",
        ),
        (
            "too_long",
            findings.too_long,
            f"1 pair has more than {LONGEST_PAIR:,} characters; it is left out.",
            f"pairs have more than {LONGEST_PAIR:,} characters",
            "The end of an over-long pair would be cut off, and its stop with it.",
        ),
    ):
        if rows:
            sentence = one if len(rows) == 1 else f"{len(rows):,} {many}; they are left out."
            found.append(Finding(kind, len(rows), sentence, tuple(r + 1 for r in rows[:_MOST_ROWS]), why))
    if findings.separator:
        found.append(Finding("separator", findings.usable, f"All prompts end with {findings.separator!r}."))
    if findings.ending:
        found.append(Finding("ending", findings.usable, f"All completions end with {findings.ending!r}."))
    return tuple(found)


def _done(findings: Findings, separator: str, stop: str, leading_space: bool) -> tuple[Finding, ...]:
    done = []
    if separator:
        why = "It tells the model that the prompt is over. No prompt contains it."
        if separator in SEPARATORS[1:] and findings.in_prompts[SEPARATOR].anywhere:
            why = f"It tells the model that the prompt is over. {SEPARATOR!r} was not free: prompts contain it."
        done.append(
            Finding("add_separator", 0, f"{separator!r} is added to every prompt: here the answer begins.", why=why)
        )
    if leading_space:
        why = "Most vocabularies have words with the space before them in one token."
        done.append(Finding("add_space", 0, "Every completion begins with a space.", why=why))
    if stop:
        why = "The model learns to end there; give it as stop when you use the model."
        if stop in STOPS[1:] and (taken := findings.in_completions[STOPS[0]].anywhere):
            why = f"The model learns to end there. {STOPS[0]!r} was not free: {taken:,} completions contain it."
        sentence = f"{stop!r} is added to every completion; no completion contains it."
        done.append(Finding("add_stop", 0, sentence, why=why))
    return tuple(done)


def _chat(system: str) -> tuple[Finding, ...]:
    why = "A chat model knows from the roles where an answer begins and ends: no separator and no stop is added."
    turns = Finding("roles", 0, "The prompt is the user's turn, the completion the assistant's.", why=why)
    if not system:
        return (turns,)
    said = Finding("system", 0, "Every conversation begins with the system text.", why="Send the same one in use.")
    return (turns, said)


def _ended(mark: str, found: Mapping[str, Occurrence], texts: int) -> bool:
    return not mark or found[mark].at_end == texts


def _inside(mark: str, found: Mapping[str, Occurrence], texts: int) -> int:
    """How many texts contain `mark`; where all end with it, before that end."""
    if not mark:
        return 0
    return found[mark].before_end if _ended(mark, found, texts) else found[mark].anywhere


def _fits(text: str, mark: str, added: bool) -> bool:
    """Whether a text ends with `mark`, once, when it has been written."""
    return mark not in text if added else text.endswith(mark) and mark not in text[: -len(mark)]


def _changed() -> BadTrainingFile:
    return BadTrainingFile("The rows have changed while the file was being written.", "Try again.")


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
