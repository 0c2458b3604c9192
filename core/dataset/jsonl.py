"""Preparation of training data (S3): decide where prompts and completions end, and write JSONL. Pure.

Follows what OpenAI's tool of 2023 did (see `analysis`): ` ->` and a stop are added. The pairs are gone through twice,
once to look and once to write, so that a file may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.dataset import preparation_report
from core.dataset.analysis import (
    LONGEST_PAIR,
    SEPARATOR,
    SEPARATORS,
    STOPS,
    Example,
    Findings,
    Occurrence,
    analyse,
    existing_mark,
    first_free,
    occurrences,
)
from core.dataset.jsonl_writer import Format, Plan
from core.dataset.preparation_report import PreparationFinding
from core.errors import BadTrainingFile
from core.message import msg

__all__ = [
    "LONGEST_PAIR",
    "SEPARATOR",
    "SEPARATORS",
    "STOPS",
    "Example",
    "Findings",
    "Format",
    "Plan",
    "PreparationFinding",
    "Prepared",
    "analyse",
    "plan",
    "prepare",
    "prepare_chat",
    "propose_separator",
    "propose_stop",
]


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
    report: tuple[PreparationFinding, ...]


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
            msg("There is no example to train on."), msg("Generate rows, or choose a data set with finished rows.")
        )
    if file_format == "chat":
        return Plan(
            "chat",
            None,
            None,
            "",
            "",
            False,
            system,
            findings,
            (*preparation_report.found(findings), *preparation_report.chat(system)),
        )
    prompts, completions, texts = findings.in_prompts, findings.in_completions, findings.usable
    if separator is None:
        separator = existing_mark(SEPARATORS, prompts, texts) or first_free(SEPARATORS, prompts, "separator")
    if stop is None:
        stop = existing_mark(STOPS, completions, texts) or first_free(STOPS, completions, "stop")
    if inside := _inside(separator, prompts, texts):
        raise BadTrainingFile(
            msg(
                "The separator {separator} occurs inside {inside} prompts.",
                separator=repr(separator),
                inside=f"{inside:,}",
            ),
            msg(
                "Use one that no prompt contains, for example {separator}.",
                separator=repr(first_free(SEPARATORS, prompts, "separator")),
            ),
        )
    if inside := _inside(stop, completions, texts):
        raise BadTrainingFile(
            msg(
                "The stop {stop} occurs inside {inside} completions: the model would learn to end there.",
                stop=repr(stop),
                inside=f"{inside:,}",
            ),
            msg(
                "Use one that no completion contains, for example {stop}.",
                stop=repr(first_free(STOPS, completions, "stop")),
            ),
        )
    added_separator = "" if _ended(separator, prompts, texts) else separator
    added_stop = "" if _ended(stop, completions, texts) else stop
    done = preparation_report.done(findings, added_separator, added_stop, leading_space)
    report = (*preparation_report.found(findings), *done)
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


def _ended(mark: str, found: Mapping[str, Occurrence], texts: int) -> bool:
    return not mark or found[mark].at_end == texts


def _inside(mark: str, found: Mapping[str, Occurrence], texts: int) -> int:
    """How many texts contain `mark`; where all end with it, before that end."""
    if not mark:
        return 0
    return found[mark].before_end if _ended(mark, found, texts) else found[mark].anywhere
